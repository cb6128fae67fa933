"""Linen modules in the trainer: converted to nnx, trained, and converted back to variables.

    result = Trainer(config).fit(from_linen(module, variables), data)
    variables = to_linen(result.model)

The rule it keeps: ``flax.nnx.bridge`` carries the variables over and back, under their own names
and collections. Linen takes the training mode as an argument of a call; here it is filled in from
nnx's ``train()`` and ``eval()``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from flax import core, linen, nnx

from maas_sdk.errors import ConfigError

__all__ = ["MODE_ARGUMENTS", "FromLinen", "from_linen", "to_linen"]

# Names in use for the argument that says whether a call is one of training, and its value then.
MODE_ARGUMENTS: Final[Mapping[str, bool]] = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


class FromLinen(nnx.Module):
    """A linen module with its variables, called like an nnx module; made by ``from_linen``."""

    def __init__(self, module: linen.Module, variables: Any, rngs: nnx.Rngs) -> None:
        self.inner = nnx.bridge.ToNNX(module, rngs=rngs)
        for name, value in nnx.bridge.variables.linen_vars_to_nnx_attrs(variables).items():
            setattr(self.inner, name, value)
        # The name of the module's mode argument; None when its call has none.
        self.mode = _mode_argument(module)
        # Collections that a call in training writes.
        self.written = tuple(sorted(set(variables) - {"params"}))
        # Flipped by train() and eval(), as of Dropout.
        self.deterministic = False

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Call the linen module; in training its batch statistics are updated."""
        if self.mode is not None and self.mode not in options:
            # "train" is True in training and "deterministic" False: each is flipped in evaluation.
            options[self.mode] = MODE_ARGUMENTS[self.mode] != self.deterministic
        mutable = False if self.deterministic or not self.written else list(self.written)
        return self.inner(*inputs, mutable=mutable, **options)


def from_linen(
    module: linen.Module, variables: Mapping[str, Any], *, rngs: nnx.Rngs | None = None
) -> FromLinen:
    """Convert a linen module and its variables to an nnx module.

    Args:
        module: whose call is trained. Whether it is in training is told to it by the first of
            ``MODE_ARGUMENTS`` that its call has.
        variables: what ``module.init`` gave: {"params": …, "batch_stats": …}.
        rngs: for dropout and the like, by the names of linen's streams; None is
            ``nnx.Rngs(dropout=0)``.

    Raises:
        ConfigError: the variables have no ``params``.
    """
    if "params" not in variables:
        raise ConfigError(
            f"linen variables: expected what module.init gave, with 'params', got "
            f"{sorted(variables)}"
        )
    return FromLinen(
        module, core.unfreeze(dict(variables)), nnx.Rngs(dropout=0) if rngs is None else rngs
    )


def to_linen(model: nnx.Module) -> dict[str, Any]:
    """Return the variables of a model that ``from_linen`` made, as ``module.apply`` takes them.

    Raises:
        ConfigError: the model is no ``FromLinen``.
    """
    if not isinstance(model, FromLinen):
        raise ConfigError(f"expected a model made by from_linen, got {type(model).__name__}")
    attributes = {
        name: value
        for name, value in vars(model.inner).items()
        # The bridge's and nnx's own attributes lie among the variables.
        if not name.startswith(("to_nnx__", "_pytree__"))
    }
    found: dict[str, Any] = nnx.bridge.variables.nnx_attrs_to_linen_vars(attributes)
    return found


def _mode_argument(module: linen.Module) -> str | None:
    parameters = inspect.signature(type(module).__call__).parameters
    return next((name for name in MODE_ARGUMENTS if name in parameters), None)
