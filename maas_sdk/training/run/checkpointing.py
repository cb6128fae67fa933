"""Checkpoints of a run: the loop's state, saved and resumed.

A checkpoint is everything that the next step depends on, and nothing else: the
arrays of the state, those of the best evaluation, the position in the data, and the loop's own
numbers, from the losses that are added up to what early stopping has seen. Beside it lie the
settings that determine the steps: a run is resumed with the same ones, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final

import jax

from maas_sdk.errors import ConfigError, NotFoundError
from maas_sdk.training.checkpoints.manager import Checkpoints
from maas_sdk.training.optimizer import depends_on_steps
from maas_sdk.training.run.compiled_steps import Leaves
from maas_sdk.training.run.config import TrainConfig
from maas_sdk.training.run.loop import Loop
from maas_sdk.training.step import Objective

__all__ = ["RunCheckpoints", "check_resume", "restore", "saved_tree", "settings_of"]

# Of ``OptimizerConfig``, what may change: a run that NaN has ended may be let skip it.
_FREE: Final = frozenset({"skip_nonfinite"})


class RunCheckpoints:
    """Saves a loop's checkpoints."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        tree: Any,
        position: Callable[[], Any],
        settings: dict[str, Any],
    ) -> None:
        """Set up the checkpoints of one run.

        Args:
            checkpoints: where to.
            tree: the structure of the state whose leaves are saved.
            position: in the data, JSON-able.
            settings: what must be the same when the run is resumed.
        """
        self._checkpoints = checkpoints
        self._tree = tree
        self._position = position
        self._settings = settings

    def due(self, step: int, *, evaluated: bool) -> bool:
        """Return True to save after a step: by the configuration, or after each evaluation."""
        # After an evaluation a checkpoint has metrics, by which the best ones are kept.
        if self._checkpoints.config.every_steps is None:
            return evaluated
        return self._checkpoints.due(step)

    def save(
        self, step: int, leaves: Leaves, best: Leaves | None, loop_state: dict[str, Any]
    ) -> None:
        """Save a checkpoint; the leaves may be donated when it returns."""
        # Only of this very step: metrics of an earlier one would let it pass for the best.
        last = loop_state["history"][-1] if loop_state["history"] else None
        metrics = last["eval"] if last is not None and last["step"] == step else {}
        self._checkpoints.save(
            step,
            saved_tree(self._tree, leaves, best),
            {"position": self._position(), "loop": loop_state, "settings": self._settings},
            metrics,
        )


def settings_of(
    config: TrainConfig, *, steps: int, objective: Objective | None = None
) -> dict[str, Any]:
    """Return the settings that a resumed run must share with the saved one, JSON-able.

    It is what decides the weights after a step. How often a run evaluates and saves, when it stops
    early and its mesh may change. Functions are known by their names alone.

    Args:
        config: of the run.
        steps: of the whole run; they count where the learning rate goes by them, None otherwise.
        objective: the one that ``fit`` was given.
    """
    return {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "precision": str(config.policy),
        "loss": _plain(config.loss),
        "label_smoothing": config.label_smoothing,
        "objective": _plain(objective),
        **{
            f"optimizer.{field.name}": _plain(getattr(config.optimizer, field.name))
            for field in fields(config.optimizer)
            if field.name not in _FREE
        },
        "steps": steps if depends_on_steps(config.optimizer) else None,
    }


def _check_settings(checkpoints: Checkpoints, data_state: Any, settings: dict[str, Any]) -> None:
    if not isinstance(data_state, dict) or "settings" not in data_state:
        raise ConfigError(
            f"{checkpoints.folder} holds a checkpoint that no Trainer wrote: choose another folder"
        )
    was = data_state["settings"]
    differ = [name for name in settings if was.get(name) != settings[name]]
    if differ:
        raise ConfigError(
            f"{checkpoints.folder} is of a run with "
            + ", ".join(f"{name}={was.get(name)!r} (now {settings[name]!r})" for name in differ)
            + ": go on with the same, or begin another run in another folder"
            + ("; the learning rate's schedule goes by steps" if "steps" in differ else ""),
            differ=differ,
        )


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it; a function or other opaque object by its name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        # The order of the keys makes no other setting.
        return {str(name): _plain(value[name]) for name in sorted(value, key=str)}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    wordless: Any = object.__repr__  # has an address in it, another one in each process
    if callable(value) or type(value).__repr__ is wordless:
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return repr(value)


def saved_tree(tree: Any, leaves: Leaves, best: Leaves | None) -> dict[str, Any]:
    """Return a checkpoint's content: the state by its names, and the best weights if kept."""
    found = {"state": jax.tree.unflatten(tree, leaves)}
    return found if best is None else {**found, "best": jax.tree.unflatten(tree, best)}


def check_resume(checkpoints: Checkpoints, wanted: bool | None) -> None:
    """Check, before anything is compiled, that a run may be resumed or begun.

    Args:
        checkpoints: of the run.
        wanted: True: there must be a checkpoint; False: there must be none; None: either.

    Raises:
        NotFoundError: True, and there is none.
        ConfigError: False, and there is one.
    """
    latest = checkpoints.latest_step()
    if wanted is False and latest is not None:
        raise ConfigError(
            f"{checkpoints.folder} holds a run at step {latest}: choose an empty folder, or resume "
            "it (resume=True, or leave it out)",
            step=latest,
        )
    if wanted and latest is None:
        raise NotFoundError(f"{checkpoints.folder} holds no checkpoint to resume from")


def restore(checkpoints: Checkpoints, loop: Loop, *, tree: Any, settings: dict[str, Any]) -> Any:
    """Set a loop to the latest checkpoint, if there is one.

    Args:
        checkpoints: where from.
        loop: whose leaves say where each array is to lie.
        tree: the structure of its state.
        settings: what must be as it was; see ``settings_of``.

    Returns:
        the position to set the data to; None when nothing was restored.

    Raises:
        ConfigError: it is of a run with other settings, or of another model.
    """
    if checkpoints.latest_step() is None:
        return None
    try:
        found = checkpoints.restore(saved_tree(tree, loop.leaves, loop.best))
    except ConfigError:
        # Another optimizer has other arrays: which setting it was says more than their names.
        _check_settings(checkpoints, checkpoints.data_state(), settings)
        raise
    _check_settings(checkpoints, found.data_state, settings)
    best = found.state.get("best")
    loop.set_state(
        found.data_state["loop"],
        jax.tree.leaves(found.state["state"]),
        None if best is None else jax.tree.leaves(best),
    )
    return found.data_state["position"]
