"""Evaluation of a model: quality, speed and cost, in comparable numbers."""

from maas_sdk.evaluate.accuracy import Classification, classification
from maas_sdk.evaluate.evaluation import Evaluation, evaluate
from maas_sdk.evaluate.language import Language, language
from maas_sdk.evaluate.regression import Regression, regression
from maas_sdk.evaluate.report import compare_page, compare_table, evaluation_page, text_table

__all__ = [
    "Classification",
    "Evaluation",
    "Language",
    "Regression",
    "classification",
    "compare_page",
    "compare_table",
    "evaluate",
    "evaluation_page",
    "language",
    "regression",
    "text_table",
]
