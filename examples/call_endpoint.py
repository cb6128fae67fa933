"""Call a model at a running endpoint: one batch, many rows, another dtype.

Needs the client alone: ``pip install maas-sdk``. Start an endpoint first, for instance with
``maas serve``, then::

    python examples/call_endpoint.py http://127.0.0.1:8080 digits

The model is the handwritten-digits one of ``maas demo``: image float32[B, 8, 8, 1] in,
logits float32[B, 10] out. B: rows of a batch.
"""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np

from maas_sdk.client import Client, RetryPolicy
from maas_sdk.errors import InputError, MaasError


def main(url: str = "http://127.0.0.1:8080", model: str = "digits") -> None:
    # ---- connect ------------------------------------------------------------
    # One client for the whole program: it keeps its connections, and its threads may share it.
    # timeout_s is the whole patience with a call; retries happen within it.
    client = Client(url, model, timeout_s=60.0, retry=RetryPolicy(max_attempts=4))

    # ---- what does the model want? ------------------------------------------
    # The first question also wakes an endpoint that has scaled to zero.
    signatures = client.metadata()["metadata"]["signature_def"]["signature_def"]
    for program, signature in sorted(signatures.items()):
        print(f"{program}: inputs {sorted(signature['inputs'])}")
    print(f"ready: {client.ready()}")

    # ---- one batch ----------------------------------------------------------
    rng = np.random.default_rng(0)
    images = rng.random((3, 8, 8, 1), np.float32)
    logits = client.predict(images)
    assert isinstance(logits, np.ndarray)  # a dict, if the model had several outputs
    print(f"predict: {images.shape} → {logits.shape}, digits {logits.argmax(-1).tolist()}")

    # By name is the same, and the only way with several inputs.
    np.testing.assert_array_equal(client.predict({"image": images}), logits)

    # ---- many rows ----------------------------------------------------------
    # Any iterable of rows, consumed as the answers are taken; requests of 256 rows, four of them
    # under way at a time, one answer per row in the order of the rows.
    many = rng.random((2000, 8, 8, 1), np.float32)
    counts = np.zeros(10, int)
    for row in client.predict_many(many, batch_rows=256, max_in_flight=4):
        assert isinstance(row, np.ndarray)
        counts[row.argmax()] += 1
    print(f"predict_many: {counts.sum()} rows, per digit {counts.tolist()}")

    # ---- when something is wrong --------------------------------------------
    # bfloat16 arrays travel as they are, as every dtype of ml_dtypes does. This model wants
    # float32, so it says so: errors have a class for programs and a sentence for people.
    try:
        client.predict(images.astype(ml_dtypes.bfloat16))
    except InputError as error:
        print(f"as expected: {error}")

    client.close()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except MaasError as error:
        sys.exit(f"{type(error).__name__}: {error}")
