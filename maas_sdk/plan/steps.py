"""A training step or forward pass of any module as a program to plan with, in shapes only.

The rule it keeps: the compiled step is the very one that ``Trainer`` runs
(``state.create_train_state``, ``step.make_train_step``), laid out by the same rules
(``sharding.layout``); no array is made, so an 8-billion-parameter model takes no memory.

Dimension letters: B rows of a batch, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.activations import keep_rows_cut
from maas_sdk.sharding.layout import batch_sharding, check_batch_size, lay_out, state_shardings
from maas_sdk.tpu.flops import matmul_flops
from maas_sdk.tpu.program import PlannedProgram
from maas_sdk.training.losses import loss_by_name
from maas_sdk.training.optimizer import OptimizerConfig, make_optimizer
from maas_sdk.training.precision import Policy
from maas_sdk.training.qtraining import prepare
from maas_sdk.training.state import TrainState, create_train_state
from maas_sdk.training.step import (
    Batch,
    Metrics,
    Objective,
    make_train_step,
    mean_of,
    supervised,
)

__all__ = ["forward_program", "from_seed", "language_batch", "mean_square", "train_program"]

# Steps of the learning rate's schedule: its constants are in the program, its cost is nothing.
_STEPS: Final = 1000
# Fields of a state, by what their memory is used for.
_KINDS: Final = {"params": "weights", "opt_state": "optimizer", "ema": "optimizer"}


def from_seed(make: Callable[[nnx.Rngs], nnx.Module]) -> Callable[[], nnx.Module]:
    """Return a factory without arguments, which calls ``make`` with a fixed seed."""
    return lambda: make(nnx.Rngs(0))


def language_batch(rows: int, length: int) -> dict[str, Any]:
    """Return the shapes of B rows of T tokens and the tokens that follow them."""
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)  # type: ignore[no-untyped-call]
    return {"inputs": tokens, "labels": tokens}


def mean_square(model: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
    """Compute a stand-in loss for any model: products cost the same whatever the loss is."""
    loss = jnp.mean(jnp.square(model(batch["inputs"]).astype(jnp.float32)))
    return loss, {"loss": mean_of(loss[None])}


def train_program(
    make_model: Callable[[], nnx.Module],
    mesh: Mesh,
    batch: Mapping[str, Any],
    *,
    strategy: str = "fsdp",
    rules: Sequence[Any] = (),
    precision: str = "bf16",
    optimizer: OptimizerConfig | None = None,
    objective: Objective | None = None,
    items: int = 0,
    item_name: str = "rows",
) -> PlannedProgram:
    """Return one training step on a mesh.

    Args:
        make_model: makes the module; it is only traced.
        mesh: what to lay out on, of a slice that need not be there.
        batch: shapes, "inputs" [B, …] and what the objective looks for.
        strategy: a name out of ``sharding.strategies``.
        rules: asked before the presets.
        precision: a policy's text; "int8" computes products with weights in int8.
        optimizer: its configuration; None is AdamW.
        objective: (model, batch) → (loss, metrics); None is cross-entropy of labels.
        items: what a step works off, for figures per second; 0 is the rows.
        item_name: what these are.

    Raises:
        ConfigError: rows that the mesh does not divide, or an unknown strategy or policy.
    """
    rows = int(batch["inputs"].shape[0])
    check_batch_size(mesh, rows)
    policy = Policy.parse(precision)
    chosen = make_optimizer(optimizer or OptimizerConfig(), steps=_STEPS)
    loss = objective or supervised(loss_by_name("cross_entropy"))
    graphs: list[nnx.GraphDef[Any]] = []

    def start() -> TrainState:
        model: Any = make_model()
        model.train()
        model = keep_rows_cut(prepare(model, policy), mesh, rows)
        graphdef, state = create_train_state(model, chosen, policy)
        graphs.append(graphdef)
        return state

    shapes: TrainState = jax.eval_shape(start)
    layout = lay_out(shapes.params, mesh, strategy=strategy, rules=rules)
    shardings = state_shardings(layout, shapes)
    state = _placed(shapes, shardings)
    rows_cut = batch_sharding(mesh)
    placed = {name: _with(leaf, rows_cut) for name, leaf in batch.items()}
    step = make_train_step(graphs[0], chosen, policy, loss, out_shardings=(shardings, None))

    def forward(params: Any, rest: Any, batch: Any) -> Any:
        model: Any = nnx.merge(graphs[0], policy.cast_compute(params), rest, copy=True)
        return loss(model, batch)[0]

    return PlannedProgram(
        fn=step,
        arguments=(state, placed),
        kinds=(jax.tree_util.tree_map_with_path(_kind, shapes), "batch"),
        donate=(0,),
        out_shardings=(shardings, None),
        model_flops=3 * matmul_flops(forward, shapes.params, shapes.rest, dict(batch)),
        items=items or rows,
        item_name=item_name,
    )


def forward_program(
    make_model: Callable[[], nnx.Module],
    mesh: Mesh,
    inputs: Any,
    *,
    strategy: str = "data",
    rules: Sequence[Any] = (),
    precision: str = "bf16",
    items: int = 0,
    item_name: str = "rows",
) -> PlannedProgram:
    """Return one call of a module on a batch, as served: weights in the compute dtype.

    Args:
        make_model: makes the module; it is only traced.
        mesh: what to lay out on.
        inputs: shape of the inputs, ``[B, …]``.
        strategy: a name out of ``sharding.strategies``.
        rules: asked before the presets.
        precision: a policy's text; of it ``compute`` counts.
        items: what a call works off; 0 is the rows.
        item_name: what these are.

    Raises:
        ConfigError: a quantized policy: weights of any module are quantized by ``compress``.
    """
    policy = Policy.parse(precision)
    if policy.quantized is not None:
        raise ConfigError(
            f"precision {precision!r}: a serving step in int8 is planned for decoders of Llama's "
            "shape; of other models plan bf16"
        )
    rows = int(inputs.shape[0])
    check_batch_size(mesh, rows)
    graphs: list[nnx.GraphDef[Any]] = []

    def start() -> tuple[Any, Any]:
        model: Any = make_model()
        model.eval()
        parts: Any = nnx.split(keep_rows_cut(model, mesh, rows), nnx.Param, ...)
        graphs.append(parts[0])
        return policy.cast_compute(parts[1]), parts[2]

    params, rest = jax.eval_shape(start)
    layout = lay_out(params, mesh, strategy=strategy, rules=rules)

    def call(params: Any, rest: Any, inputs: Any) -> Any:
        model: Any = nnx.merge(graphs[0], params, rest, copy=True)
        return model(inputs)

    return PlannedProgram(
        fn=call,
        arguments=(
            _placed(params, layout.shardings),
            _placed(rest, state_shardings(layout, rest)),
            _with(inputs, batch_sharding(mesh)),
        ),
        kinds=("weights", "other", "batch"),
        model_flops=matmul_flops(call, params, rest, inputs),
        items=items or rows,
        item_name=item_name,
    )


def _kind(path: tuple[Any, ...], _: Any) -> str:
    """Return the kind of memory of a state's leaf, by the field that it is in."""
    return _KINDS.get(path[0].name, "other")


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(_with, shapes, shardings)


def _with(shape: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(  # type: ignore[no-untyped-call]
        shape.shape, shape.dtype, sharding=sharding
    )
