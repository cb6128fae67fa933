"""TPU chips, one row for each generation: memory, peaks, links.

The rule it keeps: every figure is the vendor's, with its page; nothing here was measured. Where the
vendor gives a chip's links as one sum over both directions, a link's one-way bandwidth is that sum
divided by two and by the number of links.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["CHIPS", "Chip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    """One generation of TPU."""

    name: str
    # Dimensions of the network that chips are wired in.
    network_dims: int
    # Main memory of a chip. The vendor's GB are binary here: of 16 the compiler offers 15.75 GiB.
    hbm_bytes: int
    # Peak operations per second, a multiply-add counts as two.
    bf16_flops: float
    int8_ops: float
    # Main memory, bytes per second.
    hbm_bandwidth: float
    # One link to a neighbour, bytes per second in one direction.
    link_bandwidth: float
    # Along a dimension of the network that is as long as this, or a multiple of it where
    # ``wrap_multiples``, the ends are joined and the line becomes a ring.
    wrap_length: int
    wrap_multiples: bool
    # Most chips of a slice.
    max_chips: int


# v5e: https://cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 393 int8 TOP/s, 16 GB, 819 GB/s,
#   1600 Gbit/s of links one way (4 links, 400 GB/s both ways), 2D torus, 256 chips.
# v6e: https://cloud.google.com/tpu/docs/v6e: 918, 1836, 32 GB, 1640 GB/s, 800 GB/s of links both
#   ways (4 links), 2D torus, 256 chips.
# v5p: https://cloud.google.com/tpu/docs/v5p: 459, 95 GB, 2765 GB/s, 1200 GB/s of links both ways (6
#   links), 3D torus, 8960 chips. int8 is twice bf16: https://jax-ml.github.io/scaling-book/tpus/
# Rings: https://jax-ml.github.io/scaling-book/tpus/: v5e and v6e along a dimension of 16, v5p along
#   multiples of 4 (whole cubes of 4 × 4 × 4).
CHIPS: Final[Mapping[str, Chip]] = {
    "v5e": Chip(
        name="v5e",
        network_dims=2,
        hbm_bytes=16 * 2**30,
        bf16_flops=197e12,
        int8_ops=393e12,
        hbm_bandwidth=819e9,
        link_bandwidth=50e9,
        wrap_length=16,
        wrap_multiples=False,
        max_chips=256,
    ),
    "v6e": Chip(
        name="v6e",
        network_dims=2,
        hbm_bytes=32 * 2**30,
        bf16_flops=918e12,
        int8_ops=1836e12,
        hbm_bandwidth=1640e9,
        link_bandwidth=100e9,
        wrap_length=16,
        wrap_multiples=False,
        max_chips=256,
    ),
    "v5p": Chip(
        name="v5p",
        network_dims=3,
        hbm_bytes=95 * 2**30,
        bf16_flops=459e12,
        int8_ops=918e12,
        hbm_bandwidth=2765e9,
        link_bandwidth=100e9,
        wrap_length=4,
        wrap_multiples=True,
        max_chips=8960,
    ),
}
