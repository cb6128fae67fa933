"""Random augmentation of batches, on the host, in NumPy.

The rule it keeps: each is a pure function of a batch and its rows' keys. What happens to a row
depends on (seed, epoch, row) alone, never on the batch, the host or the thread that it comes in;
the given batch is not changed.

Each is a frozen set of options that is called with (batch, keys), by ``batches`` or alone::

    Flip()({"inputs": images, "labels": labels}, row_keys(rows, seed=0, epoch=1))

Dimension letters: B rows of a batch, H height, W width, C channels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import betaincinv  # type: ignore[import-untyped]

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array
from maas_sdk.training.data.examples import Batch
from maas_sdk.training.data.row_keys import normals, uniforms

__all__ = ["Crop", "Cutout", "Flip", "Mixup", "Noise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """Mirror some images."""

    # Share of the images that are mirrored.
    probability: float = 0.5
    # Left becomes right; True: top becomes bottom.
    vertical: bool = False

    def __post_init__(self) -> None:
        _check_range("probability", self.probability, 0.0, 1.0)

    def __call__(self, batch: Batch, keys: Array) -> Batch:
        """Return images [B, H, W, …], some of them flipped."""
        images = _images(batch, "Flip")
        chosen = uniforms(keys, 1)[:, 0] < self.probability
        turned = images[:, ::-1] if self.vertical else images[:, :, ::-1]
        chosen = chosen.reshape(-1, *[1] * (images.ndim - 1))
        return {**batch, "inputs": np.where(chosen, turned, images)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """Shift images: padded on all sides, then cropped to their own size at random."""

    # Rows and columns added on each side, so that an image moves by as many at most.
    padding: int = 4
    # numpy.pad's mode: "constant" is 0, "edge" repeats the border, "reflect" mirrors at it.
    mode: str = "constant"

    def __post_init__(self) -> None:
        _check_range("padding", self.padding, 1, None)
        if self.mode not in ("constant", "edge", "reflect"):
            raise ConfigError(f"mode: expected constant, edge or reflect, got {self.mode!r}")

    def __call__(self, batch: Batch, keys: Array) -> Batch:
        """Return images [B, H, W, …], each moved by −padding to padding in both directions."""
        images = _images(batch, "Crop")
        count, height, width = images.shape[:3]
        around = [(0, 0), (self.padding,) * 2, (self.padding,) * 2, *[(0, 0)] * (images.ndim - 3)]
        padded = np.pad(images, around, mode=self.mode)  # type: ignore[call-overload]
        start = (uniforms(keys, 2) * (2 * self.padding + 1)).astype(np.int64)
        rows = start[:, :1] + np.arange(height)
        columns = start[:, 1:] + np.arange(width)
        cut = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return {**batch, "inputs": cut}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cutout:
    """Blank a square of each image (DeVries, Taylor: Improved Regularization of CNNs, 2017).

    Its middle is any pixel, so at the border a part of the square is outside.
    """

    # Rows and columns of the square.
    size: int = 8
    # What it is filled with.
    fill: float = 0.0

    def __post_init__(self) -> None:
        _check_range("size", self.size, 1, None)

    def __call__(self, batch: Batch, keys: Array) -> Batch:
        """Return images [B, H, W, …], each with a square of ``fill``."""
        images = _images(batch, "Cutout")
        inside = np.ones((len(images), 1, 1), bool)
        for axis, drawn in zip((1, 2), uniforms(keys, 2).T, strict=True):
            length = images.shape[axis]
            first = (drawn * length).astype(np.int64) - self.size // 2
            along = np.arange(length) - first[:, None]
            covered = (along >= 0) & (along < self.size)
            inside = inside & (covered[:, :, None] if axis == 1 else covered[:, None, :])
        inside = inside.reshape(*inside.shape, *[1] * (images.ndim - 3))
        return {**batch, "inputs": np.where(inside, np.asarray(self.fill, images.dtype), images)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Add normally distributed noise to every element; integers are rounded and kept in range."""

    # Standard deviation, in the units of the inputs.
    scale: float = 0.1

    def __post_init__(self) -> None:
        _check_range("scale", self.scale, 0.0, None)

    def __call__(self, batch: Batch, keys: Array) -> Batch:
        """Return inputs [B, …] of the same dtype, each element with independent noise."""
        inputs = batch["inputs"]
        drawn = normals(keys, int(np.prod(inputs.shape[1:]))).reshape(inputs.shape)
        noisy = inputs + self.scale * drawn
        if inputs.dtype.kind in "iu":
            limits = np.iinfo(inputs.dtype)
            noisy = np.clip(np.rint(noisy), limits.min, limits.max)
        return {**batch, "inputs": noisy.astype(inputs.dtype)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixup:
    """Blend each row and its label with another's (Zhang et al.: mixup, 2018).

    Rows are blended in pairs: rows 0 and 1 of the batch with each other, 2 and 3, and so on, each
    in a proportion of its own. The order is shuffled, so a row's partner is any other; and a host
    has both.

    Labels become soft targets, float32[B, K], which a loss takes in place of class numbers:
    cross-entropy of row b is −Σₖ labels[b, k] · log p[b, k].
    """

    # Rows of a batch that belong together.
    rows_together: ClassVar[int] = 2

    # K
    classes: int
    # The proportion is drawn from Beta(alpha, alpha): small values blend little, 1 is uniform.
    alpha: float = 0.2

    def __post_init__(self) -> None:
        _check_range("classes", self.classes, 2, None)
        # Below that the quantile function is 0 or 1 in float64.
        _check_range("alpha", self.alpha, 1e-3, None)

    def __call__(self, batch: Batch, keys: Array) -> Batch:
        """Return inputs float32[B, …] (or wider) and labels float32[B, K], blended."""
        inputs, labels = batch["inputs"], batch["labels"]
        targets = self._targets(labels)
        partner = np.arange(len(inputs)) ^ 1
        # An odd row at the end stays as it is.
        partner[partner >= len(inputs)] = len(inputs) - 1
        own = betaincinv(self.alpha, self.alpha, uniforms(keys, 1)[:, 0])
        return {
            **batch,
            "inputs": _blend(inputs, partner, own),
            "labels": _blend(targets, partner, own),
        }

    def _targets(self, labels: Array) -> Array:
        """Return labels as float32[B, K]: one-hot, or unchanged when they are soft targets."""
        if labels.dtype.kind == "f" and labels.ndim == 2 and labels.shape[1] == self.classes:
            return labels.astype(np.float32)
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise InputError(
                "Mixup: expected labels that are integers [B] or soft targets "
                f"[B, {self.classes}], got {labels.dtype}{list(labels.shape)}"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < self.classes:
            raise InputError(
                f"Mixup: expected labels 0 to {self.classes - 1}, got {labels.min()} to "
                f"{labels.max()}"
            )
        return np.eye(self.classes, dtype=np.float32)[labels]


def _blend(values: Array, partner: Array, own: Array) -> Array:
    """Blend values [B, …] with partners': own · value + (1 − own) · partner, own float64[B]."""
    dtype = values.dtype if values.dtype.kind == "f" else np.dtype(np.float32)
    share = own.astype(dtype).reshape(-1, *[1] * (values.ndim - 1))
    wide = values.astype(dtype)
    blended: Array = wide * share + wide[partner] * (1 - share)
    return blended


def _images(batch: Batch, name: str) -> Array:
    """Return the inputs, if they are images."""
    inputs = batch["inputs"]
    if inputs.ndim < 3:
        raise InputError(
            f"{name}: expected images [B, H, W, C] or [B, H, W], got inputs of shape "
            f"{list(inputs.shape)}"
        )
    return inputs


def _check_range(name: str, value: float, low: float, high: float | None) -> None:
    if not (value >= low and (high is None or value <= high)):
        most = "" if high is None else f" and ≤ {high}"
        raise ConfigError(f"{name}: expected a number ≥ {low}{most}, got {value}")
