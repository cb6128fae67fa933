"""The demo's data: the handwritten digits that scikit-learn bundles, so nothing is downloaded.

1,797 grey images of 8×8 pixels by 43 people, from the test part of the UCI set "Optical Recognition
of Handwritten Digits" (Alpaydin and Kaynak 1998).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from sklearn.datasets import load_digits

from maas_sdk.training.data import Examples, Split, stratified_split

__all__ = ["CLASS_NAMES", "SPLIT_SEED", "TEST_FRACTION", "load_split"]

CLASS_NAMES: Final = tuple("0123456789")
TEST_FRACTION: Final = 0.2
# Fixed, and not the training seed: every run is judged on the same rows.
SPLIT_SEED: Final = 0
# Each pixel counts the inked points of a 4×4 block of the scan.
_MAX_INK: Final = 16.0


def load_split() -> Split:
    """Return the digits, 80 % for training and 20 % of every class held out.

    Inputs are float32[N, 8, 8, 1] from 0 (paper) to 1 (ink), labels int32[N].
    """
    images, labels = load_digits(return_X_y=True)
    return stratified_split(
        Examples(
            inputs=(images / _MAX_INK).astype(np.float32).reshape(-1, 8, 8, 1),
            labels=labels.astype(np.int32),
        ),
        test_fraction=TEST_FRACTION,
        seed=SPLIT_SEED,
    )
