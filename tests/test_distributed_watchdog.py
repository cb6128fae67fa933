"""Watchdogs of several processes, here in threads of one; real processes are in other files."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from maas_sdk.distributed.watchdog import Lost, Watchdog
from maas_sdk.errors import ConfigError, MachineError


class Run:
    """Watchdogs of one run, and what each was told."""

    def __init__(self, count: int, lost_after_s: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.count = count
        self.lost_after_s = lost_after_s
        self.told: dict[int, list[Lost]] = {i: [] for i in range(count)}
        self.dogs: list[Watchdog] = []

    def dog(self, process_id: int, count: int | None = None) -> Watchdog:
        found = Watchdog(
            f"127.0.0.1:{self.port}",
            process_id=process_id,
            process_count=count or self.count,
            lost_after_s=self.lost_after_s,
            on_lost=self.told.setdefault(process_id, []).append,
        )
        self.dogs.append(found)
        return found

    def meet(self) -> list[Watchdog]:
        dogs = [self.dog(i) for i in range(self.count)]
        threads = [threading.Thread(target=dog.meet, args=(30,)) for dog in dogs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return dogs

    def wait_told(self, *process_ids: int) -> None:
        deadline = time.monotonic() + 30
        while not all(self.told[i] for i in process_ids):
            assert time.monotonic() < deadline, self.told
            time.sleep(0.01)


@pytest.fixture
def start() -> Iterator[Any]:
    """Makes runs, and ends them."""
    runs: list[Run] = []

    def make(count: int, lost_after_s: float = 30) -> Run:
        runs.append(Run(count, lost_after_s))
        return runs[-1]

    yield make
    for run in runs:
        for dog in run.dogs:
            dog.leave()


def cut(dog: Watchdog) -> None:
    """End a watchdog as the system ends that of a process that is killed."""
    dog._stop.set()
    dog._thread.join()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_process_that_is_cut_off_is_known_to_all_others(start: Any, victim: int) -> None:
    """At once, long before the time for silence is over, with who it was; each is told once."""
    run = start(3)
    dogs = run.meet()
    cut(dogs[victim])
    others = {0, 1, 2} - {victim}
    run.wait_told(*others)
    for other in others:
        [lost] = run.told[other]
        assert lost.process_id == victim
        assert "closed without a goodbye" in lost.reason
        if victim:
            assert f"(host {socket.gethostname()}, pid " in lost.reason
    assert run.told[victim] == []


def test_silence_is_a_loss(start: Any) -> None:
    """A machine that is gone closes nothing: what is not heard of is lost."""
    run = start(2, lost_after_s=0.5)
    first = run.dog(0)
    meeting = threading.Thread(target=first.meet, args=(30,))
    meeting.start()
    deadline = time.monotonic() + 30
    while True:
        try:
            sock = socket.create_connection(("127.0.0.1", run.port), timeout=5)
            break
        except OSError:
            assert time.monotonic() < deadline
    with closing(sock):
        sock.sendall(b'{"hello": 1, "count": 2, "who": "a statue"}\n')
        meeting.join()
        run.wait_told(0)
    [lost] = run.told[0]
    assert "nothing was heard of it for" in lost.reason
    assert "(a statue)" in lost.reason


def test_heartbeats_keep_a_run_alive(start: Any) -> None:
    """Nobody is lost in a time several times as long as silence may be."""
    run = start(2, lost_after_s=1)
    run.meet()
    time.sleep(3)
    assert not any(run.told.values())


def test_a_failure_travels_in_its_own_words(start: Any) -> None:
    """Who fails says of what, and all others learn it."""
    run = start(3)
    dogs = run.meet()
    dogs[2].leave("ValueError: the file käse.csv is empty")
    run.wait_told(0, 1)
    for i in (0, 1):
        assert "it failed: ValueError: the file käse.csv is empty" in run.told[i][0].reason


def test_a_goodbye_is_no_loss(start: Any) -> None:
    """Processes end one after another, in any order, and nobody is alarmed."""
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        run = start(3)
        dogs = run.meet()
        for i in order:
            dogs[i].leave()
        assert not any(run.told.values()), order


def test_who_does_not_come_is_named(start: Any) -> None:
    """The first process lists the missing; the others say whom they could not reach."""
    run = start(3)
    with pytest.raises(MachineError, match=r"of 3 processes, 1, 2 did not come within 0.3 s"):
        run.dog(0).meet(0.3)
    with pytest.raises(MachineError, match=r"process 1 of 3 found no process 0 at 127.0.0.1:\d+ "):
        run.dog(1).meet(0.3)


def test_misfits_are_refused(start: Any) -> None:
    """Two processes of one id, another count, a port that is taken."""
    run = start(3)
    meeting = threading.Thread(target=run.dog(0).meet, args=(20,))
    meeting.start()
    one = run.dog(1)
    waiting = threading.Thread(target=one.meet, args=(20,))
    waiting.start()
    while not one._links:
        time.sleep(0.01)
    time.sleep(0.2)
    with pytest.raises(ConfigError, match=r"process 1 was refused .* has this id already"):
        run.dog(1).meet(20)
    with pytest.raises(ConfigError, match="says that there are 4 processes, process 0 3"):
        run.dog(2, count=4).meet(20)
    with pytest.raises(MachineError, match=r"cannot listen on port \d+ .* choose another watch_po"):
        run.dog(0).meet(20)
    # Neither of the two that wait has been given up on.
    assert meeting.is_alive()
    assert waiting.is_alive()
    run.dog(2).meet(20)
    meeting.join()
    waiting.join()


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xfe\n", b"[]\n", b'{"bye": 1}\n', b"x" * 100_000],
    ids=["http", "binary", "list", "nobody's", "endless"],
)
def test_strangers_are_hung_up_on(start: Any, said: bytes) -> None:
    """What speaks something else is closed, and the run goes on without noticing."""
    run = start(2)
    run.meet()
    with socket.create_connection(("127.0.0.1", run.port), timeout=10) as stranger:
        try:
            stranger.sendall(said)
            assert stranger.recv(1000) == b""
        except ConnectionError:
            pass
    assert not any(run.told.values())
