"""Every architecture against the reference implementation: same weights, logits within 1e-4.

Run as a script it writes the golden files that the default suite reads::

    PYTHONPATH=. .cache/reference/bin/python tests/reference/test_models_reference.py
"""

from __future__ import annotations

import json
import runpy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    import transformers

from maas_sdk.models.activations import ACTIVATIONS, activation

pytestmark = pytest.mark.reference

# The other half of the proof: how weights are drawn, and what our side answers.
OURS = runpy.run_path(str(Path(__file__).parents[1] / "test_models_golden.py"))
GOLDEN: Path = OURS["GOLDEN"]
DRAW = np.random.RandomState(7)


def tokens(rows: int, length: int, vocab: int) -> np.ndarray:
    return np.random.RandomState(3).randint(0, vocab, (rows, length))


def floats(*shape: int) -> np.ndarray:
    return np.random.RandomState(4).standard_normal(shape).round(2)


@dataclass(frozen=True)
class Case:
    """A reference model, and how it is called with our inputs."""

    build: Callable[[], Any]
    inputs: dict[str, np.ndarray]
    call: Callable[[Any, dict[str, Any]], Any]
    # Our configuration, where transformers has none: the kind and its fields.
    kind: str = "transformers"
    fields: dict[str, Any] | None = None
    changes: dict[str, Any] | None = None


class Classifier(torch.nn.Module):
    """What torch users write around an LSTM or a GRU."""

    def __init__(self, rnn: Any, width: int, classes: int, vocab: int | None = None) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(vocab, rnn.input_size) if vocab else None
        self.rnn = rnn
        self.head = torch.nn.Linear(width, classes)

    def forward(self, inputs: Any, lengths: Any = None) -> Any:
        x = inputs if self.embed is None else self.embed(inputs)
        if lengths is not None:
            x = torch.nn.utils.rnn.pack_padded_sequence(
                x, lengths, batch_first=True, enforce_sorted=False
            )
        _, last = self.rnn(x)
        last = last[0] if isinstance(last, tuple) else last
        directions = 2 if self.rnn.bidirectional else 1
        return self.head(torch.cat(list(last[-directions:]), dim=-1))


def mlp() -> Any:
    nn = torch.nn
    return nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 5))


def convnet() -> Any:
    nn = torch.nn
    convolutions = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))
    dense = (nn.Linear(6 * 4 * 4, 24), nn.ReLU(), nn.Linear(24, 5))
    return nn.Sequential(*convolutions, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *dense)


def lstm() -> Any:
    rnn = torch.nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True)
    return Classifier(rnn, 12, 4)


def gru() -> Any:
    return Classifier(torch.nn.GRU(5, 6, num_layers=2, batch_first=True), 6, 4, vocab=11)


def resnet(**fields: Any) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.ResNetConfig(num_labels=5, **fields)
        return transformers.ResNetForImageClassification(config)

    return build


def small_resnet() -> Any:
    """The published network with the stem that its paper takes for CIFAR."""
    model = resnet(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")()
    embedder = model.resnet.embedder
    embedder.embedder.convolution = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    embedder.pooler = torch.nn.Identity()
    return model


def bert(kind: str) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.BertConfig(
            vocab_size=23,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=12,
            num_labels=3,
        )
        return getattr(transformers, kind)(config)

    return build


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=23,
        n_positions=12,
        n_embd=16,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def llama(**fields: Any) -> Callable[[], Any]:
    def build() -> Any:
        config = transformers.LlamaConfig(
            vocab_size=23,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            **fields,
        )
        return transformers.LlamaForCausalLM(config)

    return build


def first(model: Any, given: dict[str, Any]) -> Any:
    return model(*given.values())


def channels_first(model: Any, given: dict[str, Any]) -> Any:
    return model(given["images"].permute(0, 3, 1, 2))


def image(model: Any, given: dict[str, Any]) -> Any:
    return model(given["images"].permute(0, 3, 1, 2)).logits


def causal(model: Any, given: dict[str, Any]) -> Any:
    return model(input_ids=given["tokens"]).logits


def masked(model: Any, given: dict[str, Any]) -> Any:
    return model(
        input_ids=given["tokens"], token_type_ids=given["types"], attention_mask=given["mask"]
    ).logits


TEXT = {"tokens": tokens(2, 10, 23)}
PAIR = {
    **TEXT,
    "types": np.repeat([[0, 1]], 5, axis=1).repeat(2, axis=0),
    "mask": np.array([[1] * 10, [1] * 7 + [0] * 3]),
}
STAGES: dict[str, Any] = {"depths": [2, 1], "layer_type": "basic"}

CASES = {
    "mlp": Case(
        mlp,
        {"inputs": floats(3, 12)},
        first,
        "MLPConfig",
        {"features": 12, "hidden_features": [16, 8], "outputs": 5, "activation": "gelu"},
    ),
    "convnet": Case(
        convnet,
        {"images": 2 * floats(2, 8, 8, 1)},
        channels_first,
        "ConvNetConfig",
        {"classes": 5, "features": [4, 6], "hidden_features": 24},
    ),
    "lstm": Case(
        lstm,
        {"inputs": floats(3, 7, 5), "lengths": np.array([7, 3, 1])},
        first,
        "RecurrentConfig",
        {
            "cell": "lstm",
            "features": 5,
            "hidden_features": 6,
            "layers": 2,
            "bidirectional": True,
            "classes": 4,
        },
    ),
    "gru": Case(
        gru,
        {"inputs": tokens(3, 7, 11)},
        first,
        "RecurrentConfig",
        {
            "cell": "gru",
            "features": 5,
            "hidden_features": 6,
            "layers": 2,
            "classes": 4,
            "vocab_size": 11,
        },
    ),
    "resnet-basic": Case(
        resnet(embedding_size=8, hidden_sizes=[8, 16], **STAGES),
        {"images": floats(1, 20, 20, 3)},
        image,
    ),
    "resnet-bottleneck": Case(
        resnet(embedding_size=4, hidden_sizes=[16, 32], depths=[1, 2], layer_type="bottleneck"),
        {"images": floats(1, 19, 21, 3)},
        image,
    ),
    "resnet-small": Case(
        small_resnet, {"images": floats(2, 8, 8, 3)}, image, changes={"stem": "small"}
    ),
    "bert-classify": Case(bert("BertForSequenceClassification"), PAIR, masked),
    "bert-fill": Case(bert("BertForMaskedLM"), PAIR, masked, changes={"task": "fill"}),
    "gpt2": Case(gpt2, TEXT, causal),
    "llama": Case(llama(), TEXT, causal),
    "llama3.1": Case(
        llama(
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ),
        {"tokens": tokens(1, 20, 23)},
        causal,
    ),
}

# The published sizes, on small images; too large for a golden file.
LARGE = {
    "resnet18": Case(
        resnet(
            embedding_size=64,
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
        ),
        {"images": floats(1, 64, 64, 3)},
        image,
    ),
    "resnet50": Case(
        resnet(
            embedding_size=64,
            hidden_sizes=[256, 512, 1024, 2048],
            depths=[3, 4, 6, 3],
            layer_type="bottleneck",
        ),
        {"images": floats(1, 64, 64, 3)},
        image,
    ),
}


def described(case: Case) -> dict[str, Any]:
    """The case as a golden file has it, with the reference's logits."""
    model = case.build().eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = {name: torch.tensor(array) for name, array in OURS["drawn_weights"](shapes).items()}
    # What is tied is one tensor under several names: the first in the alphabet is not always the
    # one that counts, so all of them get the value of the one that our side reads.
    for copy, read in {
        "lm_head.weight": "model.embed_tokens.weight",
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }.items():
        if copy in weights and model.state_dict()[copy].data_ptr() == (
            model.state_dict()[read].data_ptr() if read in weights else 0
        ):
            weights[copy] = weights[read]
    if "transformer.wte.weight" in weights:
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
    model.load_state_dict(weights)
    given = {
        name: torch.tensor(array.astype(np.float32) if array.dtype.kind == "f" else array)
        for name, array in case.inputs.items()
    }
    with torch.no_grad():
        logits = case.call(model, given).numpy()
    if case.fields is None:
        fields = {
            key: value
            for key, value in model.config.to_dict().items()
            if isinstance(value, int | float | str | list | dict | None) and not key.startswith("_")
        }
    else:
        fields = case.fields
    config = {"kind": case.kind, "fields": fields}
    if case.changes:
        config["changes"] = case.changes
    return {
        "config": config,
        "tensors": shapes,
        "inputs": {name: array.tolist() for name, array in case.inputs.items()},
        "logits": logits.round(6).astype(float).tolist(),
    }


@pytest.mark.parametrize("name", [*CASES, *LARGE])
def test_logits_are_the_references(name: str) -> None:
    """The same weights give the same logits, within 1e-4, in float32."""
    document = described({**CASES, **LARGE}[name])
    expected = np.array(document["logits"])
    assert np.ptp(expected) > 0.3
    np.testing.assert_allclose(OURS["our_logits"](document), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_golden_files_are_current(name: str) -> None:
    """What the default suite reads is what this reference says."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    document = json.loads(json.dumps(described(CASES[name])))
    np.testing.assert_allclose(golden.pop("logits"), document.pop("logits"), atol=1e-5)
    for part in ("tensors", "inputs"):
        assert golden[part] == document[part]


TORCH: dict[str, Callable[[Any], Any]] = {
    "celu": torch.nn.functional.celu,
    "elu": torch.nn.functional.elu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_new": transformers.activations.ACT2FN["gelu_new"],
    "gelu_pytorch_tanh": transformers.activations.ACT2FN["gelu_pytorch_tanh"],
    "hard_sigmoid": torch.nn.functional.hardsigmoid,
    "hard_silu": torch.nn.functional.hardswish,
    "hard_swish": torch.nn.functional.hardswish,
    "hard_tanh": torch.nn.functional.hardtanh,
    "identity": lambda x: x,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "linear": lambda x: x,
    "log_sigmoid": torch.nn.functional.logsigmoid,
    "mish": torch.nn.functional.mish,
    "relu": torch.nn.functional.relu,
    "relu6": torch.nn.functional.relu6,
    "selu": torch.nn.functional.selu,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "soft_sign": torch.nn.functional.softsign,
    "softplus": torch.nn.functional.softplus,
    "swish": torch.nn.functional.silu,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name: str) -> None:
    """A name means the same function there and here, within 1e-6 between -6 and 6."""
    x = np.linspace(-6, 6, 241, dtype=np.float32)
    expected = TORCH[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(np.asarray(activation(name)(x)), expected, atol=2e-6, rtol=1e-6)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, case in CASES.items():
        file = GOLDEN / f"{name}.json"
        file.write_text(json.dumps(described(case), separators=(",", ":")) + "\n")
        print(f"{file.name}: {file.stat().st_size} bytes")
