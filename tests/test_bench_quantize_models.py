"""The models that quantization is judged with: rows apart, the same weights when loaded again."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

from maas_sdk.models.presets import preset
from maas_sdk.training.run.trainer import TrainConfig

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("quantize_models")


@pytest.mark.parametrize("name", ["convnet", "encoder", "decoder"])
def test_no_row_is_in_two_parts(
    models: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What is held out was neither learnt from nor chosen with, by its content, not its number."""
    monkeypatch.setattr(models, "_FUNCTIONS", 60)
    rows = models.RECIPES[name].rows()
    train, choose, heldout = (
        {row.tobytes() for row in part.inputs} for part in (rows.train, rows.choose, rows.heldout)
    )
    assert min(len(train), len(choose), len(heldout)) > 50
    assert not train & choose
    assert not train & heldout
    assert not choose & heldout
    assert {row.tobytes() for row in rows.calibration()} <= train


@pytest.mark.slow
def test_what_is_loaded_is_what_was_trained(
    models: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trained once; later calls read the same weights, unless rows or training are others."""
    recipe = dataclasses.replace(
        models.RECIPES["convnet"],
        # Batch norm: its running statistics have to come back too.
        config=preset("resnet-digits", depths=(1,), widths=(4,)),
        training=TrainConfig(steps=2, batch_size=16, mesh={"data": 1}),
    )
    first = models.load("tiny", tmp_path, recipe=recipe)
    with monkeypatch.context() as patched:
        patched.setattr(models, "Trainer", None)
        again = models.load("tiny", tmp_path, recipe=recipe)
    assert len(list(tmp_path.iterdir())) == 1
    assert any(name.endswith("norm/mean") for name in first.tensors)
    jax.tree.map(np.testing.assert_array_equal, first.tensors, again.tensors)
    assert again.train_s == first.train_s

    rows = first.heldout.inputs[:70]
    outputs = models.answers(again.model, rows)
    np.testing.assert_array_equal(outputs, models.answers(first.model, rows))
    # In evaluation mode: a row's answer does not depend on the other rows.
    np.testing.assert_allclose(outputs[:3], again.model(rows[:3]), rtol=1e-4, atol=1e-5)

    def trained_anew(config: TrainConfig) -> None:
        raise RuntimeError(f"{config.steps} step")

    monkeypatch.setattr(models, "Trainer", trained_anew)
    other = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, steps=1))
    with pytest.raises(RuntimeError, match="1 step"):
        models.load("tiny", tmp_path, recipe=other)


def test_scores_are_those_of_the_formula(models: ModuleType) -> None:
    """Accuracy over all positions; a uniform guess of 256 bytes costs 8 bits."""
    labels = np.array([[0, 1], [2, 3]])
    outputs = np.eye(256)[[[0, 1], [2, 9]]]
    assert models.accuracy(outputs, labels) == 0.75
    assert models.bits_per_byte(np.zeros((2, 2, 256)), labels) == pytest.approx(8.0)
    assert models.accuracy(np.eye(4)[[3, 2]], np.array([3, 1])) == 0.5
