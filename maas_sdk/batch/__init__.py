"""Offline prediction: files and tables through a bundle, into files, resumable after a kill.

from maas_sdk.batch import BatchConfig, predict_files

report = predict_files("digits.maas", "rows.parquet", "answers", BatchConfig(key="id"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_sdk.batch.config import BatchConfig
from maas_sdk.batch.job import BatchJob, BatchReport, predict_files
from maas_sdk.batch.progress import Progress
from maas_sdk.faces import lazy_names

if TYPE_CHECKING:
    from maas_sdk.batch.event import on_event

__all__ = [
    "BatchConfig",
    "BatchJob",
    "BatchReport",
    "Progress",
    "on_event",
    "predict_files",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "on_event": "event",
        },
    )
