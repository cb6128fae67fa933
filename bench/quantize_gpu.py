"""Quantized products on a GPU against bfloat16: single layers and blocks of a decoder.

    python bench/quantize_gpu.py [--tiny] [--save]

The layer is ``x @ w`` with w of a Llama 8B block, [4096, 14336], for 1 to 4096 rows;
the block is the feed-forward half of it, gated, two of them one after another, so that no cache
holds the weights. Every contestant is compiled by jit from the same float32 model:

- ``bf16``: weights and inputs bfloat16, what a GPU serves a float model in;
- ``int8``: weights and inputs int8, found as they come, sums in int32;
- ``int8w``: weights int8, decoded before the product;
- ``fp8``: weights and inputs float8_e4m3fn;
- ``int4w``: weights of 4 bits, a scale for each 64 inputs, decoded before the product.

A time is that of 20 calls divided by 20, a figure the median over the rounds, all contestants in
turn. ``speedup`` is bf16's time divided by theirs. Without a GPU there is nothing to measure: that
is said, and nothing is saved. ``--tiny`` runs the same lines anywhere, only to see that they work.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np

from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.compress.quantize import quantize

CALLS = 20
RECIPES = ("int8", "int8w", "fp8", "int4w")
BLOCKS = 2


def layer(weights: Any, x: Any) -> Any:
    """[B, K] → [B, N]."""
    return x @ weights["kernel"]


def feed_forward(weights: Any, x: Any) -> Any:
    """[B, D] → [B, D]: gated, as Llama's; ``BLOCKS`` in a row."""
    for block in weights["blocks"]:
        x = x + (jax.nn.silu(x @ block["gate"]) * (x @ block["up"])) @ block["down"]
    return x


def contestants(
    apply: Callable[[Any, Any], Any], weights: Any, width: int
) -> dict[str, Callable[[Any], Any]]:
    """A compiled call of each: rows in, answer out."""
    narrow = jax.device_put(jax.tree.map(lambda array: jnp.asarray(array, jnp.bfloat16), weights))
    plain = jax.jit(apply)
    calls: dict[str, Callable[[Any], Any]] = {"bf16": lambda x: plain(narrow, x)}
    row = np.ones((1, width), jnp.bfloat16)
    for recipe in RECIPES:
        # Where a range is clipped is of no matter to the time, and slow to find for a billion.
        found = quantize(apply, recipe, example_inputs=row, weights=narrow, clip="max")
        calls[recipe] = _compiled(found)
    return calls


def _compiled(quantized: QuantizedModel) -> Callable[[Any], Any]:
    """The model as jit has it, with nothing of Python's in between."""
    model = quantized.as_model()
    run = model.bind(None)
    arrays = jax.device_put([leaf.value for leaf in model.leaves])
    call = jax.jit(lambda arrays, x: run(arrays, {"input": x}, True))
    return lambda x: call(arrays, x)


def _timer(call: Callable[[Any], Any], x: Any) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        for _ in range(CALLS):
            found = call(x)
        jax.block_until_ready(found)
        return (time.perf_counter() - began) / CALLS

    return measure


def main() -> None:
    options = harness.arguments(
        __doc__,
        extend=lambda parser: parser.add_argument(
            "--tiny", action="store_true", help="only whether it works"
        ),
    )
    device = jax.devices()[0]
    if device.platform != "gpu" and not options.tiny:
        print(f"no GPU here (jax found {device.device_kind}): nothing measured", file=sys.stderr)
        print(json.dumps({"bench": "quantize_gpu", "figures": {}}))
        return
    width, inner, sizes = (64, 128, (1, 16)) if options.tiny else (4096, 14336, (1, 16, 256, 4096))
    draw = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Any:
        return draw.standard_normal((rows, columns), np.float32) / np.sqrt(rows, dtype=np.float32)

    shapes = {
        f"{width}×{inner}": (layer, {"kernel": matrix(width, inner)}),
        f"{BLOCKS} feed-forward blocks": (
            feed_forward,
            {
                "blocks": [
                    {
                        "gate": matrix(width, inner),
                        "up": matrix(width, inner),
                        "down": matrix(inner, width),
                    }
                    for _ in range(BLOCKS)
                ]
            },
        ),
    }
    rows: list[dict[str, object]] = []
    figures: dict[str, float] = {}
    for name, (apply, weights) in shapes.items():
        calls = contestants(apply, weights, width)
        for size in sizes:
            x = jnp.asarray(draw.standard_normal((size, width), np.float32), jnp.bfloat16)
            timers = {recipe: _timer(call, x) for recipe, call in calls.items()}
            samples = harness.interleave(timers, runs=options.runs, warmup=2, progress=False)
            for recipe, sample in samples.items():
                ratio = harness.median_ratio(samples["bf16"], sample)
                rows.append(
                    {
                        "shape": name,
                        "rows": size,
                        **sample.row(unit="µs", scale=1e6),
                        "speedup": round(ratio, 3),
                    }
                )
                if recipe != "bf16" and apply is feed_forward:
                    figures[f"speedup_blocks_{recipe}_b{size}"] = ratio
            print(
                f"{name} {size}",
                {k: round(1e6 * s.median, 1) for k, s in samples.items()},
                flush=True,
            )
    harness.finish(
        "quantize_gpu",
        figures,
        rows,
        save=options.save and not options.tiny,
        notes=f"{device.device_kind}. " + __doc__.partition("[--save]")[2].strip(),
        packages=("jax", "jaxlib", "numpy"),
    )


if __name__ == "__main__":
    main()
