"""A checkpoint's view of a state: named arrays; and the differences between two states.

The rule it keeps: a name is the path of a leaf, its keys joined by slashes, such as
``opt_state/0/mu/conv1/kernel``, so that what was saved from one tree is found again from another
of the same names, whatever classes the tree is made of.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, Sharding, SingleDeviceSharding

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.leaves import path_text

__all__ = [
    "LeafSpec",
    "differences",
    "leaf_name",
    "named_arrays",
    "named_specs",
    "nest",
    "raw",
    "typed",
    "unnest",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeafSpec:
    """Shape, dtype and sharding of one array."""

    shape: tuple[int, ...]
    # A dtype's name; of a typed random key "key<fry>" and the like.
    dtype: str
    # None where it is only described.
    sharding: Sharding | None = None

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    def stored(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype on disk: a typed random key is stored as numbers."""
        spec = jax.eval_shape(raw, _struct(self.shape, _dtype(self.dtype), None))
        return _struct(spec.shape, spec.dtype, self.sharding)


def leaf_name(path: Sequence[Any]) -> str:
    """Return a pytree path as a name: its keys, fields and indices joined by slashes.

    The trailing ``value`` field that nnx puts around every variable's array is left out; a slash
    inside a key is written %2F.
    """
    keys = [path_text((key,)) for key in path]
    wrapped = bool(path) and isinstance(path[-1], jax.tree_util.GetAttrKey)
    if wrapped and keys[-1] == "value":
        keys.pop()
    return "/".join(key.replace("%", "%25").replace("/", "%2F") for key in keys) or "state"


def named_arrays(state: Any) -> dict[str, jax.Array]:
    """Return the arrays of a pytree by name, in the tree's order.

    Raises:
        ConfigError: a leaf that is no ``jax.Array``, or two of one name.
    """
    found: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = leaf_name(path)
        if not isinstance(leaf, jax.Array):
            raise ConfigError(
                f"state leaf {name!r}: expected a jax.Array, got {type(leaf).__name__}; put "
                "numbers and numpy arrays on the device first, with jax.device_put",
                leaf=name,
            )
        _add(found, name, leaf)
    return found


def named_specs(abstract: Any) -> dict[str, LeafSpec]:
    """Return the specs of an abstract state by name, in the tree's order.

    Args:
        abstract: a pytree of ``jax.ShapeDtypeStruct`` with shardings, or of arrays, which say the
            same. A leaf without a sharding is to lie on the first device.

    Raises:
        ConfigError: a leaf without shape and dtype, a sharding over a mesh without devices, or two
            leaves of one name.
    """
    found: dict[str, LeafSpec] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]:
        name = leaf_name(path)
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise ConfigError(
                f"abstract leaf {name!r}: expected a jax.ShapeDtypeStruct or an array, got "
                f"{type(leaf).__name__}",
                leaf=name,
            )
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, AbstractMesh):
            raise ConfigError(
                f"abstract leaf {name!r}: its sharding is over an abstract mesh, which has no "
                "devices to restore to; build the shardings from the mesh that training uses",
                leaf=name,
            )
        if sharding is None:
            sharding = SingleDeviceSharding(jax.local_devices()[0])
        _add(
            found,
            name,
            LeafSpec(shape=tuple(leaf.shape), dtype=str(leaf.dtype), sharding=sharding),
        )
    return found


def differences(expected: Mapping[str, LeafSpec], found: Mapping[str, LeafSpec]) -> list[str]:
    """Describe how a saved state differs from an expected one, a sentence per leaf."""
    sentences = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        here, there = expected.get(name), found.get(name)
        if there is None:
            sentences.append(f"{name}: expected {here}, the checkpoint does not have it")
        elif here is None:
            sentences.append(f"{name}: not expected, the checkpoint has {there}")
        elif here.shape != there.shape and here.dtype != there.dtype:
            sentences.append(f"{name}: expected {here}, the checkpoint has {there}")
        elif here.shape != there.shape:
            sentences.append(f"{name}: expected shape {here}, the checkpoint has {there}")
        elif here.dtype != there.dtype:
            sentences.append(f"{name}: expected dtype {here}, the checkpoint has {there}")
    return sentences


def raw(array: jax.Array) -> jax.Array:
    """Convert a typed random key to its uint32 numbers; anything else passes unchanged."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(array)
    return array


def typed(array: jax.Array, dtype: str) -> jax.Array:
    """Invert ``raw``, for the dtype that it was taken from."""
    return jax.random.wrap_key_data(array, impl=_key_impl(dtype)) if _is_key(dtype) else array


def nest(named: Mapping[str, Any]) -> dict[str, Any]:
    """Convert {"a/b": x} to {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for name, value in named.items():
        *folders, last = name.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    return tree


def unnest(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Convert {"a": {"b": x}} to {"a/b": x}."""
    named: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            named |= unnest(value, f"{prefix}{key}/")
        else:
            named[f"{prefix}{key}"] = value
    return named


def _struct(shape: Any, dtype: Any, sharding: Sharding | None) -> jax.ShapeDtypeStruct:
    make: Any = jax.ShapeDtypeStruct
    found: jax.ShapeDtypeStruct = make(shape, dtype, sharding=sharding)
    return found


def _is_key(dtype: str) -> bool:
    return dtype.startswith("key<")


@functools.cache
def _key_impl(dtype: str) -> str:
    """Return the generator of a typed key: "key<fry>" → "threefry2x32"."""
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        if str(_key_dtype(impl)) == dtype:
            return impl
    raise ConfigError(f"random keys of dtype {dtype}: no generator of jax makes them")


def _key_dtype(impl: str) -> Any:
    return jax.eval_shape(lambda: jax.random.key(0, impl=impl)).dtype


def _dtype(name: str) -> Any:
    return _key_dtype(_key_impl(name)) if _is_key(name) else jnp.dtype(name)


def _add(found: dict[str, Any], name: str, value: Any) -> None:
    if name in found:
        raise ConfigError(f"two leaves of the state have the name {name!r}: rename one", leaf=name)
    found[name] = value
