from __future__ import annotations

import numpy as np

from maas_sdk.demo.digits import CLASS_NAMES, load_split


def test_the_digits_are_as_described() -> None:
    """1,797 images from 0 to 1, a fifth of each class held out, none in both parts."""
    split = load_split()
    assert len(split.train) + len(split.test) == 1797
    for part in (split.train, split.test):
        assert part.inputs.shape[1:] == (8, 8, 1)
        assert part.inputs.dtype == np.float32
        assert part.labels.dtype == np.int32
        assert (part.inputs.min(), part.inputs.max()) == (0, 1)
    all_labels = np.concatenate([split.train.labels, split.test.labels])
    share = np.bincount(split.test.labels) / np.bincount(all_labels)
    np.testing.assert_allclose(share, [0.2] * len(CLASS_NAMES), atol=0.005)


def test_the_digits_are_split_the_same_every_time() -> None:
    """Every run is judged on the same rows."""
    np.testing.assert_array_equal(load_split().test.inputs, load_split().test.inputs)
