"""Processes of one run: they join, know their index, and end together.

``jax.distributed`` connects the processes of a run, one per host as a rule. After that every
process runs the same program: ``jax.devices()`` are those of all of them, arrays lie over all, and
each process feeds the rows that are its own. On CPUs the collectives go through gloo.

The rule it keeps: no process is left behind. When one is killed, fails or falls silent, every other
one ends within ``lost_after_s`` and a few seconds, with a sentence that names it and exit code
``LOST_EXIT_CODE``. A training run that is started again goes on from its last checkpoint.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

import jax

from maas_sdk.distributed.launcher import LOST_EXIT_CODE
from maas_sdk.distributed.watchdog import Lost, Watchdog
from maas_sdk.errors import ConfigError, MachineError

__all__ = ["ENVIRONMENT", "LOST_EXIT_CODE", "Hosts", "ProcessInfo", "join"]

# Variable → what it says. The launcher sets them; so may a job script.
ENVIRONMENT: Final[Mapping[str, str]] = {
    "MAAS_COORDINATOR": "host:port of process 0",
    "MAAS_PROCESS_COUNT": "how many processes there are",
    "MAAS_PROCESS_ID": "which one this is, from 0",
}

# jax's own heartbeats are the second line: they speak after the watchdog would have.
_SECOND_LINE: Final = 1.5
# How long a broken collective waits for the watchdog to say whose fault it is.
_VERDICT_S: Final = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hosts:
    """Processes that take part in a run."""

    # "host:port" of process 0, as all others reach it; any free port.
    coordinator: str
    process_count: int
    # Of this process, 0 to process_count - 1.
    process_id: int
    # Where process 0 listens for the watch; 0 takes the port after the coordinator's.
    watch_port: int = 0
    # How long processes wait for one another at the start.
    join_timeout_s: float = 120.0
    # Silence after which a process counts as lost; one that is killed is noticed at once.
    lost_after_s: float = 30.0
    # How long a process that is done waits for the others to be.
    leave_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_535:
            raise ConfigError(
                f'coordinator: expected "host:port" of process 0, got {self.coordinator!r}'
            )
        if not 0 <= self.process_id < self.process_count:
            raise ConfigError(
                f"process_id: expected 0 to process_count - 1, got {self.process_id} of "
                f"{self.process_count}"
            )
        for name in ("join_timeout_s", "lost_after_s", "leave_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0 s, got {getattr(self, name)}")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self | None:
        """Read the hosts from ``ENVIRONMENT``; None when nothing is set: a single process.

        Raises:
            ConfigError: some of the variables are there and others are not, or hold no number.
        """
        found = os.environ if environ is None else environ
        missing = [name for name in ENVIRONMENT if name not in found]
        if len(missing) == len(ENVIRONMENT):
            return None
        if missing:
            lacking = "; ".join(f"{name}, {ENVIRONMENT[name]}" for name in missing)
            raise ConfigError(f"the environment names other processes, but lacks {lacking}")
        numbers = {}
        for name in ("MAAS_PROCESS_COUNT", "MAAS_PROCESS_ID"):
            if not found[name].isdecimal():
                raise ConfigError(f"{name}: expected a number, got {found[name]!r}")
            numbers[name] = int(found[name])
        return cls(
            coordinator=found["MAAS_COORDINATOR"],
            process_count=numbers["MAAS_PROCESS_COUNT"],
            process_id=numbers["MAAS_PROCESS_ID"],
        )

    @property
    def watch_address(self) -> str:
        """Address at which the watchdogs connect."""
        host, _, port = self.coordinator.rpartition(":")
        return f"{host}:{self.watch_port or int(port) + 1}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessInfo:
    """Index of this process in the run."""

    index: int
    count: int

    @property
    def is_first(self) -> bool:
        """True for the process that writes what should be written once."""
        return self.index == 0

    def rows(self, batch_size: int) -> slice:
        """Return this process' rows of a batch: one contiguous run, in the order of the processes.

        Args:
            batch_size: rows over all processes.

        Raises:
            ConfigError: they cannot be shared out evenly.
        """
        if batch_size < 1 or batch_size % self.count:
            raise ConfigError(
                f"batch_size {batch_size} cannot be shared evenly by {self.count} processes",
                batch_size=batch_size,
            )
        share = batch_size // self.count
        return slice(self.index * share, (self.index + 1) * share)


@contextlib.contextmanager
def join(hosts: Hosts | None = None) -> Iterator[ProcessInfo]:
    """Take part in a run for the length of a ``with`` block.

    It must come before anything else that uses a device. Without ``hosts``, and with none in the
    environment, this is the only process and nothing is joined: one program serves both.

    Args:
        hosts: None asks ``Hosts.from_environment``.

    Raises:
        ConfigError: jax has begun already.
        MachineError: not all processes came in time; with which.
    """
    hosts = Hosts.from_environment() if hosts is None else hosts
    if hosts is None:
        yield ProcessInfo(index=0, count=1)
        return
    here = ProcessInfo(index=hosts.process_id, count=hosts.process_count)
    watchdog = Watchdog(
        hosts.watch_address,
        process_id=hosts.process_id,
        process_count=hosts.process_count,
        lost_after_s=hosts.lost_after_s,
        on_lost=lambda lost: _end(here, lost),
    )
    started = time.monotonic()
    watchdog.meet(hosts.join_timeout_s)
    try:
        _initialize(hosts, hosts.join_timeout_s - (time.monotonic() - started))
        yield here
    except SystemExit as end:
        if end.code in (None, 0):
            watchdog.leave()
        else:
            _fail(watchdog, f"SystemExit({end.code})", end.code)
        raise
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            # A partner's end breaks collectives too: if it was that, the watchdog ends this here.
            time.sleep(_VERDICT_S)
        _fail(watchdog, f"{type(error).__name__}: {error}", 1)
        raise
    watchdog.leave()


def _initialize(hosts: Hosts, left_s: float) -> None:
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            num_processes=hosts.process_count,
            process_id=hosts.process_id,
            initialization_timeout=max(1, round(left_s)),
            heartbeat_timeout_seconds=max(1, round(hosts.lost_after_s * _SECOND_LINE)),
            shutdown_timeout_seconds=max(1, round(hosts.leave_timeout_s)),
        )
    except RuntimeError as error:
        # XLA's own error is of the network; a plain one says that jax was used too early.
        of_network = isinstance(error, jax.errors.JaxRuntimeError)
        raise (MachineError if of_network else ConfigError)(
            f"process {hosts.process_id} of {hosts.process_count} cannot join "
            f"{hosts.coordinator}: {error}"
        ) from error


def _fail(watchdog: Watchdog, failure: str, code: object) -> None:
    """Tell the others, and end this process without waiting for them.

    jax's own farewell, at exit, is a barrier that the others will never reach.
    """
    watchdog.leave(failure[:2000])
    if jax.distributed.is_initialized():
        # Handlers run last in, first out: this one comes before jax's.
        atexit.register(_exit, code if isinstance(code, int) else 1)


def _end(here: ProcessInfo, lost: Lost) -> None:
    """End this process from the watchdog's thread, whatever its program waits for."""
    message = (
        f"maas_sdk: process {lost.process_id} of {here.count} is gone: {lost.reason}. "
        f"Process {here.index} cannot go on without it and ends with exit code {LOST_EXIT_CODE}. "
        "Start all processes again: a run with checkpoints goes on from its last one.\n"
    )
    # Past Python's own buffers first: what comes next may take the interpreter's time.
    os.write(2, message.encode())
    _exit(LOST_EXIT_CODE)


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
