"""Any model as named leaves and pure functions of them.

Three kinds of model come in: an ``nnx.Module``, which carries its weights; a linen ``Module`` with
its variables; and a function ``apply(weights, inputs)``. A model of another kind, such as a
compressed one, provides a method ``as_model``. The result is the same for all: a flat list of named
arrays, and a function that rebuilds from such a list the first argument of the program functions.
The rule: weights never hide in a closure, they are always leaves.

Leaves are named by ``model.names``: ``conv1/kernel``, ``params/Dense_0/bias``,
``conv1/kernel/array/qvalue`` for a weight that qwix has quantized.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

import jax
import numpy as np
from flax import linen, nnx

from maas_sdk.bundle.compression import Compression
from maas_sdk.bundle.encoding.spec import Encoding
from maas_sdk.errors import ExportError, InputError
from maas_sdk.model.leaf import Leaf
from maas_sdk.model.names import named_leaves
from maas_sdk.tensors import dtype_name

__all__ = ["Exportable", "Inputs", "Model", "ProgramFn", "adapt"]

Inputs = Mapping[str, Any]

# A program: None is the model's own ``__call__`` (or ``apply`` itself), a string a method's name,
# a function takes the model (the weights, for an ``apply``) and the inputs.
ProgramFn = Callable[[Any, Any], Any] | str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model as named leaves."""

    kind: Literal["nnx", "linen", "apply"]
    leaves: tuple[Leaf, ...]
    # Values in the order of ``leaves`` → module, bound module or weights.
    rebuild: Callable[[Sequence[Any]], Any]
    # What a program given as None calls, for kind "apply".
    apply: Callable[[Any, Any], Any] | None = None
    # Sentences for the user about what was changed before the export.
    notes: tuple[str, ...] = ()
    # What the program consumes as it is stored, by name of the tensor that it stands for: the
    # parts, such as codes and scales, are leaves.
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    # For the manifest: what compression did.
    compression: Compression | None = None

    def bind(self, fn: ProgramFn) -> Callable[[Sequence[Any], Inputs, bool], Any]:
        """Return the program ``fn`` as a function of (leaf values, inputs by name, bare).

        ``bare`` says that the example came as one array without a name, so that a function gets
        the array and not a dict.
        """
        if fn is None and self.apply is not None:
            fn = self.apply
        if callable(fn):
            function = fn

            def run_function(values: Sequence[Any], inputs: Inputs, bare: bool) -> Any:
                given = next(iter(inputs.values())) if bare else dict(inputs)
                return function(self.rebuild(values), given)

            return run_function
        if self.kind == "apply":
            raise ExportError(
                f"program {fn!r}: an apply function has no methods; give a function "
                "(weights, inputs) instead of a name"
            )
        method = "__call__" if fn is None else fn

        def run_method(values: Sequence[Any], inputs: Inputs, bare: bool) -> Any:
            module = self.rebuild(values)
            found = getattr(module, method, None)
            if not callable(found):
                raise ExportError(f"{type(module).__name__} has no method {method!r}")
            return _call(found, inputs)

        return run_method


@runtime_checkable
class Exportable(Protocol):
    """A model that provides its own leaves and functions."""

    def as_model(self) -> Model:
        """Return the leaves, and how to rebuild from them the programs' argument."""
        ...


def _call(method: Callable[..., Any], inputs: Inputs) -> Any:
    """Call a method as its author would: one input by position, several by keyword."""
    if len(inputs) == 1:
        return method(next(iter(inputs.values())))
    parameters = inspect.signature(method).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if takes_any or inputs.keys() <= parameters.keys():
        return method(**inputs)
    required = [p for p in parameters.values() if p.default is p.empty]
    if len(required) == 1:
        return method(dict(inputs))
    raise ExportError(
        f"the example inputs are named {sorted(inputs)}, the method takes "
        f"{sorted(parameters)}: name the inputs as the method does, or give the program as a "
        "function (model, inputs)"
    )


_TRAINING_FLAGS: Final = {"deterministic": False, "use_running_average": False}


def adapt(model: Any, weights: Any) -> Model:
    """Convert any supported model to named leaves and pure functions.

    Args:
        model: an ``nnx.Module``, a linen ``Module``, a function ``apply(weights, inputs)`` or an
            ``Exportable``.
        weights: None for nnx and an ``Exportable``; the variables for linen; a pytree of arrays
            for a function.

    Raises:
        ExportError: unsupported model, weights missing or given twice, a leaf that is no array.
    """
    exportable = isinstance(model, Exportable)
    if exportable or isinstance(model, nnx.Module):
        if weights is not None:
            kind = "takes itself apart" if exportable else "is an nnx module"
            raise ExportError(
                f"{type(model).__name__} {kind} and carries its own weights: drop weights="
            )
        return model.as_model() if exportable else _from_nnx(model)
    if weights is None:
        raise ExportError(
            "weights are missing: pass weights=variables for a linen module, weights=<pytree> for "
            "a function apply(weights, inputs), or weights={} if it has none"
        )
    if isinstance(model, linen.Module):
        values = linen.meta.unbox(weights)
        return _from_tree("linen", values, module=model)
    if callable(model):
        return _from_tree("apply", weights, apply=model)
    raise ExportError(
        f"cannot export a {type(model).__name__}: expected an nnx module, a linen module with "
        "weights=variables, a function apply(weights, inputs), or a model with a method as_model"
    )


def _from_nnx(model: nnx.Module) -> Model:
    training = sorted(
        {
            type(found[-1]).__name__
            for found in nnx.iter_modules(model)
            if any(
                getattr(found[-1], name, None) is value for name, value in _TRAINING_FLAGS.items()
            )
        }
    )
    # A view shares the arrays; the caller's module keeps its own flags.
    view = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    parts: Any = nnx.split(view, nnx.RngState, ...)
    graph, random, state = parts
    # ``rebuild`` must not keep the arrays alive: a caller that replaces them wants them freed.
    tree, random_tree = jax.tree.structure(state), jax.tree.structure(random)
    count = len(jax.tree.leaves(state))

    def rebuild(values: Sequence[Any]) -> Any:
        return nnx.merge(
            graph,
            jax.tree.unflatten(random_tree, values[count:]),
            jax.tree.unflatten(tree, values[:count]),
        )

    notes = (
        (f"{', '.join(training)}: in training mode, exported in evaluation mode",)
        if training
        else ()
    )
    return Model(
        kind="nnx",
        leaves=_leaves(state) + _leaves(random, random=True),
        rebuild=rebuild,
        notes=notes,
    )


def _from_tree(
    kind: Literal["linen", "apply"],
    weights: Any,
    *,
    module: linen.Module | None = None,
    apply: Callable[[Any, Any], Any] | None = None,
) -> Model:
    tree = jax.tree.structure(weights)

    def rebuild(values: Sequence[Any]) -> Any:
        found = jax.tree.unflatten(tree, values)
        return found if module is None else module.bind(found)

    return Model(kind=kind, leaves=_leaves(weights), rebuild=rebuild, apply=apply)


def _leaves(tree: Any, *, random: bool = False) -> tuple[Leaf, ...]:
    leaves: dict[str, Leaf] = {}
    for name, value, _, _, former in named_leaves(tree):
        keyed = hasattr(value, "dtype") and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
        if not (random or keyed):
            try:
                dtype_name(np.asarray(value).dtype if np.isscalar(value) else value.dtype)
            except (AttributeError, TypeError, InputError) as error:
                raise ExportError(
                    f"weight {name!r}: expected an array of numbers, got "
                    f"{type(value).__name__} {value!r:.60}; weights= must be a pytree of arrays",
                    weight=name,
                ) from error
        if name in leaves:
            raise ExportError(f"two weights have the same name {name!r}: rename one", weight=name)
        leaves[name] = Leaf(name=name, value=value, random=random or keyed, former=former)
    return tuple(leaves.values())
