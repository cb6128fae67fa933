from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.training.data import EachOnce, Order, WithReplacement
from maas_sdk.training.data import order as module


@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    drop=st.booleans(),
    data=st.data(),
)
def test_any_batch_can_be_asked_for_first(
    count: int, batch_size: int, drop: bool, data: st.DataObject
) -> None:
    """Forwards, backwards or in the middle of a later epoch: a batch's rows are its own."""
    batch_size = min(batch_size, count)

    def order() -> Order:
        return Order(count=count, batch_size=batch_size, seed=1, drop_remainder=drop)

    numbers = data.draw(st.lists(st.integers(0, 6 * order().batches_per_epoch), max_size=8))
    jumping = order()
    for number in numbers:
        found, alone = jumping.batch(number), order().batch(number)
        assert found.epoch == alone.epoch == number // jumping.batches_per_epoch + 1
        np.testing.assert_array_equal(found.rows, alone.rows)
        assert len(found.rows) == batch_size


def test_an_epochs_batches_are_its_sampling_cut_into_pieces() -> None:
    """Nothing is between the sampling and the batches."""
    order = Order(count=20, batch_size=6, seed=5)
    for epoch in (1, 2):
        rows = [order.batch((epoch - 1) * 3 + number).rows for number in range(3)]
        expected = EachOnce().epoch_rows(20, seed=5, epoch=epoch)[:18]
        np.testing.assert_array_equal(np.concatenate(rows), expected)


def test_turns_count_how_often_a_row_came_before() -> None:
    """In the order of the draws, from 0 on, for each row by itself."""
    order = Order(count=5, batch_size=40, seed=0, sampling=WithReplacement(rows=40))
    found = order.batch(0)
    seen: dict[int, int] = {}
    for row, turn in zip(found.rows.tolist(), found.turns.tolist(), strict=True):
        assert turn == seen.get(row, 0)
        seen[row] = turn + 1


def test_an_epoch_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all of its batches, also after a jump back; few epochs are kept, however many come."""
    asked: list[int] = []

    class Asked:
        def epoch_rows(self, count: int, *, seed: int, epoch: int) -> np.ndarray:
            asked.append(epoch)
            return np.arange(count)

    order = Order(count=8, batch_size=2, seed=0, sampling=Asked())
    for number in [*range(40), *range(8)]:
        order.batch(number)
    assert asked == [*range(1, 11), 1, 2]
    assert len(order._epochs) <= module._EPOCHS_KEPT
