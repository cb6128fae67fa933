"""Time from new rows to a new bundle version by online learning: the digits network.

    python bench/online.py [--quick] [--runs N] [--save]

- ``publish_s``: ``reweight`` of the demo's bundle (batch sizes 1 to 64, this machine's targets)
  with the weights of the update: programs and executables copied and hashed, weights written,
  golden rows answered by the new version, everything flushed to the disk and renamed.
- ``update_s``: ``OnlineLearner.update`` of 64 rows without the publication: the error before, 8
  steps on 64 new and 64 remembered rows each, the guard before and after.
- ``export_s``: what publishing by another ``export`` would take, once, in the same process.
- ``load_s``: the new version loaded by the runtime, ready to answer.

Needs maas-sdk[demo].
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import harness
import numpy as np
from flax import nnx

from maas_sdk.demo.digits import load_split
from maas_sdk.export import default_targets, export
from maas_sdk.export.reweight import reweight
from maas_sdk.models.convnet import ConvNet
from maas_sdk.runtime import load
from maas_sdk.store.opening import LocalStore
from maas_sdk.training.data import Examples
from maas_sdk.training.online.config import OnlineConfig, OnlineRecord
from maas_sdk.training.online.learner import OnlineLearner
from maas_sdk.training.run.trainer import TrainConfig, Trainer

ROWS = 64


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="two batch sizes, one target")


def main() -> None:
    given = harness.arguments(__doc__, runs=15, extend=options)
    folder = Path(tempfile.mkdtemp(prefix="maas-online-"))
    try:
        _measure(given, folder)
    finally:
        shutil.rmtree(folder)


def _measure(given: argparse.Namespace, folder: Path) -> None:
    data = load_split()
    config = TrainConfig(epochs=3, progress=False)
    model = Trainer(config).fit(ConvNet(rngs=nnx.Rngs(0)), data).model
    less: dict[str, Any] = {"buckets": (1, 64), "targets": default_targets()[:1]}
    example = {"image": data.test.inputs[:8]}
    path = folder / "digits.maas"
    export_s = harness.timed(
        lambda: export(model, example, path=path, name="digits", **(less if given.quick else {}))
    )
    store = LocalStore(folder / "store")
    store.publish(path, "digits")
    learner = OnlineLearner(
        model,
        # Whatever comes is kept: what is measured is a publication.
        OnlineConfig(guard_margin=1.0),
        guard=data.test,
        memory=data.train,
        publish=lambda trained: reweight(store.resolve("digits"), trained),
    )
    generator = np.random.default_rng(0)
    records: list[OnlineRecord] = []

    def update() -> float:
        rows = generator.choice(len(data.train), ROWS, replace=False)
        fresh: Examples = data.train.take(rows)
        records.append(learner.update(fresh))
        return records[-1].learn_s

    def opened() -> float:
        return harness.timed(lambda: load(store.resolve("digits")).close())

    found = harness.interleave(
        {"update": update, "published": lambda: records[-1].publish_s, "loaded": opened},
        runs=given.runs,
    )
    harness.finish(
        "online",
        {
            "publish_s": found["published"].median,
            "update_s": found["update"].median,
            "export_s": export_s,
            "load_s": found["loaded"].median,
        },
        [sample.row(unit="s", scale=1.0) for sample in found.values()],
        save=given.save,
        targets={"publish_s": "< 1"},
        notes=__doc__.partition("[--save]")[2].strip(),
        packages=("jax", "jaxlib", "flax", "numpy"),
    )


if __name__ == "__main__":
    main()
