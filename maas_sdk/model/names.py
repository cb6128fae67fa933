"""The name of a weight: one for each leaf of a tree, whatever library made the tree.

``conv1/kernel``, ``params/Dense_0/bias``, ``opt_state/0/mu/conv1/kernel``: keys, fields and indices
joined by "/". Sharding rules, checkpoints, quantization patterns and the tensors of a bundle all go
by these names; ``tests/test_model_names.py`` has the table of them.

The boxes that Flax puts around arrays (``nnx.Variable``, linen's ``Partitioned``) are no part of a
name. A box looks like any other field of its tree, ``value``, so it is told by its type and never
by that word: a namedtuple or dataclass with a field of that name keeps it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import jax
from flax import nnx
from flax.core import meta

__all__ = ["BARE", "NamedLeaf", "map_named", "named_leaves"]

# The name of an array that is no part of a tree.
BARE: Final = "weights"

_Path: TypeAlias = tuple[Any, ...]


class NamedLeaf(NamedTuple):
    """One leaf of a tree."""

    name: str
    value: Any
    # Its keys in the tree, as ``jax.tree_util`` has them, without those of boxes.
    path: _Path
    # The outermost box that it is in; None outside of any.
    box: Any
    # Other names that it has in checkpoints and bundles of earlier releases.
    former: tuple[str, ...]


def named_leaves(tree: Any) -> list[NamedLeaf]:
    """Name the leaves of a pytree, in the order of ``jax.tree.leaves``.

    A "/" inside a key is kept, so that a flat dict of names, such as a safetensors file, names the
    same weights as the tree that it was made from. Only where that gives two leaves one name, as in
    ``{"a/b": x, "a": {"b": y}}``, it is written %2F. Names can still meet, of the keys 1 and "1":
    callers refuse that in words of their own.
    """
    found = list(_unboxed(tree))
    # As the tree has them, boxes included: what earlier releases named leaves by.
    whole = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    names = ["/".join(map(_text, path)) or BARE for path, _, _ in found]
    taken = Counter(names)
    leaves = []
    for name, (path, value, box), old in zip(names, found, whole, strict=True):
        if taken[name] > 1:
            name = "/".join(_text(key).replace("/", "%2F") for key in path)
        former = tuple(dict.fromkeys(one for one in _former(old) if one != name))
        leaves.append(NamedLeaf(name, value, path, box, former))
    return leaves


def map_named(fn: Callable[[str, Any], Any], tree: Any) -> Any:
    """Return the tree with each leaf replaced by ``fn(name, leaf)``."""
    values = [fn(leaf.name, leaf.value) for leaf in named_leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), values)


def _unboxed(tree: Any) -> Iterator[tuple[_Path, Any, Any]]:
    """Yield (path, leaf, outermost box) of each leaf."""
    for path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_box)[0]:
        if not _is_box(node):
            yield path, node, None
            continue
        # One level: the fields of the box itself, which may hold trees and further boxes.
        fields, _ = jax.tree_util.tree_flatten_with_path(node, lambda n, box=node: n is not box)
        for field, content in fields:
            # A box of somebody's own may have several fields; those tell its leaves apart.
            kept = path if len(fields) == 1 else (*path, *field)
            for inner, leaf, _ in _unboxed(content):
                yield (*kept, *inner), leaf, node


def _is_box(node: Any) -> bool:
    return isinstance(node, nnx.Variable | meta.AxisMetadata)


def _text(key: Any) -> str:
    fields = ("key", "name", "idx")
    return str(next((getattr(key, field) for field in fields if hasattr(key, field)), key))


def _former(path: Sequence[Any]) -> Iterator[str]:
    """Yield the names that bundles and checkpoints gave until 0.1.0.

    Both left out a last field ``value``, whose ever it was, and no other; checkpoints wrote "/"
    inside a key as %2F, and "%" as %25.
    """
    keys = [_text(key) for key in path]
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and keys[-1] == "value":
        keys.pop()
    yield "/".join(keys) or BARE
    yield "/".join(key.replace("%", "%25").replace("/", "%2F") for key in keys) or "state"
