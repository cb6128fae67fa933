"""Bring your own flax.linen model: a module and its variables become a bundle.

    python examples/own_linen_model.py [folder for the bundle]

Real data: scikit-learn's handwritten digits. The bundle has two programs over one set of weights:
``predict`` gives logits, ``embed`` the features under them, for search or clustering.
"""

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from maas_sdk import runtime
from maas_sdk.export import export

# ---- data -------------------------------------------------------------------------------------

images, labels = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(
    (images / 16).astype(np.float32).reshape(-1, 8, 8, 1),
    labels,
    test_size=0.25,
    stratify=labels,
    random_state=0,
)


# ---- a model: nothing in it knows about maas_sdk ----------------------------------------------


class Digits(nn.Module):
    """Images float32[B, 8, 8, 1] to logits float32[B, 10]."""

    def setup(self) -> None:
        """Name the layers, so that both methods can use them."""
        self.conv = nn.Conv(32, (3, 3), strides=2)
        self.hidden = nn.Dense(64)
        self.head = nn.Dense(10)

    def embed(self, x: jax.Array) -> jax.Array:
        """Features float32[B, 64]."""
        x = nn.relu(self.conv(x))
        return nn.relu(self.hidden(x.reshape(x.shape[0], -1)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        return self.head(self.embed(x))


# ---- train it, plainly ------------------------------------------------------------------------

model = Digits()
variables = model.init(jax.random.key(0), x_train[:1])
optimizer = optax.adam(3e-3)
opt_state = optimizer.init(variables)


@jax.jit
def train_step(variables, opt_state, x, y):
    def loss_fn(variables):
        logits = model.apply(variables, x)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    updates, opt_state = optimizer.update(jax.grad(loss_fn)(variables), opt_state)
    return optax.apply_updates(variables, updates), opt_state


order = np.random.default_rng(0)
for _ in range(300):
    rows = order.choice(len(x_train), size=128, replace=False)
    variables, opt_state = train_step(variables, opt_state, x_train[rows], y_train[rows])

# ---- export: programs by name; None is the model's own call, a string one of its methods --------

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
bundle = export(
    model,
    x_test[:8],
    weights=variables,
    programs={"predict": None, "embed": "embed"},
    path=folder / "digits.maas",
    name="digits",
    buckets=(1, 16),
)
print(f"exported {bundle.path}")

# ---- run the bundle: jaxlib and numpy only, any number of rows ----------------------------------

engine = runtime.load(bundle.path)
answers = engine.predict(x_test)
features = engine.predict(x_test, program="embed")
reference = np.asarray(model.apply(variables, x_test))
print(f"opened as {engine.report.tier}")
print(f"held-out accuracy {np.mean(answers.argmax(axis=-1) == y_test):.3f}")
print(f"features {features.shape}")
print(f"largest difference from the model {np.abs(answers - reference).max():.1e}")
np.testing.assert_allclose(answers, reference, atol=1e-4)
engine.close()
