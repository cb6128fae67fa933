"""Training: data and precision in, a trained model and its history out, reproducible by seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_sdk.faces import lazy_names
from maas_sdk.training.checkpoints.manager import CheckpointConfig, Checkpoints
from maas_sdk.training.data import Examples, Split, batches, stratified_split
from maas_sdk.training.early_stopping import EarlyStopping, StoppingVerdict, judge
from maas_sdk.training.hooks import EvalRecord
from maas_sdk.training.losses import cross_entropy
from maas_sdk.training.online.learner import OnlineConfig, OnlineLearner
from maas_sdk.training.optimizer import OptimizerConfig, make_optimizer
from maas_sdk.training.parity.comparison import parity
from maas_sdk.training.parity.page import comparison_page
from maas_sdk.training.precision import Policy
from maas_sdk.training.run.config import TrainConfig
from maas_sdk.training.run.trainer import Trainer, TrainResult
from maas_sdk.training.step import (
    create_train_state,
    make_eval_step,
    make_train_step,
    mean_of,
    supervised,
)

if TYPE_CHECKING:
    from maas_sdk.training.qtraining import prepare
    from maas_sdk.training.run.linen import from_linen, to_linen

__all__ = [
    "CheckpointConfig",
    "Checkpoints",
    "EarlyStopping",
    "EvalRecord",
    "Examples",
    "OnlineConfig",
    "OnlineLearner",
    "OptimizerConfig",
    "Policy",
    "Split",
    "StoppingVerdict",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "batches",
    "comparison_page",
    "create_train_state",
    "cross_entropy",
    "from_linen",
    "judge",
    "make_eval_step",
    "make_optimizer",
    "make_train_step",
    "mean_of",
    "parity",
    "prepare",
    "stratified_split",
    "supervised",
    "to_linen",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "prepare": "qtraining",
            "from_linen": "run.linen",
            "to_linen": "run.linen",
        },
    )
