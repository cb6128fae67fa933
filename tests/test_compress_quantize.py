from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.compress.program.formats import Format
from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.compress.program.recipes import RECIPES
from maas_sdk.compress.quantize import quantize
from maas_sdk.demo.digits import load_split
from maas_sdk.export import export
from maas_sdk.models import ConvNet, Decoder, DecoderConfig, make_model
from maas_sdk.runtime import load
from maas_sdk.training.run.trainer import TrainConfig, Trainer

TARGETS = ["cpu-x86_64-avx2"]


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_split()


@pytest.fixture(scope="module")
def model(digits: Any) -> Any:
    config = TrainConfig(epochs=4, precision="bf16", label_smoothing=0.05)
    found: Any = Trainer(config).fit(ConvNet(rngs=nnx.Rngs(0)), digits).model
    found.eval()
    return found


def leaves(model: Any) -> dict[str, np.ndarray]:
    return {
        "/".join(map(str, path)): np.asarray(value[...])
        for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }


def stored(quantized: QuantizedModel) -> dict[str, bytes]:
    """All bytes of a quantized model, by leaf."""
    return {leaf.name: leaf.to_numpy().tobytes() for leaf in quantized.as_model().leaves}


# Recipe → bytes as a share of float32, at most, and how much accuracy may be lost.
BOUNDS = {
    "int8": (0.27, 0.005),
    "int8-static": (0.27, 0.005),
    "int8w": (0.27, 0.005),
    "int4w": (0.16, 0.02),
    "int2w": (0.10, 1.0),
    "nf4": (0.16, 0.02),
    "fp8": (0.27, 0.01),
    "fp8w": (0.27, 0.01),
    "smoothquant": (0.27, 0.005),
    "gptq": (0.16, 0.02),
    "awq": (0.16, 0.02),
    "adaquant": (0.16, 0.02),
    "first-order": (0.06, 1.0),
    "second-order": (0.09, 1.0),
    "kmeans4": (0.15, 0.01),
    "kmeans2": (0.09, 0.1),
    "sparse4-50": (0.11, 0.05),
    "Q0.7": (0.27, 0.01),
    # Shared at random, a quarter of the numbers keeps a quarter of the energy: made for training.
    "hashed8": (0.27, 1.0),
}


def test_every_recipe_has_a_bound() -> None:
    """The table above leaves no recipe out."""
    assert RECIPES.keys() <= BOUNDS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", BOUNDS)
def test_a_trained_model_through_every_recipe(recipe: str, model: Any, digits: Any) -> None:
    """Bytes and accuracy on held-out digits stay within what each recipe promises."""
    test = digits.test
    most, drop = BOUNDS[recipe]
    found = quantize(model, recipe, digits.train.inputs[:128], (test.inputs, test.labels))
    report = found.report
    assert report.ratio <= most, report.table()
    assert report.drop is not None
    assert report.drop <= drop, report.table()
    assert report.before is not None
    assert report.before > 0.9
    # What the report counts is what is stored.
    assert report.bytes_stored == sum(len(data) for data in stored(found).values())
    assert found.as_model().compression == report.compression()


def test_the_given_model_is_left_as_it_was(model: Any, digits: Any) -> None:
    """The same arrays with the same numbers, and the same answers."""
    rows = digits.test.inputs[:4]
    arrays = {path: value[...] for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    before, answers = leaves(model), np.asarray(model(rows))
    quantize(model, "gptq", digits.train.inputs[:64])
    after = {path: value[...] for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert all(after[path] is array for path, array in arrays.items())
    for name, array in leaves(model).items():
        np.testing.assert_array_equal(array, before[name])
    np.testing.assert_array_equal(np.asarray(model(rows)), answers)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["kmeans4", "adaquant"])
def test_the_same_bytes_twice(recipe: str, model: Any, digits: Any) -> None:
    """Nothing hangs on chance: the same recipe, model and rows give the same bytes."""
    rows = digits.train.inputs[:64]
    assert stored(quantize(model, recipe, rows)) == stored(quantize(model, recipe, rows))


def test_an_endless_calibration_is_left_where_it_has_given_enough(model: Any, digits: Any) -> None:
    """Only as many rows are taken as were asked for, of pairs with labels too."""
    drawn = []

    def batches() -> Iterator[Any]:
        while True:
            drawn.append(1)
            yield digits.train.inputs[:16], digits.train.labels[:16]

    rows = digits.train.inputs[:2]
    found = quantize(
        model, "int8-static", batches(), example_inputs=rows, calibration_rows=40, include="hidden"
    )
    assert len(drawn) == 3
    assert [*found.weights] == ["hidden/kernel"]


def test_max_drop_is_kept_as_measured(model: Any, digits: Any) -> None:
    """The bound holds, with its standard error; a loose one takes fewer bytes than int8."""
    judged = digits.test.inputs, digits.test.labels
    found = quantize(model, evaluate=judged, max_drop=0.02)
    report = found.report
    assert report.drop is not None
    assert report.drop_error is not None
    assert report.drop + report.drop_error <= 0.02
    assert report.bytes_stored < quantize(model, "int8w", judged[0][:2]).report.bytes_stored
    assert all(layer.drop is not None for layer in report.layers)


def test_nothing_is_quantized_where_nothing_may_be_lost() -> None:
    """A bound of nothing on a metric that every change lowers leaves the model in float."""
    weights = {"w": np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)}
    rows = np.random.default_rng(1).normal(size=(8, 32)).astype(np.float32)
    truth = rows @ weights["w"]

    def likeness(predict: Any) -> float:
        return -float(np.abs(predict(rows) - truth).max() > 1e-5)

    found = quantize(
        lambda w, x: x @ w["w"],
        "int8w",
        evaluate=likeness,
        example_inputs=rows,
        weights=weights,
        max_drop=0.0,
    )
    assert not found.weights
    assert (found.report.ratio, found.report.drop) == (1.0, 0.0)


# --- other architectures ---------------------------------------------------------------------

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 200, (4, 12)).astype(np.int32)
IMAGES = RNG.normal(size=(4, 8, 8, 1)).astype(np.float32)
SEQUENCES = RNG.normal(size=(4, 8, 8)).astype(np.float32)


def scanned() -> Any:
    config = DecoderConfig.preset("decoder-tiny", scan_layers=True)
    return Decoder(config, rngs=nnx.Rngs(0))


ARCHITECTURES = {
    "decoder": (lambda: make_model("decoder-tiny", rngs=nnx.Rngs(0)), TOKENS),
    "decoder, scanned": (scanned, TOKENS),
    "encoder": (lambda: make_model("bert-tiny", rngs=nnx.Rngs(0)), TOKENS),
    "resnet": (lambda: make_model("resnet-digits", rngs=nnx.Rngs(0)), IMAGES),
    "lstm": (lambda: make_model("lstm-digits", rngs=nnx.Rngs(0)), SEQUENCES),
}


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "error"), [("int8", 0.06), ("int4w", 0.25)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures(name: str, recipe: str, error: float) -> None:
    """Every matrix of the presets is found, and answers stay near the float model's."""
    make, rows = ARCHITECTURES[name]
    model = make()
    model.eval()
    found = quantize(model, recipe, rows, min_size=1)
    matrices = [leaf for leaf in found.source.leaves if len(leaf.value.shape) > 1]
    plain = {leaf.name for leaf in matrices} - found.weights.keys()
    # Scales of norms are the only matrices that are none, where layers are stacked.
    assert all(name.rpartition("/")[2] in ("scale", "bias") for name in plain), plain
    assert found.report.output_error is not None
    assert found.report.output_error < error


@pytest.mark.parametrize("decode", ["program", "open"])
@pytest.mark.parametrize("entropy", [None, "zlib", "zstd"])
def test_a_bundle_answers_as_the_model(decode: Any, entropy: Any, tmp_path: Path) -> None:
    """The served bundle gives the quantized model's answers, however it is decoded."""
    weights = {
        "a": RNG.normal(size=(64, 128)).astype(np.float32),
        "b": RNG.normal(size=(128, 16)).astype(np.float32),
        "bias": RNG.normal(size=128).astype(np.float32),
    }

    def apply(weights: Any, x: Any) -> Any:
        return jnp.tanh(x @ weights["a"] + weights["bias"]) @ weights["b"]

    rows = RNG.normal(size=(4, 64)).astype(np.float32)
    found = quantize(
        apply, "kmeans4", rows, weights=weights, decode=decode, entropy=entropy, min_size=1
    )
    path = tmp_path / "model.maas"
    bundle = export(found, rows, path=path, buckets=(1, 4), targets=TARGETS)
    assert bundle.manifest.compression == found.report.compression()
    with load(path) as engine:
        np.testing.assert_allclose(
            engine.predict(rows), np.asarray(found(rows)), rtol=1e-5, atol=1e-5
        )
    size = path.joinpath("weights.safetensors").stat().st_size
    assert size < 0.2 * sum(array.nbytes for array in weights.values())


def test_int8_is_served_in_int8(model: Any, digits: Any, tmp_path: Path) -> None:
    """The trained model's bundle answers as the quantized model in the lean runtime."""
    rows = digits.test.inputs[:8]
    found = quantize(model, "int8", rows)
    path = tmp_path / "digits.maas"
    export(found, rows, path=path, buckets=(1, 8), targets=TARGETS)
    with load(path) as engine:
        answers = engine.predict(rows)
        one = engine.predict(rows[:1])
    np.testing.assert_allclose(answers, np.asarray(found(rows)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one, answers[:1], rtol=1e-5, atol=1e-5)


def test_weights_decoded_while_opening_are_multiplied_as_they_lie() -> None:
    """The program of ``decode="open"`` makes no second copy of a weight, such as a transposed."""
    weights = {"w": RNG.normal(size=(512, 1024)).astype(np.float32)}
    rows = RNG.normal(size=(1, 512)).astype(np.float32)
    found = quantize(lambda w, x: x @ w["w"], "int8", rows, weights=weights, decode="open")
    model = found.as_model()
    run = model.bind(None)
    arrays = [jnp.asarray(leaf.to_numpy()) for leaf in model.leaves]
    program = jax.jit(lambda arrays, x: run(arrays, {"input": x}, True)).lower(arrays, rows)
    assert program.compile().memory_analysis().temp_size_in_bytes < weights["w"].nbytes / 8


def test_latency_of_both_compiled_programs(tmp_path: Path) -> None:
    """Both models are timed at each batch size; report, notes and manifest say what was found."""
    weights = {"w": RNG.normal(size=(64, 64)).astype(np.float32)}
    rows = RNG.normal(size=(2, 64)).astype(np.float32)
    told: list[tuple[int, int]] = []
    found = quantize(
        lambda w, x: jnp.tanh(x @ w["w"]),
        "int8",
        weights=weights,
        example_inputs=rows,
        latency_buckets=(8, 1),
        progress=lambda stage, *done: told.append(done) if stage == "latency" else None,
    )
    assert [done for done, _ in told] == [0, 1, 2, 3, 4]
    assert {total for _, total in told} == {4}
    report = found.report
    assert [*report.latency_s] == [1, 8]
    assert all(min(pair) > 0 for pair in report.latency_s.values())
    assert report.target is not None
    slower = [n for n, pair in report.latency_s.items() if pair.after > 1.05 * pair.before]
    assert any("slower than the float one" in note for note in report.notes) is bool(slower)
    bundle = export(found, rows, path=tmp_path / "m.maas", buckets=(1,), targets=TARGETS)
    assert bundle.manifest.compression is not None
    kept = bundle.manifest.compression.latency_s
    assert {int(size): pair for size, pair in kept.items()} == report.latency_s


@pytest.mark.parametrize(
    ("changes", "says"), [({}, False), ({"granularity": 16}, True), ({"kind": "kmeans"}, True)]
)
def test_float_activations_are_said(changes: Any, says: bool) -> None:
    """Where a recipe quantizes activations and a weight's format cannot meet them, a note says."""
    weights = {"w": RNG.normal(size=(64, 64)).astype(np.float32)}
    rows = RNG.normal(size=(2, 64)).astype(np.float32)
    found = quantize(
        lambda w, x: x @ w["w"], "int8", weights=weights, example_inputs=rows, **changes
    )
    notes = [note for note in found.report.notes if "activations stay in float at w" in note]
    assert bool(notes) is says


def test_open_and_program_hold_the_same_weights() -> None:
    """Weights decoded beforehand answer as those decoded in the program: one formula."""
    weights = {"w": RNG.normal(size=(48, 32)).astype(np.float32)}
    rows = RNG.normal(size=(3, 48)).astype(np.float32)
    for recipe in ("int8w", "int4w", "nf4", "kmeans3", "sparse4-50", "second-order", "hashed8"):
        found = quantize(lambda w, x: x @ w["w"], recipe, rows, weights=weights)
        np.testing.assert_allclose(
            found.serving(decode="open")(rows), found(rows), rtol=2e-5, atol=2e-5, err_msg=recipe
        )


def test_progress_is_told() -> None:
    """Each stage says how far it is, and ends where it said it would."""
    told: dict[str, list[tuple[int, int]]] = {}
    weights = {"w": RNG.normal(size=(16, 16)).astype(np.float32)}
    rows = RNG.normal(size=(130, 16)).astype(np.float32)
    quantize(
        lambda w, x: x @ w["w"],
        "gptq",
        rows,
        weights=weights,
        progress=lambda stage, done, total: told.setdefault(stage, []).append((done, total)),
    )
    assert told == {"calibrate": [(1, 3), (2, 3), (3, 3)], "quantize": [(1, 1)]}


def test_several_inputs_by_name() -> None:
    """A model of a dict of inputs is called, quantized and judged with one."""
    weights = {"w": RNG.normal(size=(16, 8)).astype(np.float32)}
    rows = {
        "x": RNG.normal(size=(6, 16)).astype(np.float32),
        "y": RNG.normal(size=(6, 8)).astype(np.float32),
    }

    def apply(weights: Any, inputs: Mapping[str, Any]) -> Any:
        return {"z": inputs["x"] @ weights["w"] + inputs["y"]}

    found = quantize(apply, "int8", rows, weights=weights, min_size=1)
    expected = rows["x"] @ weights["w"] + rows["y"]
    np.testing.assert_allclose(found(rows)["z"], expected, atol=0.1)
    np.testing.assert_allclose(found(**rows)["z"], expected, atol=0.1)


def test_overrides_choose_a_format_by_name(model: Any, digits: Any) -> None:
    """A weight's own format decides before the recipe's; None leaves it in float."""
    found = quantize(
        model,
        "int8w",
        digits.test.inputs[:2],
        overrides={"head/kernel": None, "hidden/kernel": Format(kind="kmeans", bits=3)},
    )
    formats = {layer.name: layer.format for layer in found.report.layers}
    assert formats["head/kernel"] == "float32"
    assert formats["hidden/kernel"] == "kmeans3/channel"
    assert formats["trunk/kernel"] == "int8/channel"
