"""Slices of TPU chips: ``v5e:4x4`` as a value."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from maas_sdk.errors import ConfigError
from maas_sdk.tpu.chips import CHIPS, Chip

__all__ = ["Slice", "mesh_shapes", "parse_slice"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Chips of one generation, wired as a grid."""

    chip: Chip
    # Chips along each dimension of the network, x first.
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """``v5e:4x4``, as the compiler takes it."""
        return f"{self.chip.name}:{'x'.join(str(size) for size in self.shape)}"

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def wraps(self) -> tuple[bool, ...]:
        """For each dimension of the network, True when its ends are joined."""
        chip = self.chip
        if chip.wrap_multiples:  # Only slices of whole cubes are joined.
            whole = all(size % chip.wrap_length == 0 for size in self.shape)
            return tuple(whole for _ in self.shape)
        return tuple(size == chip.wrap_length for size in self.shape)

    def ways(self, extents: Sequence[int]) -> int:
        """One-way links over which a chip exchanges data with its group at the same time.

        A collective runs along all dimensions of the network that its group spans; along a ring
        both directions carry data, along a line the chips at the ends have one link only.

        Args:
            extents: the group's chips along each dimension of the network.
        """
        spans = zip(extents, self.shape, self.wraps, strict=False)
        ways = sum(2 if wrap and e == size else 1 for e, size, wrap in spans if e > 1)
        return max(1, ways)


def parse_slice(text: str) -> Slice:
    """Parse ``v5e:4x4``, ``v6e:2x4``, ``v5p:2x2x2``.

    Raises:
        ConfigError: no such chip, a shape that the network does not have, or too many chips.
    """
    match = re.fullmatch(r"(\w+):(\d{1,5}(?:x\d{1,5})*)", text.strip().lower())
    if not match:
        raise ConfigError(
            f"slice {text!r}: expected CHIP:SHAPE, such as v5e:4x4, v6e:2x4 or v5p:2x2x2"
        )
    if match[1] not in CHIPS:
        raise ConfigError(f"slice {text!r}: unknown chip {match[1]!r}; known: {', '.join(CHIPS)}")
    chip = CHIPS[match[1]]
    shape = tuple(int(size) for size in match[2].split("x"))
    if len(shape) != chip.network_dims or 0 in shape:
        example = "4x4" if chip.network_dims == 2 else "2x2x2"
        raise ConfigError(
            f"slice {text!r}: {chip.name} chips are wired in {chip.network_dims} dimensions; "
            f"expected a shape such as {chip.name}:{example}"
        )
    found = Slice(chip=chip, shape=shape)
    if found.chips > chip.max_chips:
        raise ConfigError(
            f"slice {text!r} has {found.chips} chips; a {chip.name} slice has at most "
            f"{chip.max_chips}"
        )
    if found.chips > 1 and any(size % 2 for size in shape[:2]):
        # Four chips, 2 × 2, share a host.
        raise ConfigError(
            f"slice {text!r}: expected even sizes in the first two dimensions (chips come as "
            "2 × 2 per host), or a single chip"
        )
    return found


def mesh_shapes(chips: int, *, least: int = 2) -> tuple[tuple[int, int], ...]:
    """Return all (fsdp, tensor) with fsdp · tensor = chips, both ≥ ``least``, tensor rising."""
    return tuple(
        (chips // tensor, tensor)
        for tensor in range(least, chips // least + 1)
        if chips % tensor == 0
    )
