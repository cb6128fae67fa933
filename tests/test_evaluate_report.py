"""Evaluations as tables and pages, and the curves and matrices that pages are drawn with."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris

from maas_sdk.charts.curves import Curve, curve_chart
from maas_sdk.charts.heat_map import heat_map
from maas_sdk.errors import ConfigError
from maas_sdk.evaluate import (
    Evaluation,
    compare_page,
    compare_table,
    evaluate,
    evaluation_page,
    text_table,
)
from maas_sdk.evaluate.report import figures

IRIS = load_iris()
# Evaluation that knows the class from its petals, and one that guesses.
KNOWS = np.array([[-1.0, 0.0], [0.3, 0.4], [0.9, 0.5]])


@pytest.fixture(scope="module")
def good() -> Evaluation:
    def petals(x: Any) -> Any:
        return np.stack([-x[:, 2], -np.abs(x[:, 2] - 4.3), x[:, 2] - 9.7], axis=1)

    names = ["<setosa>", "versicolor", "virginica"]
    return evaluate(
        petals, (IRIS.data, IRIS.target), name="petals & co", class_names=names, latency_calls=5
    )


@pytest.fixture(scope="module")
def poor() -> Evaluation:
    return evaluate(
        lambda x: np.eye(3)[np.zeros(len(x), int)],
        (IRIS.data, IRIS.target),
        name="always the first",
        latency_calls=5,
    )


class Tags(HTMLParser):
    """Every tag that was opened is closed, in order."""

    VOID = frozenset({"meta", "br", "line", "circle", "rect", "polyline", "i"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def text_of(page: str) -> str:
    parser = Tags()
    parser.feed(page)
    assert parser.open == []
    return parser.text


def test_table_and_page_say_the_same(good: Evaluation) -> None:
    """Each figure of the list is in the terminal's table and in the page, as it is written."""
    table, page = text_table(good), text_of(evaluation_page(good))
    for line in figures(good):
        assert re.search(rf"^{re.escape(line.name)} +{re.escape(line.shown)}$", table, re.M)
        assert line.shown in page
    assert "petals & co" in page
    assert "<setosa>" in page


def test_names_are_text_and_not_markup(good: Evaluation) -> None:
    """A class may be called what it likes."""
    assert "<setosa>" not in evaluation_page(good)


def test_side_by_side_says_which_is_better(good: Evaluation, poor: Evaluation) -> None:
    """More accuracy is better, more log loss is worse; figures of neither kind are not judged."""
    table = compare_table(good, poor)
    assert re.search(r"^accuracy .*% worse$", table, re.M)
    assert re.search(r"^rows +150 +150$", table, re.M)
    assert re.search(r"^accuracy .*% better$", compare_table(poor, good), re.M)
    page = text_of(compare_page(good, poor))
    assert "petals & co beside always the first" in page


def test_a_regression_has_its_scatter_plot() -> None:
    """Targets against answers, with the line where they agree."""
    diabetes = load_diabetes()
    line = np.polyfit(diabetes.data[:, 2], diabetes.target, 1)
    found = evaluate(
        lambda x: np.polyval(line, x[:, 2]), (diabetes.data, diabetes.target), latency_calls=2
    )
    page = evaluation_page(found)
    assert "R²" in text_of(page)
    assert page.count("<circle") == len(found.pairs)
    assert 'class="mark"' in page


def points(svg: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", svg.split("points")[1])
    ]


def draw(curve: Curve, **more: Any) -> str:
    return curve_chart(
        [curve],
        title="t",
        x_label="x",
        y_label="y",
        x_format=lambda v: f"{v:g}",
        y_format=lambda v: f"{v:g}",
        **more,
    )


def test_doublings_are_evenly_apart_on_a_logarithmic_axis() -> None:
    """4, 8, 16, 32: equal steps to the right."""
    svg = draw(Curve(name="c", points=((4, 0), (8, 1), (16, 2), (32, 3))), x_log2=True)
    xs = [x for x, _ in points(svg)][:4]
    steps = np.diff(xs)
    assert np.allclose(steps, steps[0], atol=0.02)
    with pytest.raises(ConfigError, match="above 0"):
        draw(Curve(name="c", points=((0, 1),)), x_log2=True)


def test_a_gap_where_nothing_is_known() -> None:
    """NaN breaks a curve instead of breaking the picture."""
    svg = draw(Curve(name="c", points=((1, 1), (2, 2), (3, float("nan")), (4, 4), (5, 5))))
    assert svg.count("<polyline") == 2
    assert "nan" not in svg
    assert "<svg" in draw(Curve(name="none", points=()))


def test_a_scatter_chart_joins_nothing() -> None:
    """Dots alone."""
    svg = curve_chart(
        [Curve(name="c", points=((1, 2), (3, 4)))],
        title="t",
        x_label="x",
        y_label="y",
        x_format=str,
        y_format=str,
        joined=False,
    )
    assert svg.count("<circle") == 2
    assert "<polyline" not in svg


def test_a_confusion_matrix_names_its_cells() -> None:
    """Whole names for the pointer, short ones beside the matrix, nothing in empty cells."""
    svg = heat_map([[3, 0], [1, 2]], title="t", kind="flower", names=("setosa", "chrysanthemum"))
    assert "true chrysanthemum, predicted setosa: 1" in svg
    assert ">chrysant…<" in svg
    assert svg.count('class="fill empty"') == 1
