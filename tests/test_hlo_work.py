"""Arithmetic and memory traffic: of functions by their shapes, of programs by their text."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from maas_sdk.errors import ConfigError
from maas_sdk.hlo.chip_work import chip_work, product_flops, totals
from maas_sdk.hlo.module import Computation, Instruction, parse_module
from maas_sdk.tpu.flops import matmul_flops
from maas_sdk.tpu.memory import bytes_by_kind, out_of_memory
from maas_sdk.tpu.program import PlannedProgram

GOLDEN = (Path(__file__).parent / "golden" / "hlo" / "v5e-2x4-mlp.txt").read_text()


def shape(*dims: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype)


def test_products_of_a_function_are_counted_from_shapes():
    """Dense, batched, in loops, branches and rematerialized: two operations per multiply-add."""
    dense = 2 * 8 * 16 * 32
    x, w = shape(8, 16), shape(16, 32)
    assert matmul_flops(jnp.matmul, x, w) == dense
    assert (
        matmul_flops(
            lambda a, b: jnp.einsum("nij,njk->nik", a, b), shape(3, 8, 16), shape(3, 16, 32)
        )
        == 3 * dense
    )

    def scanned(x, w):
        return lax.scan(lambda h, one: (jnp.tanh(h @ one), None), x, w)[0].sum()

    layers = shape(5, 16, 16)
    once = 5 * 2 * 8 * 16 * 16
    assert matmul_flops(scanned, x, layers) == once
    # Backward: two products for each; the first layer's input needs no gradient but gets one.
    assert matmul_flops(jax.grad(scanned, argnums=(0, 1)), x, layers) == 3 * once

    def again(x, w):
        layer = jax.checkpoint(lambda h, one: (jnp.tanh(jnp.tanh(h @ one) @ one), None))
        return lax.scan(layer, x, w)[0].sum()

    # Two products a layer; the backward pass computes the inner one again, the outer one not.
    assert matmul_flops(jax.grad(again, argnums=(0, 1)), x, layers) >= 2 * 3 * once + once
    assert (
        matmul_flops(
            lambda p, x, w: lax.cond(p, jnp.matmul, lambda a, b: a @ b, x, w),
            shape(dtype=jnp.bool_),
            x,
            w,
        )
        == dense
    )


def test_a_convolution_is_counted_from_its_window():
    """Output elements times the kernel's inputs and window."""
    images, kernel = shape(2, 8, 8, 3), shape(3, 3, 3, 16)

    def conv(x, k):
        return lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert matmul_flops(conv, images, kernel) == 2 * (2 * 8 * 8 * 16) * 3 * 3 * 3


def test_a_compiled_program_does_what_its_function_says():
    """On one CPU device, products in the compiled text are those of the shapes, loops included."""

    def layers(x, w):
        return lax.scan(lambda h, one: (jnp.tanh(h @ one), None), x, w)[0]

    arguments = (shape(64, 128), shape(6, 128, 128))
    text = jax.jit(layers).lower(*arguments).compile().as_text()
    found = totals(chip_work(parse_module(text)))
    assert found["flops"] == matmul_flops(layers, *arguments)
    # At least the weights are read once, and no loop reads the whole stack in every turn.
    weights = 6 * 128 * 128 * 4
    assert weights <= found["nbytes"] < 6 * weights


def test_the_tpu_program_does_its_share():
    """Of the golden program one chip of eight does an eighth of all products, remat included."""
    found = totals(chip_work(parse_module(GOLDEN)))
    forward = 4 * 2 * 2 * 512 * 1024 * 4096
    # Forward, backward twice that, and of the recomputation only the first of two products.
    assert found["flops"] == forward * (1 + 2 + 0.5) / 8
    assert found["int8_ops"] == 0


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 9),
    window=st.integers(1, 9),
    stride=st.integers(1, 3),
    low=st.integers(0, 4),
    high=st.integers(0, 4),
    dilate=st.integers(1, 3),
    dilate_kernel=st.integers(1, 2),
)
def test_only_positions_that_meet_data_count(
    size, window, stride, low, high, dilate, dilate_kernel
):
    """A window over padded and dilated input: the same count as trying every pair."""
    padded = (size - 1) * dilate + 1 + low + high
    span = (window - 1) * dilate_kernel + 1
    if padded < span:
        return
    result = (padded - span) // stride + 1
    meets = 0
    for o in range(result):
        for k in range(window):
            at = o * stride + k * dilate_kernel - low
            meets += at % dilate == 0 and 0 <= at // dilate < size
    instructions = [
        Instruction("x", "parameter", f"f32[2,{size},5]{{}}", "0", "", False),
        Instruction("k", "parameter", f"f32[{window},5,7]{{}}", "1", "", False),
    ]
    line = Instruction(
        "c",
        "convolution",
        f"f32[2,{result},7]{{}}",
        "%x, %k",
        f", window={{size={window} stride={stride} pad={low}_{high} lhs_dilate={dilate} "
        f"rhs_dilate={dilate_kernel}}}, dim_labels=b0f_0io->b0f",
        True,
    )
    body = Computation(name="b", instructions=(*instructions, line))
    assert product_flops(body, line) == 2 * 2 * 5 * 7 * meets


def test_memory_by_kind_is_that_of_one_chips_shards():
    """Each leaf's shard is counted under its kind; kinds that are unknown are refused."""
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    leaf = jax.ShapeDtypeStruct((64, 4), jnp.bfloat16, sharding=cut)
    program = PlannedProgram(
        fn=lambda *_: None,
        arguments=({"w": leaf, "m": leaf}, shape(3)),
        kinds=({"w": "weights", "m": "optimizer"}, "batch"),
    )
    assert bytes_by_kind(program) == {"weights": 64, "optimizer": 64, "batch": 12}
    wrong = PlannedProgram(fn=lambda *_: None, arguments=(shape(3),), kinds=("sweets",))
    with pytest.raises(ConfigError, match="unknown kind 'sweets'"):
        bytes_by_kind(wrong)


def test_the_compilers_words_for_too_little_memory():
    """Two wordings of libtpu with what is needed and what is there; other errors are not this."""
    early = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (130.35G) exceeds available HBM (15.75G)."
    )
    late = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.54G of 15.75G hbm."
    limit = round(15.75 * 2**30)
    assert out_of_memory(early) == (round(130.35 * 2**30), limit)
    assert out_of_memory(late) == (round(16.54 * 2**30), limit)
    assert out_of_memory("RESOURCE_EXHAUSTED: something") == (0, 0)
    assert out_of_memory("INTERNAL: RET_CHECK") is None


def test_numpy_agrees_on_a_products_count():
    """The count is that of the loop that NumPy would run."""
    a, b = np.ones((3, 4)), np.ones((4, 5))
    steps = sum(1 for _ in np.ndindex(3, 5, 4))
    assert (a @ b).shape == (3, 5)
    assert matmul_flops(jnp.matmul, shape(3, 4), shape(4, 5)) == 2 * steps
