from __future__ import annotations

from typing import Any

import grain
import numpy as np
import pytest

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.data import Examples, Split, batches
from maas_sdk.training.run.input_pipeline import CountedBatches, eval_batches, train_pipeline

ROWS = Examples(inputs=np.arange(20.0, dtype=np.float32)[:, None], labels=np.arange(20) % 4)
LIST = [{"inputs": np.full((4, 1), n), "labels": np.full(4, n)} for n in range(5)]


def take(feed: Any, count: int) -> list[list[float]]:
    return [next(feed.batches)["inputs"].ravel().tolist() for _ in range(count)]


def test_whatever_holds_rows_is_a_feed() -> None:
    """Examples, a split, a dict, a grain dataset of rows: the same rows in the same order."""
    rows = grain.MapDataset.source(ROWS)
    same = [
        train_pipeline(data, batch_size=6, seed=3)
        for data in (
            ROWS,
            Split(train=ROWS, test=ROWS),
            {"inputs": ROWS.inputs, "labels": ROWS.labels},
            rows,
        )
    ]
    assert [feed.steps_per_epoch for feed in same] == [3] * 4
    taken = [take(feed, 4) for feed in same]
    assert taken[1:] == taken[:-1]
    # Twenty rows fill three batches of six: two rows sit the epoch out.
    assert len({row for batch in taken[0][:3] for row in batch}) == 18


def test_batches_of_ones_own_are_taken_as_they_are() -> None:
    """Ours, with a position; a grain.IterDataset of rows; a list of batches."""
    ours = batches(ROWS, batch_size=5, seed=0, shuffle=False)
    assert take(train_pipeline(ours, batch_size=5, seed=9), 1) == [[0, 1, 2, 3, 4]]
    with pytest.raises(ConfigError, match="comes in batches of 5 rows, batch_size is 6"):
        train_pipeline(ours, batch_size=6, seed=9)
    stream = grain.MapDataset.source(ROWS).to_iter_dataset()
    assert take(train_pipeline(stream, batch_size=5, seed=9), 2)[1] == [5, 6, 7, 8, 9]
    assert take(train_pipeline(LIST, batch_size=4, seed=9), 2) == [[0] * 4, [1] * 4]
    assert train_pipeline(LIST, batch_size=4, seed=0).steps_per_epoch == 5
    assert train_pipeline(iter(LIST), batch_size=4, seed=0).steps_per_epoch is None
    with pytest.raises(InputError, match="got a int"):
        train_pipeline(3, batch_size=4, seed=0)


def test_a_position_is_how_many_batches_were_taken() -> None:
    """Forwards by drawing, backwards by starting again, and a clear no where neither is there."""
    feed = CountedBatches(LIST)
    for _ in range(3):
        next(feed)
    state = feed.get_state()
    other = CountedBatches(LIST)
    other.set_state(state)
    assert next(other)["labels"][0] == next(feed)["labels"][0] == 3
    feed.set_state({"taken": 1})
    assert next(feed)["labels"][0] == 1
    with pytest.raises(ConfigError, match="ends after 5 batches; the checkpoint is at 9"):
        feed.set_state({"taken": 9})
    once = CountedBatches(iter(LIST))
    next(once)
    with pytest.raises(ConfigError, match="cannot go back from batch 1 to 0"):
        once.set_state({"taken": 0})


def test_an_evaluation_sees_every_row_once() -> None:
    """The last batch is filled up with rows of weight 0; of a split it is the held-out part."""
    for data in (ROWS, Split(train=ROWS.take(np.arange(2)), test=ROWS)):
        found = list(eval_batches(data, batch_size=8))
        assert [len(batch["inputs"]) for batch in found] == [8, 8, 8]
        seen = [b["inputs"][b["weights"] > 0].ravel() for b in found]
        np.testing.assert_array_equal(np.concatenate(seen), np.arange(20))


def test_hosts_parts_side_by_side_are_the_whole() -> None:
    """Each host evaluates its part of each batch."""
    whole = list(eval_batches(ROWS, batch_size=8))
    parts = [list(eval_batches(ROWS, batch_size=8, host=(index, 2))) for index in range(2)]
    for one, *halves in zip(whole, *parts, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], np.concatenate([h[name] for h in halves]))


def test_batches_to_judge_by_are_filled_up() -> None:
    """Weights of their own are kept; one that is too large is refused."""
    small = [{"inputs": np.ones((3, 1)), "weights": np.asarray([1, 0, 1], np.float32)}]
    [found] = eval_batches(small, batch_size=5)
    assert found["inputs"].shape == (5, 1)
    assert found["weights"].tolist() == [1, 0, 1, 0, 0]
    with pytest.raises(InputError, match="expected batches of 1 to 2 rows, got one of 3"):
        list(eval_batches(small, batch_size=2))


def test_datasets_of_grain_are_rows_here_too() -> None:
    """With and without row numbers: the batches that ``Examples`` give, the last one filled up."""
    dataset = grain.MapDataset.source(ROWS)
    whole = list(eval_batches(ROWS, batch_size=8))
    for data in (dataset, dataset.to_iter_dataset()):
        for found, expected in zip(eval_batches(data, batch_size=8), whole, strict=True):
            for name in ("labels", "weights"):
                counts = expected["weights"] > 0
                np.testing.assert_array_equal(found[name][counts], expected[name][counts])
            assert found["inputs"].shape == expected["inputs"].shape


def test_what_can_be_gone_through_once_judges_nothing() -> None:
    """The second evaluation would find it empty; endless batches would never let the first end."""
    for data in (iter(LIST), batches(ROWS, batch_size=5, seed=0)):
        with pytest.raises(InputError, match="go through from its beginning, got an iterator"):
            next(eval_batches(data, batch_size=5))


def test_rows_without_numbers_are_for_one_process() -> None:
    """Of several each would read the same rows, and the batch would hold them twice."""
    stream = grain.MapDataset.source(ROWS).to_iter_dataset()
    with pytest.raises(ConfigError, match=r"each of 2 processes would read the same rows"):
        train_pipeline(stream, batch_size=4, seed=0, host=(1, 2))
    with pytest.raises(ConfigError, match=r"give the grain\.MapDataset"):
        next(eval_batches(stream, batch_size=4, host=(1, 2)))
