"""int8 on the CPU, layer by layer: XLA's float32, bfloat16 and int8 beside ONNX Runtime's.

    python bench/int8_cpu.py [--save]

Dense layers of BERT's and Llama's shapes and 3×3 convolutions of ResNet's, for 1, 8 and 64 rows.
Ours is what ``quantize(model, "int8")`` compiles: inputs quantized as they come, int8 × int8
summed in int32, scaled back. ONNX Runtime's int8 is its dynamic quantization
(DynamicQuantizeLinear and MatMulInteger or ConvInteger), its float32 a MatMul or Conv, with as many
threads as there are cores.

All contestants take turns; a time is that of one call, out of enough calls for 10 ms, and a figure
the median over the rounds of the rounds' own ratios. ``off`` is the largest error against float32,
as a share of the largest answer: on processors without VNNI, ONNX Runtime's int8 saturates.
ONNX Runtime's threads spin while a call runs and not after it, or the next in turn would have to
share the cores with them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from maas_sdk.compress.quantize import quantize

DENSE = ((256, 256), (768, 768), (768, 3072), (3072, 768), (4096, 4096))
CONV = ((16, 64), (8, 128))
BATCHES = (1, 8, 64)
ENOUGH_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A layer."""

    name: str
    # Of a row, and of the weight.
    row: tuple[int, ...]
    kernel: tuple[int, ...]

    @property
    def conv(self) -> bool:
        """True for a convolution."""
        return len(self.kernel) == 4


SHAPES = [
    *(Shape(name=f"dense {k}×{n}", row=(k,), kernel=(k, n)) for k, n in DENSE),
    *(
        Shape(name=f"conv {size}×{size}×{c}", row=(size, size, c), kernel=(3, 3, c, c))
        for size, c in CONV
    ),
]


def apply(weights: Any, x: Any) -> Any:
    """The layer in jax."""
    kernel = weights["kernel"]
    if kernel.ndim == 2:
        return x @ kernel
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def ours(shape: Shape, kernel: np.ndarray, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """float32, bfloat16 and int8 through XLA, compiled with the weights as arguments."""
    wide = {"kernel": jnp.asarray(kernel)}
    narrow = {"kernel": jnp.asarray(kernel, jnp.bfloat16)}
    given, given_narrow = jnp.asarray(x), jnp.asarray(x, jnp.bfloat16)
    plain = jax.jit(apply)
    found = quantize(apply, "int8", example_inputs=x[:1], weights=wide, min_size=1)
    model = found.as_model()
    run = model.bind(None)
    arrays = [jnp.asarray(leaf.value) for leaf in model.leaves]
    call = jax.jit(lambda arrays, x: run(arrays, {"input": x}, True))
    return {
        "f32": lambda: plain(wide, given),
        "bf16": lambda: plain(narrow, given_narrow),
        "int8": lambda: call(arrays, given),
    }


def theirs(shape: Shape, kernel: np.ndarray, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """ONNX Runtime, float32 and int8."""
    given = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if shape.conv else x
    return {
        f"ORT {name}": session(shape, kernel, given, int8=int8)
        for name, int8 in (("f32", False), ("int8", True))
    }


def session(shape: Shape, kernel: np.ndarray, x: np.ndarray, *, int8: bool) -> Callable[[], Any]:
    """A session's call."""
    weight = kernel.transpose(3, 2, 0, 1) if shape.conv else kernel
    pads = {"pads": [1, 1, 1, 1]} if shape.conv else {}
    if int8:
        # Per tensor: ConvInteger has no scale per channel.
        scale = np.float32(np.abs(weight).max() / 127)
        codes = np.clip(np.round(weight / scale), -127, 127).astype(np.int8)
        constants = {"w": codes, "s": scale, "z": np.int8(0)}
        product = "ConvInteger" if shape.conv else "MatMulInteger"
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "a", "b"]),
            helper.make_node(product, ["q", "w", "b", "z"], ["i"], **pads),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["a", "s"], ["t"]),
            helper.make_node("Mul", ["f", "t"], ["y"]),
        ]
    else:
        constants = {"w": weight}
        nodes = [helper.make_node("Conv" if shape.conv else "MatMul", ["x", "w"], ["y"], **pads)]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    found = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: found.run(None, {"x": x})[0]


def timer(call: Callable[[], Any]) -> Callable[[], float]:
    """Seconds of one call."""
    jax.block_until_ready(call())
    once = harness.timed(lambda: jax.block_until_ready(call()))
    calls = max(1, int(ENOUGH_S / once))

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            found = call()
            jax.block_until_ready(found)
        return (time.perf_counter() - began) / calls

    return measure


def off(found: Any, right: Any, *, swapped: bool) -> float:
    """Return the largest error, as a share of the largest answer."""
    array = np.asarray(found)
    array = array.transpose(0, 2, 3, 1) if swapped else array
    right = np.asarray(right)
    return float(np.abs(array - right).max() / np.abs(right).max())


def main() -> None:
    options = harness.arguments(__doc__)
    draw = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    ratios: dict[str, list[float]] = {}
    for shape in SHAPES:
        kernel = draw.standard_normal(shape.kernel, np.float32) / 16
        for batch in BATCHES:
            x = draw.standard_normal((batch, *shape.row), np.float32)
            calls = ours(shape, kernel, x) | theirs(shape, kernel, x)
            right = calls["f32"]()
            samples = harness.interleave(
                {name: timer(call) for name, call in calls.items()},
                runs=options.runs,
                progress=False,
            )
            row: dict[str, object] = {"layer": shape.name, "rows": batch}
            row |= {f"{name} µs": round(1e6 * s.median, 1) for name, s in samples.items()}
            kind = "conv" if shape.conv else "dense"
            size = "b1" if batch == 1 else "b8_up"
            for peer, word in (("f32", "f32"), ("ORT int8", "ort")):
                ratio = harness.median_ratio(samples[peer], samples["int8"])
                row[f"int8 against {peer}"] = round(ratio, 2)
                ratios.setdefault(f"{kind}_int8_vs_{word}_{size}", []).append(ratio)
            row["off"] = round(off(calls["int8"](), right, swapped=False), 4)
            row["ORT off"] = round(off(calls["ORT int8"](), right, swapped=shape.conv), 4)
            rows.append(row)
            print(row, flush=True)
    harness.finish(
        "int8_cpu",
        {f"{name}_median": float(np.median(found)) for name, found in ratios.items()},
        rows,
        save=options.save,
        targets={
            "dense_int8_vs_f32_b8_up_median": "≥ 1.5",
            "dense_int8_vs_ort_b8_up_median": "≥ 1",
            "conv_int8_vs_f32_b8_up_median": "≥ 1.5",
            "conv_int8_vs_ort_b8_up_median": "≥ 1",
        },
        notes=__doc__.partition("[--save]")[2].strip(),
        packages=("numpy", "jax", "jaxlib", "onnxruntime"),
    )


if __name__ == "__main__":
    main()
