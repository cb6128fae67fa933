"""Int8 on TPU chips that are not there: the real TPU compiler's programs, read, and a roofline.

    python bench/quantize_tpu.py [--save] [--quick]

Blocks of real sizes, an encoder's (BERT-base) and a decoder's (Llama 3 8B), are quantized with the
recipe ``int8`` and compiled for one v5e and one v6e chip, beside the same blocks in bfloat16:
``decode`` takes 8 rows of one position, ``batch`` 32 rows of 128. Then each compiled program is
read: what its products multiply, whether a copy of a weight lies in main memory, what is read.

Needs the TPU compiler (docs/plan.md); compiles for about ten minutes on two cores. ``--quick``
leaves out the batch shapes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Final

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import harness
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bench.tpu import Compiled, Request, compile_for_tpu, faults, products_s
from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.compress.quantize import quantize
from maas_sdk.model.adapt import adapt
from maas_sdk.models.presets import preset
from maas_sdk.models.transformer import TransformerBlock

# Rows and positions.
SHAPES: Final[Mapping[str, tuple[int, int]]] = {"decode": (8, 1), "batch": (32, 128)}
BLOCKS: Final = ("encoder", "decoder")
CHIPS: Final = ("v5e", "v6e")
TIMEOUT_S: Final = 1800.0
NOTES: Final = (
    "Blocks of BERT-base (encoder) and Llama 3 8B (decoder), recipe int8 against bfloat16, "
    "compiled by the real TPU compiler for one chip. Nothing ran on a TPU: times are the plan's "
    "roofline (docs/plan.md) over what the compiled programs do; its share of the peak that "
    "products reach is that of published bfloat16 training and is taken to be the same in int8. "
    "`of products` is the roofline of the products with weights alone, by formula, at the "
    "vendor's peaks, with all activations in main memory. `decode` is 8 rows of one position, "
    "without a cache of what came before; `batch` is 32 rows of 128 positions. A speed-up "
    "beyond 2 is the compiler's: in bfloat16 it writes some kernels again in another layout, in "
    "each call (`bf16 copies`), which it does not do to int8. A fault is a product that is not "
    "s8 × s8 → s32, a copy of a weight in main memory, or a second read of one. A fused "
    "relayout is done on the way into a product, in the chip."
)


def block(name: str) -> tuple[nnx.Module, int]:
    """One layer in bfloat16, and its features."""
    given: Any = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16, "rngs": nnx.Rngs(0)}
    config = preset("bert-base", dropout=0.0) if name == "encoder" else preset("llama3-8b")
    return TransformerBlock(config, **given), config.features


def row(quantized: QuantizedModel, before: Compiled, after: Compiled) -> dict[str, object]:
    """Both programs of one block, shape and chip, side by side."""
    name, shape, chip, _ = after.request.label.split()
    float_s, int8_s = products_s(quantized, before), products_s(quantized, after)
    stored = sum(
        trace.nbytes for trace in before.traces.values() if trace.name in quantized.weights
    )
    traces = after.traces.values()
    return {
        "block": name,
        "shape": shape,
        "chip": chip,
        "bf16 µs": round(before.estimate.step_s * 1e6, 2),
        "int8 µs": round(after.estimate.step_s * 1e6, 2),
        "speed-up": before.estimate.step_s / after.estimate.step_s,
        "of products": float_s / int8_s,
        "bound by": f"{before.estimate.bound} → {after.estimate.bound}",
        "weights read, of bf16's": sum(trace.read_bytes for trace in traces) / stored,
        "bf16 copies": sum(
            copy.place == "memory" for trace in before.traces.values() for copy in trace.copies
        ),
        "products": sum(len(trace.products) for trace in traces),
        "fused relayouts": sum(copy.place == "fusion" for trace in traces for copy in trace.copies),
        "faults": len(faults(after.traces)),
    }


def main() -> None:
    """Quantize, compile, read."""
    asked = harness.arguments(
        __doc__,
        extend=lambda parser: parser.add_argument(
            "--quick", action="store_true", help="decode shapes alone"
        ),
    )
    shapes = {name: SHAPES[name] for name in (("decode",) if asked.quick else SHAPES)}
    models: dict[str, QuantizedModel] = {}
    requests = []
    for name in BLOCKS:
        module, features = block(name)
        example = np.random.default_rng(0).normal(size=(2, 1, features)).astype(jnp.bfloat16)
        print(f"quantizing the {name}'s block", file=sys.stderr, flush=True)
        models[name] = quantize(module, "int8", example_inputs=example)
        plain = adapt(module, None)
        for shape, (rows, length) in shapes.items():
            inputs = {"input": jax.ShapeDtypeStruct((rows, length, features), jnp.bfloat16)}
            for chip in CHIPS:
                for kind, model in {"bf16": plain, "int8": models[name]}.items():
                    requests.append(
                        Request(
                            label=f"{name} {shape} {chip} {kind}",
                            model=model,
                            inputs=inputs,
                            slice=f"{chip}:1x1",
                        )
                    )
    print(f"compiling {len(requests)} programs", file=sys.stderr, flush=True)
    done = compile_for_tpu(requests, timeout_s=TIMEOUT_S)
    pairs = list(zip(done[::2], done[1::2], strict=True))
    rows = [row(models[one.request.label.split()[0]], one, other) for one, other in pairs]
    for _, after in pairs:
        for fault in faults(after.traces):
            print(f"{after.request.label}: {fault.weight}: {fault.text}", file=sys.stderr)
    figures = {
        f"{one['block']}_{one['shape']}_{one['chip']}_speedup": float(str(one["speed-up"]))
        for one in rows
    }
    figures |= {
        f"{one['block']}_{one['shape']}_{one['chip']}_products_speedup": float(
            str(one["of products"])
        )
        for one in rows
    }
    figures["products_checked"] = sum(int(str(one["products"])) for one in rows)
    figures["faults"] = sum(int(str(one["faults"])) for one in rows)
    harness.finish(
        "quantize_tpu",
        figures,
        rows,
        save=asked.save,
        targets={name: "≥ 1.5" for name in figures if name.endswith("_speedup")} | {"faults": "0"},
        notes=NOTES,
        packages=("jax", "jaxlib", "flax"),
    )


if __name__ == "__main__":
    main()
