from __future__ import annotations

import json
import re
from dataclasses import replace

from maas_sdk.bundle.compression import LatencyRecord, read_compression
from maas_sdk.compress.program.report import LayerReport, QuantizationReport
from maas_sdk.compress.report_page import report_page

LAYERS = (
    LayerReport(
        name="hidden/kernel",
        shape=(1024, 128),
        format="kmeans4/tensor",
        bits=4.004,
        bytes_before=524_288,
        bytes_stored=65_600,
        sqnr_db=20.345,
        relative_error=0.096,
        drop=0.0123,
    ),
    LayerReport(
        name="head/<kernel>",
        shape=(128, 10),
        format="float32",
        bits=32.0,
        bytes_before=5_120,
        bytes_stored=5_120,
        drop=-0.001,
    ),
)
REPORT = QuantizationReport(
    recipe="kmeans4",
    layers=LAYERS,
    bytes_before=530_000,
    bytes_stored=71_000,
    bytes_memory=71_500,
    metric="accuracy",
    before=0.975,
    after=0.9625,
    drop_error=0.004,
    output_error=0.0521,
    latency_s={1: LatencyRecord(0.002, 0.001), 8: LatencyRecord(0.004, 0.005)},
    target="cpu-x86_64-avx2",
    notes=("1 norms are folded into the products before them",),
)
BARE = QuantizationReport(
    recipe="int8", layers=(LAYERS[1],), bytes_before=5_120, bytes_stored=5_120, bytes_memory=5_120
)


def test_the_table_says_every_figure() -> None:
    """A line a weight, then the model's figures in words, then what was decided."""
    text = REPORT.table()
    lines = text.splitlines()
    assert lines[0].split() == [
        "weight",
        "shape",
        "format",
        "bits",
        "stored",
        "SQNR",
        "drop",
        "alone",
    ]
    assert lines[1].split() == [
        *("hidden/kernel", "1024×128", "kmeans4/tensor", "4.00", "65.6", "kB"),
        *("20.3", "dB", "+0.0123"),
    ]
    assert "kmeans4: 530 kB → 71.0 kB stored (0.134), 71.5 kB while served" in text
    assert "accuracy: 0.9750 → 0.9625 (drop +0.0125 ± 0.0040)" in text
    assert "outputs differ by 5.21% of their size" in text
    assert "batch of 1 on cpu-x86_64-avx2: 2.000 → 1.000 ms (2.00 times as fast)" in text
    assert lines[-1].startswith("note: 1 norms")


def test_what_was_not_measured_is_absent() -> None:
    """No words, no picture and no guess."""
    assert BARE.summary() == ["int8: 5.12 kB → 5.12 kB stored (1.000), 5.12 kB while served"]
    assert BARE.drop is None
    page = report_page(BARE)
    for heading in ("Latency", "What each weight costs alone", "Precision"):
        assert heading not in page


def test_the_report_is_json() -> None:
    """``to_dict`` holds plain values only, the derived figures too."""
    document = json.loads(REPORT.to_json())
    assert document["ratio"] == REPORT.ratio
    assert document["drop"] == REPORT.drop
    assert document["latency_s"]["8"] == {"before": 0.004, "after": 0.005}
    assert document["layers"][0]["shape"] == [1024, 128]


def test_the_record_for_the_bundle() -> None:
    """What the manifest holds reads back as it was written."""
    record = REPORT.compression()
    written = json.loads(json.dumps(record.document()))
    assert read_compression(written, "compression") == record
    assert [layer.sqnr_db for layer in record.layers] == [20.34, None]
    assert record.latency_s["1"] == LatencyRecord(0.002, 0.001)


def test_the_page_needs_nothing_else() -> None:
    """One file with its pictures in it; names are text, never markup."""
    page = report_page(REPORT)
    assert page.startswith("<!doctype html>")
    assert not re.search(r'(?:src|href)="', page)
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", page)
    assert "head/&lt;kernel&gt;" in page
    assert "<kernel>" not in page
    for heading in (
        "Bytes",
        "Precision",
        "Latency",
        "What each weight costs alone",
        "Weights",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 4
    # Exact figures are under every mark.
    assert "hidden/kernel: 20.3 dB" in page
    assert "65.6 kB" in page


def test_a_page_of_many_layers_draws_the_largest() -> None:
    """So many bars as can be told apart; the table has every weight."""
    layers = tuple(
        replace(LAYERS[0], name=f"layer{index}", bytes_before=100_000 + index)
        for index in range(60)
    )
    page = report_page(replace(REPORT, layers=layers))
    assert "The largest 24 are drawn." in page
    assert page.count("layer59") > page.count("layer0<")
    assert all(f"layer{index}<" in page for index in range(60))
