"""Training: data and precision in, a trained model and its history out, reproducible by seed."""

from maas_sdk.training.checkpoints.manager import CheckpointConfig, Checkpoints
from maas_sdk.training.data import Examples, Split, batches, stratified_split
from maas_sdk.training.early_stopping import EarlyStopping
from maas_sdk.training.online.learner import OnlineConfig, OnlineLearner
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.parity.comparison import parity
from maas_sdk.training.parity.page import comparison_page
from maas_sdk.training.precision import Policy
from maas_sdk.training.run.config import TrainConfig
from maas_sdk.training.run.trainer import Trainer, TrainResult

__all__ = [
    "CheckpointConfig",
    "Checkpoints",
    "EarlyStopping",
    "Examples",
    "OnlineConfig",
    "OnlineLearner",
    "OptimizerConfig",
    "Policy",
    "Split",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "batches",
    "comparison_page",
    "parity",
    "stratified_split",
]
