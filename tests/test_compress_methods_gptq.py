from __future__ import annotations

import time
import tracemalloc
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qwix._src.core import qarray
from qwix.contrib.gptq_core import quantize_weight

from maas_sdk.compress.methods.gptq import gptq
from maas_sdk.compress.methods.grids import symmetric
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array


def layer(outputs: int, inputs: int, rows: int = 2000, seed: int = 0) -> tuple[Array, Array]:
    """Weights, and the Gram matrix of rows whose inputs depend on one another."""
    random = np.random.default_rng(seed)
    mixing = np.eye(inputs) + random.standard_normal((inputs, inputs)) * 0.9 / inputs**0.5
    x = random.standard_normal((rows, inputs)) @ mixing * random.lognormal(0, 0.5, inputs)
    return random.standard_normal((outputs, inputs)).astype(np.float32), x.T @ x


def output_error(w: Array, decoded: Array, gram: Array) -> float:
    """‖(W − Ŵ) X‖² as a share of ‖W X‖²."""
    off = decoded.astype(float) - w
    return float(np.sum(off @ gram * off) / np.sum(w @ gram * w))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("granularity", ["channel", 16])
def test_codes_are_those_of_qwix(bits: int, granularity: Any) -> None:
    """On the same grid the same codes but for a few ties, and an output as close to the layer's."""
    w, gram = layer(32, 32)
    # qwix stretches its grid by half a step beyond the largest weight; this takes it back.
    top = 2 ** (bits - 1) - 1
    how = qarray.HowToQuantize(
        qtype=f"int{bits}",
        channelwise_axes=(0,),
        tiled_axes={} if granularity == "channel" else {1: granularity},
        calibration_method=f"absmax,{(top + 0.5) / top}",
    )
    hessian = jnp.asarray(gram, jnp.float32)
    theirs, _ = quantize_weight(jnp.asarray(w), hessian, how, blocksize=16)
    found = gptq(w, gram, bits=bits, granularity=granularity, order="given", block=16)
    # Theirs reach one code further down, which changes all that comes after in a channel.
    assert (np.abs(found.scale / np.asarray(theirs.scale) - 1) < 1e-3).mean() > 0.95
    codes = np.asarray(theirs.qvalue).astype(int)
    assert (np.maximum(codes, -top) == found.codes).mean() > 0.97
    expected = output_error(w, np.asarray(qarray.dequantize(theirs)), gram)
    assert output_error(w, found.decode(), gram) == pytest.approx(expected, rel=0.03)


def test_two_inputs_by_hand() -> None:
    """The second weight makes up for the first one's rounding, as much as they go together."""
    # H⁻¹ = [[4, −2], [−2, 4]] / 12: an error of the first is made up by half of it.
    gram = np.array([[4.0, 2.0], [2.0, 4.0]])
    w = np.array([[3.4, 5.2], [7.0, 7.0]], np.float32)
    found = gptq(w, gram, bits=4, damping=0, granularity="tensor", order="given")
    # 3.4 → 3, and 5.2 + 0.4 / 2 = 5.4 → 5. With 0.7 left over, 5.2 would become 6.
    assert found.codes.tolist() == [[3, 5], [7, 7]]
    w[0, 0] = 3.45
    w[0, 1] = 5.3
    found = gptq(w, gram, bits=4, damping=0, granularity="tensor", order="given")
    assert found.codes.tolist() == [[3, 6], [7, 7]]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from([2, 3, 4, 8]),
    granularity=st.sampled_from(["tensor", "channel", 16]),
    clip=st.sampled_from(["max", "mse"]),
)
def test_outputs_are_closer_than_by_rounding(
    seed: int, bits: int, granularity: Any, clip: Any
) -> None:
    """Strictly less error than round-to-nearest on the same grid."""
    w, gram = layer(16, 64, seed=seed)
    options: Any = {"bits": bits, "granularity": granularity, "clip": clip}
    rounded = symmetric(w, **options)
    found = gptq(w, gram, **options)
    assert output_error(w, found.decode(), gram) < output_error(w, rounded.decode(), gram)
    assert found.codes.dtype == np.int8
    assert found.scale.shape == rounded.scale.shape
    assert np.abs(found.codes).max() <= 2 ** (bits - 1) - 1


@pytest.mark.parametrize("granularity", ["channel", 24, 96])
@pytest.mark.parametrize("order", ["given", "activation"])
def test_blocks_change_nothing_but_speed(granularity: Any, order: Any) -> None:
    """Updates that are put off are the same updates, whether groups fit a block or not."""
    w, gram = layer(16, 192)
    exact = gptq(w, gram, bits=4, granularity=granularity, order=order, block=1)
    for block in (7, 64, 500):
        found = gptq(w, gram, bits=4, granularity=granularity, order=order, block=block)
        # In another order of sums a tie may fall to the other side, which then changes the rest.
        assert (found.codes != exact.codes).mean() < 0.02
        one, two = (output_error(w, q.decode(), gram) for q in (found, exact))
        assert one == pytest.approx(two, rel=0.03)


def test_channels_are_solved_alone() -> None:
    """A channel has the codes that it has without the others."""
    w, gram = layer(8, 64)
    every = gptq(w, gram, bits=4)
    for row in range(8):
        alone = gptq(w[row : row + 1], gram, bits=4)
        assert (alone.codes != every.codes[row]).mean() < 0.05
        np.testing.assert_array_equal(alone.scale, every.scale[row : row + 1])


def test_independent_inputs_are_rounded() -> None:
    """With a diagonal Hessian there is nothing to make up with."""
    w, _ = layer(8, 32)
    gram = np.diag(np.arange(1.0, 33))
    for order in ("given", "activation"):
        found = gptq(w, gram, bits=4, order=order)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.codes, symmetric(w, bits=4).codes)


def test_dead_inputs_are_rounded() -> None:
    """Inputs without a row keep their weights; without any, all is round-to-nearest."""
    w, gram = layer(8, 32)
    gram[5] = gram[:, 5] = 0
    rounded = symmetric(w, bits=4).codes
    for order in ("given", "activation"):
        found = gptq(w, gram, bits=4, order=order)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.codes[:, 5], rounded[:, 5])
    np.testing.assert_array_equal(gptq(w, gram * 0, bits=4).codes, rounded)


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_singular_hessians_are_damped(damping: float) -> None:
    """Fewer rows than inputs, or inputs that are the same: finite codes, no worse than rounding."""
    w, gram = layer(8, 64, rows=10)
    found = gptq(w, gram, bits=4, damping=damping)
    assert output_error(w, found.decode(), gram) < output_error(
        w, symmetric(w, bits=4).decode(), gram
    )
    twins = np.ones((64, 64))
    found = gptq(w, twins, bits=4, damping=damping)
    assert output_error(w, found.decode(), twins) < output_error(
        w, symmetric(w, bits=4).decode(), twins
    )


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_only_ratios_of_the_hessian_count(factor: float) -> None:
    """Sums or means over rows, of large or small activations, give the same codes."""
    w, gram = layer(8, 64)
    expected = gptq(w, gram, bits=4)
    found = gptq(w, gram * factor, bits=4)
    assert (found.codes != expected.codes).mean() < 0.02


def test_inputs_are_as_they_were() -> None:
    """Neither weights nor Hessian are written to."""
    w, gram = layer(8, 64)
    before = w.copy(), gram.copy()
    for order in ("given", "activation"):
        gptq(w, gram, bits=4, granularity=16, order=order)  # type: ignore[arg-type]
    np.testing.assert_array_equal(w, before[0])
    np.testing.assert_array_equal(gram, before[1])


def test_a_layer_of_a_small_transformer_takes_seconds() -> None:
    """768 × 768 in under 5 s, best of three runs; a loop over weights would take minutes."""
    w, gram = layer(768, 768, rows=1000)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        gptq(w, gram, bits=4)
        times.append(time.perf_counter() - start)
    assert min(times) < 5


def test_channels_are_taken_a_few_at_a_time() -> None:
    """Of 32 MB of weights: codes and less than 32 MB beside, the Hessian's factors apart."""
    w = np.random.default_rng(0).standard_normal((16384, 512), np.float32)
    gram = layer(1, 512)[1]
    tracemalloc.start()
    try:
        found = gptq(w, gram, bits=4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - found.codes.nbytes < 32 * 2**20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits: expected one of 2, 3, 4, 8, got 5"),
        ({"order": "random"}, "order: expected 'given' or 'activation', got 'random'"),
        ({"damping": -0.1}, "damping: expected 0 or more, got -0.1"),
        ({"block": 0}, "block: expected 1 or more inputs, got 0"),
        ({"granularity": 3}, "groups of 3 do not divide 4 inputs"),
        ({"clip": "best"}, "clip: expected one of max, mse, got 'best'"),
    ],
)
def test_options_that_there_are_not(options: Any, message: str) -> None:
    """The message says which there are."""
    with pytest.raises(ConfigError, match=message):
        gptq(np.ones((2, 4), np.float32), np.eye(4), **{"bits": 4, **options})


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        (np.eye(3), r"expected \[4, 4\] for weights of 4 inputs, got \[3, 3\]; it is x.T @ x"),
        (np.diag([1, 1, np.nan, 1]), "got numbers that are not finite; add x.T @ x up in float64"),
        (np.where(np.eye(4), 1, np.inf), "got numbers that are not finite"),
        (np.diag([1, 1, -1.0, 1]), "got a negative square"),
        (np.eye(4) * 1e-3 + 100 * (1 - np.eye(4)), "not positive semidefinite, not even with"),
    ],
)
def test_hessians_that_there_are_not(gram: Array, message: str) -> None:
    """The message says how to make one."""
    with pytest.raises(InputError, match=message):
        gptq(np.ones((2, 4), np.float32), gram, bits=4)


def test_weights_that_are_not_finite() -> None:
    """They are refused before anything is solved."""
    with pytest.raises(InputError, match="got nan at output 1, input 0"):
        gptq(np.array([[1, 2], [np.nan, 1]], np.float32), np.eye(2), bits=4)
