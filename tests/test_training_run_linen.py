from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen, nnx

from maas_sdk.demo.digits import load_split
from maas_sdk.errors import ConfigError
from maas_sdk.export import export
from maas_sdk.training.run.linen import FromLinen, from_linen, to_linen
from maas_sdk.training.run.trainer import TrainConfig, Trainer


class Classifier(linen.Module):
    """With batch statistics and dropout, told by an argument whether it is trained."""

    @linen.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        x = linen.Dense(32, name="hidden")(images.reshape(len(images), -1))
        x = linen.BatchNorm(use_running_average=not train, name="norm")(x)
        x = linen.Dropout(0.2, deterministic=not train)(linen.relu(x))
        return linen.Dense(10, name="head")(x)


def made() -> tuple[Classifier, Any, np.ndarray]:
    module, rows = Classifier(), load_split().test.inputs[:8]
    return module, module.init(jax.random.key(0), rows), rows


def test_the_mode_of_nnx_is_the_argument_of_linen() -> None:
    """Evaluation is what linen's apply gives; training draws anew and moves the statistics."""
    module, variables, rows = made()
    model = from_linen(module, variables)
    model.eval()
    np.testing.assert_array_equal(model(rows), module.apply(variables, rows))
    model.train()
    assert not np.array_equal(model(rows), model(rows))
    before, after = variables["batch_stats"], to_linen(model)["batch_stats"]
    assert not np.array_equal(before["norm"]["mean"], after["norm"]["mean"])
    assert jax.tree.structure(to_linen(model)) == jax.tree.structure(variables)


@pytest.mark.slow
def test_a_linen_module_is_trained_and_exported_as_linen(tmp_path: Path) -> None:
    """In bfloat16 on eight devices; its variables come back and serve as linen variables do."""
    module, variables, rows = made()
    config = TrainConfig(epochs=8, precision="bf16")
    result = Trainer(config).fit(from_linen(module, variables), load_split())
    assert result.history[-1].eval["accuracy"] > 0.85
    trained = to_linen(result.model)
    model: Any = result.model
    np.testing.assert_array_equal(module.apply(trained, rows), model(rows))
    bundle = export(
        module, rows, path=tmp_path / "linen.maas", weights=trained, buckets=(8,), targets=()
    )
    assert "predict" in bundle.manifest.programs


class Plain(linen.Module):
    """Without a mode, written by ``deterministic`` in some versions of the world."""

    @linen.compact
    def __call__(self, x: Any, deterministic: bool = True) -> Any:
        return linen.Dropout(0.5, deterministic=deterministic)(x)


def test_the_argument_may_say_the_opposite() -> None:
    """``deterministic`` is true when nothing is trained."""
    model = FromLinen(Plain(), {}, nnx.Rngs(dropout=0))
    ones = np.ones((4, 64), np.float32)
    model.eval()
    np.testing.assert_array_equal(model(ones), ones)
    model.train()
    assert 0 in np.asarray(model(ones))


def test_what_is_no_linen_module_is_refused() -> None:
    """Variables without parameters, and a model that came from nowhere."""
    with pytest.raises(ConfigError, match=r"what module\.init gave, with 'params', got"):
        from_linen(Plain(), {"batch_stats": {}})
    with pytest.raises(ConfigError, match="made by from_linen, got Linear"):
        to_linen(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
