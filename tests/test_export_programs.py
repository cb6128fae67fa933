from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from maas_sdk.errors import ExportError
from maas_sdk.export.events import Reporter
from maas_sdk.export.inputs import check_buckets, requests
from maas_sdk.export.programs import ReferenceModel, lower, signature, trace
from maas_sdk.model.adapt import adapt

ROWS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def setup(apply, weights, example=ROWS):
    (request,) = requests({"predict": apply}, example, (1, 2), Reporter())
    return adapt(apply, weights), request


def lowered(apply, weights, example=ROWS, rows=2):
    model, request = setup(apply, weights, example)
    traced = trace(model, request, rows)
    return lower(traced, traced.used, name="predict")


def text(data: bytes) -> str:
    context = ir.Context()
    with context:
        stablehlo.register_dialect(context)
        return str(stablehlo.deserialize_portable_artifact(context, data))


def test_arguments_are_weights_then_inputs_and_results_are_sorted():
    """Unused weights are no arguments; inputs always are, sorted; outputs are sorted by name."""

    def apply(weights, inputs):
        return {"z": inputs["b"] @ weights["w"], "a": weights["c"] * 2 + 0 * inputs["b"][:, 0]}

    weights = {"c": jnp.ones(()), "unused": jnp.ones((9, 9)), "w": jnp.ones((4, 5))}
    example = {"b": ROWS, "a": ROWS[:, :2].astype(np.int32)}
    model, request = setup(apply, weights, example)
    traced = trace(model, request, 2)
    assert [leaf.name for leaf, used in zip(model.leaves, traced.used, strict=True) if used] == [
        "c",
        "w",
    ]
    found = signature(request, [traced, trace(model, request, 5)])
    assert {k: str(v) for k, v in found.inputs.items()} == {
        "a": "int32[B, 2]",
        "b": "float32[B, 4]",
    }
    assert {k: str(v) for k, v in found.outputs.items()} == {
        "a": "float32[B]",
        "z": "float32[B, 5]",
    }
    main = text(lower(traced, traced.used, name="predict").data)
    for position, kind in enumerate(("f32>", "4x5xf32", "2x2xi32", "2x4xf32")):
        assert f"%arg{position}: tensor<{kind}" in main
    assert ": tensor<2xf32>, tensor<2x5xf32>\n  }" in main


def test_no_large_constant_in_the_stablehlo():
    """The weights of a module are arguments: the text of its program holds no big literal."""
    net = nnx.Linear(64, 64, rngs=nnx.Rngs(0))
    (request,) = requests(None, np.ones((1, 64), np.float32), (1,), Reporter())
    traced = trace(adapt(net, None), request, 1)
    portable = lower(traced, traced.used, name="predict")
    assert len(portable.data) < 4096 < 64 * 64 * 4
    assert max(len(line) for line in text(portable.data).splitlines()) < 1000


def test_a_closed_over_array_is_refused():
    """An array that would become a constant is named by its type, with the remedy."""
    table = jnp.asarray(np.random.default_rng(0).random((64, 32), np.float32))
    inner = jax.jit(lambda x: x @ table[:4])
    for apply in (lambda w, x: x @ table[:4], lambda w, x: inner(x)):
        with pytest.raises(ExportError, match=r"tensor<64x32xf32> \(8,192 bytes\).*as a weight"):
            lowered(apply, {})


def test_a_splat_is_no_large_constant():
    """A large array of one value is one number in the program."""
    small = lowered(lambda w, x: x + jnp.ones((2, 4)) * np.ones((2, 4), np.float32), {})
    large = lowered(lambda w, x: x[:, 0] + np.zeros((4096, 1), np.float32).sum(), {})
    assert max(len(small.data), len(large.data)) < 4096  # bytes that 4,096 numbers do not fit into


def test_no_path_of_this_machine_is_in_a_program():
    """Locations, which name source files, are not exported."""
    assert __file__.encode() not in lowered(lambda w, x: jnp.tanh(x @ w), np.ones((4, 4))).data


def test_the_oldest_stablehlo_that_can_say_it():
    """A plain program is readable by the oldest reader; a newer operation raises the version."""
    plain = lowered(lambda w, x: x * 2, {})
    newer = lowered(lambda w, x: jax.lax.top_k(x, 2), {})
    assert plain.version == stablehlo.get_minimum_version()
    assert newer.version != plain.version


def test_lapack_calls_are_listed_and_callbacks_refused():
    """jaxlib ships LAPACK; a Python callback cannot be served."""
    found = lowered(lambda w, x: jnp.linalg.cholesky(jnp.eye(4) + x[:, :, None] * x[:, None]), {})
    assert found.custom_calls == ("lapack_spotrf_ffi",)
    with pytest.raises(ExportError, match=r"program 'predict' .* calls back into Python"):
        lowered(
            lambda w, x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x), {}
        )


def test_outputs_are_named():
    """One array is ``output``, a tuple ``output_0``…, nested dicts are joined by slashes."""

    def outputs(apply):
        model, request = setup(apply, {})
        return list(trace(model, request, 2).outputs)

    assert outputs(lambda w, x: x) == ["output"]
    assert outputs(lambda w, x: (x, [x])) == ["output_0", "output_1/0"]
    assert outputs(lambda w, x: {"b": x, "a": {"c": x}}) == ["a/c", "b"]
    with pytest.raises(ExportError, match="returned no array"):
        outputs(lambda w, x: {})


def test_an_error_of_the_model_is_passed_on():
    """What the model raised is in the message, with the shapes it was traced with."""

    def apply(weights, inputs):
        raise ValueError("kernel mismatch")

    model, request = setup(apply, {})
    with pytest.raises(ExportError, match=r"input: float32\[2, 4\]: ValueError: kernel mismatch"):
        trace(model, request, 2)


def test_random_numbers_are_refused():
    """A program that draws from its module's random state is named."""

    class Noisy(nnx.Module):
        def __init__(self) -> None:
            self.rngs = nnx.Rngs(0)

        def __call__(self, x):
            return x + jax.random.normal(self.rngs.default(), x.shape)

    (request,) = requests(None, ROWS, (1,), Reporter())
    with pytest.raises(ExportError, match="draws random numbers from"):
        trace(adapt(Noisy(), None), request, 1)


def test_outputs_that_follow_the_batch_otherwise_are_refused():
    """[B·T, …] cannot be split into rows again, and is told so; a fixed shape is allowed."""
    model, request = setup(lambda w, x: x.reshape(-1), {})
    with pytest.raises(ExportError, match=r"\(4,\) for 1 rows, \(8,\) for 2 rows"):
        signature(request, [trace(model, request, 1), trace(model, request, 2)])
    model, request = setup(lambda w, x: x.sum(axis=0), {})
    found = signature(request, [trace(model, request, 1), trace(model, request, 2)])
    assert str(found.outputs["output"]) == "float32[4]"


def test_the_reference_answers_as_the_model_does():
    """The reference is the model itself, for any number of rows."""
    model, request = setup(lambda w, x: x @ w["w"], {"w": np.ones((4, 2)), "not": np.ones(3)})
    reference = ReferenceModel(model=model, request=request, traces={})
    for rows in (1, 3):
        np.testing.assert_allclose(
            reference({"input": ROWS[:rows]})["output"], ROWS[:rows] @ np.ones((4, 2)), rtol=1e-6
        )


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (np.float32(1), "expected a leading batch dimension, got a scalar"),
        (np.array(["a"]), "cannot travel"),
        (np.zeros((0, 3)), "have no rows"),
        ({}, "are empty"),
        ({"a": np.ones((2, 1)), "b": np.ones((3, 1))}, "disagree about the batch"),
    ],
)
def test_bad_examples(example, message):
    """An example that is no batch of numbers is refused before anything is traced."""
    with pytest.raises(ExportError, match=message):
        requests(None, example, (1,), Reporter())


def test_64_bit_examples_are_narrowed_aloud():
    """float64 and int64 become what jax computes with, and the user is told what callers send."""
    events = []
    (request,) = requests(None, np.ones((1, 2)), (1,), Reporter(progress=events.append))
    assert request.examples.arrays["input"].dtype == np.float32
    assert [event.warning for event in events] == [True]
    assert "is float64, but the program takes float32" in events[0].message


@pytest.mark.parametrize("buckets", [(), (0,), (1.5,), (True,), ("2",)])
def test_bad_buckets(buckets):
    """Batch sizes are whole numbers of at least one row."""
    with pytest.raises(ExportError, match="buckets: expected"):
        check_buckets(buckets)


def test_buckets_are_sorted_and_each_once():
    """The order in which the user names them does not matter."""
    numbers: list[Any] = [8, 1, np.int64(8)]
    assert check_buckets(numbers) == (1, 8)
