"""Data for training: sources, splits, orders with a position, normalization, augmentation."""

from maas_sdk.training.data.augment import Crop, Cutout, Flip, Mixup, Noise
from maas_sdk.training.data.batches import Batches, Transform, batches
from maas_sdk.training.data.csv_table import read_csv
from maas_sdk.training.data.examples import Batch, Examples, Source, Split, Subset, check_finite
from maas_sdk.training.data.images import ImageFolder
from maas_sdk.training.data.normalization import Normalization, normalized
from maas_sdk.training.data.npz import read_npz
from maas_sdk.training.data.order import Order
from maas_sdk.training.data.parquet import ParquetRows
from maas_sdk.training.data.prefetch import Prefetched, prefetch
from maas_sdk.training.data.preprocessed import Preprocessed
from maas_sdk.training.data.row_keys import normals, row_keys, uniforms
from maas_sdk.training.data.rows import Arrays, load
from maas_sdk.training.data.sampling import (
    Balanced,
    EachOnce,
    Nearby,
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
    "Crop",
    "Cutout",
    "EachOnce",
    "Examples",
    "Flip",
    "ImageFolder",
    "Mixup",
    "Nearby",
    "Noise",
    "Normalization",
    "Order",
    "ParquetRows",
    "Prefetched",
    "Preprocessed",
    "Sampling",
    "Source",
    "Split",
    "Subset",
    "Transform",
    "Weighted",
    "WithReplacement",
    "batches",
    "check_finite",
    "epoch_batches",
    "fold_rows",
    "hold_out",
    "hold_out_rows",
    "k_folds",
    "load",
    "normalized",
    "normals",
    "prefetch",
    "read_csv",
    "read_npz",
    "row_keys",
    "stratified_rows",
    "stratified_split",
    "uniforms",
]
