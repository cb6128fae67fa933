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


def document(result: Result) -> Any:
    """The one JSON document that a command which went well wrote to stdout, and nothing else."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
