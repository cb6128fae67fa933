"""Detection of lost processes in a run, by the operating system and by a clock.

A collective whose partner is gone may wait for ever. jax's own heartbeats (0.10.2, alone, with
their ``jax_enable_recoverability`` too) say less and later: they abort the others (SIGABRT) with 14
to 36 lines of C++ that never name the end of process 0 or what a process failed of, and notice a
killed process only when its time is over. So beside jax, each process holds one TCP connection to
the first one:

- a process that is killed has its connections closed by its system: the others know at once;
- a lost machine, or a process that hangs, is silent: known after ``lost_after_s``;
- a process that fails sends its error before it ends.

The first process passes news on to the others. A message is one line of JSON.

The rule it keeps: every process learns of a loss, or of the first process' own end, once and in a
separate thread, so that it does not matter what the program waits for.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from maas_sdk.errors import ConfigError, MachineError

__all__ = ["Lost", "Watchdog"]

# A line longer than this is from nobody that speaks this protocol.
_MAX_LINE: Final = 16_384
# Heartbeats in ``lost_after_s``: one that is late is not a loss.
_BEATS: Final = 6
_LOOPBACK: Final = ("127.0.0.1", "localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """A lost process and the reason, in words."""

    process_id: int
    reason: str


@dataclass(kw_only=True)
class _Link:
    """One connection, as the watchdog's thread sees it."""

    sock: socket.socket
    # None until it has said who it is.
    process_id: int | None
    heard_at: float
    who: str = ""
    done: bool = False
    received: bytearray = field(default_factory=bytearray)


class Watchdog:
    """One process' end of the watch.

    Args:
        address: "host:port" where the first process listens.
        process_id: of this process; 0 listens.
        process_count: of all processes.
        lost_after_s: silence after which a process is lost.
        on_lost: called once, in the watch's thread.
    """

    def __init__(
        self,
        address: str,
        *,
        process_id: int,
        process_count: int,
        lost_after_s: float,
        on_lost: Callable[[Lost], None],
    ) -> None:
        host, _, port = address.rpartition(":")
        self._address = host.strip("[]"), int(port)
        self._id = process_id
        self._count = process_count
        self._lost_after_s = lost_after_s
        self._on_lost = on_lost
        self._links: list[_Link] = []
        self._lock = threading.Lock()
        self._met = threading.Event()
        self._stop = threading.Event()
        self._refused = ""
        self._over = False
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._watch, name="maas-watchdog", daemon=True)

    def meet(self, timeout_s: float) -> None:
        """Wait until all processes are there, then go on watching.

        Raises:
            ConfigError: two processes have the same id, or another count.
            MachineError: they are not there within ``timeout_s``, with the missing ones; or the
                port is taken.
        """
        deadline = time.monotonic() + timeout_s
        if self._id == 0:
            self._listen()
        else:
            self._connect(deadline, timeout_s)
        self._thread.start()
        met = self._met.wait(max(0.0, deadline - time.monotonic()))
        if self._refused or not met:
            message = self._refused or self._missing(timeout_s)
            self.leave()
            kind = ConfigError if self._refused else MachineError
            raise kind(message, process_id=self._id, process_count=self._count)

    def leave(self, failure: str | None = None) -> None:
        """Say goodbye, or report a failure, and stop watching."""
        said = {"bye": True} if failure is None else {"failed": failure}
        with self._lock:
            self._over = True
            for link in self._links:
                _send(link, said)
        self._stop.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(self._lost_after_s)

    def _listen(self) -> None:
        host, port = self._address
        # An address of this machine may be one that only others know it by (NAT, containers), so
        # it is heard on all, except where it is clear that there is nobody else.
        bound = host if host in _LOOPBACK else ""
        try:
            self._listener = socket.create_server((bound, port), backlog=self._count)
        except OSError as error:
            raise MachineError(
                f"process 0 cannot listen on port {port} ({error.strerror}); choose another "
                "watch_port, the same in every process",
                port=port,
            ) from error
        self._listener.setblocking(False)
        if self._count == 1:
            self._met.set()

    def _connect(self, deadline: float, timeout_s: float) -> None:
        while True:
            try:
                sock = socket.create_connection(self._address, timeout=2)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise MachineError(
                        f"process {self._id} of {self._count} found no process 0 at "
                        f"{self._address[0]}:{self._address[1]} within {timeout_s:g} s ({error}); "
                        "start it too, and let its port be reached from here",
                    ) from error
                time.sleep(0.1)
        link = _Link(sock=sock, process_id=0, heard_at=time.monotonic(), who="process 0")
        self._links.append(link)
        who = f"host {socket.gethostname()}, pid {os.getpid()}"
        _send(link, {"hello": self._id, "count": self._count, "who": who})
        sock.setblocking(False)

    def _missing(self, timeout_s: float) -> str:
        if self._id:
            return (
                f"process {self._id} of {self._count} reached process 0, but the others were not "
                f"there within {timeout_s:g} s; process 0 says which"
            )
        there = {0, *(link.process_id for link in self._links)}
        missing = [i for i in range(self._count) if i not in there]
        return (
            f"of {self._count} processes, {', '.join(map(str, missing))} did not come within "
            f"{timeout_s:g} s; start them, with the same coordinator and process count"
        )

    def _watch(self) -> None:
        beat_s = self._lost_after_s / _BEATS
        beat_at = time.monotonic()
        try:
            with selectors.DefaultSelector() as selector:
                if self._listener is not None:
                    selector.register(self._listener, selectors.EVENT_READ)
                for link in self._links:
                    selector.register(link.sock, selectors.EVENT_READ, link)
                while not self._stop.is_set():
                    for key, _ in selector.select(min(0.2, beat_s)):
                        if key.data is None:
                            self._accept(selector)
                        else:
                            self._read(selector, key.data)
                    if time.monotonic() >= beat_at:
                        beat_at = time.monotonic() + beat_s
                        self._tell_all({})
                    self._notice_silence()
        finally:
            for closed in (*(link.sock for link in self._links), self._listener):
                if closed is not None:
                    closed.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            link = _Link(sock=sock, process_id=None, heard_at=time.monotonic())
            selector.register(sock, selectors.EVENT_READ, link)

    def _read(self, selector: selectors.BaseSelector, link: _Link) -> None:
        try:
            data = link.sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        link.heard_at = time.monotonic()
        link.received += data
        *lines, rest = link.received.split(b"\n")
        link.received = bytearray(rest)
        known = all(self._heard(link, bytes(line)) for line in lines) and len(rest) <= _MAX_LINE
        if data and known:
            return
        selector.unregister(link.sock)
        link.sock.close()
        if link in self._links and not link.done:
            self._lose(
                link, "its connection was closed without a goodbye: it was killed or has crashed"
            )

    def _heard(self, link: _Link, line: bytes) -> bool:
        """Act on one message; return False when the sender does not speak the protocol."""
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            return False
        if "hello" in said:
            return self._greet(link, said)
        if link not in self._links:
            return False
        if "welcome" in said:
            self._met.set()
        elif "refused" in said:
            self._refused = str(said["refused"])
            self._met.set()
        elif "bye" in said:
            link.done = True
        elif "failed" in said:
            self._lose(link, f"it failed: {said['failed']}")
        elif "lost" in said:
            self._end(Lost(process_id=int(said["lost"]), reason=str(said["reason"])))
        return True

    def _greet(self, link: _Link, said: dict[str, Any]) -> bool:
        """Admit another process to the watch (process 0), or refuse it with a reason."""
        found = said["hello"]
        there = {0, *(other.process_id for other in self._links)}
        if said.get("count") != self._count:
            why = f"it says that there are {said.get('count')} processes, process 0 {self._count}"
        elif found in there:
            why = "another process has this id already"
        elif found not in range(self._count):
            why = f"expected an id below {self._count}"
        else:
            link.process_id, link.who = found, str(said.get("who"))
            with self._lock:
                self._links.append(link)
            if len(self._links) == self._count - 1:
                self._tell_all({"welcome": True})
                self._met.set()
            return True
        _send(link, {"refused": f"process {found} was refused by process 0: {why}"})
        link.process_id, link.done = -1, True
        return True

    def _tell_all(self, message: dict[str, Any]) -> None:
        with self._lock:
            for link in self._links:
                _send(link, message)

    def _notice_silence(self) -> None:
        now = time.monotonic()
        for link in self._links:
            silent_s = now - link.heard_at
            if not link.done and silent_s > self._lost_after_s:
                reason = f"nothing was heard of it for {silent_s:.0f} s"
                self._lose(link, f"{reason}: its machine is gone, or it stands still")

    def _lose(self, link: _Link, reason: str) -> None:
        assert link.process_id is not None
        link.done = True
        where = f" ({link.who})" if self._id == 0 else ""
        lost = Lost(process_id=link.process_id, reason=f"{reason}{where}")
        if self._id == 0:
            self._tell_all({"lost": lost.process_id, "reason": lost.reason})
        self._end(lost)

    def _end(self, lost: Lost) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._met.set()
        self._on_lost(lost)


def _send(link: _Link, message: dict[str, Any]) -> None:
    """Send with best effort: a broken connection is noticed by its silence or its end."""
    with contextlib.suppress(OSError):
        link.sock.sendall(json.dumps(message).encode() + b"\n")
