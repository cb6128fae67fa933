"""Trained models to evaluate quantization with: its cost shows on trained weights only.

Four networks of four kinds, trained here, on real data that comes with installed packages:

- ``convnet``: the demo's convolutions on scikit-learn's handwritten digits, 8×8;
- ``resnet18``: the published ResNet-18 in its full width, on the digits enlarged to 32×32×3;
- ``encoder``: BERT-mini, which says what 31 words are from: Python's language reference, the
  docstrings or the code of scipy's functions, or numpy's C headers; 4,094 ids of hashed words;
- ``decoder``: a small Llama over bytes, of the language reference that Python's ``help()`` shows.

    python bench/quantize_models.py [--save]

The rule: rows are dealt three ways, and no row is in two parts. A model learns from ``train``, of
which a calibration sees some; settings are chosen with ``choose``; ``heldout`` is judged by and
used for nothing else. Text is dealt in whole functions or stretches, and a paragraph that is
repeated counts where it comes first, so that what is held out was not read elsewhere.

``load`` trains once and keeps the weights, under a name that changes with this file, with the rows
learnt from and with the network's parameters. Texts are those of the installed versions: figures of
other versions differ a little. Needs maas-sdk[demo].

Dimension letters: N rows, T positions, K classes or tokens.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final

import harness
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from flax import nnx
from sklearn.datasets import load_digits

from maas_sdk.bundle.files.weights import open_weights, write_weights
from maas_sdk.model.names import map_named
from maas_sdk.models.presets import make_model, preset
from maas_sdk.tensors import Array
from maas_sdk.training.checkpoints.named_state import named_arrays
from maas_sdk.training.data import Examples, hold_out_rows, stratified_rows
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.trainer import TrainConfig, Trainer

__all__ = [
    "CACHE",
    "KINDS",
    "RECIPES",
    "Recipe",
    "Rows",
    "Trained",
    "accuracy",
    "answers",
    "bits_per_byte",
    "load",
]

CACHE: Final = Path(__file__).parent.parent / ".cache" / "bench"
# The encoder's classes.
KINDS: Final = ("reference", "docstring", "code", "header")

# Shares of all rows: a quarter is held out, and a fifth of the rest is for choosing.
_HELDOUT: Final = 0.25
_CHOOSE: Final = 0.2
_SEED: Final = 0
_CALIBRATION_ROWS: Final = 256
_EXAMPLE_ROWS: Final = 8

# Rows of each kind of text: enough for an epoch, and read in seconds.
_KIND_ROWS: Final = 2_000
# Of scipy's functions, as many as fill the rows of docstrings.
_FUNCTIONS: Final = 900
_WORDS: Final = 31
_VOCABULARY: Final = 4096
# Token 0 is left free for padding, 1 stands for the row.
_CLS: Final = 1
_SPECIAL: Final = 2

_CONTEXT: Final = 128
_PARAGRAPHS: Final = 32

# What is saved of a model: batch norm's running statistics are weights of a served network.
_KEPT: Final = (nnx.Param, nnx.BatchStat)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Rows dealt three ways."""

    train: Examples
    choose: Examples
    heldout: Examples

    def calibration(self) -> Array:
        """Inputs of some training rows; they are in no order, so the first will do."""
        return self.train.inputs[:_CALIBRATION_ROWS]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Data, configuration and training of a model."""

    # A configuration out of ``maas_sdk.models``.
    config: Any
    rows: Callable[[], Rows]
    training: TrainConfig
    # What ``accuracy`` is the accuracy of.
    metric: str = "accuracy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained model, in evaluation mode, and the rows to treat and to judge it with."""

    name: str
    model: Any
    # Inputs of training rows, [256, …], for ranges of activations and the like.
    calibration: Array
    # Rows that settings are chosen with; the model did not learn from them.
    choose: Examples
    # Rows that were used for nothing.
    heldout: Examples
    metric: str
    # Inputs of a few training rows, [8, …], for tracing and export.
    example: Array
    # Wall clock of the training, when it took place.
    train_s: float

    @property
    def tensors(self) -> dict[str, Array]:
        """All that is saved of the model, by path."""
        return _tensors(self.model)


def load(
    name: str, folder: str | os.PathLike[str] = CACHE, *, recipe: Recipe | None = None
) -> Trained:
    """The trained model of that name; trained now where ``folder`` does not have it.

    Args:
        name: a key of ``RECIPES``, or any name with ``recipe``.
        folder: where weights are kept; made where there is none.
        recipe: another one than that of ``RECIPES``.

    Raises:
        CorruptError: the file of weights is damaged; delete it.
    """
    recipe = RECIPES[name] if recipe is None else recipe
    rows = recipe.rows()
    model = make_model(recipe.config, rngs=nnx.Rngs(_SEED))
    file = Path(folder) / f"{name}-{_key(recipe, rows, model)}.safetensors"
    if not file.exists():
        began = time.perf_counter()
        learnt = Trainer(recipe.training).fit(model, rows.train).model
        metadata = {"train_s": f"{time.perf_counter() - began:.1f}"}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        write_weights(part, _tensors(learnt), metadata=metadata)
        part.replace(file)
    # From the file in either case: what was trained and what is loaded later are the same.
    weights = open_weights(file)
    return Trained(
        name=name,
        model=_with_weights(model, weights),
        calibration=rows.calibration(),
        choose=rows.choose,
        heldout=rows.heldout,
        metric=recipe.metric,
        example=rows.train.inputs[:_EXAMPLE_ROWS],
        train_s=float(weights.metadata["train_s"]),
    )


def answers(model: Callable[[Any], Any], inputs: Array, *, batch: int = 64) -> Array:
    """Outputs of all rows, float32[N, …]; compiled once, for ``batch`` rows at a time."""
    call = nnx.jit(model) if isinstance(model, nnx.Module) else jax.jit(model)
    found = []
    for start in range(0, len(inputs), batch):
        rows = inputs[start : start + batch]
        filled = np.concatenate([rows, np.repeat(rows[:1], batch - len(rows), axis=0)])
        found.append(np.asarray(call(filled), np.float32)[: len(rows)])
    return np.concatenate(found)


def accuracy(outputs: Array, labels: Array) -> float:
    """Share of labels, integer[N] or [N, T], that the greatest of outputs [N, (T,) K] names."""
    return float(np.mean(np.asarray(outputs).argmax(axis=-1) == labels))


def bits_per_byte(outputs: Array, labels: Array) -> float:
    """Cross-entropy of logits [N, T, 256] and bytes [N, T], in bits; it sees what accuracy cannot.

    The mean of log2 Σ_k exp(z_k) - z_y / ln 2.
    """
    logits = np.asarray(outputs, np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    right = np.take_along_axis(logits, np.asarray(labels)[..., None], axis=-1)[..., 0]
    return float(np.mean(np.log(np.exp(logits).sum(axis=-1)) - right) / np.log(2))


def _deal(count: int, labels: Array | None = None) -> tuple[Array, Array, Array]:
    """Row numbers to learn from, to choose with and held out; with labels, of every class."""

    def cut(rows: Array, share: float, seed: int) -> tuple[Array, Array]:
        if labels is None:
            kept, taken = hold_out_rows(len(rows), test_fraction=share, seed=seed)
        else:
            kept, taken = stratified_rows(labels[rows], test_fraction=share, seed=seed)
        return rows[kept], rows[taken]

    rest, heldout = cut(np.arange(count), _HELDOUT, _SEED)
    train, choose = cut(rest, _CHOOSE, _SEED + 1)
    return train, choose, heldout


def _digits(size: int = 8, channels: int = 1) -> Rows:
    """The 1,797 digits as float32[N, size, size, channels] from 0 to 1, enlarged bilinearly."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    if size != 8:
        shape = (len(images), size, size, 1)
        images = np.asarray(jax.image.resize(images, shape, "bilinear"))
    images = np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], channels)))
    data = Examples(inputs=images, labels=labels.astype(np.int32))
    train, choose, heldout = (data.take(rows) for rows in _deal(len(labels), labels))
    return Rows(train=train, choose=choose, heldout=heldout)


def _new(paragraphs: list[str], seen: set[str]) -> list[str]:
    """Return the paragraphs not seen before, however they are wrapped and indented."""
    found = []
    for paragraph in paragraphs:
        words = " ".join(paragraph.split())
        if words and words not in seen:
            seen.add(words)
            found.append(paragraph)
    return found


def _stretches(paragraphs: list[str]) -> list[str]:
    """Paragraphs that follow each other, 32 at a time."""
    return [
        "\n\n".join([*paragraphs[start : start + _PARAGRAPHS], ""])
        for start in range(0, len(paragraphs), _PARAGRAPHS)
    ]


def _reference() -> list[str]:
    """Stretches of the language reference; topics repeat each other's paragraphs."""
    texts = [part for name in sorted(topics) for part in topics[name].split("\n\n")]
    return _stretches(_new(texts, set()))


def _headers() -> list[str]:
    """Stretches of numpy's C headers."""
    files = sorted(Path(np.get_include()).rglob("*.h"))
    texts = [part for file in files for part in file.read_text("utf-8").split("\n\n")]
    return _stretches(_new(texts, set()))


def _functions() -> Iterator[tuple[str, str]]:
    """Docstring and body of scipy's documented functions, files in an order of a seed's making."""
    root = Path(scipy.__file__).parent
    files = sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).as_posix())
    seen: set[str] = set()
    for number in np.random.default_rng(_SEED).permutation(len(files)):
        for node in ast.parse(files[number].read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
                body = "\n".join(ast.unparse(line) for line in node.body[1:])
                docstring = "\n\n".join(_new(text.split("\n\n"), seen))
                yield docstring, "\n".join(_new([body], seen))


def _words(text: str) -> list[int]:
    """A token for each word, number and mark: CRC-32 of its small letters, folded."""
    pieces = re.findall(r"\w+|[^\w\s]", text.lower())
    return [_SPECIAL + zlib.crc32(piece.encode()) % (_VOCABULARY - _SPECIAL) for piece in pieces]


def _kinds() -> Rows:
    """int32[N, 32]: [CLS] and 31 words; labels are places in ``KINDS``."""
    functions = tuple(zip(*itertools.islice(_functions(), _FUNCTIONS), strict=True))
    parts: tuple[list[Examples], ...] = ([], [], [])
    seen: set[bytes] = set()
    for label, texts in enumerate((_reference(), *functions, _headers())):
        rows = [_rows_of(text, seen) for text in texts]
        ends = np.cumsum([len(part) for part in rows])
        rows = [part for part, end in zip(rows, ends, strict=True) if end <= _KIND_ROWS]
        for part, numbers in zip(parts, _deal(len(rows)), strict=True):
            inputs = np.concatenate([rows[number] for number in numbers])
            part.append(Examples(inputs=inputs, labels=np.full(len(inputs), label, np.int32)))
    train, choose, heldout = parts
    return Rows(
        train=_shuffled(train), choose=_shuffled(choose, 512), heldout=_shuffled(heldout, 1024)
    )


def _rows_of(text: str, seen: set[bytes]) -> Array:
    """[CLS] and 31 words, int32[N, 32]; without rows seen before, such as rulers and licences."""
    words = np.array(_words(text), np.int32)
    # Words that do not fill a row are left out.
    rows = words[: len(words) // _WORDS * _WORDS].reshape(-1, _WORDS)
    new = [row.tobytes() not in seen and not seen.add(row.tobytes()) for row in rows]
    return np.pad(rows[np.array(new, bool)], ((0, 0), (1, 0)), constant_values=_CLS)


def _bytes() -> Rows:
    """Bytes int32[N, 128] of the language reference, and those that follow."""
    stretches = _reference()
    parts = []
    for numbers in _deal(len(stretches)):
        joined = "".join(stretches[number] for number in sorted(numbers))
        text = np.frombuffer(joined.encode(), np.uint8)
        starts = np.arange(0, len(text) - _CONTEXT, _CONTEXT)
        rows = text[starts[:, None] + np.arange(_CONTEXT + 1)].astype(np.int32)
        parts.append([Examples(inputs=rows[:, :-1], labels=rows[:, 1:])])
    train, choose, heldout = parts
    return Rows(
        train=_shuffled(train), choose=_shuffled(choose, 128), heldout=_shuffled(heldout, 512)
    )


def _shuffled(parts: list[Examples], most: int | None = None) -> Examples:
    """All rows in an order that a seed decides, or so many of them."""
    joined = Examples(
        inputs=np.concatenate([part.inputs for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )
    return joined.take(np.random.default_rng(_SEED).permutation(len(joined))[:most])


def _training(steps: int, *, batch_size: int, rate: float) -> TrainConfig:
    """One device, so that any process trains the same weights; seeds are the defaults."""
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        optimizer=OptimizerConfig(learning_rate=rate),
        mesh={"data": 1},
    )


# Steps are what two cores without AVX-512 do in about eight minutes, all four together.
RECIPES: Final[Mapping[str, Recipe]] = {
    "convnet": Recipe(
        config=preset("convnet-digits"),
        rows=_digits,
        training=_training(300, batch_size=64, rate=3e-3),
    ),
    "resnet18": Recipe(
        config=preset("resnet18", classes=10),
        rows=functools.partial(_digits, 32, 3),
        training=_training(90, batch_size=64, rate=1e-3),
    ),
    "encoder": Recipe(
        config=preset(
            "bert-mini",
            vocab_size=_VOCABULARY,
            max_length=_WORDS + 1,
            classes=len(KINDS),
            dropout=0.0,
            # About 1/√256, not BERT's 0.02: few steps must do.
            init_std=0.06,
        ),
        rows=_kinds,
        training=_training(130, batch_size=32, rate=1e-3),
    ),
    "decoder": Recipe(
        # Llama 2's proportions: feed-forward layers 2.7 times as wide, heads of 64.
        config=preset(
            "decoder-tiny", layers=4, features=256, heads=4, head_features=0, hidden_features=704
        ),
        rows=_bytes,
        training=_training(140, batch_size=16, rate=2e-3),
        metric="accuracy of the next byte",
    ),
}


def _tensors(model: Any) -> dict[str, Array]:
    state = nnx.state(model, _KEPT)
    return {name: np.asarray(array) for name, array in named_arrays(state).items()}


def _key(recipe: Recipe, rows: Rows, model: Any) -> str:
    """Return a hash of everything that the weights depend on: sixteen hexadecimal digits."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(repr((recipe.config, recipe.training)).encode())
    for array in (rows.train.inputs, rows.train.labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    for name, array in _tensors(model).items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
    return digest.hexdigest()[:16]


def _with_weights(model: Any, weights: Mapping[str, Array]) -> Any:
    """The model in evaluation mode, with other weights."""
    graphdef, state, rest = nnx.split(model, _KEPT, ...)
    # Copies: a loaded model outlives the mapped file, whatever becomes of that.
    state = map_named(lambda name, _: jnp.array(weights[name]), state)
    filled = nnx.merge(graphdef, state, rest)
    filled.eval()
    return filled


def main() -> None:
    options = harness.arguments(__doc__)
    rows, figures = [], {}
    for name in RECIPES:
        trained = load(name)
        outputs = answers(trained.model, trained.heldout.inputs)
        labels = trained.heldout.labels
        tensors = trained.tensors.values()
        found = accuracy(outputs, labels)
        row = {
            "model": name,
            "parameters": sum(array.size for array in tensors),
            "bytes": sum(array.nbytes for array in tensors),
            "trained s": trained.train_s,
            "inputs": "×".join(map(str, trained.example.shape[1:])),
            "choose": len(trained.choose),
            "heldout": len(trained.heldout),
            "metric": trained.metric,
            "value": found,
        }
        figures[f"{name}_accuracy"] = found
        if labels.ndim == 2:
            row["bits per byte"] = bits_per_byte(outputs, labels)
            figures[f"{name}_bits_per_byte"] = row["bits per byte"]
        rows.append(row)
    notes = "Trained on real data, judged on rows that were used for nothing else."
    harness.finish("quantize_models", figures, rows, save=options.save, notes=notes)


if __name__ == "__main__":
    main()
