"""README.md's claims are measured figures, its pictures are drawn from them, its names exist."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading of second order."""
    [found] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)
    return found


def result(name: str) -> Any:
    """A committed result of a benchmark."""
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def bench(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module(name)


# ---- the claims at the top ----


@pytest.mark.parametrize(
    ("words", "bench", "figure"),
    [
        ("{:.2f} of ONNX Runtime's time,", "cold_start", "cnn_vs_onnxruntime"),
        ("{:.2f} of that of `jit` + Flax + Orbax", "cold_start", "cnn_vs_tutorial"),
        ("{:.1f} times that of an empty function", "cold_start", "cnn_vs_empty"),
        ("takes {:.2f} of ONNX Runtime's.", "cold_start", "mlp_vs_onnxruntime"),
        ("{:.0f} MB of memory beside the weights", "cold_start", "cnn_memory_over_weights_mb"),
        ("a zip of {:.1f} MB, weights included", "package", "zipped_mb"),
        ("in {:.2f} of their bytes", "quantize", "int8_ratio_max"),
        ("at most {:.3f} points of accuracy", "quantize", "int8_points_lost_max"),
    ],
)
def test_a_claim_is_a_measured_figure(words: str, bench: str, figure: str) -> None:
    """Rounded, it is the figure that the benchmark wrote."""
    claim = words.format(result(bench)["figures"][figure])
    assert claim in " ".join(README.split()), claim


def test_no_claim_is_without_a_check() -> None:
    """Numbers of the claims are those above, the sizes of the two networks, and int8's name."""
    claims = README[: README.index("<picture>")]
    assert len(re.findall(r"^- \*\*", claims, re.M)) == 3
    assert re.findall(r"\d+(?:\.\d+)?(?= MB (?:CNN|MLP))", claims) == ["68", "503"]
    rest = re.sub(r"int8|\d+ MB (?:CNN|MLP)", "", claims)
    assert len(re.findall(r"\d+(?:\.\d+)?", rest)) == 8


def test_the_pictures_are_drawn_from_the_committed_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Byte for byte what `make figures` draws, light and dark, and the page shows both."""
    pictures = bench(monkeypatch, "pictures")
    drawn = pictures.pictures()
    assert set(drawn) == {"cold-start-light.svg", "cold-start-dark.svg"}
    for name, svg in drawn.items():
        committed = (pictures.IMAGES / name).read_text(encoding="utf-8")
        assert committed == svg, f"{name}: run make figures"
        assert f"docs/images/{name}" in README


def test_a_picture_says_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another result is another picture, with its times at the bars and no variable left in it."""
    document = result("cold_start")
    pictures = bench(monkeypatch, "pictures")
    before = pictures.cold_start(document)
    assert "197 ms" in before
    for row in document["rows"]:
        if row["what"] == "cnn maas_sdk":
            row["median ms"] = 250.0
    after = pictures.standing_alone(pictures.cold_start(document), "dark")
    assert "250 ms" in after
    assert "197 ms" not in after
    assert "var(" not in after


# ---- what it names ----


def test_every_page_is_linked() -> None:
    """A page that nobody finds from the README might as well not be there."""
    linked = set(re.findall(r"\(docs/([\w-]+\.md)", README))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_every_extra_is_named() -> None:
    """Those of pyproject.toml and no other, the ones within `demo` as such."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    install = section("Install")
    within, separate = install[install.index("`demo` includes") :].split("Separate are")
    [included] = re.findall(r"maas-sdk\[(.+)\]", "\n".join(extras["demo"]))
    assert set(re.findall(r"`([\w-]+)`", within)) == {"demo", *included.split(",")}
    assert set(re.findall(r"`([\w-]+)`", separate)) == set(extras) - {"demo", *included.split(",")}
    for line in re.findall(r"pip install '\.\[(.+)\]'", install):
        assert set(line.split(",")) <= set(extras)
