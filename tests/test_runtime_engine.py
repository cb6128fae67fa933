from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk import runtime
from maas_sdk.errors import InputError, ModelError, NotFoundError
from maas_sdk.runtime import xla

W = np.arange(12, dtype=np.float32).reshape(4, 3)
ROWS = np.random.default_rng(1).integers(-9, 9, (64, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    with runtime.load(tiny_bundle) as engine:
        yield engine


@given(rows=st.integers(0, 64))
@settings(max_examples=25, deadline=None)
def test_any_batch_is_answered_as_its_rows_are(engine, rows):
    """Padded up and split above the largest bucket, the answers are those of single rows."""
    answer = engine.predict(ROWS[:rows])
    assert answer.shape == (rows, 3)
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, ROWS[:rows] @ W)


def test_several_inputs_and_outputs(engine):
    """Dicts by name, whatever the order of the names; split and padded together."""
    n = np.arange(5, dtype=np.int32)
    answer = engine.predict({"x": ROWS[:5], "n": n}, program="both")
    assert list(answer) == ["n", "y"]
    np.testing.assert_array_equal(answer["n"], n + 1)
    np.testing.assert_array_equal(answer["y"], ROWS[:5] @ W)
    assert engine.run({"x": ROWS[:1]}).keys() == {"y"}


def test_an_empty_batch(engine):
    """No rows in, no rows out, in the right shapes and dtypes, without a run."""
    answer = engine.run({"n": np.empty(0, np.int32), "x": ROWS[:0]}, program="both")
    assert {name: (a.shape, a.dtype.name) for name, a in answer.items()} == {
        "n": ((0,), "int32"),
        "y": ((0, 3), "float32"),
    }


@pytest.mark.parametrize("rows", [2, 4])
def test_dependent_rows_at_a_compiled_size(engine, rows):
    """A batch of exactly a bucket's size is answered as a whole."""
    np.testing.assert_allclose(
        engine.predict(ROWS[:rows], program="center"), ROWS[:rows] - ROWS[:rows].mean(axis=0)
    )


@pytest.mark.parametrize("rows", [0, 1, 3, 5, 8])
def test_dependent_rows_at_another_size(engine, rows):
    """Neither padded nor split: refused, with the sizes that work."""
    with pytest.raises(InputError, match=rf"batches of exactly 2, 4 rows, not {rows}: send one"):
        engine.predict(ROWS[:rows], program="center")


@pytest.mark.parametrize(
    "made",
    [
        lambda x: x[::2],
        lambda x: np.asfortranarray(x),
        lambda x: x.astype(">f4"),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.frombuffer(b"." + x.tobytes(), np.float32, x.size, 1).reshape(x.shape),
        lambda x: x.tolist() and np.array(x.tolist(), np.float32),
    ],
    ids=["strided", "fortran", "big-endian", "broadcast", "unaligned", "fresh"],
)
@pytest.mark.parametrize("rows", [8, 6])
def test_however_an_array_lies_in_memory(engine, made, rows):
    """Strides, byte order and alignment change nothing about the answer."""
    x = made(ROWS[:rows])
    np.testing.assert_array_equal(engine.predict(x), np.asarray(x, np.float32) @ W)


def test_nan_passes_through(engine):
    """NaN and infinity are numbers like others; other rows are not touched by them."""
    x = ROWS[:3].copy()
    x[1, 0] = np.nan
    answer = engine.predict(x)
    assert np.isnan(answer[1]).any()
    np.testing.assert_array_equal(answer[[0, 2]], x[[0, 2]] @ W)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"expected inputs \['x'\], got \[\]; missing: \['x'\]"),
        ({"y": ROWS}, r"missing: \['x'\]; unknown: \['y'\]"),
        ({"x": ROWS.astype("f8")}, "input 'x': expected dtype float32, got float64; convert it"),
        ({"x": ROWS[0]}, r"expected 2 dimensions.*a single row needs a batch dimension: x\[None\]"),
        ({"x": ROWS[:, :3]}, r"dimension 1 must be 4, is 3: expected float32\[B, 4\], got"),
    ],
)
def test_inputs_that_do_not_fit(engine, inputs, message):
    """Name, dtype, rank and size are checked before anything runs, and said."""
    with pytest.raises(InputError, match=message):
        engine.run(inputs)


def test_a_program_that_is_not_there(engine):
    """The programs that are there are listed; one array for two inputs is refused."""
    with pytest.raises(NotFoundError, match=r"'tiny' has no program 'embed'; it has both, center"):
        engine.predict(ROWS, program="embed")
    with pytest.raises(InputError, match=r"has inputs \['n', 'x'\]: hand in a dict of arrays"):
        engine.predict(ROWS, program="both")


def test_many_threads_one_engine(engine):
    """16 threads with batches of all sizes and programs: every answer is its caller's own."""

    def call(seed):
        rng = np.random.default_rng(seed)
        for _ in range(40):
            x = rng.integers(-9, 9, (int(rng.integers(0, 11)), 4)).astype(np.float32)
            if rng.random() < 0.3:
                n = rng.integers(0, 99, len(x)).astype(np.int32)
                answer = engine.run({"x": x, "n": n}, program="both")
                np.testing.assert_array_equal(answer["n"], n + 1)
                np.testing.assert_array_equal(answer["y"], x @ W)
            else:
                np.testing.assert_array_equal(engine.predict(x), x @ W)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(16)))


def test_a_bucket_that_threads_race_for_is_loaded_once(tiny_bundle, monkeypatch, tmp_path):
    """All but one wait for the one that loads, and all are answered."""
    loads: Counter[int] = Counter()
    compile_one = xla.XlaClient.compile

    def slowly(self, stablehlo):
        loads[hash(stablehlo)] += 1
        time.sleep(0.05)
        return compile_one(self, stablehlo)

    monkeypatch.setattr(xla.XlaClient, "compile", slowly)
    engine = runtime.load(tiny_bundle, tier="program", cache_dir=tmp_path)
    together = threading.Barrier(16)

    def call(rows):
        together.wait(timeout=60)
        np.testing.assert_array_equal(engine.predict(ROWS[:rows]), ROWS[:rows] @ W)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, [2, 3] * 8))
    assert set(loads.values()) == {1}


def test_answers_outlive_the_engine(tiny_bundle):
    """After close() answers stay valid and calls are refused."""
    engine = runtime.load(tiny_bundle)
    answers = [engine.predict(ROWS[:2]), engine.predict(ROWS[:3])]
    engine.close()
    with pytest.raises(ModelError, match="the engine is closed"):
        engine.predict(ROWS)
    del engine
    for rows, answer in zip((2, 3), answers, strict=True):
        assert not answer.flags.writeable
        np.testing.assert_array_equal(answer, ROWS[:rows] @ W)


def in_new_process(code, *arguments):
    """Stdout of a process of its own, which forks without jax's threads around."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORK = """
import os, sys
import numpy as np
from maas_sdk import runtime
x = np.ones((3, 4), np.float32)
{parent}
pid = os.fork()
if pid == 0:
    try:
        {child}
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_loading_after_a_fork(tiny_bundle):
    """The runtime is imported before the fork and the model loaded after it, as in gunicorn."""
    child = "print(runtime.load(sys.argv[1]).predict(x)[2].tolist(), flush=True)"
    out = in_new_process(FORK.format(parent="", child=child), tiny_bundle)
    assert out == "[18.0, 22.0, 26.0]\n"


PREPARED = """
import os, sys, threading
import numpy as np
from maas_sdk.runtime.load import Prepared
x = np.ones((3, 4), np.float32)
def threads():
    tasks = "/proc/self/task"
    return len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count()
before = threads()  # numpy's BLAS has some
prepared = Prepared(sys.argv[1], check=sys.argv[2], tier=sys.argv[3], cache_dir=sys.argv[4])
print("prepared", threads() - before, flush=True)
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            engine = prepared.load()
            engine.prime()
            stages = sorted(engine.report.timings_s)
            print(engine.report.tier, engine.predict(x)[2].tolist(), *stages, flush=True)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
engine = prepared.load()
print("parent", engine.predict(x)[2].tolist(), flush=True)
"""


@pytest.mark.parametrize("tier", ["executable", "program"])
@pytest.mark.parametrize("check", ["before", "deferred"])
def test_prepared_once_loaded_by_many(check, tier, tiny_bundle, tmp_path):
    """What is opened before the fork starts no thread, and each child makes its own engine of it.

    Every stage is in every child's report, also those that took place before the fork.
    """
    out = in_new_process(PREPARED, tiny_bundle, check, tier, tmp_path / "cache").splitlines()
    stages = "bundle client executable host weights"
    assert out == [
        "prepared 0",
        *[f"{tier} [18.0, 22.0, 26.0] {stages}"] * 3,
        "parent [18.0, 22.0, 26.0]",
    ]


def test_an_engine_from_before_a_fork_is_refused(tiny_bundle):
    """A sentence instead of a hang."""
    parent = "engine = runtime.load(sys.argv[1]); engine.predict(x)"
    out = in_new_process(FORK.format(parent=parent, child="engine.predict(x)"), tiny_bundle)
    assert out.startswith("ModelError this process was forked from ")
    assert "load the model in the process that answers, after the fork" in out
