from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from maas_sdk.demo.config import DemoConfig
from maas_sdk.demo.machine import describe_machine
from maas_sdk.demo.screen import Screen, table
from maas_sdk.errors import ConfigError


def demo_result():
    """The made-up result of the report's tests."""
    path = Path(__file__).with_name("test_demo_report.py")
    spec = importlib.util.spec_from_file_location("demo_report_fixture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.demo_result()


def test_each_stage_leaves_one_line() -> None:
    """Finished stages stay as a line with what they found; a failed one leaves none."""
    page = io.StringIO()
    console = Console(file=page, width=120)
    with Screen(console) as screen:
        with screen.stage("train") as watch:
            watch.progress(1, 2, "half [way]")
            watch.done("98 % [right]")
        with pytest.raises(ValueError, match="x"), screen.stage("export"):
            raise ValueError("x")
    written = page.getvalue()
    assert "✓ train" in written
    assert "98 % [right]" in written
    assert "✓ export" not in written


def test_the_table_shows_every_figure_and_check() -> None:
    """Accuracy, cold start by stage, latency, rows per second, and what had to hold."""
    page = io.StringIO()
    console = Console(file=page, width=120)
    console.print(table(demo_result()))
    written = page.getvalue()
    for words in (
        "98.61 %",
        "306 ms",
        "1.45 ×",
        "bundle opened",
        "p99",
        "one by one",
        "✓ every answer",
    ):
        assert words in written


@pytest.mark.parametrize("name", ["epochs", "starts", "devices", "single_calls", "batched_rounds"])
def test_options_that_make_no_sense_are_refused(name: str) -> None:
    """Before anything runs."""
    with pytest.raises(ConfigError, match=name):
        DemoConfig(out=Path("x"), **{name: 0})


def test_the_machine_is_described_without_its_name() -> None:
    """Processor, cores, memory and versions; no host name."""
    found = describe_machine(lambda: "vendor_id: x\nmodel name\t: Fast One\n")
    assert found.processor == "Fast One"
    assert found.cores >= 1
    assert found.memory_nbytes > 2**28
    assert found.versions["numpy"] == np.__version__
