from __future__ import annotations

import json
import threading
from typing import Any

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.data import (
    Balanced,
    Batch,
    Crop,
    Examples,
    Flip,
    Mixup,
    Noise,
    Normalization,
    Subset,
    Weighted,
    WithReplacement,
    batches,
)

N = 50
RANDOM = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], [30, 15, 5])
# Each image's first pixel is its own row number.
IMAGES = RANDOM.random((N, 4, 4, 1), np.float32)
IMAGES[:, 0, 0, 0] = np.arange(N)
DATA = Examples(inputs=IMAGES, labels=LABELS)
SAMPLINGS = [
    None,
    WithReplacement(),
    WithReplacement(rows=49),
    Weighted(weights=np.arange(N)),
    Balanced(labels=LABELS),
]
AUGMENTATIONS: list[tuple[Any, ...]] = [
    (),
    (Flip(), Crop(padding=1), Noise(scale=0.5)),
    (Noise(scale=0.5), Mixup(classes=3)),
]


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches have the same names, dtypes and values, bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name])
        for name in one
    )


def rows_of(batch: Batch) -> list[int]:
    return batch["inputs"][:, 0, 0, 0].astype(int).tolist()


def joined(parts: list[Batch]) -> Batch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# What a run may be: drawn by hypothesis.
RUNS = st.fixed_dictionaries(
    {
        "batch_size": st.sampled_from([4, 12, 24]),
        "seed": st.integers(0, 5),
        "epochs": st.integers(1, 3),
        "sampling": st.sampled_from(SAMPLINGS),
        "augment": st.sampled_from(AUGMENTATIONS),
        "drop_remainder": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(run=RUNS, data=st.data())
def test_a_run_that_stops_anywhere_goes_on_as_if_it_had_not(
    run: dict[str, Any], data: st.DataObject
) -> None:
    """Position through JSON into a new iterator: what follows is the same, bit for bit."""
    whole = list(batches(DATA, **run))
    stop = data.draw(st.integers(0, len(whole)), label="stop")
    first = batches(DATA, **run)
    for _ in range(stop):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    second = batches(DATA, **run)
    second.set_state(state)
    assert second.number == stop
    rest = list(second)
    assert len(rest) == len(whole) - stop
    assert all(same(one, other) for one, other in zip(rest, whole[stop:], strict=True))


@settings(max_examples=60, deadline=None)
@given(run=RUNS, hosts=st.sampled_from([2, 4]), data=st.data())
def test_hosts_side_by_side_read_what_one_would(
    run: dict[str, Any], hosts: int, data: st.DataObject
) -> None:
    """The global batch does not know the number of hosts, so a run may go on with another one."""
    run["batch_size"] *= 2
    whole = list(batches(DATA, **run))
    stop = data.draw(st.integers(0, len(whole)), label="stop")
    one = batches(DATA, **run)
    for _ in range(stop):
        next(one)
    parts = []
    for index in range(hosts):
        part = batches(DATA, **run, host=(index, hosts))
        part.set_state(one.get_state())
        parts.append(part)
    for expected in whole[stop:]:
        found = [next(part) for part in parts]
        assert {len(part["inputs"]) for part in found} == {run["batch_size"] // hosts}
        assert same(joined(found), expected)
        assert len({json.dumps(part.get_state()) for part in parts}) == 1


def test_an_epoch_is_all_rows_but_the_remainder() -> None:
    """Each epoch has its own order; the rows that sit one out are others in the next."""
    found = [rows_of(batch) for batch in batches(DATA, batch_size=12, seed=0, epochs=2)]
    assert len(found) == 8
    for epoch in (found[:4], found[4:]):
        assert len({row for batch in epoch for row in batch}) == 48
    assert found[:4] != found[4:]


def test_the_remainder_is_filled_up_with_rows_of_weight_zero() -> None:
    """Without dropping, every row comes once with weight 1, and all batches have one shape."""
    run = batches(DATA, batch_size=12, seed=0, epochs=1, drop_remainder=False)
    found = list(run)
    assert run.batches_per_epoch == len(found) == 5
    assert {batch["inputs"].shape[0] for batch in found} == {12}
    weights = np.concatenate([batch["weights"] for batch in found])
    rows = np.concatenate([rows_of(batch) for batch in found])
    assert weights.dtype == np.float32
    assert sorted(rows[weights == 1]) == list(range(N))
    small = next(batches(DATA, batch_size=64, seed=0, drop_remainder=False))
    assert small["weights"].sum() == N
    assert len(small["inputs"]) == 64


def test_unshuffled_is_the_order_of_the_data() -> None:
    """For judging a model: the rows as they lie."""
    found = list(batches(DATA, batch_size=10, seed=0, epochs=1, shuffle=False))
    assert [row for batch in found for row in rows_of(batch)] == list(range(N))


def test_no_end_is_no_end() -> None:
    """Without a number of epochs there is always a next batch, also far out."""
    run = batches(DATA, batch_size=10, seed=0)
    run.set_state({**run.get_state(), "next_index": 10**9})
    assert len(rows_of(next(run))) == 10


def test_a_row_drawn_twice_is_changed_in_two_ways() -> None:
    """Oversampling shows a rare row often, each time with other noise."""
    twice = Examples(inputs=np.zeros((2, 3), np.float32), labels=np.array([0, 1]))
    run = batches(
        twice, batch_size=16, seed=0, sampling=WithReplacement(rows=16), augment=[Noise(scale=1.0)]
    )
    assert len(np.unique(next(run)["inputs"], axis=0)) == 16


def test_normalization_comes_after_augmentation() -> None:
    """Noise in the units of the data, then the statistics of the data as it is."""
    data = Examples(inputs=np.array([[0.0], [10.0]], np.float32), labels=np.array([0, 1]))
    normalize = Normalization.fit(data, kind="min-max")
    shown = next(batches(data, batch_size=2, seed=0, shuffle=False, normalize=normalize))
    np.testing.assert_array_equal(shown["inputs"], [[0], [1]])

    def zero(batch: Batch, keys: np.ndarray) -> Batch:
        return {**batch, "inputs": np.zeros_like(batch["inputs"])}

    shown = next(batches(data, batch_size=2, seed=0, augment=[zero], normalize=normalize))
    np.testing.assert_array_equal(shown["inputs"], [[0], [0]])


class Counting:
    """A source that is read row by row, as from a disk, and says by whom."""

    def __init__(self) -> None:
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Batch:
        return DATA[row]

    def read(self, rows: np.ndarray) -> Batch:
        self.threads.add(threading.current_thread().name)
        return DATA.read(rows)


def test_every_kind_of_source_gives_the_same_batches() -> None:
    """In memory, read by threads, as a part, as arrays by name or from grain: one order."""
    expected = list(batches(DATA, batch_size=12, seed=3, epochs=2, augment=[Flip()]))
    slow = Counting()
    elements = grain.MapDataset.source(DATA)
    for source in (
        slow,
        Subset(DATA, np.arange(N)),
        {"inputs": IMAGES, "labels": LABELS},
        elements,
    ):
        with batches(source, batch_size=12, seed=3, epochs=2, augment=[Flip()]) as run:
            found = list(run)
        assert len(found) == len(expected)
        assert all(same(one, other) for one, other in zip(found, expected, strict=True))
    assert all(name.startswith("grain-prefetch") for name in slow.threads)


class Broken(Counting):
    """A source of which row 7 cannot be read until it is mended."""

    whole = False

    def read(self, rows: np.ndarray) -> Batch:
        if 7 in rows and not self.whole:
            raise InputError("row 7 is damaged")
        return DATA.read(rows)


@pytest.mark.parametrize("threads", [0, 3])
def test_a_row_that_cannot_be_read_fails_its_batch_and_no_other(threads: int) -> None:
    """Batches before it come; asked again, the same one is read again, and not skipped."""
    source = Broken()
    with batches(source, batch_size=3, seed=0, shuffle=False, threads=threads) as run:
        assert [rows_of(next(run)) for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
        for _ in range(2):
            with pytest.raises(InputError, match="row 7 is damaged"):
                next(run)
            assert run.number == 2
        source.whole = True
        assert [rows_of(next(run)) for _ in range(2)] == [[6, 7, 8], [9, 10, 11]]


def test_closing_ends_the_threads_that_read() -> None:
    """Nobody is left behind when a run is left early."""
    before = set(threading.enumerate())
    with batches(Counting(), batch_size=4, seed=0, threads=2) as run:
        next(run)
        mine = set(threading.enumerate()) - before
        assert mine
    for thread in mine:
        thread.join(10)
        assert not thread.is_alive()


def test_arrays_have_any_names() -> None:
    """What else a source has comes along."""
    mask = np.arange(N)
    source = {"inputs": IMAGES, "labels": LABELS, "mask": mask}
    batch = next(batches(source, batch_size=5, seed=0, shuffle=False))
    np.testing.assert_array_equal(batch["mask"], mask[:5])


def test_a_position_is_of_its_order() -> None:
    """Another batch size, seed, sampling or data is refused, and said, before work is lost."""
    state = batches(DATA, batch_size=10, seed=0).get_state()
    changes: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 5}, "batch_size was 10, is 5"),
        ({"seed": 1}, r"seed was 0, is 1"),
        ({"sampling": Balanced(labels=LABELS)}, "order_crc32 was"),
        ({"drop_remainder": False}, "drop_remainder was 1, is 0"),
    ]
    for change, message in changes:
        run = batches(DATA, **{"batch_size": 10, "seed": 0, **change})
        with pytest.raises(ConfigError, match=message):
            run.set_state(state)
    fewer = batches(DATA.take(np.arange(40)), batch_size=10, seed=0)
    with pytest.raises(ConfigError, match="rows was 50, is 40"):
        fewer.set_state(state)
    with pytest.raises(ConfigError, match="is not among the 5 batches"):
        batches(DATA, batch_size=10, seed=0, epochs=1).set_state({**state, "next_index": 6})
    with pytest.raises(ConfigError, match="batch_size was None"):
        fewer.set_state({})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 51}, r"expected 1 to 50 \(the rows of an epoch\), got 51"),
        ({"batch_size": 0}, "batch_size: expected 1 or more, got 0"),
        ({"epochs": 0}, "epochs: expected 1 or more"),
        ({"seed": -1}, "seed: expected an integer ≥ 0, got -1"),
        ({"host": (2, 2)}, r"0 ≤ index < count, got \(2, 2\)"),
        ({"host": (0, 3)}, "10 rows do not divide among 3 hosts"),
        ({"shuffle": False, "sampling": WithReplacement()}, "drop one"),
        (
            {"host": (0, 2), "augment": [Mixup(classes=3)]},
            "Mixup needs a multiple of 2 rows on each of 2 hosts, got 5",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    """Contradictions are refused before a batch is read."""
    with pytest.raises(ConfigError, match=message):
        batches(DATA, **{"batch_size": 10, "seed": 0, **settings})


def test_data_that_cannot_be() -> None:
    """No rows, no numbers and no known kind of source, each in words."""
    with pytest.raises(InputError, match="the data has no rows"):
        batches(DATA.take(np.arange(0)), batch_size=1, seed=0)
    broken = Examples(inputs=np.array([[1.0], [np.nan]]), labels=np.array([0, 1]))
    with pytest.raises(InputError, match="got nan in row 1"):
        batches(broken, batch_size=1, seed=0)
    with pytest.raises(InputError, match="got inf in row 0"):
        batches({"inputs": np.array([np.inf])}, batch_size=1, seed=0)
    with pytest.raises(InputError, match=r"an array named 'inputs', got \['image'\]"):
        batches({"image": np.zeros(3)}, batch_size=1, seed=0)
    with pytest.raises(InputError, match=r"got a list"):
        batches([1, 2], batch_size=1, seed=0)
    with pytest.raises(InputError, match=r"a grain.IterDataset has an order of its own"):
        batches(grain.MapDataset.range(4).to_iter_dataset(), batch_size=1, seed=0)
    with pytest.raises(InputError, match=r"same number of rows, got a \[2\], b \[3\]"):
        batches({"a": np.zeros(2), "b": np.zeros(3)}, batch_size=1, seed=0)
    with pytest.raises(InputError, match="row 0: expected a dict with 'inputs'"):
        next(batches(grain.MapDataset.range(4), batch_size=1, seed=0, shuffle=False, threads=0))
    ragged = grain.MapDataset.range(4).map(lambda i: {"inputs": np.zeros(i + 1)})
    with pytest.raises(InputError, match=r"row 1: expected .*float64\[1\].* got .*float64\[2\]"):
        next(batches(ragged, batch_size=2, seed=0, shuffle=False, threads=0))
