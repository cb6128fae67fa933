"""The demo, end to end on real data: train, quantize, export, package, start cold, call.

``maas demo`` runs it. ``run`` is the order of the stages, ``result`` what they found out,
``report`` the same as one HTML file. Names are imported when they are asked for: ``maas --help``
stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_sdk.faces import lazy_names

if TYPE_CHECKING:
    from maas_sdk.demo.digits import load_split

__all__ = [
    "load_split",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "load_split": "digits",
        },
    )
