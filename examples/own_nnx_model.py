"""Bring your own flax.nnx model: train it your way, export it, run it without jax's Python layer.

    python examples/own_nnx_model.py [folder for the bundle]

Real data: 569 breast tumours, 30 measurements each, benign or malignant, as scikit-learn bundles
them (Wolberg, Street and Mangasarian 1995). The model standardizes its inputs itself, so callers
send measurements as they come.
"""

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from maas_sdk import runtime
from maas_sdk.export import export

# ---- data -------------------------------------------------------------------------------------

data = load_breast_cancer()
x_train, x_test, y_train, y_test = train_test_split(
    data.data.astype(np.float32), data.target, test_size=0.25, stratify=data.target, random_state=0
)


# ---- a model: nothing in it knows about maas_sdk ----------------------------------------------


class Constant(nnx.Variable):
    """State that is neither trained nor updated."""


class Tumours(nnx.Module):
    """Measurements float32[B, 30] to logits float32[B, 2]."""

    def __init__(self, mean: np.ndarray, std: np.ndarray, *, rngs: nnx.Rngs) -> None:
        self.mean = Constant(jax.numpy.asarray(mean))
        self.std = Constant(jax.numpy.asarray(std))
        self.hidden = nnx.Linear(30, 32, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        x = (x - self.mean[...]) / self.std[...]
        x = self.dropout(nnx.relu(self.hidden(x)))
        return self.head(x)


# ---- train it, plainly ------------------------------------------------------------------------

model = Tumours(x_train.mean(axis=0), x_train.std(axis=0), rngs=nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adamw(3e-3), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x, y):
    def loss_fn(model):
        return optax.losses.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    optimizer.update(model, nnx.grad(loss_fn)(model))


for _ in range(200):  # 426 rows: each step takes them all
    train_step(model, optimizer, x_train, y_train)
model.eval()

# ---- export: a few real rows say what the inputs look like, and are what is verified with -------

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
bundle = export(model, x_test[:8], path=folder / "tumours.maas", name="tumours", buckets=(1, 16))
print(f"exported {bundle.path}")

# ---- run the bundle: jaxlib and numpy only, any number of rows ----------------------------------

engine = runtime.load(bundle.path)
answers = engine.predict(x_test)
reference = np.asarray(model(x_test))
print(f"opened as {engine.report.tier}")
print(f"held-out accuracy {np.mean(answers.argmax(axis=-1) == y_test):.3f}")
print(f"largest difference from the model {np.abs(answers - reference).max():.1e}")
np.testing.assert_allclose(answers, reference, atol=1e-4)
engine.close()
