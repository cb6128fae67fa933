"""Flatten a train state to arrays by name, and compare two states leaf by leaf.

A state saved from one tree is restored into another with the same names (``model.names``), whatever
classes the tree is made of.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, Sharding, SingleDeviceSharding

from maas_sdk.errors import ConfigError
from maas_sdk.model.names import named_leaves

__all__ = [
    "differences",
    "former_names",
    "named_arrays",
    "named_specs",
    "nest",
    "raw",
    "stored_spec",
    "typed",
    "unnest",
]


def named_arrays(state: Any) -> dict[str, jax.Array]:
    """Return the arrays of a pytree by name, in the tree's order.

    Raises:
        ConfigError: a leaf that is no ``jax.Array``, or two of one name.
    """
    found: dict[str, jax.Array] = {}
    for name, leaf, *_ in named_leaves(state):
        if not isinstance(leaf, jax.Array):
            raise ConfigError(
                f"state leaf {name!r}: expected a jax.Array, got {type(leaf).__name__}; put "
                "numbers and numpy arrays on the device first, with jax.device_put",
                leaf=name,
            )
        _add(found, name, leaf)
    return found


def named_specs(abstract: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the specs of an abstract state by name, in the tree's order, with shardings.

    Args:
        abstract: a pytree of ``jax.ShapeDtypeStruct`` with shardings, or of arrays, which say the
            same. A leaf without a sharding is to lie on the first device.

    Raises:
        ConfigError: a leaf without shape and dtype, a sharding over a mesh without devices, or two
            leaves of one name.
    """
    found: dict[str, jax.ShapeDtypeStruct] = {}
    for name, leaf, *_ in named_leaves(abstract):
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
        _add(found, name, _struct(tuple(leaf.shape), leaf.dtype, sharding))
    return found


def former_names(abstract: Any) -> dict[str, tuple[str, ...]]:
    """Map today's names to those that leaves have in checkpoints of earlier releases."""
    return {leaf.name: leaf.former for leaf in named_leaves(abstract)}


def stored_spec(spec: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Return the spec of an array on disk: a typed random key is stored as numbers."""
    found = jax.eval_shape(raw, _struct(spec.shape, spec.dtype, None))
    return _struct(found.shape, found.dtype, spec.sharding)


def differences(
    expected: Mapping[str, jax.ShapeDtypeStruct], found: Mapping[str, tuple[str, tuple[int, ...]]]
) -> list[str]:
    """Describe how a saved state differs from an expected one, a sentence per leaf.

    Args:
        expected: by name.
        found: dtype and shape by name, as a checkpoint has them. The dtype of a typed random key
            is "key<fry>" and the like, which another jax may not know.
    """
    sentences = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        spec = expected.get(name)
        here = None if spec is None else (str(spec.dtype), tuple(spec.shape))
        there = found.get(name)
        if there is None:
            sentences.append(f"{name}: expected {_text(here)}, the checkpoint does not have it")
        elif here is None:
            sentences.append(f"{name}: not expected, the checkpoint has {_text(there)}")
        elif here != there:
            dtypes, shapes = here[0] != there[0], here[1] != there[1]
            what = "" if dtypes and shapes else "dtype " if dtypes else "shape "
            sentences.append(
                f"{name}: expected {what}{_text(here)}, the checkpoint has {_text(there)}"
            )
    return sentences


def raw(array: jax.Array) -> jax.Array:
    """Convert a typed random key to its uint32 numbers; anything else passes unchanged."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(array)
    return array


def typed(array: jax.Array, dtype: str) -> jax.Array:
    """Invert ``raw``, for the dtype that it was taken from."""
    return jax.random.wrap_key_data(array, impl=_key_impl(dtype)) if _is_key(dtype) else array


def nest(named: Mapping[str, Any], among: Collection[str] | None = None) -> dict[str, Any]:
    """Convert {"a/b": x} to {"a": {"b": x}}.

    Args:
        named: what to nest.
        among: the names that are nested in the whole tree; None for those of ``named``.

    Raises:
        ConfigError: two of them would lie in the same place.
    """
    names = named.keys() if among is None else set(among)
    tree: dict[str, Any] = {}
    for name, value in named.items():
        *folders, last = _keys(name, names)
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        _add(inner, last, value)
    return tree


def unnest(tree: Mapping[str, Any], among: Collection[str]) -> dict[str, Any]:
    """Convert {"a": {"b": x}} to {"a/b": x}, where the tree was nested ``among`` the names."""
    named = {}
    for name in among:
        found: Any = tree
        for key in _keys(name, among):
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is not None:
            named[name] = found
    return named


def _keys(name: str, names: Collection[str]) -> list[str]:
    """Return the keys of a name in the nested tree.

    "a/b" is "b" in the folder "a", unless "a" is an array itself (keys may hold a "/"): then it
    lies beside that, as "a%2Fb".
    """
    keys = name.split("/")
    for depth in range(1, len(keys)):
        if "/".join(keys[:depth]) in names:
            return [*keys[: depth - 1], "%2F".join(keys[depth - 1 :])]
    return keys


def _text(kind: tuple[str, tuple[int, ...]] | None) -> str:
    """Format ("float32", (2, 3)) as float32[2, 3]."""
    return "" if kind is None else f"{kind[0]}{list(kind[1])}"


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


def _add(found: dict[str, Any], name: str, value: Any) -> None:
    if name in found:
        raise ConfigError(f"two leaves of the state have the name {name!r}: rename one", leaf=name)
    found[name] = value
