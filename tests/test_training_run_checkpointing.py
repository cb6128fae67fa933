"""What of a run must be as it was when it is taken up."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from maas_sdk.errors import ConfigError
from maas_sdk.training.checkpoints.manager import CheckpointConfig, Checkpoints
from maas_sdk.training.data import Examples
from maas_sdk.training.early_stopping import EarlyStopping
from maas_sdk.training.losses import cross_entropy
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.checkpointing import settings_of
from maas_sdk.training.run.config import TrainConfig
from maas_sdk.training.run.trainer import Trainer, TrainResult
from maas_sdk.training.step import supervised

X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
DATA = Examples(inputs=X, labels=(X.argmax(axis=1) % 3).astype(np.int32))
CONSTANT = OptimizerConfig(schedule="constant", options={"b2": 0.99})


def plain_mean(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return cross_entropy()(logits, labels)


def penalized(model: Any, batch: Any) -> Any:
    return supervised(cross_entropy())(model, batch)


def fit(config: TrainConfig, **more: Any) -> TrainResult:
    return Trainer(config).fit(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), DATA, **more)


def kept(folder: Path, **settings: Any) -> TrainConfig:
    known: dict[str, Any] = {"epochs": 1, "batch_size": 16, "optimizer": CONSTANT}
    return TrainConfig(
        mesh={"data": 1}, checkpoint=CheckpointConfig(folder=folder), **{**known, **settings}
    )


# A field → what is given instead of its value.
OTHER_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "name": {"name": "sgd"},
    "learning_rate": {"learning_rate": 0.1},
    "schedule": {"schedule": lambda count: 0.1},
    "warmup_fraction": {"warmup_fraction": 0.0},
    "end_fraction": {"end_fraction": 0.1},
    "cooldown_fraction": {"cooldown_fraction": 0.1},
    "pieces": {"pieces": ((0.5, 0.2),)},
    "weight_decay": {"weight_decay": 0.1},
    "decay_mask": {"decay_mask": "all"},
    "clip_norm": {"clip_norm": None},
    "clip_value": {"clip_value": 1.0},
    "clip_adaptive": {"clip_adaptive": 0.1},
    "accumulate_steps": {"accumulate_steps": 2},
    "ema_decay": {"ema_decay": 0.9},
    "options": {"options": {"b2": 0.95}},
}


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({"batch_size": 32}, "batch_size"),
        ({"seed": 1}, "seed"),
        ({"precision": "bf16"}, "precision"),
        ({"loss": "mse"}, "loss"),
        ({"loss": plain_mean}, "loss"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        *(
            ({"optimizer": OptimizerConfig(**{"schedule": "constant", **one})}, f"optimizer.{name}")
            for name, one in OTHER_OPTIMIZERS.items()
        ),
        ({"optimizer": OptimizerConfig(schedule="constant", skip_nonfinite=3)}, None),
        ({"steps": 9}, None),
        ({"eval_every": 2, "log_every": 3, "strategy": "fsdp"}, None),
        ({"early_stopping": EarlyStopping()}, None),
    ],
)
def test_what_decides_the_weights_is_compared(change: dict[str, Any], differ: str | None) -> None:
    """Each setting by itself, after a way through JSON; what changes no weight is not looked at."""
    base = TrainConfig(optimizer=OptimizerConfig(schedule="constant"))
    one = json.loads(json.dumps(settings_of(base, steps=3)))
    assert one == settings_of(base, steps=3)
    other = settings_of(replace(base, **change), steps=change.get("steps", 3))
    assert [name for name in other if one[name] != other[name]] == ([differ] if differ else [])


def test_no_setting_of_the_optimizer_is_forgotten() -> None:
    """A field that is added to its configuration is compared, unless it is said to be free."""
    found = settings_of(TrainConfig(), steps=3)
    free = {"skip_nonfinite"}
    names = {
        f"optimizer.{field.name}" for field in fields(OptimizerConfig) if field.name not in free
    }
    assert names == {name for name in found if name.startswith("optimizer.")}
    assert found["steps"] == 3
    assert settings_of(TrainConfig(), steps=3, objective=penalized)["objective"] == "penalized"


def test_a_run_goes_on_under_its_own_configuration_alone(tmp_path: Path) -> None:
    """The error names the setting, both values and the way out, even where the arrays differ."""
    folder = tmp_path / "run"
    fit(kept(folder))
    with pytest.raises(
        ConfigError,
        match=r"run is of a run with loss='cross_entropy' \(now 'plain_mean'\): go on with the "
        "same, or begin another run in another folder$",
    ) as caught:
        fit(kept(folder, loss=plain_mean))
    assert caught.value.evidence["differ"] == ["loss"]
    with pytest.raises(
        ConfigError,
        match=r"optimizer.name='adamw' \(now 'sgd'\), optimizer.options={'b2': 0.99} \(now {}\): ",
    ):
        fit(kept(folder, optimizer=replace(CONSTANT, name="sgd", options={})))
    with pytest.raises(ConfigError, match=r"objective=None \(now 'penalized'\)"):
        fit(kept(folder), objective=penalized)
    with Checkpoints(CheckpointConfig(folder=tmp_path / "foreign")) as foreign:
        foreign.save(1, {"w": jax.numpy.zeros(3)}, {"mine": 1})
    with pytest.raises(ConfigError, match="foreign holds a checkpoint that no Trainer wrote"):
        fit(kept(tmp_path / "foreign"))


def test_a_run_is_trained_longer_where_its_schedule_allows(tmp_path: Path) -> None:
    """Under a constant rate it becomes the run that was meant to be as long; else it is refused."""
    fit(kept(tmp_path / "constant"))
    longer = fit(kept(tmp_path / "constant", epochs=2), resume=True)
    whole = fit(kept(tmp_path / "whole", epochs=2))
    assert (longer.steps, whole.steps) == (8, 8)
    for ours, theirs in zip(
        *(jax.tree.leaves(nnx.state(run.model)) for run in (longer, whole)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)

    cosine = OptimizerConfig(schedule="cosine")
    fit(kept(tmp_path / "cosine", optimizer=cosine))
    with pytest.raises(
        ConfigError, match=r"steps=4 \(now 8\): .*; the learning rate's schedule goes by steps$"
    ):
        fit(kept(tmp_path / "cosine", optimizer=cosine, epochs=2))
