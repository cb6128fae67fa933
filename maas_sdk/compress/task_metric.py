"""Task metric of a model: one number, higher is better.

The rule it keeps: float model and quantized model answer the same rows in the same batches, and
where rows can be scored one by one their difference comes with its standard error.

Dimension letters: N rows, B rows of a batch, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jax
import numpy as np

from maas_sdk.errors import ConfigError, InputError, MaasError, ModelError
from maas_sdk.model.adapt import Model
from maas_sdk.tensors import Array

__all__ = ["Evaluate", "Judge", "Predict", "Score", "inputs_of", "judge_of", "predictor", "rows_of"]

# One array of inputs, or a dict of them → what the model gives.
Predict = Callable[[Any], Any]
# Rows with labels, judged by accuracy; or a function of the model's answers to a number.
Evaluate = Callable[[Predict], float] | tuple[Any, Any] | Any

_BATCH: Final = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A model's result."""

    value: float
    # Per row, float64 [N], whose mean is ``value``; None where there is only the whole.
    rows: Array | None = None

    def drop_from(self, before: Score) -> tuple[float, float]:
        """Return the loss against ``before``, and its standard error.

        Rows are paired: σ of the differences / √N. 0 where rows are not known.
        """
        drop = before.value - self.value
        if self.rows is None or before.rows is None or len(self.rows) < 2:
            return drop, 0.0
        differences = before.rows - self.rows
        return drop, float(differences.std(ddof=1) / math.sqrt(len(differences)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """The task's data and metric."""

    # "accuracy", or the function's name.
    metric: str
    score: Callable[[Predict], Score] = field(repr=False)
    # Rows that it asks, where it is known.
    inputs: Any = None


def judge_of(evaluate: Evaluate) -> Judge:
    """Return the judge for the user's ``evaluate=``.

    Args:
        evaluate: (inputs, labels) or an object with these attributes: accuracy, the share of labels
            that are the largest of the last axis; labels [N], or [N, T] of outputs [N, T, K]. Or a
            function that is given the model's prediction, a function of inputs, and returns a
            number, more for better.

    Raises:
        ConfigError: neither.
        InputError: inputs and labels of different lengths, or none.
    """
    if callable(evaluate) and not hasattr(evaluate, "labels"):
        function = evaluate

        def whole(predict: Predict) -> Score:
            value = function(predict)
            try:
                number = float(value)
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"evaluate= must return a number, more for better; it returned {value!r:.60}"
                ) from error
            if not math.isfinite(number):
                raise InputError(f"evaluate= returned {number}: expected a finite number")
            return Score(value=number)

        return Judge(metric=getattr(evaluate, "__name__", "metric"), score=whole)
    if isinstance(evaluate, Sequence) and len(evaluate) == 2:
        inputs, labels = evaluate
    elif hasattr(evaluate, "inputs") and hasattr(evaluate, "labels"):
        split: Any = evaluate
        inputs, labels = split.inputs, split.labels
    else:
        raise ConfigError(
            "evaluate=: expected (inputs, labels), an object that has them, or a function of a "
            f"prediction, got {type(evaluate).__name__}"
        )
    known = np.asarray(labels)
    if rows_of(inputs) != len(known) or not len(known):
        raise InputError(
            f"evaluate=: {rows_of(inputs)} rows of inputs and {len(known)} labels; expected as "
            "many of both, and at least one"
        )

    def accuracy(predict: Predict) -> Score:
        outputs = predict(inputs)
        if isinstance(outputs, Mapping):
            outputs = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        logits = np.asarray(outputs)
        if logits.shape[:-1] != known.shape:
            raise InputError(
                f"evaluate=: labels {list(known.shape)} do not fit outputs {list(logits.shape)}; "
                "give a function for a task other than classification"
            )
        right = (logits.argmax(axis=-1) == known).reshape(len(known), -1).mean(axis=1)
        return Score(value=float(right.mean()), rows=right)

    return Judge(metric="accuracy", score=accuracy, inputs=inputs)


def inputs_of(given: Any) -> Any:
    """Return rows without their labels: of an object that has ``inputs``, those."""
    return given.inputs if hasattr(given, "inputs") else given


def rows_of(inputs: Any) -> int:
    """Return the number N of rows."""
    array = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
    return len(array)


def predictor(model: Model, *, batch_size: int = _BATCH, call: Any = None) -> Predict:
    """Return a function for a model's answers to any number of rows, compiled for one batch size.

    Args:
        model: as named leaves.
        batch_size: B; the last batch is filled up with repeated rows.
        call: a compiled (values, inputs, bare) → outputs to be used again, for other values.

    Returns:
        A function of inputs, one array [N, …] or a dict of them, to outputs as the model has them,
        numpy [N, …].
    """
    run = model.bind(None)
    values = [leaf.to_numpy() if leaf.stored is not None else leaf.value for leaf in model.leaves]
    if call is None:
        call = jax.jit(lambda values, inputs, bare: run(values, inputs, bare), static_argnums=2)

    def predict(inputs: Any) -> Any:
        bare = not isinstance(inputs, Mapping)
        arrays = {"input": inputs} if bare else dict(inputs)
        rows = rows_of(arrays)
        size = min(batch_size, rows)
        parts = []
        for start in range(0, rows, size):
            index = np.minimum(np.arange(start, start + size), rows - 1)
            batch = {name: np.asarray(array)[index] for name, array in arrays.items()}
            try:
                found = jax.device_get(call(values, batch, bare))
            except MaasError:
                raise
            except Exception as error:
                raise ModelError(f"the model failed while it answered: {error}") from error
            kept = min(size, rows - start)
            parts.append(jax.tree.map(lambda array, kept=kept: array[:kept], found))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    return predict
