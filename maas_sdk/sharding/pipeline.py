"""Pipeline parallelism: a stack of equal blocks cut into stages, each on its own devices.

A batch is cut into microbatches that follow one another through the stages, so that after the first
few ticks all stages work at once (GPipe: Huang et al. 2019, https://arxiv.org/abs/1811.06965). The
output of stage *s* at tick *t* is sent to stage *s+1* before that stage needs it; the backward
pass, which ``jax.grad`` derives, runs the same ticks the other way round.

The rule it keeps: the result is that of the blocks one after another, on the whole batch, for any
number of stages and microbatches. So a block must be stateless and treat rows independently:
no batch statistics, no counters of random streams.

Rows are cut over the mesh's ``data`` and ``fsdp`` axes as always, and each of those groups is a
pipeline of its own. Any other axis is left to the compiler, inside the blocks too.

Dimension letters: B rows of a batch, L blocks, S stages, M microbatches, D groups of devices that
hold different rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.sharding.schedule import schedule

__all__ = ["BlockFn", "Pipelined", "pipeline", "stack_blocks", "stage_sharding"]

T = TypeVar("T")

# (parameters of one block, its input) → its output, of the input's structure, shapes and dtypes.
BlockFn = Callable[[Any, Any], Any]

# Mesh axes over which the rows of a batch are cut.
_ROWS: Final = ("data", "fsdp")


def pipeline(
    block_fn: BlockFn,
    stacked_params: Any,
    x: T,
    *,
    mesh: Mesh,
    microbatches: int,
    axis: str = "stage",
    remat: bool = False,
) -> T:
    """Send ``x`` through all blocks, cut into stages over the mesh's ``axis``.

    Differentiable and made for ``jax.jit``, which it needs wherever several processes take part.
    Stage *s* holds and computes blocks ``s·L/S`` to ``(s+1)·L/S - 1``.

    Args:
        block_fn: one block. What it closes over is the same for all blocks and microbatches.
        stacked_params: a pytree of arrays ``[L, …]``, block *i*'s at index *i*; what differs from
            block to block, and is no weight, may be in it too. See ``stack_blocks``.
        x: the first block's input: an array ``[B, …]``, or a pytree of them, such as activations
            with their mask.
        mesh: has ``axis``.
        microbatches: M. More make the bubble smaller, (S-1)/(M+S-1) of the time (``schedule``),
            and each matmul too.
        axis: the mesh axis whose devices are the stages.
        remat: keep only the blocks' inputs for the backward pass and compute their insides again.

    Returns:
        The last block's output, like ``x``. Its rows lie over the stages as well as over the row
        axes when M is a multiple of S, so that what follows is shared among the stages; else every
        stage has the rows of its group.

    Raises:
        ConfigError: the mesh has no such axis, blocks that cannot be divided into the stages, or
            rows that cannot be divided into the microbatches.
        InputError: leaves that have no common first dimension, or a block whose output is unlike
            its input.
    """
    stages = _stages(mesh, axis)
    rows_over = tuple(name for name in _ROWS if name in mesh.axis_names and name != axis)
    groups = math.prod(mesh.shape[name] for name in rows_over)
    blocks = _first_dimension("stacked_params", stacked_params)
    plan = schedule(blocks=blocks, stages=stages, microbatches=microbatches)
    _check_rows(_first_dimension("x", x), plan.microbatches, groups, "×".join(rows_over))
    _check_block(block_fn, stacked_params, x)
    block = jax.checkpoint(block_fn, prevent_cse=False) if remat else block_fn
    shared_out = microbatches % stages == 0

    def one_stage(params: Any, x: T) -> T:
        """Run one stage on one device: blocks [L/S, …] and rows [B/D, …]."""
        stage = lax.axis_index(axis)
        pairs = [(s, s + 1) for s in range(stages - 1)]
        onwards: Any = partial(lax.ppermute, axis_name=axis, perm=pairs)
        parts = jax.tree.map(lambda a: a.reshape(plan.microbatches, -1, *a.shape[1:]), x)

        def tick(arrived: T, t: jax.Array) -> tuple[T, T]:
            # After the last microbatch the first stage has nothing to do. It is given a real
            # microbatch all the same, as all are before their first: what comes of it is thrown
            # away, but must not be infinite, since 0 · ∞ would break the gradients.
            mine = jax.tree.map(lambda a: a[jnp.minimum(t, plan.microbatches - 1)], parts)
            at_work = jax.tree.map(lambda a, b: jnp.where(stage == 0, a, b), mine, arrived)
            done, _ = lax.scan(lambda h, p: (block(p, h), None), at_work, params)
            return jax.tree.map(onwards, done), done

        first = jax.tree.map(lambda a: a[0], parts)
        _, done = lax.scan(tick, first, jnp.arange(plan.ticks))
        # The last stage's work of the ticks from S-1 on is the result.
        rows: T = jax.tree.map(lambda a: _from_last(a[stages - 1 :], axis, shared_out), done)
        return rows

    y: T = jax.shard_map(
        one_stage,
        mesh=mesh,
        in_specs=(_spec((axis,)), _spec(rows_over)),
        out_specs=_spec((*rows_over, axis) if shared_out else rows_over),
        axis_names=frozenset({axis, *rows_over}),
        # Blocks are the user's: a loop of theirs that starts from zeros would be refused.
        check_vma=False,
    )(stacked_params, x)
    return y


class Pipelined(nnx.Module):
    """Equal blocks as one layer of a Flax model, run as a pipeline.

    Its parameters are those of one block, each ``[L, …]``, under ``blocks``: lay them out with the
    rule ``("blocks/", ("stage",))``, or ``stage_sharding``.

    Args:
        blocks: modules of equal structure that hold nothing but parameters; or one module whose
            parameters are stacked already.
        mesh: None runs the blocks one after another, on any devices. The attribute may be set
            later: a model that was trained in stages is exported with ``model.….mesh = None``.
        microbatches: see ``pipeline``; not used without a mesh.
        axis: see ``pipeline``.
        remat: see ``pipeline``.

    Raises:
        ConfigError: no blocks, blocks that are not equal, or hold more than parameters.
    """

    def __init__(
        self,
        blocks: Sequence[nnx.Module] | nnx.Module,
        *,
        microbatches: int,
        mesh: Mesh | None = None,
        axis: str = "stage",
        remat: bool = False,
    ) -> None:
        stacked: Any = blocks
        if not isinstance(blocks, nnx.Module):
            stacked = nnx.merge(*stack_blocks(blocks))
        _check_only_params(stacked)
        self.blocks = stacked
        self.mesh = mesh
        self.microbatches = microbatches
        self.axis = axis
        self.remat = remat

    def __call__(self, x: T) -> T:
        """Return the last block's output; see ``pipeline``."""
        graphdef, params = nnx.split(self.blocks)

        def block(params: Any, x: Any) -> Any:
            module: Any = nnx.merge(graphdef, params)
            return module(x)

        if self.mesh is not None:
            return pipeline(
                block,
                params,
                x,
                mesh=self.mesh,
                microbatches=self.microbatches,
                axis=self.axis,
                remat=self.remat,
            )
        body = jax.checkpoint(block, prevent_cse=False) if self.remat else block
        return lax.scan(lambda h, p: (body(p, h), None), x, params)[0]


def stack_blocks(blocks: Sequence[T]) -> Any:
    """Stack L equal blocks into one, with arrays ``[L, …]``.

    Args:
        blocks: pytrees of arrays; or Flax modules.

    Returns:
        For pytrees the stacked pytree. For modules ``(graphdef, state)``, the structure of one
        block and its stacked arrays: ``nnx.merge(graphdef, state)`` makes a block of them.

    Raises:
        ConfigError: no blocks, or blocks that differ in structure, shape or dtype.
    """
    if not blocks:
        raise ConfigError("stack_blocks: expected at least one block, got none")
    if not isinstance(blocks[0], nnx.Module):
        return _stacked(list(blocks))
    graphdefs, states = zip(*(nnx.split(block) for block in blocks), strict=True)
    for i, graphdef in enumerate(graphdefs):
        if graphdef != graphdefs[0]:
            raise ConfigError(f"stack_blocks: block {i} is built differently from block 0")
    return graphdefs[0], _stacked(list(states))


def stage_sharding(mesh: Mesh, axis: str = "stage") -> NamedSharding:
    """Return the sharding of stacked parameters: consecutive blocks on each stage.

    Raises:
        ConfigError: the mesh has no such axis.
    """
    _stages(mesh, axis)
    return NamedSharding(mesh, PartitionSpec(axis))  # type: ignore[no-untyped-call]


def _from_last(a: jax.Array, axis: str, shared: bool) -> jax.Array:
    """Send [M, B/D/M, …], correct on the last stage alone, as rows to every stage.

    Each stage's own share of them, [B/D/S, …], where ``shared``; else all, [B/D, …].
    """
    # No sum over devices knows truth values.
    summed = a.astype(jnp.uint8) if a.dtype == jnp.bool_ else a
    last = lax.axis_index(axis) == lax.axis_size(axis) - 1
    summed = jnp.where(last, summed, jnp.zeros_like(summed))
    over: Any = partial(lax.psum_scatter, tiled=True) if shared else lax.psum
    found: jax.Array = over(summed, axis).astype(a.dtype).reshape(-1, *a.shape[2:])
    return found


def _spec(rows_over: tuple[str, ...]) -> PartitionSpec:
    return PartitionSpec(rows_over or None)  # type: ignore[no-untyped-call]


def _stages(mesh: Mesh, axis: str) -> int:
    if axis not in mesh.axis_names:
        raise ConfigError(
            f"a pipeline needs a mesh axis {axis!r}; this mesh has {', '.join(mesh.axis_names)}"
        )
    stages: int = mesh.shape[axis]
    return stages


def _stacked(trees: list[Any]) -> Any:
    for i, tree in enumerate(trees):
        if _unlike(tree, trees[0]):
            raise ConfigError(
                f"stack_blocks: block {i} is unlike block 0: expected {_shapes(trees[0])}, got "
                f"{_shapes(tree)}"
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _first_dimension(name: str, tree: Any) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    if not shapes or any(not shape or shape[0] != shapes[0][0] for shape in shapes):
        raise InputError(
            f"pipeline: expected arrays of {name} with one common first dimension, got "
            f"{', '.join(str(list(shape)) for shape in shapes) or 'none'}"
        )
    size: int = shapes[0][0]
    return size


def _check_rows(rows: int, microbatches: int, groups: int, axes: str) -> None:
    parts = microbatches * groups
    if rows < 1 or rows % parts:
        nearest = max(parts, round(rows / parts) * parts)
        over = f" on each of {groups} devices along {axes}" if groups > 1 else ""
        raise ConfigError(
            f"pipeline: {rows} rows cannot be cut evenly into {microbatches} microbatches{over}; "
            f"the nearest that can are {nearest} rows",
            rows=rows,
            microbatches=microbatches,
            groups=groups,
        )


def _check_block(block_fn: BlockFn, stacked_params: Any, x: Any) -> None:
    def first(params: Any, x: Any) -> Any:
        return block_fn(jax.tree.map(lambda a: a[0], params), x)

    found = jax.eval_shape(first, stacked_params, x)
    if _unlike(found, x):
        raise InputError(
            "pipeline: a block's output is the next block's input, so expected "
            f"{_shapes(x)}, got {_shapes(found)}"
        )


def _check_only_params(blocks: nnx.Module) -> None:
    others = nnx.state(blocks, nnx.Not(nnx.Param))
    kinds = sorted({leaf.type.__name__ for _, leaf in nnx.to_flat_state(others)})
    if kinds:
        raise ConfigError(
            f"Pipelined: expected blocks of parameters alone, got variables of {', '.join(kinds)}; "
            "a microbatch cannot hand on what a block changes, so use LayerNorm or RMSNorm for "
            "BatchNorm, and dropout outside of the blocks",
            kinds=kinds,
        )


def _unlike(a: Any, b: Any) -> bool:
    structures: list[Any] = [jax.tree.structure(a), jax.tree.structure(b)]
    return structures[0] != structures[1] or _shapes(a) != _shapes(b)


def _shapes(tree: Any) -> str:
    return ", ".join(f"{a.dtype}{list(a.shape)}" for a in jax.tree.leaves(tree))
