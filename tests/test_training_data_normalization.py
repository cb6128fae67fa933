from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_wine
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.data import (
    Examples,
    Normalization,
    Split,
    Subset,
    normalized,
    stratified_split,
)
from maas_sdk.training.data import examples as module

ZEROS = np.zeros


def data(inputs: np.ndarray) -> Examples:
    return Examples(inputs=inputs, labels=ZEROS(len(inputs), np.int32))


def test_the_statistics_are_those_of_the_reference() -> None:
    """Wine's 13 features: the same as scikit-learn's scalers, to float32."""
    inputs = load_wine().data
    standard = StandardScaler().fit(inputs)
    found = Normalization.fit(data(inputs))
    np.testing.assert_allclose(found.offset, standard.mean_, rtol=1e-6)
    np.testing.assert_allclose(found.scale, standard.scale_, rtol=1e-6)
    np.testing.assert_allclose(found.apply(inputs), standard.transform(inputs), atol=1e-4)
    ranged = Normalization.fit(data(inputs), kind="min-max").apply(inputs)
    np.testing.assert_allclose(ranged, MinMaxScaler().fit_transform(inputs), atol=1e-6)
    assert found.offset.dtype == found.scale.dtype == found.apply(inputs).dtype == np.float32


def test_a_split_is_asked_for_what_is_learnt_from_alone() -> None:
    """The held-out rows change nothing, whatever is in them, not even NaN."""
    wine = load_wine()
    split = stratified_split(
        Examples(inputs=wine.data, labels=wine.target), test_fraction=0.3, seed=0
    )
    poisoned = Split(train=split.train, test=data(np.full((5, 13), np.nan)))
    expected = Normalization.fit(split.train)
    for given_split in (split, poisoned):
        np.testing.assert_array_equal(Normalization.fit(given_split).offset, expected.offset)


@pytest.mark.parametrize("kind", ["standard", "min-max"])
def test_over_what_statistics_are_taken(kind: str) -> None:
    """Each element by itself, each channel, or all: the offset's shape, and the result."""
    inputs = np.random.default_rng(0).normal(3, [1, 10, 100], (40, 5, 4, 3))
    for over, shape, axes in (
        ("feature", (5, 4, 3), (0,)),
        ("channel", (3,), (0, 1, 2)),
        ("all", (), (0, 1, 2, 3)),
    ):
        found = Normalization.fit(data(inputs), kind=kind, over=over)
        assert found.offset.shape == found.scale.shape == shape
        result = found.apply(inputs)
        if kind == "standard":
            np.testing.assert_allclose(result.mean(axis=axes), 0, atol=1e-4)
            np.testing.assert_allclose(result.std(axis=axes), 1, rtol=1e-4)
        else:
            np.testing.assert_allclose(result.min(axis=axes), 0, atol=1e-6)
            np.testing.assert_allclose(result.max(axis=axes), 1, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 60),
    piece=st.integers(1, 64),
    mean=st.sampled_from([0.0, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_a_piece_at_a_time_gives_what_all_at_once_does(
    rows: int, piece: int, mean: float, seed: int
) -> None:
    """Statistics merged over pieces of any size, of lazily read rows too, are those of the whole.

    A mean of a million with a deviation of one loses all digits where squares are summed in
    float32, and half of them where they are summed in float64 without the mean taken off.
    """
    inputs = np.random.default_rng(seed).normal(mean, 1.0, (rows, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE_ELEMENTS", 3 * piece)
        found = Normalization.fit(Subset(data(inputs), np.arange(rows)))
    np.testing.assert_allclose(found.offset, inputs.mean(axis=0), rtol=1e-6, atol=1e-6)
    expected = inputs.std(axis=0) if rows > 1 else np.ones(3)
    np.testing.assert_allclose(found.scale, expected, rtol=1e-6)


def test_what_does_not_vary_is_only_shifted() -> None:
    """A constant feature becomes 0, not NaN and not a magnified rounding error."""
    inputs = np.stack([np.full(1000, 0.1), np.linspace(0, 1, 1000)], axis=1)
    for kind in ("standard", "min-max"):
        found = Normalization.fit(data(inputs), kind=kind)
        assert found.scale[0] == 1
        np.testing.assert_array_equal(found.apply(inputs)[:, 0], 0)
    tiny = Normalization.fit(data(np.array([[0.0], [1e-60]])))
    assert tiny.scale.tolist() == [1]


def test_pictures_of_bytes_are_normalized_as_numbers() -> None:
    """uint8 does not wrap round below 0."""
    inputs = np.array([[[0], [255]], [[10], [100]]], np.uint8)
    found = Normalization.fit(data(inputs), over="all").apply(inputs)
    assert found.min() < 0
    assert found.mean() == pytest.approx(0, abs=1e-6)


def test_a_split_is_normalized_as_a_whole() -> None:
    """Both parts by the statistics of one; labels as they are; what came in unchanged."""
    wine = load_wine()
    split = stratified_split(
        Examples(inputs=wine.data, labels=wine.target), test_fraction=0.3, seed=0
    )
    before = split.train.inputs.copy()
    normalization = Normalization.fit(split)
    found = normalized(split, normalization)
    np.testing.assert_array_equal(found.test.inputs, normalization.apply(split.test.inputs))
    np.testing.assert_array_equal(found.train.labels, split.train.labels)
    np.testing.assert_array_equal(split.train.inputs, before)
    np.testing.assert_array_equal(normalized(split.test, normalization).inputs, found.test.inputs)


def test_statistics_come_back_from_json_bit_by_bit() -> None:
    """For a configuration file, or beside a checkpoint."""
    found = Normalization.fit(data(load_wine().data))
    again = Normalization.from_dict(json.loads(json.dumps(found.to_dict())))
    np.testing.assert_array_equal(again.offset, found.offset)
    np.testing.assert_array_equal(again.scale, found.scale)
    with pytest.raises(InputError, match="lists of numbers named offset and scale"):
        Normalization.from_dict({"offset": [1]})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Normalization.fit(data(ZEROS((0, 2)))), InputError, "one row or more"),
        (
            lambda: Normalization.fit(data(np.array([[0, 1], [np.inf, 0]]))),
            InputError,
            r"got inf in row 1, element \[0\]",
        ),
        (lambda: Normalization.fit(data(ZEROS(3, complex))), InputError, "real numbers, got comp"),
        (
            lambda: Normalization.fit(data(ZEROS((2, 2))), kind="robust"),
            ConfigError,
            "kind: expected one of standard, min-max, got 'robust'",
        ),
        (lambda: Normalization.fit(data(ZEROS(3)), over="row"), ConfigError, "feature, channel"),
        (
            lambda: Normalization.fit(data(ZEROS(3)), over="channel"),
            ConfigError,
            r"rows have the shape \[\]: take over='all'",
        ),
        (
            lambda: Normalization.fit(data(ZEROS((3, 4)))).apply(ZEROS((2, 5))),
            InputError,
            r"rows that end in shape \[4\], got rows of shape \[5\]",
        ),
        (
            lambda: Normalization(offset=ZEROS(2, np.float32), scale=ZEROS(2, np.float32)),
            InputError,
            "scale: expected numbers > 0",
        ),
        (
            lambda: Normalization(offset=ZEROS(2), scale=np.ones(2)),
            InputError,
            "offset: expected finite numbers of float32, got float64",
        ),
    ],
)
def test_statistics_that_cannot_be(make: object, error: type[Exception], message: str) -> None:
    """Data without numbers, options that do not exist, rows of another shape: each in words."""
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]
