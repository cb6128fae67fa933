"""Examples of an .npz file.

A file matches its schema as a whole, or an error names the file and the difference.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tables.numpy_file import read_arrays
from maas_sdk.tensors import Array
from maas_sdk.training.data.examples import Examples, finite_rows

__all__ = ["read_npz"]


def read_npz(path: Path | str, *, inputs: str = "inputs", labels: str = "labels") -> Examples:
    """Read two arrays of a file that ``numpy.savez`` wrote into memory.

    Args:
        path: the file.
        inputs: name of the array of inputs in it, [N, …] of numbers.
        labels: name of the array of labels in it, integer[N] or numbers [N, …].

    Raises:
        InputError: no such file, cut or damaged; other names, dtypes or shapes; no rows; NaN or
            infinity.
    """
    path = Path(path)
    found = read_arrays(path, (inputs, labels))
    _check(path, inputs, found[inputs], kinds="biuf")
    _check(path, labels, found[labels], kinds="iuf")
    if len(found[inputs]) != len(found[labels]):
        raise InputError(
            f"{path}: {inputs!r} has {len(found[inputs])} rows, {labels!r} has "
            f"{len(found[labels])}",
            path=path,
        )
    for name, array in found.items():
        finite_rows(array, first_row=0, where=f"{path}: {name!r}")
    return Examples(inputs=found[inputs], labels=found[labels])


def _check(path: Path, name: str, array: Array, *, kinds: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or array.ndim < 1:
        found = (
            f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else "other bytes"
        )
        raise InputError(f"{path}: {name!r}: expected numbers [N, …], found {found}", path=path)
    if len(array) == 0:
        raise InputError(f"{path}: {name!r} has no rows", path=path)
