"""Runs of several real processes on this machine, joined by ``jax.distributed`` and gloo."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from maas_sdk.distributed.hosts import ENVIRONMENT, Hosts, ProcessInfo, join
from maas_sdk.distributed.launcher import LOST_EXIT_CODE, _free_port, launch
from maas_sdk.errors import ConfigError, ModelError

# Softmax regression on the digits, 64 rows a step over 4 devices; each process reads its own part.
PROGRAM = """
import os, signal, sys, time
import jax, jax.numpy as jnp, numpy as np
from sklearn.datasets import load_digits
from maas_sdk.distributed.hosts import join
from maas_sdk.sharding.layout import host_part, place, place_batch, replicated
from maas_sdk.sharding.mesh import make_mesh

steps, what, when = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with join() as here:
    mesh = make_mesh({"data": 4})
    assert host_part(mesh) == (here.index, here.count)
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)

    def loss(w, x, y):
        return -jax.nn.log_softmax(x @ w)[jnp.arange(len(y)), y].mean()

    @jax.jit
    def step(w, x, y):
        value, grad = jax.value_and_grad(loss)(w, x, y)
        return w - 0.5 * grad, value

    w = place(np.zeros((64, 10), np.float32), replicated(mesh))
    order = np.random.default_rng(0).permutation(1728)
    read = []
    for i in range(steps):
        rows = order[64 * (i % 27):][:64][here.rows(64)]
        read += rows.tolist()
        batch = place_batch(mesh, (images[rows], digits.target[rows]))
        w, value = step(w, *batch)
        print("step", i, repr(float(value)), flush=True)
        if i == when:
            if what == "raise" and here.index == 1:
                raise ValueError("the disk of process 1 is full")
            if what == "wait":
                print("ready", os.getpid(), flush=True)
    print("read", *read, flush=True)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program as a script."""
    script = tmp_path_factory.mktemp("hosts") / "regression.py"
    script.write_text(PROGRAM)
    return script


def losses(output: str) -> list[float]:
    return [float(found) for found in re.findall(r"^step \d+ (\S+)$", output, re.M)]


def rows_read(output: str) -> list[int]:
    [found] = re.findall(r"^read (.*)$", output, re.M)
    return [int(row) for row in found.split()]


def same_as_one_process(
    program: Path,
    processes: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # This process is the one, on four of its devices.
    monkeypatch.setattr(sys, "argv", [str(program), "20", "", "0"])
    runpy.run_path(str(program))
    one = capsys.readouterr().out
    many = launch(
        program,
        *("20", "", "0"),
        processes=processes,
        devices_per_process=4 // processes,
        timeout_s=300,
    )
    expected = losses(one)
    assert len(expected) == 20
    assert expected[-1] < 0.6 * expected[0]
    for output in many.outputs:
        # Sums over devices are the same, in another order.
        np.testing.assert_allclose(losses(output), expected, rtol=1e-5)
    assert len({tuple(losses(output)) for output in many.outputs}) == 1
    parts = [set(rows_read(output)) for output in many.outputs]
    assert all(len(part) == 20 * 64 // processes for part in parts)
    assert set.union(*parts) == set(rows_read(one))


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same devices, same batches, loss by loss within 1e-5; each reads its half, and only that."""
    same_as_one_process(program, 2, monkeypatch, capsys)


@pytest.mark.heavy
def test_four_processes_have_the_losses_of_one(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same with a device in each of four."""
    same_as_one_process(program, 4, monkeypatch, capsys)


def ends_when_killed(program: Path, processes: int, victim: int, sign: signal.Signals) -> None:
    """Start processes as a job script would, kill one, and see the others end by themselves."""
    port = _free_port()
    variables = {
        **{k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
        "JAX_NUM_CPU_DEVICES": str(4 // processes),
        "MAAS_COORDINATOR": f"127.0.0.1:{port}",
        "MAAS_PROCESS_COUNT": str(processes),
    }
    with ExitStack() as stack:
        running = []
        for i in range(processes):
            process = subprocess.Popen(
                [sys.executable, str(program), "1000000", "wait", "3"],
                env={**variables, "MAAS_PROCESS_ID": str(i)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            running.append(process)
        for process in running:
            assert process.stdout is not None
            assert any(line.startswith("ready") for line in process.stdout)
        running[victim].send_signal(sign)
        killed = time.monotonic()
        others = [process for i, process in enumerate(running) if i != victim]
        outputs = [process.communicate(timeout=60)[0] for process in others]
        took_s = time.monotonic() - killed
    print(f"{processes} processes, {victim} {sign.name}: the others gone after {took_s:.1f} s")
    assert took_s < 60
    for process, output in zip(others, outputs, strict=True):
        assert f"maas_sdk: process {victim} of {processes} is gone: " in output
        assert "Start all processes again" in output
        # The end of process 0 is also noticed by jax, whose own way to end is SIGABRT.
        expected = {LOST_EXIT_CODE} if victim else {LOST_EXIT_CODE, -signal.SIGABRT}
        assert process.returncode in expected, output


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_when_one_is_killed_the_other_ends_by_itself(program: Path, victim: int) -> None:
    """Within 60 s of SIGKILL, with no launcher around, and with a sentence that names the dead."""
    ends_when_killed(program, 2, victim, signal.SIGKILL)


@pytest.mark.heavy
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 2])
def test_when_one_of_four_is_gone_the_others_end(
    program: Path, victim: int, sign: signal.Signals
) -> None:
    """The same with four, and for a process that only stands still."""
    ends_when_killed(program, 4, victim, sign)


def test_a_failure_in_one_is_told_by_all(program: Path) -> None:
    """An exception ends the run within 60 s; the launcher's error and the others' logs say it."""
    with pytest.raises(
        ModelError, match=r"(?s)process 1 of 2 ended with code 1; .*disk of pro"
    ) as e:
        launch(program, "1000000", "raise", "3", devices_per_process=2, timeout_s=300)
    assert (
        "process 1 of 2 is gone: it failed: ValueError: the disk of process 1 is full"
        in e.value.evidence["outputs"][0]
    )


def test_without_others_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """One program serves one process and many."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with join() as here:
        assert here == ProcessInfo(index=0, count=1)
        assert here.is_first
        assert here.rows(7) == slice(0, 7)


def test_rows_are_shared_out_in_order() -> None:
    """Every row once; a batch that cannot be shared evenly is refused."""
    parts = [ProcessInfo(index=i, count=3).rows(12) for i in range(3)]
    assert parts == [slice(0, 4), slice(4, 8), slice(8, 12)]
    with pytest.raises(ConfigError, match="batch_size 13 cannot be shared evenly by 3 processes"):
        ProcessInfo(index=0, count=3).rows(13)


def test_the_environment_names_the_others() -> None:
    """All variables or none; each that is missing or wrong is named with what it says."""
    environ = {
        "MAAS_COORDINATOR": "10.0.0.1:1234",
        "MAAS_PROCESS_COUNT": "4",
        "MAAS_PROCESS_ID": "3",
    }
    found = Hosts.from_environment(environ)
    assert found == Hosts(coordinator="10.0.0.1:1234", process_count=4, process_id=3)
    assert found.watch_address == "10.0.0.1:1235"
    assert Hosts.from_environment({"PATH": "/bin"}) is None
    with pytest.raises(ConfigError, match="lacks MAAS_PROCESS_ID, which one this is, from 0"):
        Hosts.from_environment({k: v for k, v in environ.items() if k != "MAAS_PROCESS_ID"})
    with pytest.raises(ConfigError, match="MAAS_PROCESS_ID: expected a number, got '-1'"):
        Hosts.from_environment({**environ, "MAAS_PROCESS_ID": "-1"})
    with pytest.raises(ConfigError, match="expected 0 to process_count - 1, got 4 of 4"):
        Hosts.from_environment({**environ, "MAAS_PROCESS_ID": "4"})
    with pytest.raises(ConfigError, match=r"expected \"host:port\" of process 0, got '10.0.0.1'"):
        Hosts.from_environment({**environ, "MAAS_COORDINATOR": "10.0.0.1"})
    with pytest.raises(ConfigError, match="lost_after_s: expected more than 0 s, got 0"):
        Hosts(coordinator="a:1", process_count=1, process_id=0, lost_after_s=0)


def test_a_process_that_has_begun_already_is_refused() -> None:
    """jax must not have looked at its devices: that is said, not a hang."""
    import jax

    assert jax.devices()
    hosts = Hosts(coordinator=f"127.0.0.1:{_free_port()}", process_count=1, process_id=0)
    refused = pytest.raises(ConfigError, match=r"process 0 of 1 cannot join .* must be called befo")
    with refused, join(hosts):
        raise AssertionError("never reached")
