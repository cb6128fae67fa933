"""Fill a report's template: the one place that knows Jinja2.

A report is an HTML file beside the module that has its values. It extends ``reports/page.html``,
writes its words and tables there, and draws by the functions of ``charts``. Every value is escaped
unless a chart drew it; a name that is not there is an error, never an empty place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from maas_sdk.charts import quantities
from maas_sdk.charts.curves import curve_chart
from maas_sdk.charts.heat_map import heat_map, pixels
from maas_sdk.charts.plots import bars, histogram, stacked_bars
from maas_sdk.errors import DependencyError

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["fill"]

_CHARTS = (bars, curve_chart, heat_map, histogram, pixels, stacked_bars)


def fill(template: str, **values: Any) -> str:
    """Return a report as one HTML page that needs nothing else: no script, no network.

    Args:
        template: path of the report's HTML file inside the package, such as ``plan/page.html``.
        values: by the names that the template calls them.

    Raises:
        DependencyError: Jinja2 is not installed.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise DependencyError(
            "reports as pages are filled in by Jinja2, which is not installed: "
            "pip install 'maas-sdk[train]'"
        ) from error

    def drawn(chart: Callable[..., str]) -> Callable[..., str]:
        return lambda *data, **options: Markup(chart(*data, **options))

    made = Environment(
        loader=PackageLoader("maas_sdk", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # How numbers are written: as filters, and as functions that a chart is handed for its ticks.
    words = {name: getattr(quantities, name) for name in quantities.__all__}
    made.filters.update(words)
    made.globals.update(words | {chart.__name__: drawn(chart) for chart in _CHARTS})
    return made
