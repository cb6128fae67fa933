"""Conversion of a configuration of transformers (``config.json``) to one of ours.

The rule it keeps: a setting that our modules do not support is refused, never silently left out;
the resulting model computes the same as transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from maas_sdk.errors import ConfigError
from maas_sdk.models.resnet import ResNetConfig
from maas_sdk.models.rotary import RotaryConfig
from maas_sdk.models.transformer_config import DecoderConfig, EncoderConfig

__all__ = ["config_from_transformers"]


def config_from_transformers(config: Mapping[str, Any], **changes: Any) -> Any:
    """Return the configuration of the same model: GPT-2, Llama, BERT or ResNet.

    Args:
        config: the fields of ``config.json``.
        changes: fields of ours to set otherwise, e.g. ``scan_layers=True`` or, for BERT,
            ``task="fill"``.

    Raises:
        ConfigError: another architecture, a field that is missing, or a variant that is not built.
    """
    kind = str(config.get("model_type"))
    if kind not in _READERS:
        raise ConfigError(
            f"model_type: expected one of {', '.join(_READERS)}, got {kind!r}", model_type=kind
        )
    try:
        fields_of, made = _READERS[kind]
        fields = fields_of(config)
    except KeyError as error:
        raise ConfigError(f"{kind}: the configuration has no field {error}") from error
    return made(**{**fields, **changes})


def _refuse(config: Mapping[str, Any], **expected: Any) -> None:
    """Refuse fields whose values our modules do not compute."""
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise ConfigError(
                f"{config['model_type']}: {name} = {config[name]!r} is not built; only {value!r} is"
            )


def _llama(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("attention_bias", False) != config.get("mlp_bias", False):
        raise ConfigError("llama: attention_bias without mlp_bias, or the reverse, is not built")
    return {
        "vocab_size": config["vocab_size"],
        "layers": config["num_hidden_layers"],
        "features": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "kv_heads": config.get("num_key_value_heads") or 0,
        "head_features": config.get("head_dim") or 0,
        "hidden_features": config["intermediate_size"],
        "max_length": config["max_position_embeddings"],
        "rotary": _rotary(config),
        "norm_epsilon": config["rms_norm_eps"],
        "activation": config["hidden_act"],
        "use_bias": config.get("attention_bias", False),
        "tied": config.get("tie_word_embeddings", False),
        "init_std": config.get("initializer_range", 0.02),
    }


def _rotary(config: Mapping[str, Any]) -> RotaryConfig:
    # Since release 5 all is in rope_parameters; before, theta was beside rope_scaling.
    found = config.get("rope_parameters") or {
        "rope_theta": config.get("rope_theta", 10_000.0),
        **(config.get("rope_scaling") or {}),
    }
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "default":
        return RotaryConfig(theta=found["rope_theta"])
    if kind != "llama3":
        raise ConfigError(f"llama: rope_type {kind!r} is not built; only default and llama3 are")
    return RotaryConfig(
        theta=found["rope_theta"],
        factor=found["factor"],
        low_factor=found["low_freq_factor"],
        high_factor=found["high_freq_factor"],
        original_length=found["original_max_position_embeddings"],
    )


def _gpt2(config: Mapping[str, Any]) -> dict[str, Any]:
    _refuse(
        config,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    return {
        "vocab_size": config["vocab_size"],
        "layers": config["n_layer"],
        "features": config["n_embd"],
        "heads": config["n_head"],
        "hidden_features": config.get("n_inner") or 4 * config["n_embd"],
        "max_length": config["n_positions"],
        "rotary": None,
        "norm": "layer",
        "norm_epsilon": config["layer_norm_epsilon"],
        "activation": config["activation_function"],
        "gated": False,
        "use_bias": True,
        "tied": config.get("tie_word_embeddings", True),
        "dropout": config.get("resid_pdrop", 0.0),
        "init_std": config.get("initializer_range", 0.02),
    }


def _bert(config: Mapping[str, Any]) -> dict[str, Any]:
    _refuse(config, position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    return {
        "vocab_size": config["vocab_size"],
        "layers": config["num_hidden_layers"],
        "features": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "hidden_features": config["intermediate_size"],
        "max_length": config["max_position_embeddings"],
        "types": config["type_vocab_size"],
        "classes": _classes(config),
        "activation": config["hidden_act"],
        "norm_epsilon": config["layer_norm_eps"],
        "dropout": config.get("hidden_dropout_prob", 0.0),
        "init_std": config.get("initializer_range", 0.02),
    }


def _resnet(config: Mapping[str, Any]) -> dict[str, Any]:
    _refuse(config, downsample_in_first_stage=False, downsample_in_bottleneck=False)
    block = config["layer_type"]
    expansion = 4 if block == "bottleneck" else 1
    widths = [width // expansion for width in config["hidden_sizes"]]
    if config["embedding_size"] != widths[0]:
        raise ConfigError(
            f"resnet: expected an embedding_size of {widths[0]}, the width of the first stage, "
            f"got {config['embedding_size']}"
        )
    return {
        "block": block,
        "depths": tuple(config["depths"]),
        "widths": tuple(widths),
        "channels": config["num_channels"],
        "classes": _classes(config),
        "activation": config["hidden_act"],
    }


def _classes(config: Mapping[str, Any]) -> int:
    """Return the number of labels: named as a rule, left out where there are two."""
    labels = config.get("id2label")
    return len(labels) if labels else int(config.get("num_labels", 2))


_READERS: Final[Mapping[str, tuple[Callable[[Mapping[str, Any]], dict[str, Any]], Any]]] = (
    MappingProxyType(
        {
            "bert": (_bert, EncoderConfig),
            "gpt2": (_gpt2, DecoderConfig),
            "llama": (_llama, DecoderConfig),
            "resnet": (_resnet, ResNetConfig),
        }
    )
)
