"""A traced float model for quantization: named leaves, and the products that use its weights.

The rule it keeps: the model is only read, never changed or copied. It is traced from shapes alone;
its arrays are read one at a time.

Dimension letters: B rows of a batch, O output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from maas_sdk.compress.methods.matrix_view import MatrixView
from maas_sdk.compress.program.rewrite import evaluate
from maas_sdk.compress.program.traced_weight import Known, Weight
from maas_sdk.compress.program.weight_uses import Products, Use
from maas_sdk.errors import ExportError, MaasError
from maas_sdk.model.adapt import Model, ProgramFn
from maas_sdk.model.leaf import Leaf
from maas_sdk.tensors import Array

__all__ = ["Fold", "Site", "TracedModel", "find_sites", "is_weight"]

_struct: Any = jax.ShapeDtypeStruct


def is_weight(leaf: Leaf) -> bool:
    """Return True when a leaf may be a product's weight: floats, in two dimensions or more.

    Biases of heads, [heads, head_dim], are none: they are few and added to float sums.
    """
    return (
        not leaf.random
        and len(leaf.value.shape) >= 2
        and jax.numpy.issubdtype(leaf.dtype, np.floating)
        and leaf.name.rpartition("/")[2] != "bias"
    )


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """One program of a model, traced once per shape of its inputs."""

    model: Model
    fn: ProgramFn = None
    # The inputs came as one array without a name.
    bare: bool = True
    _traced: dict[Any, tuple[Any, Any]] = field(default_factory=dict)

    def trace(self, inputs: Mapping[str, Any]) -> tuple[Any, Any]:
        """Trace to a closed jaxpr over all leaves, then inputs by name; and its results' tree.

        Raises:
            ExportError: the model raised.
        """
        names = sorted(inputs)
        given = [_struct(np.shape(inputs[name]), inputs[name].dtype) for name in names]
        key = tuple(
            (name, aval.shape, str(aval.dtype)) for name, aval in zip(names, given, strict=True)
        )
        if key not in self._traced:
            run = self.model.bind(self.fn)

            def flat(leaves: Sequence[Any], arrays: Sequence[Any]) -> Any:
                return run(leaves, dict(zip(names, arrays, strict=True)), self.bare)

            leaves = [_struct(leaf.value.shape, leaf.value.dtype) for leaf in self.model.leaves]
            try:
                closed, shapes = jax.make_jaxpr(flat, return_shape=True)(leaves, given)
            except MaasError:
                raise
            except Exception as error:
                came = ", ".join(
                    f"{name}: {a.dtype}{list(a.shape)}"
                    for name, a in zip(names, given, strict=True)
                )
                raise ExportError(
                    f"the model raised while it was traced with {came}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            self._traced[key] = closed, jax.tree.structure(shapes)
        return self._traced[key]

    def run(self, values: Sequence[Any], inputs: Mapping[str, Any], products: Products) -> Any:
        """Return the program's result, with products computed by ``products``.

        Args:
            values: one per leaf: an array, a ``Weight`` or a ``Known``.
            inputs: arrays by name.
            products: what products with weights mean.
        """
        closed, tree = self.trace(inputs)
        found = evaluate(closed, [*values, *(inputs[name] for name in sorted(inputs))], products)
        return jax.tree.unflatten(tree, found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """Operations that follow a product and fold into it: y = (x·w)·factor + shift."""

    # float32 [O] each.
    factor: Array
    shift: Array
    # Operations of the program that it stands for.
    operations: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One weight and the products that use it."""

    # The leaf's name, such as "hidden/kernel".
    name: str
    layout: MatrixView
    # "dense", "conv" or "lookup", sorted, each once; "table" alone for what is in no product that
    # is understood, such as positions that are added: it is decoded where it is used.
    kinds: tuple[str, ...]
    # How often the program uses it.
    uses: int
    # Where the program first uses it, for the order of layers.
    place: tuple[int, ...]
    fold: Fold | None = None

    @property
    def layer(self) -> str:
        """The path of the layer, such as "hidden"."""
        return self.name.rpartition("/")[0] or self.name


def find_sites(program: TracedModel, inputs: Mapping[str, Any], *, fold: bool) -> tuple[Site, ...]:
    """Return the weights that are in products, in the order of the program.

    Args:
        program: the model's.
        inputs: arrays of one batch by name; shapes and dtypes count.
        fold: find out what can be folded into each, which reads the norms' parameters.

    Raises:
        ExportError: the model raised.
    """
    finder = _Finder()
    weights = [
        Weight.of(leaf.name, index, leaf.value.shape, leaf.value.dtype)
        if is_weight(leaf)
        else Known(leaf.value if fold and not leaf.random and leaf.value.ndim <= 1 else None)
        for index, leaf in enumerate(program.model.leaves)
    ]

    def walk(leaves: Sequence[Any], arrays: Mapping[str, Any]) -> Any:
        values = [
            replace(found, parts=leaf)
            if isinstance(found, Weight)
            else Known(leaf if found.value is None else found.value)
            for found, leaf in zip(weights, leaves, strict=True)
        ]
        return program.run(values, arrays, finder)

    shapes = [_struct(leaf.value.shape, leaf.value.dtype) for leaf in program.model.leaves]
    given = {name: _struct(np.shape(array), array.dtype) for name, array in inputs.items()}
    jax.eval_shape(walk, shapes, given)
    return finder.sites({leaf.name: leaf.value.shape for leaf in program.model.leaves})


class _Finder(Products):
    """Notes every product, and computes it unchanged."""

    eager = True

    def __init__(self) -> None:
        self._uses: dict[str, dict[tuple[int, ...], Use]] = {}
        self._folds: dict[tuple[int, ...], Fold] = {}
        self._tables: dict[str, tuple[int, ...]] = {}

    def array(self, weight: Weight) -> Any:
        # One layer of a stack that is no product's weight is a norm's scale or the like.
        if not weight.layer:
            self._tables[weight.name] = weight.shape
        return weight.parts

    def product(self, use: Use, other: Any) -> Any:
        self._uses.setdefault(use.weight.name, {})[use.place] = use
        array = use.weight.laid_out(use.weight.parts).astype(use.weight.dtype)
        return use.bind(array, other) if use.first else use.bind(other, array)

    def chain(self, use: Use) -> int | None:
        return None

    def followed(self, use: Use, steps: Sequence[tuple[str, Any]]) -> None:
        found = _fold(use, steps)
        if found is not None:
            self._folds[use.place] = found

    def sites(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Site, ...]:
        found = []
        for name, by_place in self._uses.items():
            uses = list(by_place.values())
            # A table that is looked up and multiplied with (tied embeddings) is seen as it is
            # multiplied with.
            chief = next((use for use in uses if use.kind != "lookup"), uses[0])
            shape = chief.weight.shape
            layout = MatrixView(
                shape=shape,
                out_axes=chief.out_axes,
                in_axes=tuple(a for a in range(len(shape)) if a not in chief.out_axes),
                stack=shapes[name][0] if chief.weight.layer else None,
            )
            found.append(
                Site(
                    name=name,
                    layout=layout,
                    kinds=tuple(sorted({use.kind for use in uses})),
                    uses=len(uses),
                    place=min(by_place),
                    fold=self._folds.get(chief.place)
                    # Elsewhere it would be missed as it was.
                    if len(uses) == 1 and layout.stack is None and name not in self._tables
                    else None,
                )
            )
        for name, shape in self._tables.items():
            if name not in self._uses:
                axes = tuple(range(len(shape)))
                layout = MatrixView(shape=shape, out_axes=axes[:-1], in_axes=axes[-1:])
                found.append(Site(name=name, layout=layout, kinds=("table",), uses=1, place=(0,)))
        return tuple(sorted(found, key=lambda site: site.place))


_OPERATIONS: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]]] = {
    "add": lambda factor, shift, n: (factor, shift + n),
    "sub": lambda factor, shift, n: (factor, shift - n),
    "rsub": lambda factor, shift, n: (-factor, n - shift),
    "mul": lambda factor, shift, n: (factor * n, shift * n),
    "div": lambda factor, shift, n: (factor / n, shift / n),
}


def _fold(use: Use, steps: Sequence[tuple[str, Any]]) -> Fold | None:
    """Merge the operations into one, if there is a multiplication among them to be saved."""
    sizes = [use.shape[dim] for dim in use.channel_dims]
    # One dimension of channels: where a norm follows. More would have to be put in order.
    if len(sizes) != 1 or not any(word in ("mul", "div") for word, _ in steps):
        return None
    if any(isinstance(numbers, jax.core.Tracer) for _, numbers in steps):
        return None
    factor, shift = np.ones(sizes[0]), np.zeros(sizes[0])
    for word, numbers in steps:
        flat = np.broadcast_to(np.asarray(numbers, np.float64).reshape(-1), sizes)
        factor, shift = _OPERATIONS[word](factor, shift, flat)
    return Fold(
        factor=factor.astype(np.float32), shift=shift.astype(np.float32), operations=len(steps)
    )
