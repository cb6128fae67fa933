from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from maas_sdk.charts.quantities import (
    count,
    data_size,
    duration,
    percent,
    ratio,
    round_duration,
    scientific,
)
from maas_sdk.charts.svg import ticks
from maas_sdk.demo.report import common_mistakes, render
from maas_sdk.demo.result import (
    Calls,
    ColdStart,
    DemoResult,
    Epoch,
    Machine,
    ModelVariant,
    Packaged,
    Sample,
    Stage,
    Training,
    checks,
    quantile,
    to_document,
)


def demo_result(seed: int = 0) -> DemoResult:
    """A result as the demo would find it, with made-up figures."""
    rng = np.random.default_rng(seed)
    confusion = np.diag(rng.integers(33, 39, 10))
    confusion[3, 8] = confusion[9, 4] = confusion[8, 1] = 1
    samples = tuple(
        Sample(
            image=rng.random((8, 8)) * (rng.random((8, 8)) > 0.4),
            label=i % 10,
            predicted=i % 10 if i not in (5, 17) else (i + 5) % 10,
            confidence=float(rng.uniform(0.8, 1.0)) if i not in (5, 17) else 0.54,
        )
        for i in range(25)
    )
    return DemoResult(
        started="2030-01-02T03:04:05Z",
        training=Training(
            epochs=tuple(
                Epoch(
                    number=n,
                    train_loss=2.2 * 0.6**n + 0.01,
                    test_loss=2.2 * 0.65**n + 0.06,
                    test_accuracy=1 - 0.8 * 0.6**n - 0.012,
                )
                for n in range(1, 13)
            ),
            train_rows=1437,
            test_rows=360,
            parameters=56_778,
            mesh="8 virtual CPU devices, data-parallel",
            precision="bfloat16 compute, float32 master weights",
            seed=0,
        ),
        variants=(
            ModelVariant(name="as trained", accuracy=0.98611, nbytes=227_112),
            ModelVariant(
                name="int8", accuracy=0.98333, nbytes=60_480, max_abs_error=0.113, agreement=0.9972
            ),
        ),
        packaged=Packaged(
            bundle_nbytes=1_834_211,
            function_nbytes=1_836_411,
            buckets=(1, 2, 4, 8, 16, 32, 64),
            targets=("cpu-x86_64-avx2", "cpu-x86_64-avx512"),
            verified_rows=508,
            max_abs_error=1.9e-6,
            atol=1e-5,
            rtol=1e-4,
        ),
        cold_start=ColdStart(
            function=tuple(
                Stage(name=name, duration_s=duration_s)
                for name, duration_s in [
                    ("interpreter", 0.016),
                    ("imports", 0.214),
                    ("bundle opened", 0.004),
                    ("weights", 0.002),
                    ("executable", 0.052),
                    ("first answer", 0.018),
                ]
            ),
            empty=tuple(
                Stage(name=name, duration_s=duration_s)
                for name, duration_s in [
                    ("interpreter", 0.016),
                    ("imports", 0.183),
                    ("first answer", 0.012),
                ]
            ),
            runs=5,
            tier="executable",
        ),
        calls=Calls(
            latencies_s=tuple(float(v) for v in 0.0016 + rng.gamma(2.0, 0.0002, 360)),
            batched_rows=3600,
            batched_duration_s=0.41,
            max_abs_error=9.5e-7,
            differing=0,
        ),
        confusion=confusion,
        samples=samples,
        stages=tuple(
            Stage(name=name, duration_s=duration_s)
            for name, duration_s in [
                ("train", 14.2),
                ("quantize", 3.1),
                ("export", 18.6),
                ("package", 0.2),
                ("cold start", 4.0),
                ("call", 1.2),
            ]
        ),
        machine=Machine(
            processor="Some Processor @ 2.4 GHz",
            cores=2,
            memory_nbytes=8_000_000_000,
            system="Linux 6.1",
            versions={"Python": "3.11.9", "jax": "0.10.2", "numpy": "2.4.6"},
        ),
    )


class _Balance(HTMLParser):
    """Notes tags that are closed out of order or never."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def page() -> str:
    return render(demo_result())


def test_the_page_holds_every_headline_figure(page: str) -> None:
    """Accuracy, cold start, latency, rows per second and machine are on the page, with units."""
    result = demo_result()
    assert "98.61 %" in page
    assert "98.33 %" in page
    assert duration(result.cold_start.function_s) in page
    assert ratio(result.cold_start.ratio) in page
    assert count(result.calls.batched_rows_per_s) in page
    assert "Some Processor @ 2.4 GHz" in page
    assert "cpu-x86_64-avx512" in page
    assert "all 4 checks passed" in page


def test_the_page_needs_no_network_and_runs_no_script(page: str) -> None:
    """No address, no script, no import, no font or picture from elsewhere."""
    assert not re.search(r"https?://|//[a-z]+\.|<script|<link|<img|@import|url\(", page)


def test_every_picture_is_well_formed_and_says_what_it_shows(page: str) -> None:
    """Each inline SVG parses as XML, has a role and a label that is not empty."""
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 25 + 6
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert "nan" not in picture.lower().replace("nats", "")


def test_tags_are_balanced(page: str) -> None:
    """Every tag is closed, in order."""
    balance = _Balance()
    balance.feed(page)
    assert balance.wrong == []
    assert balance.open == []


def test_colours_come_from_the_style_sheet_alone(page: str) -> None:
    """Pictures name classes, never colours, so dark mode reaches them."""
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert not re.search(r"#[0-9a-f]{3,6}|rgb\(|fill=|stroke=", picture)
    assert "prefers-color-scheme: dark" in page


def test_what_comes_from_outside_is_escaped() -> None:
    """A processor or stage whose name is markup stays text."""
    result = demo_result()
    evil = '<script>alert("x")</script>&'
    result = dataclasses.replace(
        result,
        machine=dataclasses.replace(result.machine, processor=evil),
        stages=(Stage(name=evil, duration_s=1.0),),
        cold_start=dataclasses.replace(
            result.cold_start, function=(Stage(name=evil, duration_s=0.1),)
        ),
        variants=tuple(dataclasses.replace(v, name=evil) for v in result.variants),
    )
    page = render(result)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_failed_check_is_shown() -> None:
    """An answer that differs turns the page's verdict, and the check says how many."""
    result = demo_result()
    result = dataclasses.replace(result, calls=dataclasses.replace(result.calls, differing=3))
    page = render(result)
    assert "1 of 4 checks failed" in page
    assert f"{result.calls.checked - 3:,} of {result.calls.checked:,}" in page
    assert [check.passed for check in checks(result)] == [True, True, False, True]


def test_the_same_result_gives_the_same_page(page: str) -> None:
    """Rendering reads no clock and no machine."""
    assert render(demo_result()) == page


def test_the_page_stands_extremes() -> None:
    """One epoch, equal latencies, no wrong digit, a very slow cold start: still a whole page."""
    result = demo_result()
    page = render(
        dataclasses.replace(
            result,
            training=dataclasses.replace(result.training, epochs=result.training.epochs[:1]),
            calls=dataclasses.replace(result.calls, latencies_s=(0.002,) * 5),
            confusion=np.eye(10, dtype=int),
            samples=(),
            cold_start=dataclasses.replace(
                result.cold_start, function=(Stage(name="first answer", duration_s=99.0),)
            ),
        )
    )
    assert "1 min 39 s" in page
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(picture)


def test_the_document_is_json_with_derived_figures() -> None:
    """``--json`` carries what the table shows, checks included."""
    document = json.loads(json.dumps(to_document(demo_result())))
    assert document["calls"]["checked"] == 360 + 3600
    assert document["cold_start"]["ratio"] == pytest.approx(0.306 / 0.211)
    assert len(document["confusion"]) == 10
    assert all(check["passed"] for check in document["checks"])
    assert "samples" not in document


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (duration(0), "0 s"),
        (duration(0.00042), "420 µs"),
        (duration(0.0371), "37.1 ms"),
        (duration(0.9996), "1.00 s"),
        (duration(4.2), "4.20 s"),
        (duration(59.97), "1 min 0 s"),
        (duration(95), "1 min 35 s"),
        (round_duration(0.05), "50 ms"),
        (round_duration(0.0018), "1.8 ms"),
        (round_duration(0.1), "100 ms"),
        (data_size(999), "999 B"),
        (data_size(227_112), "227 kB"),
        (data_size(999_600), "1.00 MB"),
        (data_size(68_000_000), "68.0 MB"),
        (percent(0.98611), "98.61 %"),
        (percent(1, digits=0), "100 %"),
        (count(12345.6), "12,346"),
        (count(4.25), "4.2"),
        (count(7), "7"),
        (ratio(1.4142), "1.41 ×"),
        (scientific(0), "0"),
        (scientific(0.113), "0.113"),
        (scientific(1.94e-6), "1.9 × 10⁻⁶"),
        (scientific(1e-5), "1 × 10⁻⁵"),
    ],
)
def test_quantities_read_well(written: str, wanted: str) -> None:
    """Three digits and a unit."""
    assert written == wanted


def test_the_most_frequent_mistakes_come_first() -> None:
    """Which digit was taken for which, how often; right answers are none."""
    confusion = np.diag([5, 5, 5])
    confusion[0, 2], confusion[2, 1] = 1, 4
    assert common_mistakes(confusion) == [(2, 1, 4), (0, 2, 1)]
    assert common_mistakes(confusion, most=1) == [(2, 1, 4)]


def test_ticks_are_round_and_cover_the_range() -> None:
    """Steps of 1, 2 or 5, the range inside."""
    assert ticks(0.13, 0.97, 5) == (0.0, 0.5, 1.0)
    assert ticks(0, 80, 5) == (0, 20, 40, 60, 80)
    assert ticks(0.1, 0.3, 3) == (0.1, 0.2, 0.3)
    for low, high in [(0, 1e-9), (3, 3), (-5, 1e6), (0.9991, 0.9993)]:
        found = ticks(low, high)
        assert found[0] <= low
        assert found[-1] >= high
        assert 2 <= len(found) <= 12


def test_quantiles_are_nearest_rank() -> None:
    """The 99th of a hundred values, and the only one of one."""
    values = tuple(float(v) for v in range(1, 101))
    assert quantile(values, 0.99) == 99
    assert quantile(values, 0.5) == 50
    assert quantile(values, 1.0) == 100
    assert quantile((7.0,), 0.99) == 7
