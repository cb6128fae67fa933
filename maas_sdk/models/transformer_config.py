"""Configuration of transformers, and published ones by name.

A configuration is complete and valid, or it is a ConfigError that names the field. Presets are what
the papers and published checkpoints say, and anything may be changed:
``DecoderConfig.preset("llama3-8b", scan_layers=True)``.

Dimension letters: see ``transformer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from maas_sdk.errors import ConfigError
from maas_sdk.models.norms import NORMS, NormName
from maas_sdk.models.rotary import RotaryConfig
from maas_sdk.models.settings import check_choice, check_settings, settings_of
from maas_sdk.models.stack import check_remat

__all__ = [
    "DECODER_PRESETS",
    "ENCODER_PRESETS",
    "DecoderConfig",
    "EncoderConfig",
    "TransformerConfig",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerConfig:
    """Fields common to decoders and encoders; each has its own defaults."""

    # V.
    vocab_size: int
    # L.
    layers: int
    # D.
    features: int
    # N.
    heads: int
    # K, a divisor of N; 0 is N.
    kv_heads: int = 0
    # H; 0 is D / N.
    head_features: int = 0
    # F.
    hidden_features: int
    # Most positions of an input. With learned positions, the size of their table.
    max_length: int
    # How positions turn queries and keys; None is a table of learned positions.
    rotary: RotaryConfig | None
    # "rms" or "layer".
    norm: NormName
    norm_epsilon: float
    # A name out of ``activations.ACTIVATIONS``.
    activation: str
    # Whether the feed-forward layers have a gate (SwiGLU with "silu").
    gated: bool
    # Whether the dense layers of blocks have biases.
    use_bias: bool
    # Share of the embeddings and of what each sublayer adds that is dropped in training.
    dropout: float
    # Standard deviation of initial kernels and tables.
    init_std: float = 0.02
    # One block with stacked parameters, compiled once, instead of L blocks.
    scan_layers: bool = False
    # Compute the inside of blocks again in the backward pass: False, True, or a name out of
    # ``stack.REMAT``.
    remat: bool | str = False
    # "cudnn" is fused attention on an NVIDIA GPU, in 16 bits only.
    attention: Literal["xla", "cudnn"] = "xla"

    # No fields, and so without annotations: each of the two kinds is one or the other.
    # Whether a position sees only itself and what is before it.
    causal = False
    # Pre-norm: ``x + f(norm(x))``, as since GPT-2. Otherwise post-norm: ``norm(x + f(x))``.
    pre_norm = False

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "layers", "features", "heads", "hidden_features", "max_length")
        check_settings(self, positive=sizes)
        check_choice(self, "norm", NORMS)
        check_choice(self, "attention", ("xla", "cudnn"))
        check_remat(self.remat)
        if not self.head_features:
            if self.features % self.heads:
                raise ConfigError(
                    f"features {self.features} cannot be divided into {self.heads} heads; "
                    "choose a multiple, or give head_features"
                )
            object.__setattr__(self, "head_features", self.features // self.heads)
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ConfigError(
                f"kv_heads: expected a divisor of the {self.heads} heads, got {self.kv_heads}"
            )
        if self.rotary is not None and self.head_features % 2:
            raise ConfigError(
                f"head_features: rotary positions turn pairs, so expected an even number, got "
                f"{self.head_features}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig(TransformerConfig):
    """Configuration of a causal language model; the defaults are a Llama's."""

    max_length: int = 2048
    rotary: RotaryConfig | None = field(default_factory=RotaryConfig)
    norm: NormName = "rms"
    norm_epsilon: float = 1e-5
    activation: str = "silu"
    gated: bool = True
    use_bias: bool = False
    # Whether the table of tokens is the head as well.
    tied: bool = False
    dropout: float = 0.0

    causal = True
    pre_norm = True

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return a published shape out of ``DECODER_PRESETS``, with fields changed.

        Raises:
            ConfigError: no such preset or field, or a value that a field does not take.
        """
        return cls(**settings_of(cls, DECODER_PRESETS, name, changes))


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig(TransformerConfig):
    """Configuration of a bidirectional encoder; the defaults are BERT's."""

    vocab_size: int = 30522
    max_length: int = 512
    rotary: RotaryConfig | None = None
    norm: NormName = "layer"
    norm_epsilon: float = 1e-12
    activation: str = "gelu"
    gated: bool = False
    use_bias: bool = True
    # Of the vector that the classifier sees, too.
    dropout: float = 0.1
    # Kinds of token, each with a vector of its own; 0 is no table.
    types: int = 2
    # "classify": a pooler over the first position and ``classes``. "fill": the vocabulary at every
    # position, by a head that is tied to the table of tokens.
    task: Literal["classify", "fill"] = "classify"
    classes: int = 2
    # The token that fills rows up; None: only an explicit mask hides positions.
    pad_token: int | None = None

    def __post_init__(self) -> None:
        # By the class's name: a class with slots is made twice, which super() does not survive.
        TransformerConfig.__post_init__(self)
        check_settings(self, positive=("classes",))
        check_choice(self, "task", ("classify", "fill"))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return a published shape out of ``ENCODER_PRESETS``, with fields changed.

        Raises:
            ConfigError: no such preset or field, or a value that a field does not take.
        """
        return cls(**settings_of(cls, ENCODER_PRESETS, name, changes))


_GPT2: Final[dict[str, Any]] = {
    "vocab_size": 50257,
    "max_length": 1024,
    "rotary": None,
    "norm": "layer",
    "activation": "gelu_tanh",
    "gated": False,
    "use_bias": True,
    "tied": True,
}
_LLAMA2: Final[dict[str, Any]] = {"vocab_size": 32000, "max_length": 4096}
_LLAMA3: Final[dict[str, Any]] = {
    "vocab_size": 128256,
    "max_length": 8192,
    "rotary": RotaryConfig(theta=500_000.0),
    "kv_heads": 8,
}
_LLAMA31: Final[dict[str, Any]] = {
    **_LLAMA3,
    "max_length": 131072,
    "rotary": RotaryConfig(theta=500_000.0, factor=8.0),
}


def _shape(layers: int, features: int, heads: int, hidden_features: int) -> dict[str, int]:
    return {
        "layers": layers,
        "features": features,
        "heads": heads,
        "hidden_features": hidden_features,
    }


# Fields by name. GPT-2: Radford et al. 2019, table 2. Llama 2: Touvron et al. 2023, table 1 and
# the published configurations. Llama 3: Grattafiori et al. 2024, table 3. "tiny" is for tests.
DECODER_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "gpt2": {**_GPT2, **_shape(12, 768, 12, 3072)},
        "gpt2-medium": {**_GPT2, **_shape(24, 1024, 16, 4096)},
        "gpt2-large": {**_GPT2, **_shape(36, 1280, 20, 5120)},
        "gpt2-xl": {**_GPT2, **_shape(48, 1600, 25, 6400)},
        "llama2-7b": {**_LLAMA2, **_shape(32, 4096, 32, 11008)},
        "llama2-13b": {**_LLAMA2, **_shape(40, 5120, 40, 13824)},
        "llama2-70b": {**_LLAMA2, **_shape(80, 8192, 64, 28672), "kv_heads": 8},
        "llama3-8b": {**_LLAMA3, **_shape(32, 4096, 32, 14336)},
        "llama3-70b": {**_LLAMA3, **_shape(80, 8192, 64, 28672)},
        "llama3.1-8b": {**_LLAMA31, **_shape(32, 4096, 32, 14336)},
        "llama3.1-70b": {**_LLAMA31, **_shape(80, 8192, 64, 28672)},
        "llama3.1-405b": {**_LLAMA31, **_shape(126, 16384, 128, 53248)},
        "llama3.2-1b": {
            **_LLAMA31,
            **_shape(16, 2048, 32, 8192),
            "rotary": RotaryConfig(theta=500_000.0, factor=32.0),
            "tied": True,
        },
        "decoder-tiny": {"vocab_size": 256, "max_length": 128, **_shape(2, 64, 4, 128)},
    }
)


# Devlin et al. 2019, section 3; Turc et al. 2019, table 1, for the small ones.
ENCODER_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "bert-tiny": _shape(2, 128, 2, 512),
        "bert-mini": _shape(4, 256, 4, 1024),
        "bert-small": _shape(4, 512, 8, 2048),
        "bert-base": _shape(12, 768, 12, 3072),
        "bert-large": _shape(24, 1024, 16, 4096),
    }
)
