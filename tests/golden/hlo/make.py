"""Write the golden program anew: ``python tests/golden/hlo/make.py``, with MAAS_LIBTPU set.

Four scanned layers ``gelu(x @ w1) @ w2`` with rematerialization, a training step on 8 v5e chips as
fsdp=2 × tensor=4. What says nothing about the program is left out: backend configurations, layouts
of the arguments, tables of source files.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).with_name("v5e-2x4-mlp.txt")


def recipe(mesh: Any) -> Any:
    """The program; called in the process that compiles."""
    import jax
    import jax.numpy as jnp
    from jax import lax
    from jax.sharding import NamedSharding, PartitionSpec

    from maas_sdk.tpu.program import PlannedProgram

    def cut(*spec: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*spec))

    def step(weights: Any, x: Any) -> Any:
        def layer(h: Any, w: Any) -> Any:
            return jax.checkpoint(lambda h, w: jax.nn.gelu(h @ w[0]) @ w[1])(h, w), None

        def loss(weights: Any) -> Any:
            return (lax.scan(layer, x, weights)[0].astype(jnp.float32) ** 2).mean()

        value, gradients = jax.value_and_grad(loss)(weights)
        return jax.tree.map(lambda a, b: a - 0.01 * b, weights, gradients), value

    shardings = (cut(None, "fsdp", "tensor"), cut(None, "tensor", "fsdp"))
    weights = tuple(
        jax.ShapeDtypeStruct((4, *shape), jnp.bfloat16, sharding=sharding)
        for shape, sharding in zip(((1024, 4096), (4096, 1024)), shardings, strict=True)
    )
    rows = jax.ShapeDtypeStruct((512, 1024), jnp.bfloat16, sharding=cut("fsdp", None))
    return PlannedProgram(
        fn=step,
        arguments=(weights, rows),
        kinds=("weights", "batch"),
        donate=(0,),
        out_shardings=(shardings, cut()),
    )


def stripped(text: str) -> str:
    """The computations, without what says nothing about the program."""
    header, _, rest = text.partition("\n")
    header = re.sub(r", frontend_attributes=\{arg_layout.*$", "", header)
    body = rest[re.search(r"^(?:%|ENTRY)", rest, re.M).start() :]  # type: ignore[union-attr]
    body = re.sub(r", backend_config=\{.*$", "", body, flags=re.M)
    return f"{header}\n\n{re.sub(r' stack_frame_id=[0-9]+', '', body).rstrip()}\n"


def main() -> None:
    """Compile and write."""
    from maas_sdk.tpu.compiler import CompileJob, compile_jobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "program.txt")
        job = CompileJob(
            label="golden",
            recipe=f"{Path(__file__).absolute()}:recipe",
            slice="v5e:2x4",
            axes={"fsdp": 2, "tensor": 4},
            hlo_file=str(file),
        )
        [answer] = compile_jobs([job])
        if answer.error is not None:
            raise answer.error
        GOLDEN.write_text(stripped(file.read_text()))


if __name__ == "__main__":
    main()
