"""Checkpoints of a loop: what of it is saved, and how it goes on from there.

The rule it keeps: a checkpoint is everything that the next step depends on, and nothing else: the
arrays of the state, those of the best evaluation, the position in the data, and the loop's own
numbers, from the losses that are added up to what early stopping has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from maas_sdk.errors import ConfigError, NotFoundError
from maas_sdk.training.checkpoint import Checkpoints
from maas_sdk.training.loop import Loop
from maas_sdk.training.programs import Leaves

__all__ = ["Keeper", "check_wanted", "restore", "saved_tree"]


class Keeper:
    """Saves a loop's checkpoints."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        tree: Any,
        position: Callable[[], Any],
        settings: dict[str, Any],
    ) -> None:
        """A keeper of one run.

        Args:
            checkpoints: where to.
            tree: the structure of the state whose leaves are saved.
            position: of the feed, JSON-able.
            settings: what must be the same when the run is taken up.
        """
        self._checkpoints = checkpoints
        self._tree = tree
        self._position = position
        self._settings = settings

    def due(self, step: int, *, evaluated: bool) -> bool:
        """Whether to save after a step: as the configuration says, or after each evaluation."""
        if self._checkpoints.config.every_steps is None:
            return evaluated
        return self._checkpoints.due(step)

    def save(self, step: int, leaves: Leaves, best: Leaves | None, news: dict[str, Any]) -> None:
        """Save one; the leaves may be donated when it returns."""
        last = news["history"][-1] if news["history"] else None
        metrics = last["eval"] if last is not None and last["step"] == step else {}
        self._checkpoints.save(
            step,
            saved_tree(self._tree, leaves, best),
            {"position": self._position(), "loop": news, "settings": self._settings},
            metrics,
        )


def saved_tree(tree: Any, leaves: Leaves, best: Leaves | None) -> dict[str, Any]:
    """What a checkpoint holds: the state by its names, and the best weights where they are kept."""
    found = {"state": jax.tree.unflatten(tree, leaves)}
    return found if best is None else {**found, "best": jax.tree.unflatten(tree, best)}


def check_wanted(checkpoints: Checkpoints, wanted: bool | None) -> None:
    """Find out, before anything is compiled, whether a run may be taken up or begun.

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
        settings: what must be as it was.

    Returns:
        the position to set the feed to; None when nothing was restored.

    Raises:
        ConfigError: it is of a run with other settings, or of another model.
    """
    if checkpoints.latest_step() is None:
        return None
    found = checkpoints.restore(saved_tree(tree, loop.leaves, loop.best))
    was = found.data_state["settings"]
    differ = [name for name in settings if was.get(name) != settings[name]]
    if differ:
        raise ConfigError(
            f"{checkpoints.folder} is of a run with "
            + ", ".join(f"{name}={was.get(name)!r} (now {settings[name]!r})" for name in differ)
            + ": go on with the same, or choose another folder",
            differ=differ,
        )
    best = found.state.get("best")
    loop.set_state(
        found.data_state["loop"],
        jax.tree.leaves(found.state["state"]),
        None if best is None else jax.tree.leaves(best),
    )
    return found.data_state["position"]
