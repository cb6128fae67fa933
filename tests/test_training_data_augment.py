from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.data import Batch, Crop, Cutout, Flip, Mixup, Noise, row_keys

RANDOM = np.random.default_rng(0)
B = 200
LABELS = RANDOM.integers(0, 3, B)
ALL: list[Any] = [Flip(), Crop(padding=2), Cutout(size=3), Noise(scale=2.0), Mixup(classes=3)]


def batch(dtype: str = "float32", channels: tuple[int, ...] = (2,)) -> Batch:
    """B images of 6 × 8 pixels, no two pixels alike."""
    shape = (B, 6, 8, *channels)
    if dtype == "uint8":
        return {"inputs": RANDOM.integers(1, 256, shape, np.uint8), "labels": LABELS}
    return {"inputs": RANDOM.random(shape).astype(dtype) + 1, "labels": LABELS}


KEYS = row_keys(np.arange(B), seed=0, epoch=1)


@pytest.mark.parametrize("change", ALL, ids=lambda change: type(change).__name__)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_change_is_a_pure_function_of_rows_and_keys(change: Any, dtype: str) -> None:
    """The same again for the same keys; what came in is as it was; a part gives the part."""
    given = batch(dtype)
    before = {name: array.copy() for name, array in given.items()}
    found = change(given, KEYS)
    for name, array in given.items():
        np.testing.assert_array_equal(array, before[name])
    part = {name: array[50:100] for name, array in given.items()}
    for name, array in change(part, KEYS[50:100]).items():
        np.testing.assert_array_equal(array, found[name][50:100])
    other = change(given, row_keys(np.arange(B), seed=0, epoch=2))
    assert not np.array_equal(other["inputs"], found["inputs"])
    if not isinstance(change, Mixup):
        assert found["inputs"].dtype == given["inputs"].dtype
        assert found["inputs"].shape == given["inputs"].shape


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
@pytest.mark.parametrize("vertical", [False, True])
def test_flip_mirrors_a_share_of_the_images(channels: tuple[int, ...], vertical: bool) -> None:
    """Each image is as it was or mirrored, the given share of them mirrored."""
    given = batch(channels=channels)["inputs"]
    found = Flip(probability=0.3, vertical=vertical)({"inputs": given}, KEYS)["inputs"]
    mirrored = given[:, ::-1] if vertical else given[:, :, ::-1]
    flipped = [np.array_equal(a, b) for a, b in zip(found, mirrored, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(found, given, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert np.mean(flipped) == pytest.approx(0.3, abs=0.1)
    for probability, expected in ((0.0, given), (1.0, mirrored)):
        always = Flip(probability=probability, vertical=vertical)({"inputs": given}, KEYS)
        np.testing.assert_array_equal(always["inputs"], expected)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_crop_is_a_window_of_the_padded_image(mode: str) -> None:
    """Every image is one of the 25 windows; all shifts come, in both directions by themselves."""
    given = batch()["inputs"]
    found = Crop(padding=2, mode=mode)({"inputs": given}, KEYS)["inputs"]
    padded = np.pad(given, [(0, 0), (2, 2), (2, 2), (0, 0)], mode=mode)  # type: ignore[call-overload]
    shifts = set()
    for row in range(B):
        at = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(found[row], padded[row, y : y + 6, x : x + 8])
        ]
        assert len(at) == 1
        shifts.add(at[0])
    assert len(shifts) == 25


def test_cutout_blanks_a_square() -> None:
    """At most size × size pixels in all channels, less at the border; the rest is as it was."""
    given = batch()["inputs"]
    found = Cutout(size=3, fill=-1.0)({"inputs": given}, KEYS)["inputs"]
    blank = (found == -1).all(axis=-1)
    np.testing.assert_array_equal(found[~blank], given[~blank])
    sizes = set()
    for mask in blank:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.sum() == len(rows) * len(columns)
        assert len(rows) == rows[-1] - rows[0] + 1
        sizes.add((len(rows), len(columns)))
    assert sizes == {(y, x) for y in (2, 3) for x in (2, 3)}
    assert (Cutout(size=99)({"inputs": given}, KEYS)["inputs"] == 0).all()


def test_noise_is_normal_and_each_elements_own() -> None:
    """Of the given standard deviation, independent over elements and rows; any shape of row."""
    inputs = np.zeros((B, 50), np.float32)
    found = Noise(scale=2.0)({"inputs": inputs}, KEYS)["inputs"]
    assert found.dtype == np.float32
    assert found.std() == pytest.approx(2.0, rel=0.05)
    assert len(np.unique(found)) > 0.99 * found.size
    grey = Noise(scale=100.0)({"inputs": np.full((B, 4), 250, np.uint8)}, KEYS)["inputs"]
    assert grey.dtype == np.uint8
    assert grey.max() == 255
    assert 0.4 < (grey == 255).mean() < 0.6
    np.testing.assert_array_equal(Noise(scale=0.0)({"inputs": inputs}, KEYS)["inputs"], inputs)


def test_mixup_blends_pairs_and_their_labels_in_one_proportion() -> None:
    """x̃ = λ x + (1 − λ) x′ and ỹ = λ y + (1 − λ) y′ with each row's own λ from Beta(α, α)."""
    inputs = RANDOM.random((B, 5)).astype(np.float32)
    found = Mixup(classes=3, alpha=1.0)({"inputs": inputs, "labels": LABELS}, KEYS)
    assert found["labels"].dtype == found["inputs"].dtype == np.float32
    np.testing.assert_allclose(found["labels"].sum(axis=1), 1, rtol=1e-6)
    partner = np.arange(B) ^ 1
    onehot = np.eye(3)[LABELS]
    apart = inputs - inputs[partner]
    share = ((found["inputs"] - inputs[partner]) * apart).sum(axis=1) / (apart**2).sum(axis=1)
    np.testing.assert_allclose(
        found["inputs"], share[:, None] * inputs + (1 - share[:, None]) * inputs[partner], atol=1e-5
    )
    np.testing.assert_allclose(
        found["labels"], share[:, None] * onehot + (1 - share[:, None]) * onehot[partner], atol=1e-5
    )
    # Beta(1, 1) is uniform.
    assert share.mean() == pytest.approx(0.5, abs=0.07)
    assert share.var() == pytest.approx(1 / 12, abs=0.02)


def test_mixup_with_a_small_alpha_blends_little() -> None:
    """Var Beta(α, α) = 1 / (4 (2α + 1)): at 0.2 most proportions are near 0 or 1."""
    labels = np.tile([0, 1], 2000)
    keys = row_keys(np.arange(4000), seed=0, epoch=1)
    found = Mixup(classes=2)({"inputs": np.zeros((4000, 1)), "labels": labels}, keys)["labels"]
    share = np.take_along_axis(found, labels[:, None], axis=1)
    assert share.var() == pytest.approx(1 / (4 * 1.4), abs=0.01)


def test_mixup_takes_soft_targets_and_an_odd_row() -> None:
    """Mixed labels can be mixed again; a last row without a partner stays as it is."""
    inputs = RANDOM.random((5, 3)).astype(np.float32)
    keys = KEYS[:5]
    hard = Mixup(classes=3)({"inputs": inputs, "labels": LABELS[:5]}, keys)
    soft = Mixup(classes=3)(
        {"inputs": inputs, "labels": np.eye(3, dtype=np.float32)[LABELS[:5]]}, keys
    )
    np.testing.assert_array_equal(hard["labels"], soft["labels"])
    np.testing.assert_allclose(hard["inputs"][4], inputs[4], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Flip(probability=1.5), ConfigError, "probability: .* ≥ 0.0 and ≤ 1.0, got 1.5"),
        (lambda: Crop(padding=0), ConfigError, "padding: expected a number ≥ 1, got 0"),
        (lambda: Crop(mode="wrap"), ConfigError, "constant, edge or reflect, got 'wrap'"),
        (lambda: Cutout(size=0), ConfigError, "size"),
        (lambda: Noise(scale=float("nan")), ConfigError, "scale: .* got nan"),
        (lambda: Mixup(classes=1), ConfigError, "classes: expected a number ≥ 2, got 1"),
        (lambda: Mixup(classes=3, alpha=0), ConfigError, "alpha"),
        (
            lambda: Flip()({"inputs": np.zeros((B, 64))}, KEYS),
            InputError,
            r"Flip: expected images \[B, H, W, C\] .* got inputs of shape \[200, 64\]",
        ),
        (
            lambda: Mixup(classes=2)({"inputs": np.zeros(B), "labels": LABELS}, KEYS),
            InputError,
            "Mixup: expected labels 0 to 1, got 0 to 2",
        ),
        (
            lambda: Mixup(classes=3)({"inputs": np.zeros(B), "labels": np.zeros(B)}, KEYS),
            InputError,
            r"integers \[B\] or soft targets \[B, 3\], got float64\[200\]",
        ),
    ],
)
def test_changes_that_cannot_be(make: Any, error: type[Exception], message: str) -> None:
    """Options out of range, and batches that are not for them, are refused in words."""
    with pytest.raises(error, match=message):
        make()
