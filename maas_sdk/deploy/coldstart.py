"""Cold start of a function: time from process start to the first correct answer, by stage.

Nothing is injected into the function: it is started as Cloud Functions would start it, asked from
before its port is open, and its answer is compared with the bundle's golden outputs. The stages are
read off the lines that it logs anyway:

    spawn ──interpreter──▶ ──imports──▶ loading begins ──bundle, weights, …──▶ loaded ──▶ answer

*interpreter* is a bare ``python -c pass`` of the same environment. *imports* is everything until
the worker begins to load: the framework, the function's modules, the fork. Beside it runs a
function that does nothing, so that the framework's share can be told from ours. The two take
turns, so that a machine that slows down slows both.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from maas_sdk.deploy.golden import FirstCall
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.errors import ModelError

__all__ = ["ColdStart", "Stage", "measure", "split_stages"]

_FIRST, _IMPORTS, _LAST = "interpreter", "imports", "first answer"

_WORDS: Final = {
    "bundle": "bundle opened",
    "host": "processor checked",
    "client": "XLA client",
}

# The function that does nothing but say when its worker began.
# After the fork is where our function begins to load, so "imports" ends at the same point in both.
_EMPTY: Final = '''\
"""An empty function: what every Python function pays before its own first line."""

import json
import os
import sys

import functions_framework

os.register_at_fork(
    after_in_child=lambda: print(json.dumps({"seconds": 0.0}), file=sys.stderr, flush=True)
)


@functions_framework.http
def predict(request):
    return "ok"
'''


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of a start, and its duration."""

    name: str
    duration_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ColdStart:
    """Process start to first correct answer: medians over ``runs`` starts, stage by stage."""

    function: tuple[Stage, ...]
    empty: tuple[Stage, ...]
    runs: int
    # "executable" or "program": how the function got its model to run.
    tier: str

    @property
    def function_s(self) -> float:
        """Seconds from process start to the first correct answer of our function."""
        return sum(stage.duration_s for stage in self.function)

    @property
    def empty_s(self) -> float:
        """Seconds for a function that does nothing."""
        return sum(stage.duration_s for stage in self.empty)

    @property
    def ratio(self) -> float:
        """Ratio of our function's time to the empty function's."""
        return self.function_s / self.empty_s


def measure(
    folder: Path,
    call: FirstCall,
    *,
    scratch: Path,
    runs: int = 5,
    timeout_s: float = 60.0,
    progress: Callable[[int], None] | None = None,
) -> ColdStart:
    """Start the function and an empty one in turns, ``runs`` times each, after one uncounted turn.

    Args:
        folder: the function folder.
        call: what to ask, and what must be answered.
        scratch: where the empty function is written.
        runs: starts that count.
        timeout_s: to wait for an answer.
        progress: called with the number of finished turns, 1 to ``runs + 1``.

    Raises:
        ModelError: an answer is wrong.
        MaasError: the function does not start or does not answer.
    """
    empty_folder = scratch / "empty-function"
    empty_folder.mkdir(parents=True, exist_ok=True)
    (empty_folder / "main.py").write_text(_EMPTY, encoding="utf-8")
    # The empty function has one answer, which is not looked at.
    nothing = FirstCall(path="/", headers={}, body=(), check=lambda body: None)
    ours: list[dict[str, float]] = []
    empty: list[dict[str, float]] = []
    tier = "unknown"
    for turn in range(runs + 1):
        # In each turn: on a machine that slows down it has to slow down with the others.
        interpreter_s = _interpreter()
        stages, tier = _start(folder, call, interpreter_s, timeout_s)
        bare, _ = _start(empty_folder, nothing, interpreter_s, timeout_s)
        if turn:  # the first turn fills the page cache and is not counted
            ours.append(stages)
            empty.append(bare)
        if progress is not None:
            progress(turn + 1)
    return ColdStart(function=_medians(ours), empty=_medians(empty), runs=runs, tier=tier)


def _interpreter() -> float:
    """Measure the seconds that a bare interpreter of this environment takes, start to end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def _start(
    folder: Path, call: FirstCall, interpreter_s: float, timeout_s: float
) -> tuple[dict[str, float], str]:
    """Measure one start: seconds by stage, and the tier that the function reports."""
    with FunctionProcess(folder) as process:
        status, body = process.first_answer(
            call.path, call.body, headers=call.headers, timeout_s=timeout_s
        )
        # The wall clock, since the arrival of log lines is noted by it.
        total_s = time.time() - process.spawned_unix_s
        if status != 200:
            raise ModelError(
                f"the function's first answer has status {status}: "
                f"{body[:500].decode(errors='replace')}"
            )
        call.check(body)
        loaded = _loaded(process, timeout_s=2.0)
    if loaded is None:
        return {
            _FIRST: interpreter_s,
            _IMPORTS: 0.0,
            _LAST: max(0.0, total_s - interpreter_s),
        }, "unknown"
    at_s, line = loaded[0] - process.spawned_unix_s, loaded[1]
    return split_stages(
        total_s=total_s,
        interpreter_s=interpreter_s,
        loaded_at_s=at_s,
        loading_s=float(line["seconds"]),
        timings_s=line.get("timings_s") or {},
    ), str(line.get("tier", "unknown"))


def _loaded(process: FunctionProcess, timeout_s: float) -> tuple[float, dict[str, Any]] | None:
    """Return the time of the log line of a loaded model, which may follow the answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        for arrived, event in process.events():
            if isinstance(event.get("seconds"), float):
                return arrived, event
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def split_stages(
    *,
    total_s: float,
    interpreter_s: float,
    loaded_at_s: float,
    loading_s: float,
    timings_s: Mapping[str, float],
) -> dict[str, float]:
    """Return consecutive stages that add up to ``total_s``.

    Parts of the loading run side by side, so ``timings_s`` may add up to more than
    ``loading_s``; then each is given its share of it. What they leave over counts as the last of
    them.
    """
    loaded_at_s = min(loaded_at_s, total_s)
    begin_s = max(0.0, loaded_at_s - loading_s)
    stages = {_FIRST: min(interpreter_s, begin_s), _IMPORTS: max(0.0, begin_s - interpreter_s)}
    loading_s = loaded_at_s - begin_s
    parts = {_words(name): max(0.0, float(value)) for name, value in timings_s.items()}
    added = sum(parts.values())
    shrink = min(1.0, loading_s / added) if added else 1.0
    stages |= {name: value * shrink for name, value in parts.items()}
    # Less than a nanosecond is rounding.
    if loading_s > added * shrink + 1e-9:
        last = next(reversed(parts), "model loaded")
        stages[last] = stages.get(last, 0.0) + loading_s - added * shrink
    return {**stages, _LAST: total_s - loaded_at_s}


def _words(name: str) -> str:
    """Return the label for a part of loading, from the runtime's key."""
    return _WORDS.get(name, name.replace("_", " "))


def _medians(runs: Sequence[Mapping[str, float]]) -> tuple[Stage, ...]:
    names = list(dict.fromkeys(name for run in runs for name in run))
    # first answer stays last, whatever order the runs brought.
    names.sort(key=lambda name: name == _LAST)
    return tuple(
        Stage(name=name, duration_s=statistics.median(run.get(name, 0.0) for run in runs))
        for name in names
    )
