"""A model's traced program: its signature, the weights it uses, and its lowering per bucket.

The rule is the manifest's: a compiled program takes its weights in the order that it lists them,
then its inputs sorted by name, and returns its outputs sorted by name. Weights that no output
depends on are not arguments; inputs always are.

Dimension letters: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.extend.core import jaxpr_as_fun
from jax.interpreters import partial_eval

from maas_sdk.errors import ExportError, MaasError
from maas_sdk.export.inputs import ExportRequest
from maas_sdk.export.stablehlo import Portable, portable
from maas_sdk.model.adapt import Model
from maas_sdk.model.leaf import Leaf
from maas_sdk.model.names import named_leaves
from maas_sdk.tensors import Array, Signature, TensorSpec, dtype_name

__all__ = ["ReferenceModel", "Traced", "lower", "pruned", "signature", "trace"]


# jax publishes no types for it.
_struct: Any = jax.ShapeDtypeStruct


@dataclass(frozen=True, kw_only=True, slots=True)
class Traced:
    """A program at one batch size."""

    rows: int
    # Arguments: all of the model's leaves, then the inputs. Results: the outputs.
    jaxpr: Any
    # Per leaf, whether any output depends on it.
    used: tuple[bool, ...]
    # dtype name and shape of each output, sorted by name.
    outputs: Mapping[str, tuple[str, tuple[int, ...]]]


def trace(model: Model, request: ExportRequest, rows: int) -> Traced:
    """Trace one program for a batch of ``rows``.

    Raises:
        ExportError: the model raised, drew random numbers, or returned no arrays.
    """
    program = model.bind(request.fn)
    names = list(request.examples.arrays)
    results: list[str] = []

    def flat(leaves: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        found = program(leaves, dict(zip(names, inputs, strict=True)), request.examples.bare)
        named = _output_names(found)
        results[:] = sorted(named)
        return [named[name] for name in results]

    avals = [_aval(leaf.value) for leaf in model.leaves]
    inputs = [
        _struct((rows, *array.shape[1:]), array.dtype) for array in request.examples.arrays.values()
    ]
    try:
        closed = jax.make_jaxpr(flat)(avals, inputs)
    except MaasError:
        raise
    except Exception as error:
        came = ", ".join(
            f"{name}: {aval.dtype}{list(aval.shape)}"
            for name, aval in zip(names, inputs, strict=True)
        )
        raise ExportError(
            f"program {request.name!r} raised while it was traced with {came}: "
            f"{type(error).__name__}: {error}. The first dimension of every example input is the "
            "batch; is it there?",
            program=request.name,
        ) from error
    if not results:
        raise ExportError(f"program {request.name!r} returned no array")
    _, needed_arguments = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(results))
    used = tuple(needed_arguments[: len(model.leaves)])
    drawn = [leaf.name for leaf, needed in zip(model.leaves, used, strict=True) if needed]
    random = {leaf.name for leaf in model.leaves if leaf.random}.intersection(drawn)
    if random:
        raise ExportError(
            f"program {request.name!r} draws random numbers from {sorted(random)}: a bundle's "
            "program answers the same call with the same result. Make it deterministic, or take "
            "the noise as an input",
            program=request.name,
        )
    outputs = {
        name: (dtype_name(aval.dtype), tuple(aval.shape))
        for name, aval in zip(results, closed.out_avals, strict=True)
    }
    return Traced(rows=rows, jaxpr=closed, used=used, outputs=outputs)


def _aval(value: Any) -> Any:
    if not hasattr(value, "dtype"):
        value = np.asarray(value)
    dtype = value.dtype
    if not jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return _struct(value.shape, dtype)


def _output_names(found: Any) -> dict[str, Any]:
    """Name the outputs: one array is ``output``, an element of a tuple ``output_0``."""
    named: dict[str, Any] = {}
    for name, value, path, _, _ in named_leaves(found):
        if not path:
            name = "output"
        elif isinstance(path[0], jax.tree_util.SequenceKey):
            name = f"output_{name}"
        if name in named:
            raise ExportError(f"two outputs have the same name {name!r}: rename one")
        named[name] = value
    return named


def signature(request: ExportRequest, traces: Iterable[Traced]) -> Signature:
    """Return inputs and outputs of a program, with B open where outputs follow it.

    Args:
        request: the program.
        traces: the program at one or, better, several batch sizes.

    Raises:
        ExportError: an output changes with B in another dimension than its first.
    """
    by_rows = {traced.rows: traced for traced in traces}
    inputs = {
        name: TensorSpec(dtype=dtype_name(array.dtype), shape=(None, *array.shape[1:]))
        for name, array in request.examples.arrays.items()
    }
    outputs = {}
    first = next(iter(by_rows.values()))
    for name, (dtype, shape) in first.outputs.items():
        shapes = {rows: traced.outputs.get(name) for rows, traced in by_rows.items()}
        if all(found == (dtype, (rows, *shape[1:])) for rows, found in shapes.items()) and shape:
            outputs[name] = TensorSpec(dtype=dtype, shape=(None, *shape[1:]))
        elif all(found == (dtype, shape) for found in shapes.values()):
            outputs[name] = TensorSpec(dtype=dtype, shape=shape)
        else:
            raise ExportError(
                f"program {request.name!r}, output {name!r}: its shape follows the batch size "
                f"other than in its first dimension: "
                + ", ".join(
                    f"{found[1] if found else 'absent'} for {rows} rows"
                    for rows, found in sorted(shapes.items())
                )
                + ". Return [B, …], or an array whose shape does not depend on B",
                output=name,
            )
    return Signature(inputs=inputs, outputs=outputs)


def lower(traced: Traced, keep: Sequence[bool], *, name: str, platform: str = "cpu") -> Portable:
    """Lower a traced program to StableHLO.

    Args:
        traced: the program at one batch size.
        keep: per leaf, whether it is an argument.
        name: the program's name.
        platform: the one to lower for; the program is portable, but its forms may not be the
            fastest elsewhere.
    """
    function, avals = pruned(traced, keep, name)
    lowered = (
        jax.jit(function, keep_unused=True).trace(*avals).lower(lowering_platforms=(platform,))
    )
    return portable(
        lowered.compiler_ir("stablehlo"),
        where=f"program {name!r} for a batch of {traced.rows}",
    )


def pruned(traced: Traced, keep: Sequence[bool], name: str) -> tuple[Any, list[Any]]:
    """Return the traced function with only the kept leaves, and all of the inputs, as arguments.

    Returns:
        The function, and the shapes and dtypes of its arguments.
    """
    closed = traced.jaxpr
    inputs = len(closed.in_avals) - len(keep)
    jaxpr, _ = partial_eval.dce_jaxpr(
        closed.jaxpr, [True] * len(closed.out_avals), [*keep, *[True] * inputs]
    )
    run = jaxpr_as_fun(closed.replace(jaxpr=jaxpr))

    def function(*arguments: Any) -> Any:
        return run(*arguments)

    function.__name__ = name
    avals: list[Any] = [variable.aval for variable in jaxpr.invars]
    return function, [_struct(aval.shape, aval.dtype) for aval in avals]


@dataclass(frozen=True, kw_only=True)
class ReferenceModel:
    """The original model, run by jax in this process: the reference for packaged answers."""

    model: Model
    request: ExportRequest
    # Programs already traced, by batch size.
    traces: dict[int, Traced]
    _compiled: dict[int, Any] = field(default_factory=dict)
    _weights: dict[str, Any] = field(default_factory=dict)

    def trace(self, rows: int) -> Traced:
        """Trace the program for a batch of ``rows``, at most once."""
        if rows not in self.traces:
            self.traces[rows] = trace(self.model, self.request, rows)
        return self.traces[rows]

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return outputs for a batch of any size; compiles once per size.

        Raises:
            ExportError: the model failed while it ran.
        """
        rows = len(next(iter(inputs.values())))
        traced = self.trace(rows)
        cpu = jax.local_devices(backend="cpu")[0]
        if rows not in self._compiled:
            function, _ = pruned(traced, traced.used, self.request.name)
            self._compiled[rows] = jax.jit(function)
        weights = [self._put(leaf, cpu) for leaf in _kept(self.model.leaves, traced.used)]
        given = [jax.device_put(inputs[name], cpu) for name in self.request.examples.arrays]
        try:
            found = [np.asarray(value) for value in self._compiled[rows](*weights, *given)]
        except JaxRuntimeError as error:
            raise ExportError(
                f"program {self.request.name!r} failed while it ran here, by jax, on {rows} "
                f"example rows: {error}",
                program=self.request.name,
            ) from error
        return dict(zip(traced.outputs, found, strict=True))

    def _put(self, leaf: Leaf, device: Any) -> Any:
        if leaf.name not in self._weights:
            self._weights[leaf.name] = jax.device_put(leaf.to_numpy(), device)
        return self._weights[leaf.name]


def _kept(leaves: Sequence[Leaf], keep: Sequence[bool]) -> list[Leaf]:
    return [leaf for leaf, needed in zip(leaves, keep, strict=True) if needed]
