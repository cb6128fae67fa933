from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["own_linen_model.py", "own_nnx_model.py", "quantize_model.py"])
def test_an_example_runs_as_it_is_written(script: str, tmp_path: Path) -> None:
    """Started as the README says, in a process of its own, it exports and answers correctly."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, tmp_path],
        # A newcomer's machine: none of the tests' own settings for XLA.
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"^held-out accuracy (\d\.\d+)$", done.stdout, re.MULTILINE)
    assert accuracy, done.stdout
    assert float(accuracy[1]) > 0.94
    assert list(tmp_path.glob("*.maas/manifest.json"))


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_can_be_read_in_one_sitting(script: Path) -> None:
    """60 to 120 lines, opening with what it shows and how to start it."""
    text = script.read_text()
    assert 60 <= len(text.splitlines()) <= 120
    assert text.startswith('"""')
    assert f"python examples/{script.name}" in text
