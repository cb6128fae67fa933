"""The launcher with programs of a line or two, which need no jax."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from maas_sdk.distributed.launcher import LOST_EXIT_CODE, launch
from maas_sdk.errors import ConfigError, DeadlineError, ModelError

SHOW = """
import os, sys
print(sys.argv[1:], os.environ["MAAS_PROCESS_ID"], os.environ["MAAS_PROCESS_COUNT"])
print(os.environ["MAAS_COORDINATOR"], os.environ["JAX_NUM_CPU_DEVICES"], file=sys.stderr)
print(repr(os.environ["XLA_FLAGS"]), os.environ["EXTRA"])
"""


def test_processes_are_told_who_they_are(tmp_path: Path) -> None:
    """Arguments, ids, one coordinator, devices; outputs of both streams come back and are kept."""
    script = tmp_path / "show.py"
    script.write_text(SHOW)
    flags = "--xla_force_host_platform_device_count=8 --xla_cpu_max_isa=AVX2"
    done = launch(
        script,
        "--fast",
        processes=3,
        devices_per_process=2,
        environment={"EXTRA": "more", "XLA_FLAGS": flags},
        log_folder=tmp_path / "logs",
    )
    coordinators = set()
    for i, output in enumerate(done.outputs):
        first, second, third = output.splitlines()
        assert first == f"['--fast'] {i} 3"
        address, devices = second.split()
        coordinators.add(address)
        assert devices == "2"
        assert third == "'--xla_cpu_max_isa=AVX2' more"
        assert (tmp_path / "logs" / f"process-{i}.log").read_text() == output
    assert len(coordinators) == 1
    assert done.restarts == 0


def test_when_one_dies_the_others_are_stopped_and_it_is_named() -> None:
    """SIGKILL in one, a stubborn sleeper in the other: neither is left, the error tells all."""
    program = """
import os, signal, time
print("pid", os.getpid())
if os.environ["MAAS_PROCESS_ID"] == "1":
    print("last words")
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""
    started = time.monotonic()
    with pytest.raises(
        ModelError,
        match=r"(?s)process 1 of 2 was killed by SIGKILL; the others were stopped.*last words",
    ) as caught:
        launch(["-c", program])
    took_s = time.monotonic() - started
    print(f"all gone after {took_s:.1f} s")
    assert took_s < 60
    assert caught.value.evidence["process"] == 1
    assert caught.value.evidence["exit_code"] == -signal.SIGKILL
    outputs = caught.value.evidence["outputs"]
    assert isinstance(outputs, (list, tuple))
    for output in outputs:
        with pytest.raises(ProcessLookupError):
            os.kill(int(output.split()[1]), 0)


def test_the_cause_is_named_and_not_who_left_because_of_it() -> None:
    """A process that ended for a lost one is not the error's, even when it is gone first."""
    program = f"""
import os, sys, time
if os.environ["MAAS_PROCESS_ID"] == "0":
    sys.exit({LOST_EXIT_CODE})
time.sleep(1)
sys.exit("no such file")
"""
    with pytest.raises(ModelError, match=r"(?s)process 1 of 2 ended with code 1; .*no such file"):
        launch(["-c", program])


def test_all_are_started_again_when_asked(tmp_path: Path) -> None:
    """The first time one fails, the second time none does."""
    program = """
import os, pathlib, sys
mark = pathlib.Path(sys.argv[1]) / os.environ["MAAS_PROCESS_ID"]
again = mark.exists()
mark.touch()
if not again:
    sys.exit(3)
print("done")
"""
    with pytest.raises(ModelError, match="ended with code 3"):
        launch(["-c", program], str(tmp_path), processes=1)
    (tmp_path / "0").unlink()
    done = launch(["-c", program], str(tmp_path), processes=1, restarts=2)
    assert (done.restarts, done.outputs) == (1, ("done\n",))


def test_time_is_limited() -> None:
    """What hangs is stopped, with what it said last."""
    program = "import time; print('waiting'); time.sleep(600)"
    with pytest.raises(
        DeadlineError, match=r"(?s)2 processes were not done within timeout_s .*said last:\nwaiting"
    ):
        launch(["-c", program], timeout_s=1.5)


def test_numbers_below_one_are_refused() -> None:
    """Processes and devices."""
    with pytest.raises(ConfigError, match="launch: processes: expected 1 or more, got 0"):
        launch("x.py", processes=0)
    with pytest.raises(ConfigError, match="launch: devices_per_process: expected 1 or more, got 0"):
        launch("x.py", devices_per_process=0)
