"""Normalization of inputs by statistics of the training data.

The rule it keeps: statistics are taken from training data, never from held-out data: of a ``Split``
only the training part is used. They are accumulated in float64, a piece of the data at a
time, so they are right for data of any size, and kept in float32, in which they are applied:
``(inputs − offset) / scale``, the very formula of ``Preprocessed``, which takes them into the
bundle.

Dimension letters: N examples, B rows of a batch, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array
from maas_sdk.training.data.examples import Examples, Split, finite_rows, row_chunks
from maas_sdk.training.data.rows import as_source

__all__ = ["KINDS", "OVER", "Normalization", "check_row_shape", "normalized"]

# What comes in is what goes out.
D = TypeVar("D", Examples, Split)

# Each element of a row by itself; each index of the last axis; all elements of all rows together.
OVER: Final = ("feature", "channel", "all")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Normalization:
    """Offset and scale of inputs: (x - offset) / scale."""

    # float32, the shape of a row for "feature", [C] for "channel", [] for "all".
    offset: Array
    # float32, the shape of ``offset``, each > 0; 1 where the training inputs do not vary.
    scale: Array

    def __post_init__(self) -> None:
        for name in ("offset", "scale"):
            value = getattr(self, name)
            if value.dtype != np.float32 or not np.isfinite(value).all():
                raise InputError(
                    f"{name}: expected finite numbers of float32, got {value.dtype}"
                    f"{list(value.shape)} with NaN, infinity or another dtype"
                )
        if self.offset.shape != self.scale.shape or not (self.scale > 0).all():
            raise InputError(
                f"scale: expected numbers > 0 of offset's shape {list(self.offset.shape)}, got "
                f"shape {list(self.scale.shape)}, the least {self.scale.min(initial=np.inf)}"
            )

    @classmethod
    def fit(cls, data: object, *, kind: str = "standard", over: str = "feature") -> Self:
        """Compute the statistics of training inputs.

        ``"standard"`` gives mean 0 and standard deviation 1, ``"min-max"`` the range 0 to 1.

        Args:
            data: a ``Split``, of which only ``train`` is looked at; or training data, as
                ``batches`` takes it.
            kind: one of ``KINDS``.
            over: one of ``OVER``.

        Raises:
            ConfigError: an unknown kind or ``over``; "channel" for inputs that are scalars.
            InputError: no rows; inputs that are not real numbers, or NaN or infinite.
        """
        for name, value, known in (("kind", kind, KINDS), ("over", over, OVER)):
            if value not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        source = as_source(data.train if isinstance(data, Split) else data)
        if len(source) == 0:
            raise InputError("statistics need one row or more, got 0")
        found = reduce(
            lambda one, other: one.merge(other),
            (
                KINDS[kind].of(_flat(finite_rows(inputs, first_row=start), over))
                for start, inputs in row_chunks(source)
            ),
        )
        offset, scale = found.finish()
        # A scale may be too small for float32; then the inputs do not vary in it either.
        narrow = np.asarray(scale, np.float32)
        return cls(
            offset=np.asarray(offset, np.float32),
            scale=np.where(narrow > 0, narrow, np.ones_like(narrow)),
        )

    def apply(self, inputs: Array) -> Array:
        """Normalize inputs [B, …] of any real dtype: float32[B, …].

        Raises:
            InputError: the statistics are of rows of another shape.
        """
        check_row_shape(self.offset.shape, inputs.shape[1:])
        normalized: Array = (inputs.astype(np.float32) - self.offset) / self.scale
        return normalized

    def to_dict(self) -> dict[str, Any]:
        """Return statistics as JSON-able lists; float32 is kept bit by bit."""
        return {"offset": self.offset.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Read the result of ``to_dict``. Raises ``InputError`` for anything else."""
        try:
            return cls(
                offset=np.asarray(document["offset"], np.float32),
                scale=np.asarray(document["scale"], np.float32),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"normalization: expected lists of numbers named offset and scale: {error}"
            ) from error


def normalized(data: D, normalization: Normalization) -> D:
    """Return the same examples or split with normalized inputs, float32[N, …] in memory."""
    if isinstance(data, Split):
        return Split(
            train=normalized(data.train, normalization), test=normalized(data.test, normalization)
        )
    return Examples(inputs=normalization.apply(data.inputs), labels=data.labels)


def check_row_shape(statistics: tuple[int, ...], row: tuple[int, ...]) -> None:
    """Raise ``InputError`` unless statistics of a shape apply to rows of another one."""
    if len(statistics) > len(row) or row[len(row) - len(statistics) :] != statistics:
        raise InputError(
            f"the statistics are of rows that end in shape {list(statistics)}, got rows of shape "
            f"{list(row)}: normalize what they were fitted on"
        )


class _Statistics(Protocol):
    """Statistics of a part of the data, which add up over parts."""

    @classmethod
    def of(cls, values: Array) -> Self: ...

    def merge(self, other: Self) -> Self: ...

    def finish(self) -> tuple[Array, Array]: ...


class _Moments(NamedTuple):
    """Mean and sum of squared deviations.

    Merged as in Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances, 1979; with pieces of one row it is Welford's method.
    """

    rows: int
    mean: Array
    squares: Array

    @classmethod
    def of(cls, values: Array) -> Self:
        mean = values.mean(axis=0)
        return cls(len(values), mean, ((values - mean) ** 2).sum(axis=0))

    def merge(self, other: Self) -> Self:
        rows = self.rows + other.rows
        apart = other.mean - self.mean
        return type(self)(
            rows,
            self.mean + apart * (other.rows / rows),
            self.squares + other.squares + apart**2 * (self.rows * other.rows / rows),
        )

    def finish(self) -> tuple[Array, Array]:
        """Return mean and standard deviation of the population; 1 where that is rounding alone."""
        variance = self.squares / self.rows
        epsilon = np.finfo(np.float64).eps
        noise = self.rows * epsilon * variance + (self.rows * self.mean * epsilon) ** 2
        return self.mean, np.sqrt(np.where(variance <= noise, 1.0, variance))


class _Range(NamedTuple):
    """Smallest and largest value."""

    low: Array
    high: Array

    @classmethod
    def of(cls, values: Array) -> Self:
        return cls(values.min(axis=0), values.max(axis=0))

    def merge(self, other: Self) -> Self:
        return type(self)(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def finish(self) -> tuple[Array, Array]:
        """Return the smallest value and the range; 1 where there is no range."""
        return self.low, np.where(self.high > self.low, self.high - self.low, 1.0)


# Mean 0 and standard deviation 1; or the range 0 to 1.
KINDS: Final[Mapping[str, Any]] = {"standard": _Moments, "min-max": _Range}


def _flat(inputs: Array, over: str) -> Array:
    """Reshape inputs [B, …] to float64[rows of statistics, …]."""
    if inputs.dtype.kind not in "biufV":
        raise InputError(f"inputs: expected real numbers, got {inputs.dtype}")
    values = inputs.astype(np.float64)
    if over == "feature":
        return values
    if over == "all":
        return values.reshape(-1)
    if inputs.ndim < 2:
        raise ConfigError(
            f"over='channel' is the last axis of a row, but rows have the shape "
            f"{list(inputs.shape[1:])}: take over='all'"
        )
    return values.reshape(-1, inputs.shape[-1])
