"""Int8 on TPU: the real compiler's programs keep what is promised; the reader finds what breaks.

All programs that compile here do so in one child process, started once.
"""

from __future__ import annotations

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bench.tpu import Compiled, Request, compile_for_tpu, faults, products_s
from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.compress.quantize import quantize
from maas_sdk.errors import ConfigError
from maas_sdk.hlo.chip_work import chip_work, totals
from maas_sdk.hlo.module import parse_module
from maas_sdk.hlo.weight_traces import trace_weights
from maas_sdk.model.adapt import adapt
from maas_sdk.models.presets import preset
from maas_sdk.models.transformer import Decoder, TransformerBlock
from maas_sdk.tpu.libtpu import VARIABLE

NEEDS_LIBTPU = pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"{VARIABLE} is not set; make test sets it"
)
CHIPS = ("v5e", "v6e")
# Blocks of a few of the matrix unit's 128 × 128 tiles, and a whole model whose layers are a stack.
FEATURES = 256
MODELS = ("encoder", "decoder", "scanned")
# Rows and positions: one row alone, one position of each row, whole rows.
SHAPES = ((1, 1), (8, 1), (2, 64))
# What is compiled: networks and recipes, with the shapes of each.
CASES = {
    **{(name, "int8"): SHAPES for name in MODELS},
    ("encoder", "int8-static"): SHAPES[1:],
    ("decoder", "int8-static"): SHAPES[1:2],
    ("encoder", "int8w"): SHAPES[1:2],
}


def network(name: str) -> nnx.Module:
    """A network in bfloat16."""
    given: Any = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16, "rngs": nnx.Rngs(0)}
    sizes = {"features": FEATURES, "hidden_features": 2 * FEATURES, "heads": 4}
    if name == "encoder":
        return TransformerBlock(preset("bert-base", dropout=0.0, **sizes), **given)
    config = preset(
        "decoder-tiny", **sizes, kv_heads=2, head_features=0, layers=3, scan_layers=True
    )
    return TransformerBlock(config, **given) if name == "decoder" else Decoder(config, **given)


def given(name: str, rows: int, length: int) -> Any:
    """What a network takes."""
    random = np.random.default_rng(0)
    if name == "scanned":
        return random.integers(0, 256, (rows, length)).astype(np.int32)
    return random.normal(size=(rows, length, FEATURES)).astype(jnp.bfloat16)


def dequantizing() -> Any:
    """A program that makes a float matrix of its int8 weight before it multiplies."""
    struct: Any = jax.ShapeDtypeStruct

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        kernel = weights["kernel"].astype(jnp.float32) * weights["scale"]
        return jax.lax.optimization_barrier(kernel).T @ x

    # 256 MiB as floats: more than a chip's scratchpad holds.
    weights = {"kernel": struct((4096, 16384), jnp.int8), "scale": struct((16384,), jnp.float32)}
    return adapt(apply, weights)


@pytest.fixture(scope="module")
def quantized() -> dict[tuple[str, str], QuantizedModel]:
    """The networks, by name and recipe."""
    return {
        (name, recipe): quantize(network(name), recipe, given(name, 8, 4)) for name, recipe in CASES
    }


@pytest.fixture(scope="module")
def compiled(quantized: dict[tuple[str, str], QuantizedModel]) -> dict[str, Compiled]:
    """Every program of the one child, by label."""
    requests = [
        Request(
            label=f"{name} {recipe} {rows}x{length} {chip}",
            model=quantized[name, recipe],
            inputs={"input": given(name, rows, length)},
            slice=f"{chip}:1x1",
        )
        for chip in CHIPS
        for (name, recipe), shapes in CASES.items()
        for rows, length in shapes
    ]
    x = jax.ShapeDtypeStruct((4096, 8), jnp.float32)
    requests += [
        Request(label="dequantizing", model=dequantizing(), inputs={"input": x}),
        Request(
            label="float",
            model=adapt(network("encoder"), None),
            inputs={"input": given("encoder", 8, 1)},
        ),
    ]
    return {one.request.label: one for one in compile_for_tpu(requests, timeout_s=300)}


@NEEDS_LIBTPU
@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(("name", "recipe"), [case for case in CASES if case[1] != "int8w"])
def test_int8_is_multiplied_as_int8(
    compiled: dict[str, Compiled], name: str, recipe: str, chip: str
) -> None:
    """Every product with a weight is s8 × s8 → s32, and no copy of one lies in main memory."""
    for rows, length in CASES[name, recipe]:
        one = compiled[f"{name} {recipe} {rows}x{length} {chip}"]
        assert faults(one.traces) == (), one.request.label
        # Beside them a model has a table, of which rows are taken.
        multiplied = {weight for weight, trace in one.traces.items() if trace.products}
        kernels = {weight for weight in multiplied if weight.endswith("/kernel")}
        assert len(kernels) == {"encoder": 6, "decoder": 7, "scanned": 8}[name]


@NEEDS_LIBTPU
@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
def test_weights_are_read_once_at_half_the_bytes(compiled: dict[str, Compiled], chip: str) -> None:
    """One byte of main memory per number and call, also of layers that a loop goes through."""
    for name in MODELS:
        for trace in compiled[f"{name} int8 2x64 {chip}"].traces.values():
            if trace.products:
                times = trace.products[0].times
                assert trace.nbytes == trace.elements * times
                assert trace.read_bytes <= trace.nbytes
                assert times == (3 if trace.name.startswith("layers/") else 1)


@NEEDS_LIBTPU
@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
def test_weights_alone_in_int8_are_no_int8_products(
    compiled: dict[str, Compiled], chip: str
) -> None:
    """The reader names every layer of a recipe that leaves activations in bfloat16."""
    found = faults(compiled[f"encoder int8w 8x1 {chip}"].traces)
    assert {fault.weight for fault in found if fault.kind == "product"} == {
        *(f"attention/{part}/kernel" for part in ("query", "key", "value", "out")),
        *(f"mlp/{part}/kernel" for part in ("up", "down")),
    }
    assert any("expected s8 × s8 → s32" in fault.text and "bf16" in fault.text for fault in found)


@NEEDS_LIBTPU
@pytest.mark.slow
def test_a_program_that_dequantizes_first_is_found_out(compiled: dict[str, Compiled]) -> None:
    """A float copy in main memory, what it costs to read it again, and the float product."""
    found = faults(compiled["dequantizing"].traces)
    assert {fault.kind for fault in found} == {"product", "float copy", "reads"}
    assert {fault.weight for fault in found} == {"kernel"}
    [copy] = [fault.text for fault in found if fault.kind == "float copy"]
    # The compiler multiplies in bfloat16, and makes the copy so: two bytes for each one.
    assert f"writes {2 * 4096 * 16384} bytes of bf16" in copy


@NEEDS_LIBTPU
@pytest.mark.slow
def test_the_roofline_is_that_of_the_formula(
    compiled: dict[str, Compiled], quantized: dict[tuple[str, str], QuantizedModel]
) -> None:
    """Of 8 vectors memory decides: bytes over bandwidth, of weights of one byte and of two."""
    model = quantized["encoder", "int8"]
    shapes = [(FEATURES, FEATURES)] * 4 + [(FEATURES, 2 * FEATURES), (2 * FEATURES, FEATURES)]
    for label, width in (("encoder int8 8x1 v5e", 1), ("float", 2)):
        one = compiled[label]
        nbytes = sum((8 * i + i * o) * width + 8 * o * 2 for i, o in shapes)
        assert products_s(model, one) == pytest.approx(nbytes / 819e9)
        assert one.estimate.step_s >= 0.98 * sum(i * o for i, o in shapes) * width / 819e9
        assert one.estimate.bound == "memory"


@pytest.mark.slow
@NEEDS_LIBTPU
def test_a_slice_of_several_chips_is_refused(
    quantized: dict[tuple[str, str], QuantizedModel],
) -> None:
    """The reader is about one chip, and says so before anything compiles."""
    request = Request(
        label="wide",
        model=quantized["encoder", "int8"],
        inputs={"input": given("encoder", 8, 1)},
        slice="v5e:2x2",
    )
    with pytest.raises(ConfigError, match=r"wide: expected a slice of one chip.*v5e:2x2"):
        compile_for_tpu([request])


def program(*lines: str, more: str = "") -> Any:
    """A program of two parameters, x and the weight, and these lines."""
    parameters = "%x = s8[8,256]{1,0} parameter(0)", "%w = s8[256,512]{1,0} parameter(1)"
    text = "\n".join(f"  {line}" for line in (*parameters, *lines))
    return parse_module(
        f"HloModule made\n{more}\nENTRY %main (x: s8[8,256]) -> s32[8,512] {{\n{text}\n}}\n"
    )


def product(weight: str, dtype: str = "s8", result: str = "s32") -> str:
    return (
        f"ROOT %y = {result}[8,512]{{1,0}} dot(%x, %{weight}), lhs_contracting_dims={{1}}, "
        "rhs_contracting_dims={0}"
    )


def kinds(module: Any) -> list[str]:
    """Kinds of faults of the weight in a program."""
    found = faults(trace_weights(module, {1: "w"}, {"w": 256 * 512}))
    assert all(fault.weight == "w" for fault in found)
    return [fault.kind for fault in found]


PROGRAMS = {
    "as it should be": ((product("w"),), []),
    "fetched in two slices, put together": (
        (
            *(
                f"%s{i} = ((s8[256,512]{{1,0}}), s8[128,512]{{1,0:S(1)}}, s32[]{{:S(2)}}) "
                f"slice-start(%w), slice={{[{128 * i}:{128 * i + 128}], [0:512]}}"
                for i in (0, 1)
            ),
            *(f"%d{i} = s8[128,512]{{1,0:S(1)}} slice-done(%s{i})" for i in (0, 1)),
            '%c = s8[256,512]{1,0:S(1)} custom-call(%d0, %d1), custom_call_target="ConcatBitcast"',
            product("c"),
        ),
        [],
    ),
    "fetched for the next call as well": (
        (
            "%s = (s8[256,512]{1,0:S(1)}, s8[256,512]{1,0}, u32[]{:S(2)}) copy-start(%w), "
            "cross_program_prefetch_index=0",
            "%d = s8[256,512]{1,0:S(1)} copy-done(%s)",
            "%s.1 = (s8[256,512]{1,0:S(1)}, s8[256,512]{1,0}, u32[]{:S(2)}) copy-start(%w)",
            "%d.1 = s8[256,512]{1,0:S(1)} copy-done(%s.1)",
            product("d"),
        ),
        [],
    ),
    "in another layout": (("%c = s8[256,512]{0,1} copy(%w)", product("c")), ["copy", "reads"]),
    "in another layout, in the scratchpad": (
        ("%c = s8[256,512]{0,1:S(1)} copy(%w)", product("c")),
        [],
    ),
    "widened": (
        ("%f = f32[256,512]{1,0} convert(%w)", product("f", "f32", "f32")),
        ["product", "float copy", "reads"],
    ),
    "widened to whole numbers": (
        ("%f = s32[256,512]{1,0} convert(%w)", product("f", "s32")),
        ["product", "copy", "reads"],
    ),
    "read by another instruction too": (
        ("%n = s8[256,512]{1,0:S(1)} negate(%w)", product("w")),
        ["reads"],
    ),
    "in no product": (
        ("%z = s32[] constant(0)", "ROOT %y = s32[8,512]{1,0} broadcast(%z), dimensions={}"),
        ["product"],
    ),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_the_reader_tells_good_programs_from_bad(case: str) -> None:
    """Programs written by hand, each with what is wrong with it."""
    lines, expected = PROGRAMS[case]
    assert kinds(program(*lines)) == expected


def test_a_conversion_hidden_in_a_fusion_is_seen() -> None:
    """A fused multiplication by scales makes the product one of floats; no copy is in memory."""
    fused = """
%fused (p0: s8[8,256], p1: s8[256,512]) -> f32[8,512] {
  %p0 = s8[8,256]{1,0} parameter(0)
  %p1 = s8[256,512]{1,0} parameter(1)
  %a = bf16[8,256]{1,0} convert(%p0)
  %b = bf16[256,512]{1,0} convert(%p1)
  ROOT %c = f32[8,512]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
    line = "ROOT %y = f32[8,512]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused"
    assert kinds(program(line, more=fused)) == ["product"]


def test_a_copy_for_the_next_call_is_not_counted_twice() -> None:
    """The roofline's bytes: of a fetch at the start and one for the next call, one runs."""
    lines, _ = PROGRAMS["fetched for the next call as well"]
    work = chip_work(program(*lines))
    assert totals(work)["nbytes"] == 256 * 512 + 8 * 256 + 8 * 512 * 4
    assert totals(work)["int8_ops"] == 2 * 8 * 256 * 512
    assert json.dumps([one.beside for one in work]).count("true") == 1
