"""Configuration of an encoder, and published ones by name.

The rule it keeps: a configuration is complete and valid, or it is a ConfigError that names the
field. Dimension letters: see ``encoder``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from maas_sdk.errors import ConfigError
from maas_sdk.models.settings import check_choice, check_settings, settings_of
from maas_sdk.models.stack import check_remat

__all__ = ["ENCODER_PRESETS", "EncoderConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Configuration of a bidirectional encoder; the defaults are BERT's."""

    # V.
    vocab_size: int = 30522
    layers: int
    # D.
    features: int
    heads: int
    # Width inside the feed-forward layers.
    hidden_features: int
    # Most positions of an input: the size of their table.
    max_length: int = 512
    # Kinds of token, each with a vector of its own; 0 is no table.
    types: int = 2
    # "classify": a pooler over the first position and K classes. "fill": the vocabulary at every
    # position, by a head that is tied to the table of tokens.
    task: Literal["classify", "fill"] = "classify"
    # K.
    classes: int = 2
    # The token that fills rows up; None: only an explicit mask hides positions.
    pad_token: int | None = None
    # A name out of ``activations.ACTIVATIONS``.
    activation: str = "gelu"
    norm_epsilon: float = 1e-12
    # Share of the embeddings, of what each sublayer adds and of the pooled vector that is dropped
    # in training.
    dropout: float = 0.1
    # Standard deviation of initial kernels and tables.
    init_std: float = 0.02
    # One block with stacked parameters, compiled once, instead of one after the other.
    scan_layers: bool = False
    # Compute the inside of blocks again in the backward pass: False, True, or a name out of
    # ``stack.REMAT``.
    remat: bool | str = False
    # "cudnn" is fused attention on an NVIDIA GPU, in 16 bits only.
    attention: Literal["xla", "cudnn"] = "xla"

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "layers", "features", "heads", "hidden_features", "max_length")
        check_settings(self, positive=(*sizes, "classes"))
        check_choice(self, "task", ("classify", "fill"))
        check_choice(self, "attention", ("xla", "cudnn"))
        check_remat(self.remat)
        if self.features % self.heads:
            raise ConfigError(
                f"features {self.features} cannot be divided into {self.heads} heads; "
                "choose a multiple"
            )

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return a published shape out of ``ENCODER_PRESETS``, with fields changed.

        Raises:
            ConfigError: no such preset or field, or a value that a field does not take.
        """
        return cls(**settings_of(cls, ENCODER_PRESETS, name, changes))


def _shape(layers: int, features: int, **others: Any) -> dict[str, Any]:
    """Return BERT's proportions: heads of 64 features, feed-forward layers four times as wide."""
    return {
        "layers": layers,
        "features": features,
        "heads": features // 64,
        "hidden_features": 4 * features,
        **others,
    }


# Fields by name: Devlin et al. 2019, section 3; Turc et al. 2019, table 1, for the small ones.
ENCODER_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "bert-tiny": _shape(2, 128),
        "bert-mini": _shape(4, 256),
        "bert-small": _shape(4, 512),
        "bert-base": _shape(12, 768),
        "bert-large": _shape(24, 1024),
    }
)
