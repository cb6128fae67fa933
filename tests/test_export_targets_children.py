from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are a package of their own
import pytest

import maas_sdk
from maas_sdk.errors import ExportError
from maas_sdk.export.targets.children import Child, run_children
from maas_sdk.export.targets.names import TARGETS, default_targets, find_targets
from maas_sdk.runtime import host


def waiting(tmp_path: Path, label: str) -> Child:
    """A child that waits forever: its program is a pipe that nobody writes to."""
    pipe = tmp_path / f"{label}.pipe"
    os.mkfifo(pipe)
    item = {"name": "predict-b1", "program": str(pipe), "executable": str(tmp_path / "never")}
    return Child(label=label, job={"work": "compile", "items": [item], "custom_calls": []})


def failing() -> Child:
    item = {"name": "predict-b1", "program": "/nonexistent", "executable": "/nonexistent"}
    return Child(label="broken", job={"work": "compile", "items": [item], "custom_calls": []})


def run(children, timeout_s=60.0):
    return run_children(children, timeout_s=timeout_s)


def children_of(process: psutil.Process) -> list[psutil.Process]:
    return [p for p in process.children(recursive=True) if "child.py" in " ".join(p.cmdline())]


def is_ours(process: psutil.Process) -> bool:
    try:
        return any(word.endswith("targets/child.py") for word in process.cmdline())
    except psutil.Error:
        return False


def test_a_failing_child_brings_its_stderr_and_ends_the_others(tmp_path):
    """The error names the target and shows the end of what the child wrote; nobody is left."""
    with pytest.raises(ExportError, match=r"(?s)broken: compile ended with status 1.*nonexistent"):
        run([waiting(tmp_path, "patient"), failing()])
    assert children_of(psutil.Process()) == []


def test_a_custom_call_that_jaxlib_does_not_ship(tmp_path):
    """A kernel of another package is unknown where the program is served; the error names it."""
    job = {"work": "compile", "items": [], "custom_calls": ["my_kernel"]}
    with pytest.raises(ExportError, match=r"cpu: jaxlib \S+ ships no function my_kernel"):
        run([Child(label="cpu", job=job)])


def test_a_child_past_its_time_is_killed(tmp_path):
    """The limit is in the message, with the argument that raises it."""
    with pytest.raises(ExportError, match=r"slow: compile took longer than 0.5 s.*timeout_s="):
        run([waiting(tmp_path, "slow")], timeout_s=0.5)
    assert children_of(psutil.Process()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_children_end_with_us(tmp_path, number):
    """Ctrl-C kills the children; even ``kill -9`` of the parent leaves none behind."""
    pipe = tmp_path / "never.pipe"
    os.mkfifo(pipe)
    script = tmp_path / "parent.py"
    script.write_text(
        "import signal\n"
        # Whoever runs tests in the background has Ctrl-C ignored, which children inherit.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from maas_sdk.export.targets.children import Child, run_children\n"
        f"item = {{'name': 'p', 'program': {str(pipe)!r}, 'executable': 'never'}}\n"
        "job = {'work': 'compile', 'items': [item], 'custom_calls': []}\n"
        "run_children([Child(label='c', job=job)], timeout_s=120.0)\n"
    )
    package = str(Path(maas_sdk.__path__[0]).absolute().parent)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": package},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        # Not what the imports of the parent may start for a moment.
        while not (found := [p for p in children_of(psutil.Process(parent.pid)) if is_ours(p)]):
            assert parent.poll() is None, "the parent ended before it had a child"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        parent.send_signal(number)
        assert parent.wait(30) != 0
        _, alive = psutil.wait_procs(found, timeout=30)
        assert alive == []
    finally:
        parent.kill()
        parent.wait()


def test_default_targets_are_this_machines():
    """Every default target can be compiled here, and none is listed that cannot."""
    names = default_targets()
    assert names
    assert [spec.name for spec in find_targets(None)] == list(names)
    assert {TARGETS[name].arch for name in names} == {host.machine()}


def test_targets_that_cannot_be_compiled_here():
    """An unknown name lists the known ones; another architecture says which machine this is."""
    with pytest.raises(ExportError, match=r"unknown target 'tpu'; known are cpu-x86_64-avx512"):
        find_targets(["tpu"])
    other = "cpu-aarch64" if host.machine() == "x86_64" else "cpu-x86_64-avx2"
    with pytest.raises(ExportError, match=rf"target {other}: it is for .* this machine is"):
        find_targets([other])
    assert find_targets([]) == ()
