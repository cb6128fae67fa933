"""Costs and savings of quantization: four trained networks, every recipe, held-out rows.

    python bench/quantize.py [--models convnet,decoder] [--recipes int8,gptq] [--resume] [--save]

It takes half an hour on two cores; ``--resume`` takes up what a run that broke off had measured,
``--kept`` reports it and measures memory alone.

The networks and their rows are those of ``quantize_models.py`` (trained once, kept in
.cache/bench). Recipes are calibrated on training rows. ``max_drop`` chooses formats on rows of its
own and is judged on the held-out ones. ``ratio`` is bytes stored, all weights, scales and codebooks
counted, divided by the float32 bytes; ``lost`` is in points of accuracy (of the next byte, for the
decoder), ± its standard error over rows. Speed is that of the compiled program on this machine's
best target, both taking turns; memory is the peak of a process that quantizes a 300 MB
network: the network and what came on top of it, in multiples of its float32 bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import harness
import numpy as np
import quantize_models

from maas_sdk.compress.latency import latency
from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.compress.quantize import quantize
from maas_sdk.compress.task_metric import Score, judge_of, predictor
from maas_sdk.model.adapt import adapt

MODELS = ("convnet", "resnet18", "encoder", "decoder")
RECIPES = (
    *("int8", "int8-static", "smoothquant", "int8w", "fp8", "int4w", "nf4", "gptq", "awq"),
    *("adaquant", "kmeans4", "kmeans3", "sparse4-50", "second-order", "first-order", "Q0.7"),
)
MAX_DROP = 0.005
KEPT = quantize_models.CACHE / "quantize_rows.json"
BUCKETS = (1, 8, 64)
# Recipes whose compiled programs are timed, and in which ways of serving.
TIMED = {"int8": ("program", "open"), "int8w": ("program",), "int4w": ("program",)}

# The figures that there are bounds for, and the bounds.
TARGETS = {
    "int8_ratio_max": "≤ 0.27",
    "int8_points_lost_max": "≤ 0.5",
    "int4w_ratio_max": "≤ 0.16",
    "kmeans4_ratio_max": "≤ 0.15",
    "max_drop_points_lost_heldout_max": "≤ 0.5",
    "peak_memory_max": "≤ 1.3",
}

MEMORY = """
import ctypes, gc, json, sys, threading, time
import jax, numpy as np, psutil
from flax import nnx
from maas_sdk.compress.quantize import quantize
class Mlp(nnx.Module):
    def __init__(self, rngs):
        sizes = (2048, 6144, 6144, 4096, 10)
        pairs = zip(sizes, sizes[1:])
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)
jax.numpy.zeros(1).block_until_ready()
process = psutil.Process()
model = Mlp(nnx.Rngs(0))
nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
# What making the model left behind is given back first.
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
before = process.memory_info().rss
peak = 0
done = False
def watch():
    global peak
    while not done:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
quantize(model, sys.argv[1], example_inputs=np.zeros((1, 2048), np.float32))
done = True
thread.join()
print(json.dumps({"peak": 1 + (peak - before) / nbytes}))
"""


def judged(trained: Any, model: Any, before: dict[str, Score]) -> tuple[float, float]:
    """Points of accuracy lost on the held-out rows, and the standard error.

    ``before`` keeps the float models' scores.
    """
    judge = judge_of(trained.heldout)
    if trained.name not in before:
        before[trained.name] = judge.score(predictor(adapt(trained.model, None)))
    after = judge.score(predictor(model))
    drop, error = after.drop_from(before[trained.name])
    return 100 * drop, 100 * error


def measured(
    name: str, trained: Any, recipe: str, before: dict[str, Score]
) -> tuple[dict[str, object], QuantizedModel]:
    """A row of the table."""
    began = time.perf_counter()
    if recipe == "max_drop":
        found = quantize(
            trained.model,
            "int8w",
            trained.calibration,
            trained.choose,
            max_drop=MAX_DROP,
        )
    else:
        found = quantize(trained.model, recipe, trained.calibration)
    took_s = time.perf_counter() - began
    lost, error = judged(trained, found.as_model(), before)
    noise = [layer.sqnr_db for layer in found.report.layers if layer.sqnr_db is not None]
    row = {
        "model": name,
        "recipe": recipe,
        "ratio": round(found.report.ratio, 4),
        "lost": round(lost, 3),
        "±": round(error, 3),
        "lowest SQNR dB": round(min(noise), 1) if noise else "",
        "outputs off": round(found.report.output_error or 0.0, 4),
        "seconds": round(took_s, 1),
    }
    print(row, file=sys.stderr, flush=True)
    return row, found


def speed(name: str, trained: Any, recipe: str, found: QuantizedModel) -> list[dict[str, object]]:
    """Rows of latency: the program that takes codes, and the one that gets floats."""
    example = {"input": np.asarray(trained.example)}
    rows = []
    for decode in TIMED.get(recipe, ()):
        timed = latency(
            adapt(trained.model, None), found.serving(decode=decode), example, BUCKETS, bare=True
        )
        for size, pair in timed.latency_s.items():
            rows.append(
                {
                    "model": name,
                    "recipe": f"{recipe}, decode={decode}",
                    "batch": size,
                    "float32 ms": round(1e3 * pair.before, 3),
                    "quantized ms": round(1e3 * pair.after, 3),
                    "times as fast": round(pair.before / pair.after, 3),
                }
            )
    print(rows, file=sys.stderr, flush=True)
    return rows


def peak_memory(recipe: str) -> float:
    """Peak while quantizing, in multiples of the model."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, recipe],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(run.stdout.splitlines()[-1])["peak"])


def main() -> None:
    options = harness.arguments(
        __doc__,
        extend=lambda parser: (
            parser.add_argument("--models", default=",".join(MODELS), help="some of them"),
            parser.add_argument("--recipes", default=",".join((*RECIPES, "max_drop")), help="some"),
            parser.add_argument("--resume", action="store_true", help="take up a run broken off"),
            parser.add_argument("--kept", action="store_true", help="report what it had measured"),
        ),
    )
    recipes = options.recipes.split(",")
    done: dict[str, Any] = {}
    if (options.resume or options.kept) and KEPT.exists():
        done = json.loads(KEPT.read_text())
    before: dict[str, Score] = {}
    for name in options.models.split(","):
        trained = quantize_models.load(name)
        for recipe in recipes:
            key = f"{name} {recipe}"
            if key in done or options.kept:
                continue
            row, found = measured(name, trained, recipe, before)
            timed = speed(name, trained, recipe, found)
            done[key] = {"row": row, "times": timed}
            KEPT.write_text(json.dumps(done))
    keys = [f"{name} {recipe}" for name in options.models.split(",") for recipe in recipes]
    kept = [done[key] for key in keys if key in done]
    rows = [one["row"] for one in kept]
    times = [row for one in kept for row in one["times"]]
    figures: dict[str, float] = {}
    for recipe in recipes:
        mine = [row for row in rows if row["recipe"] == recipe]
        word = "max_drop_points_lost_heldout" if recipe == "max_drop" else f"{recipe}_points_lost"
        figures[f"{recipe}_ratio_max"] = max(float(str(row["ratio"])) for row in mine)
        figures[f"{word}_max"] = max(float(str(row["lost"])) for row in mine)
    for recipe, decodes in TIMED.items():
        for decode in decodes:
            for size in BUCKETS:
                ratios = [
                    float(str(row["times as fast"]))
                    for row in times
                    if row["batch"] == size and row["recipe"] == f"{recipe}, decode={decode}"
                ]
                if ratios:
                    word = f"{recipe}_{decode}_speedup_median_b{size}"
                    figures[word] = float(np.median(ratios))
    figures["peak_memory_max"] = max(peak_memory(recipe) for recipe in ("int8", "int4w", "kmeans4"))
    print(harness.table(times), end="\n\n")
    harness.finish(
        "quantize",
        figures,
        rows,
        save=options.save,
        targets={key: word for key, word in TARGETS.items() if key in figures},
        notes=__doc__.partition("[--save]")[2].strip() + "\n\n" + harness.table(times),
        packages=("numpy", "jax", "jaxlib", "flax", "scipy"),
    )


if __name__ == "__main__":
    main()
