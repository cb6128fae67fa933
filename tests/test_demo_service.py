from __future__ import annotations

import numpy as np
import pytest

from maas_sdk.demo.service import choose_samples
from maas_sdk.training.data import Examples


def answers(wrong: int, rows: int = 60) -> tuple[np.ndarray, Examples]:
    """Logits of ``rows`` digits, the first ``wrong`` of them mistaken for the next digit."""
    labels = (np.arange(rows) % 10).astype(np.int32)
    called = np.where(np.arange(rows) < wrong, (labels + 1) % 10, labels)
    inputs = np.random.default_rng(0).random((rows, 8, 8, 1), np.float32)
    return np.eye(10, dtype=np.float32)[called] * 3, Examples(inputs=inputs, labels=labels)


@pytest.mark.parametrize(("wrong", "shown"), [(0, 0), (2, 2), (30, 5)])
def test_wrong_digits_are_shown_but_never_most_of_them(wrong: int, shown: int) -> None:
    """All wrong ones up to a fifth, among right ones, 25 in all."""
    samples = choose_samples(*answers(wrong))
    assert len(samples) == 25
    assert sum(sample.predicted != sample.label for sample in samples) == shown


def test_a_sample_is_what_the_endpoint_said() -> None:
    """Its picture without the channel, and the softmax of its largest logit."""
    logits, test = answers(0)
    first = choose_samples(logits, test)[0]
    np.testing.assert_array_equal(first.image, test.inputs[0, :, :, 0])
    assert first.confidence == pytest.approx(np.exp(3) / (np.exp(3) + 9))


def test_fewer_digits_than_places_are_all_shown() -> None:
    """A small test set fills what it can."""
    assert len(choose_samples(*answers(1, rows=7))) == 7
