"""Data for training: sources, splits, orders with a position, normalization, augmentation."""

from maas_sdk.training.data.batches import Batches, batches
from maas_sdk.training.data.examples import (
    Batch,
    Examples,
    Source,
    Split,
    Subset,
    check_finite,
)
from maas_sdk.training.data.prefetch import Prefetched, prefetch
from maas_sdk.training.data.rows import Arrays
from maas_sdk.training.data.sampling import (
    Balanced,
    EachOnce,
    Sampling,
    Weighted,
    WithReplacement,
    epoch_batches,
)
from maas_sdk.training.data.splits import (
    fold_rows,
    hold_out,
    hold_out_rows,
    k_folds,
    stratified_rows,
    stratified_split,
)

__all__ = [
    "Arrays",
    "Balanced",
    "Batch",
    "Batches",
    "EachOnce",
    "Examples",
    "Prefetched",
    "Sampling",
    "Source",
    "Split",
    "Subset",
    "Weighted",
    "WithReplacement",
    "batches",
    "check_finite",
    "epoch_batches",
    "fold_rows",
    "hold_out",
    "hold_out_rows",
    "k_folds",
    "prefetch",
    "stratified_rows",
    "stratified_split",
]
