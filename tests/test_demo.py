from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MAAS = [sys.executable, "-c", "from maas_sdk.cli import main; main()"]


@pytest.mark.slow
def test_the_demo_passes_all_its_checks(tmp_path: Path) -> None:
    """The whole way in a process of its own, as ``make demo`` starts it, with fewer repetitions."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run(
        [*MAAS, "demo", "--out", "out", "--starts", "1", "--epochs", "8", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(check["passed"] for check in found["checks"]), found["checks"]
    assert [stage["name"] for stage in found["stages"]] == [
        *("train", "quantize", "export", "package", "cold start", "call")
    ]
    assert found["variants"][0]["accuracy"] >= 0.97
    assert found["calls"]["differing"] == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "all 4 checks passed" in page
    assert (tmp_path / "out" / "digits.maas" / "manifest.json").is_file()
    assert (tmp_path / "out" / "digits-function" / "main.py").is_file()


def test_the_demo_refuses_a_file_as_its_folder(tmp_path: Path) -> None:
    """Before it trains for nothing."""
    (tmp_path / "out").write_text("")
    done = subprocess.run(
        [*MAAS, "demo", "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "expected a folder" in done.stderr
