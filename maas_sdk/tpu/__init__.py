"""The TPU compiler, in a child process that needs no TPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_sdk.faces import lazy_names

if TYPE_CHECKING:
    from maas_sdk.tpu.compiler import CompileJob
    from maas_sdk.tpu.program import PlannedProgram

__all__ = [
    "CompileJob",
    "PlannedProgram",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "CompileJob": "compiler",
            "PlannedProgram": "program",
        },
    )
