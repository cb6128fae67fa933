"""Local launcher of several processes of one program, to try and test multi-host runs.

The rule it keeps: either all processes end well, or none is left: when one ends with an error, the
others are stopped, and the error names the process, its exit and its last output. This file imports
nothing of jax: the processes do.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from maas_sdk.errors import ConfigError, DeadlineError, MachineError, ModelError

__all__ = ["LOST_EXIT_CODE", "Launched", "launch"]

# Of a process that ended because another one was lost. sysexits.h: EX_TEMPFAIL, "the user is
# invited to retry".
LOST_EXIT_CODE: Final = 75

# Once one of them is gone, the others may end by themselves for so long, and then, after SIGTERM,
# for so long again until SIGKILL.
_FAREWELL_S: Final = 3.0
_GRACE_S: Final = 5.0
_POLL_S: Final = 0.05
_LAST_LINES: Final = 20
_DEVICE_COUNT: Final = re.compile(r"--xla_force_host_platform_device_count=\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """Output of the processes, all of which ended well."""

    # stdout and stderr together, by process.
    outputs: tuple[str, ...]
    wall_s: float
    # How often all were started again.
    restarts: int


def launch(
    program: str | Path | Sequence[str],
    *arguments: str,
    processes: int = 2,
    devices_per_process: int = 1,
    environment: Mapping[str, str] | None = None,
    log_folder: Path | None = None,
    timeout_s: float | None = None,
    restarts: int = 0,
) -> Launched:
    """Run one Python program in several processes that find each other, on CPU devices.

    The program says ``with join() as here:`` (``distributed.hosts``).

    Args:
        program: a script's path; or words for the interpreter, such as ``["-m", "my.module"]``.
        arguments: of the program.
        processes: how many.
        devices_per_process: CPU devices that each of them has.
        environment: variables besides this process' own.
        log_folder: where each process' output is kept, as ``process-0.log`` and so on; None keeps
            it for the result alone.
        timeout_s: None waits for ever.
        restarts: when one is lost, start all again up to so many times.

    Raises:
        ConfigError: a number below 1.
        MachineError: no two ports in a row are free.
        ModelError: a process ended with an error; ``evidence`` has ``process``, ``exit_code``
            (-9 for SIGKILL), ``output`` and ``outputs`` of all.
        DeadlineError: they were not done in time, and have been stopped.
    """
    for name, value in (("processes", processes), ("devices_per_process", devices_per_process)):
        if value < 1:
            raise ConfigError(f"launch: {name}: expected 1 or more, got {value}")
    words = [str(program)] if isinstance(program, str | Path) else list(program)
    command = [sys.executable, *words, *arguments]
    started = time.monotonic()
    deadline = None if timeout_s is None else started + timeout_s
    with contextlib.ExitStack() as stack:
        if log_folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maas-launch-")))
        else:
            folder = Path(log_folder)
            folder.mkdir(parents=True, exist_ok=True)
        logs = [folder / f"process-{i}.log" for i in range(processes)]
        for attempt in range(restarts + 1):
            try:
                own = _variables(processes, devices_per_process, environment)
                _run(command, own, logs, deadline)
                break
            except ModelError:
                if attempt == restarts:
                    raise
        return Launched(outputs=_read(logs), wall_s=time.monotonic() - started, restarts=attempt)


def _run(
    command: list[str],
    variables: list[dict[str, str]],
    logs: list[Path],
    deadline: float | None,
) -> None:
    """Run all processes once, to their end."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for own, log in zip(variables, logs, strict=True):
            with log.open("wb") as out:
                running.append(
                    subprocess.Popen(
                        command,
                        env=own,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                    )
                )
        while True:
            codes = [process.poll() for process in running]
            if any(codes):
                _wait(running, _FAREWELL_S)
                raise _failure(codes, [process.poll() for process in running], logs)
            if None not in codes:
                return
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineError(
                    f"launch: {len(running)} processes were not done within timeout_s and have "
                    f"been stopped; process 0 said last:\n{_tail(_read(logs)[0])}",
                    outputs=_read(logs),
                )
            time.sleep(_POLL_S)
    finally:
        for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
            for process in running:
                end(process)
            _wait(running, _GRACE_S)


def _wait(running: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))


def _failure(
    first: Sequence[int | None], codes: Sequence[int | None], logs: Sequence[Path]
) -> ModelError:
    """Return the error of the process that failed first; the others ended because of it.

    Args:
        first: how processes had ended when that was seen; one that fails may take longer to be
            gone than those that it has told.
        codes: how they had ended a little later.
        logs: of each.
    """
    causes = [
        i
        for seen in (first, codes)
        for i, code in enumerate(seen)
        if code not in (None, 0, LOST_EXIT_CODE)
    ]
    process = causes[0] if causes else next(i for i, code in enumerate(first) if code)
    code = codes[process] or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    outputs = _read(logs)
    return ModelError(
        f"process {process} of {len(codes)} {how}; the others were stopped. It said last:\n"
        f"{_tail(outputs[process]) or '(nothing)'}",
        process=process,
        exit_code=code,
        output=outputs[process],
        outputs=outputs,
    )


def _variables(
    processes: int, devices_per_process: int, environment: Mapping[str, str] | None
) -> list[dict[str, str]]:
    given = {**os.environ, **(environment or {})}
    # The older spelling of the number of devices contradicts the newer one.
    given["XLA_FLAGS"] = _DEVICE_COUNT.sub("", given.get("XLA_FLAGS", "")).strip()
    given |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices_per_process),
        "PYTHONUNBUFFERED": "1",
        "MAAS_COORDINATOR": f"127.0.0.1:{_free_port()}",
        "MAAS_PROCESS_COUNT": str(processes),
    }
    return [{**given, "MAAS_PROCESS_ID": str(i)} for i in range(processes)]


def _free_port() -> int:
    """Return a free port whose successor, on which the watchdog listens, is free too."""
    for _ in range(100):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port: int = first.getsockname()[1]
            stack.enter_context(socket.create_server(("127.0.0.1", port + 1)))
            return port
    raise MachineError("launch: no two ports in a row are free on this machine")


def _read(logs: Sequence[Path]) -> tuple[str, ...]:
    return tuple(log.read_text(encoding="utf-8", errors="replace") for log in logs)


def _tail(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-_LAST_LINES:])
