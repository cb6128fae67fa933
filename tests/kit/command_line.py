"""``maas`` as a user types it, in this process."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from maas_sdk.cli.app import app

__all__ = ["document", "maas"]


def maas(*arguments: object, answer: str = "") -> Result:
    """Run a command; ``answer`` is what is typed when it asks."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=answer)


def document(result: Result, code: int = 0) -> Any:
    """The JSON document that a command which ended with ``code`` wrote to stdout, and no more."""
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)
