"""Training: data and precision in, a trained model and its history out, the same for one seed."""

from maas_sdk.training.checkpoint import CheckpointConfig, Checkpoints
from maas_sdk.training.config import TrainConfig
from maas_sdk.training.data import Examples, Split, batches, stratified_split
from maas_sdk.training.early_stopping import EarlyStopping
from maas_sdk.training.online import OnlineConfig, OnlineLearner
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.parity import parity
from maas_sdk.training.precision import Policy
from maas_sdk.training.trainer import Trainer, TrainResult

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
    "parity",
    "stratified_split",
]
