"""The child's half: jobs from stdin, one JSON line per answer, an end when the parent ends.

Loaded by processes that serve as the bundle's runtime does, so it imports neither jax nor numpy.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from maas_sdk.errors import MaasError, traits

__all__ = ["Say", "run_job_loop"]

# Sends one message to the parent; steps have a key ``done``.
Say = Callable[[dict[str, Any]], None]


def run_job_loop(work: Callable[[dict[str, Any], Say], dict[str, Any]]) -> None:
    """Answer each job with what ``work`` returns for it, or with its ``MaasError``.

    Any other exception ends the process, with its traceback on stderr.
    """
    # Whatever prints (a library, a user's module) would be taken for a message.
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    for job in json.loads(line):
        try:
            answer: dict[str, Any] = {"result": work(job, say)}
        except MaasError as error:
            answer = {"error": error.message, "code": traits(error).code}
        say(answer)


def _exit_with_parent() -> None:
    """Our stdin is a pipe that nobody writes to again: it ends when the parent does."""
    os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter shuts down
    os._exit(1)
