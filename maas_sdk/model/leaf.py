"""One array of a model: name, value, the axes that its author named, and its storage.

Only shapes and dtypes are looked at until the numbers are asked for, so a tree of
``jax.ShapeDtypeStruct`` does wherever nothing is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maas_sdk.bundle.encoding.spec import Stored
from maas_sdk.bundle.files.safetensors import Spec
from maas_sdk.errors import ExportError
from maas_sdk.tensors import Array, dtype_name

__all__ = ["Leaf"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """One array of a model."""

    # Such as "layers/0/attention/query/kernel"; see ``model.names``.
    name: str
    # An array as the model holds it; for random state possibly a typed PRNG key. With ``stored``
    # only its dtype and shape are looked at: a jax.ShapeDtypeStruct will do.
    value: Any
    # Random state: programs must not use it, since every call would draw the same numbers.
    random: bool = False
    # How the leaf lies in the bundle, when it is encoded there; has the leaf's name. The program
    # takes it decoded.
    stored: Stored | None = None
    # The author's name of each dimension, out of the module's annotation; None: not annotated.
    axes: tuple[Any, ...] | None = None
    # Other names that it may have in what an earlier release wrote.
    former: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.stored is None:
            return
        if self.stored.name != self.name:
            raise ExportError(
                f"weight {self.name!r}: expected its stored form under the same name, got "
                f"{self.stored.name!r}"
            )
        dtype = jax.dtypes.canonicalize_dtype(self.dtype)
        expected = Spec(dtype_name(dtype), self.shape)
        if self.stored.spec != expected:
            raise ExportError(
                f"weight {self.name!r}: the program takes {expected}, what is stored decodes to "
                f"{self.stored.spec}",
                weight=self.name,
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the leaf's dimensions."""
        return tuple(int(size) for size in np.shape(self.value))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the leaf in the model."""
        return np.asarray(self.value).dtype if np.isscalar(self.value) else self.value.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array; a dtype of 4 bits takes half a byte per number."""
        return math.ceil(math.prod(self.shape) * _bits(self.dtype) / 8)

    def to_numpy(self) -> Array:
        """Return the array on the host, in the dtype that a traced program sees.

        Raises:
            CorruptError: it is stored encoded, and cannot be decoded.
        """
        if self.stored is not None:
            return self.stored.decode()
        found = np.asarray(self.value)
        return found.astype(jax.dtypes.canonicalize_dtype(found.dtype), copy=False)


def _bits(dtype: Any) -> int:
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return 64  # a random key of the usual kind
    # "int4" and the like say in their names what numpy's itemsize rounds up.
    small = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
    found = np.dtype(dtype)
    return small.get(found.name, 8 * int(found.itemsize))
