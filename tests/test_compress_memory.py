from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Peak memory is counted for the whole process, so each recipe has one of its own.
CHILD = """
import json, sys
import jax, numpy as np
from flax import nnx
from maas_sdk.compress.quantize import quantize

def status(name):
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith(name)).split()[1])

class Mlp(nnx.Module):
    def __init__(self, count, rngs):
        self.layers = nnx.List([nnx.Linear(2048, 2048, rngs=rngs) for _ in range(count)])
    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x

rows = np.random.default_rng(0).normal(size=(2, 2048)).astype(np.float32)
# What is loaded and compiled once, whatever the model.
quantize(Mlp(1, nnx.Rngs(0)), sys.argv[1], rows)
model = Mlp(24, nnx.Rngs(0))
jax.block_until_ready(nnx.state(model))
size = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
# What making the model left over is not what is measured.
before = status("VmRSS") - size
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
found = quantize(model, sys.argv[1], rows)
print(json.dumps([(status("VmHWM") - before) / size, size, found.report.ratio]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8", "int8w", "int4w", "kmeans4"])
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
    assert size > 400e6
    assert ratio < 0.27
    assert share <= 1.3
