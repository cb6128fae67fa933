"""The HTML that reports are built of: the page around it, sections, cards, tables, legends.

The rule: arguments that are called ``content`` or ``body`` are markup and kept as they are, all
others are text and escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

__all__ = ["card", "document", "legend", "section", "table"]


def document(title: str, body: str) -> str:
    """A whole page, with the style sheet in it."""
    style = files("maas_sdk.charts").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, lead: str, *content: str) -> str:
    """A heading, a sentence under it, and what it is about."""
    return (
        f"<section>\n<h2>{escape(title)}</h2>\n<p>{escape(lead)}</p>\n{''.join(content)}</section>"
    )


def card(*content: str, class_: str = "card") -> str:
    """A framed box."""
    return f'<div class="{class_}">{"".join(content)}</div>\n'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int = 1) -> str:
    """A table whose first column names the row; columns from ``numbers_from`` are right-aligned."""

    def cell(tag: str, index: int, content: str, scope: str = "") -> str:
        class_ = ' class="n"' if index >= numbers_from else ""
        return f"<{tag}{class_}{scope}>{escape(content)}</{tag}>"

    head = "".join(cell("th", i, name, ' scope="col"') for i, name in enumerate(heads))
    body = "".join(
        "<tr>"
        + cell("th", 0, row[0], ' scope="row"')
        + "".join(cell("td", i, value) for i, value in enumerate(row[1:], 1))
        + "</tr>\n"
        for row in rows
    )
    above = f"<thead><tr>{head}</tr></thead>\n" if heads else ""
    return f'<div class="scroll"><table>{above}<tbody>{body}</tbody></table></div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """What colours mean: a name and the class that gives the colour, for each."""
    items = "".join(f'<li><i class="{class_}"></i>{escape(name)}</li>' for name, class_ in entries)
    return f'<ul class="legend">{items}</ul>'
