"""Plans of training and serving steps on a TPU slice, made with the real TPU compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_sdk.faces import lazy_names

if TYPE_CHECKING:
    from maas_sdk.plan.planner import plan

__all__ = [
    "plan",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "plan": "planner",
        },
    )
