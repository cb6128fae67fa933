"""Make a model smaller: train it, quantize it twice, export both, compare what serving answers.

    python examples/quantize_model.py [folder for the bundles]

Real data: scikit-learn's handwritten digits. int8 takes the weights of all layers to a quarter of
their bytes. max_drop chooses the bits of each layer instead: the fewest bytes that lose no more
than one percent of accuracy, as measured on rows that were put aside for choosing.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from flax import nnx
from sklearn.datasets import load_digits

from maas_sdk import runtime
from maas_sdk.compress import quantize
from maas_sdk.export import export
from maas_sdk.models import ConvNet
from maas_sdk.training import Examples, TrainConfig, Trainer, stratified_split

# ---- data: rows to learn from, to choose bits with, and to be judged by -----------------------

digits = load_digits()
images = (digits.images / 16.0)[..., None].astype(np.float32)  # [N, 8, 8, 1]
data = stratified_split(Examples(inputs=images, labels=digits.target), test_fraction=0.4, seed=0)
choose = data.test.inputs[::2], data.test.labels[::2]
heldout, labels = data.test.inputs[1::2], data.test.labels[1::2]

# ---- a trained model ---------------------------------------------------------------------------

model = ConvNet(features=(16, 32), hidden_features=64, rngs=nnx.Rngs(0))
trained = Trainer(TrainConfig(epochs=10, progress=False)).fit(model, data).model

# ---- quantize ----------------------------------------------------------------------------------

int8 = quantize(trained, "int8", evaluate=choose)
print(int8.report.table())

smallest = quantize(trained, "int8w", evaluate=choose, max_drop=0.01, entropy="zlib")
print()
print(smallest.report.table())

# ---- export like any model -----------------------------------------------------------------------

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
rows = data.train.inputs[:16]
for name, found in (("float32", trained), ("int8", int8), ("smallest", smallest)):
    export(found, rows, path=folder / f"{name}.maas", name="digits", buckets=(1, 64))

# ---- serve with jaxlib and numpy only, and judge by rows that nothing was chosen with -----------

print()
for name in ("float32", "smallest", "int8"):
    path = folder / f"{name}.maas"
    with runtime.load(path) as engine:
        answers = np.asarray(engine.predict(heldout))
    nbytes = (path / "weights.safetensors").stat().st_size
    accuracy = np.mean(answers.argmax(axis=-1) == labels)
    print(f"{name:8}  {nbytes:7,} bytes of weights, {accuracy:.2%} of {len(labels)} rows right")

print(f"\nheld-out accuracy {accuracy:.3f}")
