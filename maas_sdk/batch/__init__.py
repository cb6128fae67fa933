"""Offline prediction: files and tables through a bundle, into files, resumable after a kill.

from maas_sdk.batch import BatchConfig, predict_files

report = predict_files("digits.maas", "rows.parquet", "answers", BatchConfig(key="id"))
"""

from maas_sdk.batch.config import BatchConfig
from maas_sdk.batch.job import BatchJob, BatchReport, predict_files
from maas_sdk.batch.progress import Progress

__all__ = ["BatchConfig", "BatchJob", "BatchReport", "Progress", "predict_files"]
