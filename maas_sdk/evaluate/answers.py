"""One interface to anything that answers rows: a module, a function, an engine, an endpoint.

The rule it keeps: an answerer takes a batch and returns when the answer is there, as numpy. A
module is compiled per batch size; a smaller batch is filled up with its first row and cut again.

Dimension letters: B rows of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.evaluate.cost import compiled_flops
from maas_sdk.tensors import Array

__all__ = [
    "Answerer",
    "CallAnswerer",
    "Inputs",
    "ModuleAnswerer",
    "Predicts",
    "answerer",
    "rows_of",
    "take_rows",
]

# One array [B, …], or several by name, all with the same number of rows.
Inputs = Array | Mapping[str, Array]


@runtime_checkable
class Predicts(Protocol):
    """A client of an endpoint, a loaded engine, or anything similar."""

    def predict(self, x: Any, /) -> Any:
        """Return the answer to a batch."""
        ...


class Answerer(ABC):
    """Answers batches of rows."""

    # Flop of one row, where the program is known.
    flops_per_row: float | None = None

    def __init__(self, output: str | None) -> None:
        self._output = output

    def __call__(self, inputs: Inputs, *, batch_size: int) -> Array:
        """Return the answer to a batch of at most ``batch_size`` rows: one array, [B, …].

        Raises:
            InputError: the answer has no or several arrays and none was named, or other rows.
        """
        rows = rows_of(inputs)
        answer = self._answer(inputs, rows, batch_size)
        if isinstance(answer, Mapping):
            answer = self._named(answer)
        array = np.asarray(answer)
        if array.shape[:1] != (rows,):
            raise InputError(
                f"the model answered {rows} rows with an array of shape {list(array.shape)}; "
                "expected the same rows, in the first dimension"
            )
        return array

    @abstractmethod
    def _answer(self, inputs: Inputs, rows: int, batch_size: int) -> Any:
        """Return one array, or several by name."""

    def _named(self, answer: Mapping[str, Any]) -> Any:
        if self._output is None and len(answer) == 1:
            return next(iter(answer.values()))
        if self._output is None or self._output not in answer:
            raise InputError(
                f"the model answers with {', '.join(answer) or 'nothing'}; "
                f"say which is judged: output={self._output or next(iter(answer), '')!r} "
                + ("is not among them" if self._output else "for instance")
            )
        return answer[self._output]


class CallAnswerer(Answerer):
    """Answers with a function that takes a batch."""

    def __init__(self, call: Callable[[Any], Any], output: str | None) -> None:
        super().__init__(output)
        self._call = call

    def _answer(self, inputs: Inputs, rows: int, batch_size: int) -> Any:
        return self._call(inputs)


class ModuleAnswerer(Answerer):
    """Answers with a module in this process, compiled once per batch size."""

    def __init__(self, module: nnx.Module, output: str | None) -> None:
        graphdef, self._state = nnx.split(module)

        def call(state: Any, inputs: Any) -> Any:
            rebuilt: Any = nnx.merge(graphdef, state)
            return rebuilt(inputs)

        super().__init__(output)
        self._jitted = jax.jit(call)
        self._compiled: dict[int, jax.stages.Compiled] = {}

    def _answer(self, inputs: Inputs, rows: int, batch_size: int) -> Any:
        filled = np.concatenate([np.arange(rows), np.zeros(batch_size - rows, np.int64)])
        batch = inputs if rows == batch_size else take_rows(inputs, filled)
        compiled = self._compiled.get(batch_size)
        if compiled is None:
            compiled = self._jitted.lower(self._state, batch).compile()
            self._compiled[batch_size] = compiled
            flops = compiled_flops(compiled)
            self.flops_per_row = None if flops is None else flops / batch_size
        answer = compiled(self._state, batch)
        return jax.tree.map(lambda array: np.asarray(array)[:rows], answer)


def answerer(target: Any, *, output: str | None = None) -> Answerer:
    """Return the answerer for ``target``.

    Args:
        target: an nnx module in eval mode; a client, an engine, anything with ``predict(inputs)``;
            or a function of the inputs.
        output: which of several named outputs is meant.

    Raises:
        ConfigError: none of these.
    """
    if isinstance(target, nnx.Module):
        return ModuleAnswerer(target, output)
    if isinstance(target, Predicts):
        return CallAnswerer(target.predict, output)
    if callable(target):
        return CallAnswerer(target, output)
    raise ConfigError(
        f"expected an nnx module, an object with predict(inputs) or a function, "
        f"got {type(target).__name__}"
    )


def rows_of(inputs: Inputs) -> int:
    """Return B, the same for all arrays.

    Raises:
        InputError: no arrays, one without rows, or different numbers of rows.
    """
    arrays = dict(inputs) if isinstance(inputs, Mapping) else {"inputs": inputs}
    sizes = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    found = set(sizes.values())
    if len(found) != 1 or None in found:
        raise InputError(f"inputs: expected arrays with one number of rows, got {sizes}")
    (rows,) = found
    return int(rows or 0)


def take_rows(inputs: Inputs, rows: Array | slice) -> Inputs:
    """Return the given rows of every array."""
    if isinstance(inputs, Mapping):
        return {name: array[rows] for name, array in inputs.items()}
    return inputs[rows]
