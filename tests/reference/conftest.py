"""The group that compares models with torch and transformers, in an environment of its own.

`make test-reference` makes that environment. Without torch nothing here is collected.
"""

from __future__ import annotations

import importlib.util
import os

# Classes are built from configurations; nothing is fetched.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str:
    if MISSING:
        return f"tests/reference: not run without {' and '.join(MISSING)}; see make test-reference"
    return "tests/reference: against torch and transformers"
