"""Collectives read from compiled programs, of the CPU compiler and of the TPU compiler.

``golden/hlo/v5e-2x4-mlp.txt`` is what the TPU compiler made of four scanned layers
``gelu(x @ w1) @ w2`` with rematerialization, a training step on a mesh fsdp=2 × tensor=4 of 8 v5e
chips: bfloat16, features 1024, hidden features 4096, 512 rows. It is written anew by:
python tests/golden/hlo/make.py
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from maas_sdk.errors import InputError
from maas_sdk.hlo.collectives import KINDS, collectives
from maas_sdk.hlo.module import array_shapes, parse_module
from maas_sdk.hlo.trip_counts import runs

GOLDEN = (Path(__file__).parent / "golden" / "hlo" / "v5e-2x4-mlp.txt").read_text()
AXES = {"fsdp": 2, "tensor": 4}
MIB = 2**20


def compiled(fn, *arguments, **options) -> str:
    text = jax.jit(fn, **options).lower(*arguments).compile().as_text()
    assert text is not None
    return text


def test_five_kinds_with_their_bytes():
    """Each kind of collective in a program for 8 CPU devices, with exact sizes and group sizes."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    around = [(i, (i + 1) % 8) for i in range(8)]

    def every(x):
        a = lax.all_to_all(x, "data", 1, 0, tiled=True)
        b = lax.ppermute(x, "data", around)
        c = lax.psum_scatter(x, "data", scatter_dimension=1, tiled=True)
        d = lax.all_gather(x, "data")
        e = lax.psum(x, "data")
        return a.sum() + b.sum() + c.sum() + d.sum() + e.sum()

    mapped = jax.shard_map(every, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False)
    text = compiled(mapped, jax.ShapeDtypeStruct((64, 64), jnp.float32))
    found = {one.kind: one for one in collectives(text, mesh.shape)}
    assert set(found) == set(KINDS)
    shard = 8 * 64 * 4
    expected = {
        "all-to-all": (shard, shard * 7 / 8),
        "collective-permute": (shard, shard),
        "reduce-scatter": (shard // 8, shard * 7 / 8),
        "all-gather": (8 * shard, shard * 7),
        "all-reduce": (shard, 2 * shard * 7 / 8),
    }
    assert {k: (one.nbytes, one.moved_bytes) for k, one in found.items()} == expected
    assert {one.axes for one in found.values()} == {("data",)}
    assert {one.group_size for one in found.values()} == {8}


def test_a_loop_counts_as_often_as_it_turns():
    """What a scan over 5 layers gathers is gathered 5 times; a loop without an end counts once."""
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    rows, weights = (NamedSharding(mesh, spec) for spec in (P("fsdp"), P(None, "fsdp")))
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=rows)
    w = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=weights)

    def layers(x, w):
        def layer(h, one):
            return lax.with_sharding_constraint(h @ one, rows), None

        return lax.scan(layer, x, w)[0]

    [gather] = collectives(compiled(layers, x, w), mesh.shape)
    assert (gather.kind, gather.times, gather.times_known) == ("all-gather", 5, True)
    assert gather.nbytes == 64 * 64 * 4

    def endless(x):
        return lax.while_loop(
            lambda c: c[0] > 1e-3, lambda c: (jnp.sum(c[1] ** 2), c[1] * 0.5), (jnp.float32(1), x)
        )[1]

    [reduce] = collectives(compiled(endless, x))
    assert (reduce.kind, reduce.times, reduce.times_known) == ("all-reduce", 1, False)


def test_the_tpu_compilers_program():
    """Asynchronous, fused and looped collectives of a real TPU program, each counted once a run."""
    found = Counter()
    for one in collectives(GOLDEN, AXES):
        assert one.times_known
        found[one.kind, one.axes, one.nbytes] += one.times
    assert found == {
        # Two matrices, gathered in the forward and in the backward loop of four turns each.
        ("all-gather", ("fsdp",), 2 * MIB): 2 * 2 * 4,
        # Their gradients, combined into one; the TPU writes it as an all-reduce in a fusion.
        ("reduce-scatter", ("fsdp",), 2 * MIB): 4,
        # What tensor parallelism adds up, forward and backward.
        ("all-reduce", ("tensor",), MIB // 2): 2 * 4,
        # The loss.
        ("all-reduce", ("fsdp",), 4): 1,
    }


def test_an_asynchronous_collective_is_one():
    """-start and -done are one, sized by what arrives; so is async-start with its computation."""
    text = """HloModule m, num_partitions=4

%gather (p: f32[2]) -> f32[8] {
  %p = f32[2]{0} parameter(0)
  ROOT %inner = f32[8]{0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
}

ENTRY %main (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  %s = (f32[2]{0}, f32[8]{0}) all-gather-start(%a), channel_id=1, replica_groups={{0,1,2,3}}
  %d = f32[8]{0} all-gather-done(%s)
  %ps = (f32[2]{0}, f32[2]{0}, u32[], u32[]) collective-permute-start(%a), channel_id=2, \
source_target_pairs={{0,1},{1,2}}
  %pd = f32[2]{0} collective-permute-done(%ps)
  %rs = f32[2]{0} all-reduce-start(%a), channel_id=3, replica_groups={}, to_apply=%add
  %rd = f32[2]{0} all-reduce-done(%rs)
  %as = ((f32[2]{0}), f32[8]{0}, u32[]) async-start(%a), calls=%gather
  %au = ((f32[2]{0}), f32[8]{0}, u32[]) async-update(%as), calls=%gather
  %ad = f32[8]{0} async-done(%au), calls=%gather
  ROOT %r = f32[2]{0} slice(%ad), slice={[0:2]}
}
"""
    found = {one.name: (one.kind, one.nbytes, one.group_size) for one in collectives(text)}
    assert found == {
        "inner": ("all-gather", 32, 4),
        "s": ("all-gather", 32, 4),
        "ps": ("collective-permute", 8, 3),
        "rs": ("all-reduce", 8, 4),
    }


def test_shapes_with_layouts_tuples_and_odd_types():
    """Bytes of tuples, dynamic dimensions, four-bit and boolean elements; tokens hold nothing."""
    shape = "(bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, s4[3]{0}, pred[], f32[<=2,3]{1,0}, token[])"
    assert [(s.dtype, s.nbytes, s.memory_space) for s in array_shapes(shape)] == [
        ("bf16", 64, 1),
        ("s4", 2, 0),
        ("pred", 1, 0),
        ("f32", 24, 0),
    ]


def test_text_that_is_no_program_is_refused():
    """The message says what was expected."""
    with pytest.raises(InputError, match=r"no whole ENTRY computation; expected what jax\.jit"):
        collectives("HloModule nothing")
    circle = """ENTRY %a (p: f32[]) -> f32[] {
  ROOT %c = f32[] call(), to_apply=%b
}
%b (p: f32[]) -> f32[] {
  ROOT %c = f32[] call(), to_apply=%a
}
"""
    with pytest.raises(InputError, match="circle"):
        collectives(circle)


LINES = GOLDEN.splitlines()


# Drawing is slow where the machine is busy, and is no promise of ours.
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_junk_is_answered_or_refused(data):
    """A program whose lines are cut, lost, doubled and overwritten gives numbers or InputError."""
    lines = LINES[: data.draw(st.integers(1, len(LINES)))] if data.draw(st.booleans()) else LINES
    lines = list(lines)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(("cut", "lose", "double", "write"))):
            case "cut":
                lines[at] = lines[at][: data.draw(st.integers(0, 80))]
            case "lose":
                lines[at] = ""
            case "double":
                lines.insert(at, lines[at])
            case _:
                where = data.draw(st.integers(0, max(0, len(lines[at]))))
                lines[at] = lines[at][:where] + data.draw(st.text(max_size=12))
    try:
        found = collectives("\n".join(lines), AXES)
    except InputError:
        return
    assert all(one.nbytes >= 0 and one.times >= 1 for one in found)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=300))
def test_any_text_is_answered_or_refused(text):
    """Whatever the text, the error is ours."""
    with pytest.raises(InputError):
        collectives(text)
    wrapped = f"ENTRY %m (p: f32[]) -> f32[] {{\n  %x = {text}\n}}\n"
    with suppress(InputError):
        runs(parse_module(wrapped))
