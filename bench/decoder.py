"""GPU utilization of a training step: a decoder of about a billion parameters, in bfloat16.

Llama 3.2 1B from random weights on real text (the sources of Python's standard library, byte by
byte), through the Trainer: float32 masters, bfloat16 compute, AdamW, layers scanned and computed
again in the backward pass.

    python bench/decoder.py [--rows N] [--length N] [--attention cudnn|xla] [--tiny] [--save]

- ``mfu_of_ceiling``: the model's arithmetic per second, as a share of what a bfloat16 product of
  8192 × 8192 reaches on the same GPU in the same run.
- ``mfu_of_peak``: the same as a share of the maker's figure.

The model's arithmetic is two operations per multiply-add of the forward pass's products, times
three; attention's square in full, though a mask throws half of it away; nothing for what is
computed again. Memory is the GPU's own high-water mark.

Without a GPU there is nothing to measure: that is said, and nothing is saved. ``--tiny`` runs the
same lines with a small model anywhere, only to see that they work. Needs maas-sdk[train].
"""

from __future__ import annotations

import json
import statistics
import sys
import sysconfig
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maas_sdk.evaluate.cost import matmul_ceiling, peak_flops
from maas_sdk.models import Decoder, DecoderConfig
from maas_sdk.tpu.flops import matmul_flops
from maas_sdk.training import Examples, OptimizerConfig, TrainConfig, Trainer
from maas_sdk.training.hooks import StepRecord

STEPS, LOG_EVERY = 40, 5


def text(rows: int, length: int) -> Examples:
    """Return bytes of real text: each row's labels are its tokens, one to the left."""
    wanted, found = rows * length + 1, b""
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        found += file.read_bytes()
        if len(found) >= wanted:
            break
    tokens = np.resize(np.frombuffer(found, np.uint8), wanted).astype(np.int32)
    return Examples(
        inputs=tokens[:-1].reshape(rows, length), labels=tokens[1:].reshape(rows, length)
    )


def forward_flops(model: Decoder, tokens: Any) -> float:
    """Operations of the forward pass of a batch, from its shapes."""
    graphdef, state = nnx.split(model)

    def forward(state: Any, tokens: Any) -> Any:
        called: Any = nnx.merge(graphdef, state)
        return called(tokens)

    return matmul_flops(forward, state, tokens)


def main() -> None:
    options = harness.arguments(
        __doc__,
        extend=lambda parser: (
            parser.add_argument("--rows", type=int, default=16, help="of a batch"),
            parser.add_argument("--length", type=int, default=2048, help="tokens of a row"),
            parser.add_argument("--attention", default="cudnn", choices=("cudnn", "xla")),
            parser.add_argument("--tiny", action="store_true", help="only whether it works"),
        ),
    )
    device = jax.devices()[0]
    if device.platform != "gpu" and not options.tiny:
        print(f"no GPU here (jax found {device.device_kind}): nothing measured", file=sys.stderr)
        print(json.dumps({"bench": "decoder", "figures": {}}))
        return
    rows, length, preset = options.rows, options.length, "llama3.2-1b"
    attention = options.attention
    if options.tiny:
        rows, length, preset, attention = 4, 32, "decoder-tiny", "xla"
    shape = DecoderConfig.preset(preset, scan_layers=True, remat=True, attention=attention)
    model = Decoder(shape, rngs=nnx.Rngs(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    data = text(rows * STEPS, length)
    flops = 3 * forward_flops(model, jnp.asarray(data.inputs[:rows]))
    records: list[StepRecord] = []

    def watch(record: Any) -> None:
        if isinstance(record, StepRecord):
            records.append(record)

    config = TrainConfig(
        steps=STEPS,
        batch_size=rows,
        precision="bf16",
        mesh={"data": 1},
        log_every=LOG_EVERY,
        prefetch=2,
        optimizer=OptimizerConfig(learning_rate=1e-4),
        progress=False,
    )
    Trainer(config).fit(model, data, hooks=[watch])
    # The first record holds what only the first steps do.
    times = [record.step_time_s for record in records[1:]]
    step_s = statistics.median(times)
    ceiling = matmul_ceiling(jnp.bfloat16, size=256 if options.tiny else 8192, repeats=20)
    published = peak_flops(device)
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    figures = {
        "mfu_of_ceiling": flops / step_s / ceiling,
        "tokens_per_s": rows * length / step_s,
        "ceiling_tflops": ceiling / 1e12,
        "loss_falls": records[0].metrics["loss"] - records[-1].metrics["loss"],
    }
    if published is not None:
        figures["mfu_of_peak"] = flops / step_s / published
    if memory is not None:
        figures["peak_gb"] = memory / 1e9
    harness.finish(
        "decoder",
        figures,
        [
            {
                "what": f"{preset}, {parameters / 1e9:.2f} billion parameters",
                "device": device.device_kind,
                "attention": attention,
                "rows": rows,
                "tokens of a row": length,
                "Tflop per step": round(flops / 1e12, 3),
                "median ms": round(1e3 * step_s, 2),
                "min ms": round(1e3 * min(times), 2),
                "max ms": round(1e3 * max(times), 2),
            }
        ],
        save=options.save and not options.tiny,
        targets={"mfu_of_ceiling": "≥ 0.5"},
        notes=__doc__.partition("[--save]")[2].strip(),
        packages=("jax", "jaxlib", "flax", "optax", "numpy"),
    )


if __name__ == "__main__":
    main()
