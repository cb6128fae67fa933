"""A function folder run as Cloud Functions runs it: functions-framework, in its own process.

The rule it keeps: whatever happens inside the ``with`` block, the process is gone after it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from maas_sdk.errors import ConfigError, DeadlineError, DependencyError, TransportError

__all__ = ["FunctionProcess", "framework_command"]

# Cloud Run sends SIGTERM this long before it kills.
_GRACE_S: Final = 10.0
# How often a port that is not open yet is tried: much finer than what is measured.
_POLL_S: Final = 0.001
# What of the parent's environment would make the child another program than in the cloud.
_NOT_INHERITED: Final = ("XLA_FLAGS", "PYTHONDONTWRITEBYTECODE", "PYTHONPROFILEIMPORTTIME")


def framework_command() -> list[str]:
    """Return the console script of functions-framework that belongs to this interpreter.

    Raises:
        DependencyError: it is not installed.
    """
    # An environment has its scripts beside the interpreter; a system's Python may have them
    # elsewhere.
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        for name in ("functions-framework", "functions-framework.exe"):
            if (folder / name).is_file():
                return [str(folder / name)]
    raise DependencyError("functions-framework is not installed: pip install 'maas-sdk[serve]'")


class FunctionProcess:
    """A running function folder.

    Attributes:
        port: on 127.0.0.1, where it listens or will.
        spawned_unix_s: wall clock just before the process was started.
    """

    def __init__(
        self,
        folder: Path,
        *,
        target: str = "predict",
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        inherit: bool = True,
    ) -> None:
        """Start ``folder/main.py``; returns at once, long before the function can answer.

        Args:
            folder: holds main.py.
            target: the function in it.
            environment: variables on top of this process's own.
            command: functions-framework of another environment; None: of this one.
            inherit: whether it gets this process's variables at all.

        Raises:
            ConfigError: no main.py there.
            DependencyError: functions-framework is not installed.
        """
        folder = folder.resolve()  # it becomes the working directory
        source = folder / "main.py"
        if not source.is_file():
            raise ConfigError(f"{folder}: expected a function folder, with a main.py in it")
        command = framework_command() if command is None else command
        self.port = _free_port()
        self._lines: list[tuple[float, str]] = []
        inherited = {k: v for k, v in os.environ.items() if inherit and k not in _NOT_INHERITED}
        self.spawned_unix_s = time.time()
        self._process = subprocess.Popen(
            [
                *command,
                *("--source", str(source), "--target", target),
                *("--host", "127.0.0.1", "--port", str(self.port)),
            ],
            cwd=folder,
            env={**inherited, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # One stream, so that the log keeps the order of its lines.
            stderr=subprocess.STDOUT,
            # A group of its own, so that gunicorn's worker is stopped with its master.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="function-log", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append((time.time(), line.decode(errors="replace").rstrip()))

    @property
    def url(self) -> str:
        """Address of the function."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Id of the started process; gunicorn's worker is its child."""
        return self._process.pid

    def log(self) -> str:
        """Return the output of the process so far."""
        return "\n".join(line for _, line in list(self._lines))

    def events(self) -> list[tuple[float, dict[str, Any]]]:
        """Return log lines that are JSON objects, each with the Unix time of its arrival."""
        found = []
        for arrived, line in list(self._lines):
            if line.startswith("{"):
                with contextlib.suppress(ValueError):
                    found.append((arrived, json.loads(line)))
        return found

    def first_answer(
        self,
        path: str,
        body: Sequence[bytes | memoryview] = (),
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> tuple[int, bytes]:
        """Return status and body of the first answer, asked for before the port is open.

        Args:
            path: to POST to.
            body: the request's body, in parts.
            headers: of the request.
            timeout_s: to wait in all.

        Raises:
            TransportError: the process ended before it answered; its last words are in the message.
            DeadlineError: no answer in time.
        """
        deadline = time.monotonic() + timeout_s
        data = b"".join(body)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineError(f"{self.url}: no answer within {timeout_s:g} s{self._words()}")
            if self._process.poll() is not None:
                raise TransportError(
                    f"the function process ended with {self._process.returncode} before it "
                    f"answered{self._words()}"
                )
            # Tried with a bare socket: asking must not take the processor from what is measured.
            knock = socket.socket()
            if knock.connect_ex(("127.0.0.1", self.port)):
                knock.close()
                time.sleep(_POLL_S)
                continue
            knock.settimeout(left)
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=left)
            connection.sock = knock
            try:
                connection.request("POST", path, data, dict(headers or {}))
                response = connection.getresponse()
                return response.status, response.read()
            # The head of the loop raises it, with what the process printed.
            except TimeoutError:
                continue
            except (http.client.HTTPException, ConnectionError) as error:
                # An ended process is told at the head of the loop, with its exit code.
                if self._process.poll() is None:
                    raise TransportError(f"{self.url}: {error}{self._words()}") from error
            finally:
                connection.close()

    def stop(self) -> int:
        """Send SIGTERM, as the cloud does, then SIGKILL after its grace; return the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_S
            # Not reaped yet, so that its number, which is the group's, is nobody else's.
            options = os.WEXITED | os.WNOWAIT | os.WNOHANG
            while os.waitid(os.P_PID, self.pid, options) is None and time.monotonic() < deadline:
                time.sleep(0.01)
            # It, or a worker that outlived it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def _words(self) -> str:
        words = self.log().strip()
        return f"; it said:\n{words[-2000:]}" if words else "; it said nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._reader.join(_GRACE_S)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _free_port() -> int:
    with socket.socket() as probe:
        # Free now; should another process take it first, the function ends and its log says so.
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
