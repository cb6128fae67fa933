"""The command line, ``maas``: one file per family of commands.

The rule it keeps: ``maas --help`` loads typer and rich and nothing heavy. Whatever needs numpy, JAX
or a server is imported inside the command that needs it.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the console script ``maas``."""
    try:
        import rich
        import typer
    except ModuleNotFoundError as error:
        # Not by typer, which may be the one that is missing; and one line instead of a traceback.
        print(f"maas needs the package {error.name}: pip install 'maas-sdk[cli]'", file=sys.stderr)
        raise SystemExit(1) from None
    # Imported only to see that they are there.
    del rich, typer
    from maas_sdk.cli.app import app

    app(prog_name="maas")
