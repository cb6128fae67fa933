"""Published training runs on TPU slices, for calibrating and judging the estimate.

``published.toml`` holds each run with its source and with what the source leaves open; everything
computed from it is a formula here, not a number.

The published share of peak (MFU) counts attention's square in full, no recomputation and no
embedding lookup: 7207 tokens/s per chip of the 8B run times its 57.9 GFLOP per token are 45.46 % of
918 TFLOP/s, and 960 times 481 GFLOP of the 70B run 50.3 %. The same count is used here.

Dimension letters: L layers, D features, N heads, K heads of keys and values, H features of a head,
F features inside the feed-forward layers, V tokens of the vocabulary, T positions of a row.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from maas_sdk.tpu.slices import Slice, parse_slice

__all__ = ["RUNS", "PublishedShape", "Run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedShape:
    """A decoder of Llama's shape."""

    layers: int
    features: int
    heads: int
    kv_heads: int
    hidden_features: int
    vocab_size: int

    @property
    def products(self) -> Mapping[str, int]:
        """Weights of each product, all layers together."""
        head = self.features // self.heads
        attention = {"query": self.heads, "key": self.kv_heads, "value": self.kv_heads}
        inner = self.layers * self.features * self.hidden_features
        return {
            **{k: self.layers * self.features * n * head for k, n in attention.items()},
            "out": self.layers * self.features * self.features,
            **dict.fromkeys(("gate", "up", "down"), inner),
            "head": self.features * self.vocab_size,
        }

    @property
    def parameters(self) -> int:
        """Number of weights, the token table included, norms left out."""
        return sum(self.products.values()) + self.features * self.vocab_size

    def forward_flops(self, name: str, length: int) -> float:
        """Operations per token of each product forward; ``"attention"`` is both its squares.

        Args:
            name: one of ``products``, or "attention".
            length: T.
        """
        if name == "attention":
            return 4.0 * self.layers * self.features * length
        return 2.0 * self.products[name]

    def model_flops(self, length: int) -> float:
        """Operations per token of a training step: forward, and twice that backward."""
        names = [*self.products, "attention"]
        return 3.0 * sum(self.forward_flops(name, length) for name in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One published training run, parameters sharded over all chips (FSDP)."""

    name: str
    shape: PublishedShape
    slice: Slice
    # Of one chip.
    rows: int
    length: int
    # Products whose results are computed again in the backward pass.
    recomputed: tuple[str, ...]
    # Share of the chips' bf16 peak.
    mfu: float
    # Whether the constants are fitted on it; the others only judge them.
    fitted: bool
    source: str
    # What the source does not say and is assumed.
    assumed: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of one chip in one step."""
        return self.rows * self.length

    @property
    def model_flops(self) -> float:
        """Model operations of one chip in one step."""
        return self.tokens * self.shape.model_flops(self.length)

    @property
    def chip_flops(self) -> float:
        """Operations of one chip in one step, recomputation included."""
        again = sum(self.shape.forward_flops(name, self.length) for name in self.recomputed)
        return self.tokens * (self.shape.model_flops(self.length) + again)

    @property
    def moved_bytes(self) -> float:
        """Bytes sent by one chip in one step, bfloat16: weights gathered twice, gradients once.

        Rajbhandari et al. 2020 (ZeRO), section 7.2.2.
        """
        chips = self.slice.chips
        return 3 * 2 * self.shape.parameters * (chips - 1) / chips

    @property
    def step_s(self) -> float:
        """Seconds of the published step."""
        return self.model_flops / (self.mfu * self.slice.chip.bf16_flops)


def _read() -> tuple[Run, ...]:
    text = Path(__file__).with_name("published.toml").read_text(encoding="utf-8")
    document = tomllib.loads(text)
    shapes = {name: PublishedShape(**shape) for name, shape in document["shapes"].items()}
    return tuple(
        Run(
            **{
                **run,
                "shape": shapes[run["shape"]],
                "slice": parse_slice(run["slice"]),
                "recomputed": tuple(run["recomputed"]),
            }
        )
        for run in document["runs"]
    )


RUNS: Final = _read()
