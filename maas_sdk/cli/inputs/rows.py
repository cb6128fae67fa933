"""Rows that options name: for calibration, for evaluation, and as example inputs.

The rule it keeps: a lone array without a name goes to a model that takes one, whether it came from
an .npy file, from an .npz file or from Python; arrays with names go to a model that takes names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from maas_sdk.cli.inputs.model_words import read_example
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.model.load_object import make_object
from maas_sdk.tables.numpy_file import read_arrays

__all__ = ["LABELS", "calibration_of", "evaluation_of", "example_of"]

LABELS: Final = "labels"
# A few rows tell the shapes, and are what an exported bundle is verified with.
_EXAMPLE_ROWS: Final = 64


def calibration_of(spec: str, example: Any) -> Any:
    """Return the rows of ``--calibration``: an array, a dict or an iterable of batches.

    Raises:
        ConfigError: no such object, or no readable file.
        InputError: an .npz file without rows.
    """
    if Path(spec).suffix == ".npz":
        return _inputs(spec, read_arrays(Path(spec)), example)
    return read_example(spec, "--calibration")


def evaluation_of(spec: str, example: Any) -> Any:
    """Return the value of ``--evaluate``: rows with labels, or a function of a prediction.

    Raises:
        ConfigError: no such object, or a file of another kind.
        InputError: no readable .npz file, or one without labels or without inputs.
    """
    path = Path(spec)
    if path.suffix == ".npy":
        raise ConfigError(
            f"--evaluate {spec}: one array has no labels: give an .npz file with inputs and labels"
        )
    if path.suffix != ".npz":
        return make_object(spec)
    arrays = read_arrays(path)
    if LABELS not in arrays:
        raise InputError(
            f"--evaluate {spec}: expected an array {LABELS!r} beside the inputs, got "
            f"{', '.join(arrays) or 'nothing'}: np.savez(path, inputs=rows, labels=labels)"
        )
    return _inputs(spec, arrays, example), arrays[LABELS]


def example_of(*sources: Any) -> Any:
    """Return a few rows of the first source that has some: an array [B, …] or a dict.

    Raises:
        ConfigError: none has.
    """
    for source in sources:
        rows = source
        # ``Examples`` of training.data, told by the attribute: no training code is loaded for it.
        if hasattr(rows, "inputs"):
            rows = rows.inputs
        elif isinstance(rows, tuple | list) and rows:
            # (inputs, labels), or batches.
            rows = rows[0][0] if isinstance(rows[0], tuple | list) else rows[0]
        if isinstance(rows, Mapping) and rows:
            return {name: array[:_EXAMPLE_ROWS] for name, array in rows.items()}
        if hasattr(rows, "shape"):
            return rows[:_EXAMPLE_ROWS]
    raise ConfigError(
        "--example: expected a few rows of what the model takes, MODULE:OBJECT or an .npy or .npz "
        "file, since neither --calibration nor --evaluate names rows to take them from"
    )


def _inputs(spec: str, arrays: Mapping[str, Any], example: Any) -> Any:
    """Return arrays of an .npz file as the model takes them; labels are not inputs."""
    named = {name: array for name, array in arrays.items() if name != LABELS}
    if not named:
        raise InputError(f"{spec}: expected an array of inputs, got {', '.join(arrays) or 'none'}")
    if len(named) > 1:
        return named
    [array] = named.values()
    # The model takes names, and there is only one that the array can have.
    if isinstance(example, Mapping) and len(example) == 1:
        return dict.fromkeys(example, array)
    # np.savez(path, x) calls its only array arr_0, which nobody meant as a name.
    return array if next(iter(named)) in ("inputs", "input", "arr_0") else named
