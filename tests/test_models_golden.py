"""Models against what torch and transformers computed, from files: there is no torch here.

A file of tests/golden/models holds a configuration, the names and shapes of a checkpoint, inputs
and the logits of the reference. The weights are drawn from a stated seed by a generator whose
stream NumPy has frozen. Written by::

    PYTHONPATH=. .cache/reference/bin/python tests/reference/test_models_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from maas_sdk.models import convnet, mlp, recurrent, resnet
from maas_sdk.models.huggingface_config import config_from_transformers
from maas_sdk.models.import_weights import load_weights

GOLDEN = Path(__file__).parent / "golden" / "models"
KINDS = {
    "ConvNetConfig": convnet.ConvNetConfig,
    "MLPConfig": mlp.MLPConfig,
    "RecurrentConfig": recurrent.RecurrentConfig,
    "ResNetConfig": resnet.ResNetConfig,
    "transformers": config_from_transformers,
}


def drawn_weights(shapes: dict[str, list[int]], seed: int = 0) -> dict[str, np.ndarray]:
    """A checkpoint in which every tensor matters: no zeros, no ones, signals of size about 1."""
    stream = np.random.RandomState(seed)
    weights = {}
    for name, shape in sorted(shapes.items()):
        drawn = stream.standard_normal(shape)
        if name.endswith("running_var"):
            drawn = 0.5 + np.abs(drawn)
        elif len(shape) > 1:
            drawn /= np.sqrt(np.prod(shape[1:]))
        else:
            drawn = 0.1 * drawn + name.endswith("weight")
        weights[name] = drawn.astype(np.float32)
    return weights


def our_config(document: dict[str, Any], **changes: Any) -> Any:
    """The configuration that a golden file states."""
    fields = document["config"]["fields"]
    if document["config"]["kind"] == "transformers":
        return config_from_transformers(fields, **document["config"].get("changes", {}), **changes)
    return KINDS[document["config"]["kind"]](**fields, **changes)


def our_inputs(document: dict[str, Any]) -> dict[str, np.ndarray]:
    """Inputs by the names of the module's arguments, floats in float32."""
    found = {name: np.array(value) for name, value in document["inputs"].items()}
    return {
        name: array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
        for name, array in found.items()
    }


def our_logits(document: dict[str, Any], **changes: Any) -> np.ndarray:
    """What our module answers with the same weights."""
    model = load_weights(our_config(document, **changes), drawn_weights(document["tensors"]))
    model.eval()
    graphdef, state = nnx.split(model)
    first, *others = our_inputs(document).items()
    # One program, compiled once, instead of one for every operation.
    answer = jax.jit(lambda state, x, others: nnx.merge(graphdef, state)(x, **others))
    return np.asarray(answer(state, first[1], dict(others)))


FILES = sorted(GOLDEN.glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_logits_are_the_references(file: Path) -> None:
    """Every architecture answers what the reference answered, within 1e-4, in float32."""
    document = json.loads(file.read_text())
    logits = our_logits(document)
    assert logits.dtype == np.float32
    expected = np.array(document["logits"], np.float32)
    assert np.ptp(expected) > 0.3, "logits that say nothing"
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_every_architecture_has_a_file() -> None:
    """The list of what is proven, and that each file stays small."""
    assert {file.stem for file in FILES} == {
        *("mlp", "convnet", "lstm", "gru", "resnet-basic", "resnet-bottleneck", "resnet-small"),
        *("bert-classify", "bert-fill", "gpt2", "llama", "llama3.1"),
    }
    assert max(file.stat().st_size for file in FILES) < 20_000


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert-classify"])
def test_scanned_layers_take_the_same_checkpoint(name: str) -> None:
    """``scan_layers`` stacks the checkpoint's layers and answers the same, with remat as well."""
    document = json.loads((GOLDEN / f"{name}.json").read_text())
    logits = our_logits(document, scan_layers=True, remat=True)
    np.testing.assert_allclose(logits, np.array(document["logits"]), atol=1e-4, rtol=0)
