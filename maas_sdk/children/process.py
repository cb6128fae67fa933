"""A child process that answers jobs and never outlives this one.

The protocol: the child gets its jobs as one JSON line on stdin and says one JSON line for each
step (``done``) and one for each answer (``result``, or ``error`` and ``code``). It is killed past
its time and when the ``with`` block ends. It ends by itself when the pipe to its stdin closes, so
even a ``kill -9`` of this process leaves nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import maas_sdk

__all__ = ["ChildProcess"]

_STDERR_TAIL_BYTES: Final = 3000

# A parent's settings for its own JAX (fake devices, other platforms, dumps) are not the child's.
_DROPPED_PREFIXES: Final = ("XLA_", "JAX_", "LIBTPU_", "PJRT_")


class ChildProcess:
    """A running child; a context manager that ends it.

    Args:
        command: arguments of the Python interpreter, such as ``["-m", "package.module"]``.
        jobs: JSON values, one for each answer.
        timeout_s: seconds that one answer may take.
        environment: variables that the child has beside this process's own.
        dropped_prefixes: variables of this process that the child does not get, beside JAX's.
    """

    def __init__(
        self,
        command: Sequence[str],
        jobs: Sequence[Mapping[str, Any]],
        *,
        timeout_s: float,
        environment: Mapping[str, str],
        dropped_prefixes: Sequence[str] = (),
    ) -> None:
        # True once the child was killed for an answer that took too long.
        self.late = False
        # Exit status, negative for a signal; 0 while the child runs.
        self.status = 0
        self._jobs = json.dumps(jobs).encode() + b"\n"
        self._timeout_s = timeout_s
        self._timer = threading.Timer(0, self._overdue)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment((*_DROPPED_PREFIXES, *dropped_prefixes), environment),
            # Ctrl-C is ours to handle: a child that heard it too would print a traceback.
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            assert pipe is not None
            # What a dead child did not read is still in the buffer.
            with suppress(BrokenPipeError):
                pipe.close()

    def answers(
        self, on_step: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> Iterator[dict[str, Any]]:
        """Yield the answer of one job after the other; fewer where the child ends early.

        Args:
            on_step: called with each message that is not an answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._restart_timer()
        with suppress(BrokenPipeError):  # it died at once: ``status`` and ``stderr`` say why
            self._process.stdin.write(self._jobs)
            self._process.stdin.flush()
        for line in self._process.stdout:
            message = json.loads(line)
            if "done" in message:
                on_step(message)
            else:
                self._restart_timer()
                yield message
        self.status = self._process.wait()

    def kill(self) -> None:
        """End the child now, from any thread."""
        self._process.kill()

    def ending(self) -> str:
        """The end of a sentence about a child that answered too little: status and last words."""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
        tail = self._stderr.read().decode(errors="replace").strip()
        how = (
            f"was killed by signal {-self.status} (9 is often a lack of memory)"
            if self.status < 0
            else f"ended with status {self.status}"
        )
        said = f"The end of its stderr:\n{tail}" if tail else "It left nothing on stderr"
        return f"{how}. {said}"

    def _restart_timer(self) -> None:
        self._timer.cancel()
        self._timer = threading.Timer(self._timeout_s, self._overdue)
        self._timer.daemon = True
        self._timer.start()

    def _overdue(self) -> None:
        self.late = True
        self._process.kill()


def _environment(dropped: tuple[str, ...], added: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    # The very package that runs here, wherever it was imported from.
    package = str(Path(maas_sdk.__path__[0]).absolute().parent)
    path = [package, *filter(None, [kept.get("PYTHONPATH")])]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "1"}
    return {**quiet, **kept, "PYTHONPATH": os.pathsep.join(path), **added}
