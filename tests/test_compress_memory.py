from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Peak memory is counted for the whole process, so each recipe has one of its own.
CHILD = """
import json, resource, sys
import jax, numpy as np
from flax import nnx
from maas_sdk.compress.quantize import quantize

def now():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

class Mlp(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2048, 2048, rngs=rngs) for _ in range(18)])
    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x

rows = np.random.default_rng(0).normal(size=(2, 2048)).astype(np.float32)
jax.jit(lambda x: x @ x.T)(rows).block_until_ready()
small = lambda w, x: jax.nn.relu(x @ w["a"])
# What is loaded and compiled once, whatever the model.
quantize(small, sys.argv[1], rows, weights={"a": np.ones((2048, 8), np.float32) * rows[:1].T})
before = now()
model = Mlp(nnx.Rngs(0))
size = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
found = quantize(model, sys.argv[1], rows)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([(peak - before) / size, size, found.report.ratio]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8w", "int4w", "kmeans4"])
def test_a_model_and_what_is_stored_and_little_more(recipe: str) -> None:
    """At its peak the model and its quantized form take 1.3 times the float bytes together."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, recipe],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    share, size, ratio = json.loads(done.stdout.splitlines()[-1])
    assert size > 290e6
    assert ratio < 0.27
    assert share <= 1.3
