"""Origin of NaN and infinity: a non-finite step examined layer by layer.

That a step is not finite is noticed in ``training/step.py``, and raised by ``training/run/loop.py``.

The rule it keeps: the step is run again with the same weights, random streams and rows, without
compilation, and its values are checked in the order of their computation:
rows, weights, the outputs of the layers (inner ones before those that they are part of), the loss,
the gradients. The first value that is not finite is reported; nothing is guessed from later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maas_sdk.errors import InputError
from maas_sdk.model.names import named_leaves
from maas_sdk.training.precision import Policy
from maas_sdk.training.step import Batch, MixedPrecisionModel, Objective, TrainState

__all__ = ["Origin", "find_origin", "nonfinite_error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The first value that was not finite."""

    kind: Literal["batch", "weight", "between", "layer", "loss", "gradient", "nothing"]
    # Of the batch's array, the parameter or the layer; empty where the kind says it all.
    path: str = ""
    # What the layer is: "Linear".
    type: str = ""
    # "NaN" or "infinity".
    value: str = ""
    # Its share, 0 to 1, of the values there.
    share: float = 0.0

    def __str__(self) -> str:
        match self.kind:
            case "batch":
                return f"the batch: {self.value} in {self.path!r} ({self._many}); clean the data"
            case "weight":
                return (
                    f"the weight {self.path}, which had {self.value} before the step "
                    f"({self._many}); start from other weights"
                )
            case "layer":
                return (
                    f"layer {self.path or 'the model itself'} ({self.type}), the first whose "
                    f"output has {self.value} ({self._many}), on finite inputs"
                )
            case "between":
                return (
                    f"what goes into layer {self.path} ({self.type}): it has {self.value} "
                    f"({self._many}) though every layer before gave finite outputs; look at the "
                    "lines before its call"
                )
            case "loss":
                return f"the loss: it is {self.value} though every layer's output is finite"
            case "gradient":
                return (
                    f"the gradient of {self.path}: it has {self.value} ({self._many}) though the "
                    "loss and every layer's output are finite, as of a square root at 0"
                )
        return "nowhere when it was run again: the compiled arithmetic differs by its rounding"

    @property
    def _many(self) -> str:
        return f"{100 * self.share:.3g} % of its values"


def find_origin(
    graphdef: nnx.GraphDef[Any],
    state: TrainState,
    batch: Batch,
    policy: Policy,
    objective: Objective,
) -> Origin:
    """Run a non-finite step again, and find where the first bad value appeared.

    Args:
        graphdef: the module's structure, in training mode.
        state: as it was before the step.
        batch: the rows of the step.
        policy: dtypes of the step.
        objective: of the step.

    Layers that are called inside ``nnx.scan`` or ``vmap`` have no values of their own to look at;
    there the layer around them is named.
    """
    for name in sorted(batch):
        if (found := _bad(batch[name])) is not None:
            return Origin(kind="batch", path=name, **found)
    for path, leaf, *_ in named_leaves(state.params):
        if (found := _bad(leaf)) is not None:
            return Origin(kind="weight", path=path, **found)

    def model_of(params: Any) -> nnx.Module:
        model: nnx.Module = nnx.merge(graphdef, policy.cast_compute(params), state.rest, copy=True)
        return model

    heard: list[Origin] = []
    order: list[str] = []
    model = model_of(state.params)
    with _listening(model, heard, order):
        loss, _ = objective(MixedPrecisionModel(model, policy), batch)
    if heard:
        return heard[0]
    if (found := _bad(loss)) is not None:
        return Origin(kind="loss", **found)
    gradients = jax.grad(
        lambda params: objective(MixedPrecisionModel(model_of(params), policy), batch)[0]
    )(state.params)
    bad = {
        path: found
        for path, leaf, *_ in named_leaves(gradients)
        if (found := _bad(leaf)) is not None
    }
    if not bad:
        return Origin(kind="nothing")
    # Going back from the loss: the layer that was called last is met first.
    first = max(bad, key=lambda path: _rank(path, order))
    return Origin(kind="gradient", path=first, **bad[first])


def nonfinite_error(step: int, origin: Origin) -> InputError:
    """Return the error to raise for a step that was not finite."""
    remedy = {
        "batch": "",
        "weight": "",
        "nothing": "; lower the learning rate, or set clip_norm",
    }.get(origin.kind, "; lower the learning rate, set clip_norm, or mend that layer")
    return InputError(
        f"step {step}: loss or gradients are not finite. It began in {origin}{remedy}. Nothing of "
        "this step was applied; with skip_nonfinite=3 in the optimizer up to so many in a row "
        "are left out and counted",
        step=step,
        origin=origin,
    )


@contextmanager
def _listening(model: nnx.Module, heard: list[Origin], order: list[str]) -> Iterator[None]:
    """Record, within the context, non-finite values in the calls of the model's modules.

    A module gets a class of its own, whose call is its call with an ear; ``order`` collects paths
    in the order in which calls are over.
    """

    def hear(path: str, kind: type, place: Literal["between", "layer"], values: Any) -> None:
        if place == "layer":
            order.append(path)
        for leaf in jax.tree.leaves(values):
            if (found := _bad(leaf)) is not None:
                heard.append(Origin(kind=place, path=path, type=kind.__name__, **found))
                return

    classes = []
    for path, module in nnx.iter_modules(model):
        kind = type(module)
        if callable(module):
            classes.append((module, kind))
            name = "/".join(map(str, path))
            module.__class__ = _eared(kind, partial(hear, name, kind))

    try:
        yield
    finally:
        for module, kind in classes:
            module.__class__ = kind


def _eared(kind: Any, hear: Callable[[Literal["between", "layer"], Any], None]) -> Any:
    class Eared(kind):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            hear("between", (args, kwargs))
            outputs = super().__call__(*args, **kwargs)
            hear("layer", outputs)
            return outputs

    return Eared


def _bad(leaf: Any) -> dict[str, Any] | None:
    """Return kind and share of non-finite values in an array; None when all finite or unknown."""
    if isinstance(leaf, jax.core.Tracer) or not hasattr(leaf, "dtype"):
        return None
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return None
    values = np.asarray(leaf).astype(np.float32)
    bad = ~np.isfinite(values)
    if not bad.any():
        return None
    value = "NaN" if np.isnan(values).any() else "infinity"
    return {"value": value, "share": float(bad.mean())}


def _rank(path: str, order: list[str]) -> int:
    """Return the call index of the innermost layer with the parameter; -1 for never called."""
    layer = path
    while layer:
        layer = layer.rpartition("/")[0]
        if layer in order:
            return order.index(layer)
    return -1
