"""Names of our parameters in checkpoints of transformers or torch.

The rule it keeps: one table per architecture, from the path of our parameter to the names of the
tensors it is made of and how; torch is not needed to read it, nor to use it.

torch keeps dense kernels as [out, in] and convolutions as [out, in, height, width]; ours are
[in, out] and [height, width, in, out].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from maas_sdk.models.convnet import ConvNetConfig
from maas_sdk.models.mlp import MLPConfig
from maas_sdk.models.recurrent import RecurrentConfig
from maas_sdk.models.resnet import ResNetConfig
from maas_sdk.models.transformer_config import DecoderConfig, EncoderConfig
from maas_sdk.tensors import Array

__all__ = ["FAMILIES", "Family", "TensorSource"]


@dataclass(frozen=True, slots=True)
class TensorSource:
    """The tensors that one parameter is made of, and how."""

    names: tuple[str, ...]
    make: Callable[..., Array]


@dataclass(frozen=True, slots=True)
class Family:
    """Checkpoint layout of one architecture."""

    # (configuration, names that the checkpoint has) → sources by the path of our parameter.
    sources: Callable[[Any, list[str]], Mapping[str, TensorSource]]
    # What some checkpoints put before all names of the trunk.
    prefix: str = ""
    # Regular expressions for names that are no parameters of their own: buffers, tied copies.
    buffers: tuple[str, ...] = ()


def _is(name: str) -> TensorSource:
    return TensorSource((name,), lambda tensor: tensor)


def _turned(name: str) -> TensorSource:
    return TensorSource((name,), lambda tensor: tensor.transpose(1, 0))


def _convolution(name: str) -> TensorSource:
    return TensorSource((name,), lambda tensor: tensor.transpose(2, 3, 1, 0))


def _third(name: str, part: int) -> TensorSource:
    return TensorSource((name,), lambda tensor: np.split(tensor, 3, axis=-1)[part])


def _dense(ours: str, theirs: str) -> Iterator[tuple[str, TensorSource]]:
    yield f"{ours}/kernel", _turned(f"{theirs}.weight")
    yield f"{ours}/bias", _is(f"{theirs}.bias")


def _layer_norm(ours: str, theirs: str) -> Iterator[tuple[str, TensorSource]]:
    yield f"{ours}/scale", _is(f"{theirs}.weight")
    yield f"{ours}/bias", _is(f"{theirs}.bias")


def _llama(config: DecoderConfig, names: list[str]) -> dict[str, TensorSource]:
    found = {"embed/embedding": _is("embed_tokens.weight"), "norm/scale": _is("norm.weight")}
    if not config.tied:
        found["head/kernel"] = _turned("lm_head.weight")
    parts = {
        **{f"attention/{n}": f"self_attn.{n[0]}_proj" for n in ("query", "key", "value", "out")},
        **{f"mlp/{n}": f"mlp.{n}_proj" for n in ("gate", "up", "down")},
    }
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"layers.{i}"
        found[f"{ours}/attention_norm/scale"] = _is(f"{theirs}.input_layernorm.weight")
        found[f"{ours}/mlp_norm/scale"] = _is(f"{theirs}.post_attention_layernorm.weight")
        for part, name in parts.items():
            found |= _dense(f"{ours}/{part}", f"{theirs}.{name}")
    return found


def _gpt2(config: DecoderConfig, names: list[str]) -> dict[str, TensorSource]:
    found = {
        "embed/embedding": _is("wte.weight"),
        "position_embed/embedding": _is("wpe.weight"),
        **dict(_layer_norm("norm", "ln_f")),
    }
    if not config.tied:
        found["head/kernel"] = _turned("lm_head.weight")
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"h.{i}"
        found |= _layer_norm(f"{ours}/attention_norm", f"{theirs}.ln_1")
        found |= _layer_norm(f"{ours}/mlp_norm", f"{theirs}.ln_2")
        # GPT-2's dense layers are [in, out] like ours, and hold query, key and value side by side.
        for part, name in enumerate(("query", "key", "value")):
            for leaf, tensor in (("kernel", "weight"), ("bias", "bias")):
                found[f"{ours}/attention/{name}/{leaf}"] = _third(
                    f"{theirs}.attn.c_attn.{tensor}", part
                )
        for part_name, name in (
            ("attention/out", "attn.c_proj"),
            ("mlp/up", "mlp.c_fc"),
            ("mlp/down", "mlp.c_proj"),
        ):
            found[f"{ours}/{part_name}/kernel"] = _is(f"{theirs}.{name}.weight")
            found[f"{ours}/{part_name}/bias"] = _is(f"{theirs}.{name}.bias")
    return found


def _decoder(config: DecoderConfig, names: list[str]) -> dict[str, TensorSource]:
    return _gpt2(config, names) if config.rotary is None else _llama(config, names)


def _bert(config: EncoderConfig, names: list[str]) -> dict[str, TensorSource]:
    tables = {"embed": "word", "position_embed": "position", "type_embed": "token_type"}
    found = {
        f"{ours}/embedding": _is(f"embeddings.{theirs}_embeddings.weight")
        for ours, theirs in tables.items()
    }
    found |= _layer_norm("embed_norm", "embeddings.LayerNorm")
    parts = {
        **{f"attention/{n}": f"attention.self.{n}" for n in ("query", "key", "value")},
        "attention/out": "attention.output.dense",
        "mlp/up": "intermediate.dense",
        "mlp/down": "output.dense",
    }
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"encoder.layer.{i}"
        found |= _layer_norm(f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm")
        found |= _layer_norm(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm")
        for part, name in parts.items():
            found |= _dense(f"{ours}/{part}", f"{theirs}.{name}")
    found |= _dense("pooler", "pooler.dense")
    found |= _dense("head", "classifier")
    found |= _dense("transform", "cls.predictions.transform.dense")
    found |= _layer_norm("transform_norm", "cls.predictions.transform.LayerNorm")
    found["head_bias"] = _is("cls.predictions.bias")
    return found


def _normed(conv: str, norm: str, theirs: str) -> Iterator[tuple[str, TensorSource]]:
    yield f"{conv}/kernel", _convolution(f"{theirs}.convolution.weight")
    yield from _layer_norm(norm, f"{theirs}.normalization")
    yield f"{norm}/mean", _is(f"{theirs}.normalization.running_mean")
    yield f"{norm}/var", _is(f"{theirs}.normalization.running_var")


def _resnet(config: ResNetConfig, names: list[str]) -> dict[str, TensorSource]:
    found = dict(_normed("stem/conv", "stem/norm", "embedder.embedder"))
    convolutions = 2 if config.block == "basic" else 3
    for stage, depth in enumerate(config.depths):
        for block in range(depth):
            ours, theirs = f"stages/{stage}/{block}", f"encoder.stages.{stage}.layers.{block}"
            for n in range(convolutions):
                found |= _normed(
                    f"{ours}/conv{n + 1}", f"{ours}/norm{n + 1}", f"{theirs}.layer.{n}"
                )
            found |= _normed(f"{ours}/shortcut/conv", f"{ours}/shortcut/norm", f"{theirs}.shortcut")
    return found | dict(_dense("head", "classifier.1"))


def _recurrent(config: RecurrentConfig, names: list[str]) -> dict[str, TensorSource]:
    found = {"embed/embedding": _is("embed.weight"), **dict(_dense("head", "head"))}
    for i in range(config.layers):
        for direction, suffix in (("forward", ""), ("backward", "_reverse")):
            ours, theirs = f"layers/{i}/{direction}", f"l{i}{suffix}"
            found[f"{ours}/dense_i/kernel"] = _turned(f"rnn.weight_ih_{theirs}")
            found[f"{ours}/dense_h/kernel"] = _turned(f"rnn.weight_hh_{theirs}")
            biases = (f"rnn.bias_ih_{theirs}", f"rnn.bias_hh_{theirs}")
            if config.cell == "gru":
                found[f"{ours}/dense_i/bias"] = _is(biases[0])
                found[f"{ours}/dense_h/bias"] = _is(biases[1])
            else:
                # The two are only ever added up.
                found[f"{ours}/dense_h/bias"] = TensorSource(biases, np.add)
    return found


def _mlp(config: MLPConfig, names: list[str]) -> dict[str, TensorSource]:
    # nn.Sequential numbers its layers, activations among them: dense ones are taken in order.
    layers = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    ours = [*(f"hidden/{i}" for i in range(len(config.hidden_features))), "head"]
    found: dict[str, TensorSource] = {}
    for i, path in enumerate(ours):
        found |= _dense(path, layers[i] if i < len(layers) else f"<dense layer {i}>")
    return found


def _flattened(name: str, channels: int) -> TensorSource:
    # torch flattens [channels, height, width], we flatten [height, width, channels]; 4×4 are left.
    return TensorSource(
        (name,),
        lambda tensor: (
            tensor.reshape(len(tensor), channels, 4, 4)
            .transpose(2, 3, 1, 0)
            .reshape(-1, len(tensor))
        ),
    )


def _convnet(config: ConvNetConfig, names: list[str]) -> dict[str, TensorSource]:
    # As of an MLP: those layers of nn.Sequential that have weights, in order.
    layers = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    ours = ("stem", "trunk", "hidden", "head")
    theirs = [*layers[:4], *(f"<layer {i}>" for i in range(len(layers), 4))]
    kernels: tuple[Callable[[str], TensorSource], ...] = (
        *(_convolution, _convolution),
        lambda name: _flattened(name, config.features[1]),
        _turned,
    )
    found: dict[str, TensorSource] = {}
    for path, layer, kernel in zip(ours, theirs, kernels, strict=True):
        found[f"{path}/kernel"] = kernel(f"{layer}.weight")
        found[f"{path}/bias"] = _is(f"{layer}.bias")
    return found


# By the kind of configuration.
FAMILIES: Final[Mapping[type, Family]] = MappingProxyType(
    {
        DecoderConfig: Family(
            _decoder,
            prefix=r"(model|transformer)\.",
            buffers=(r"\.attn\.(masked_)?bias$", r"rotary_emb\.inv_freq$", r"^lm_head\.weight$"),
        ),
        EncoderConfig: Family(
            _bert,
            prefix=r"bert\.",
            buffers=(r"\.position_ids$", r"^cls\.predictions\.decoder\.(weight|bias)$"),
        ),
        ResNetConfig: Family(_resnet, prefix=r"resnet\.", buffers=(r"\.num_batches_tracked$",)),
        RecurrentConfig: Family(_recurrent),
        MLPConfig: Family(_mlp),
        ConvNetConfig: Family(_convnet),
    }
)
