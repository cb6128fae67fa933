from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from maas_sdk.errors import ConfigError
from maas_sdk.model.leaf import Leaf
from maas_sdk.sharding.partition import LeafPlan, Policies, follow, plan_leaf, spec_of
from maas_sdk.sharding.rules import LOGICAL_AXES, RULES, Rule, axes_of

MESH = {"data": 2, "fsdp": 4, "tensor": 2}


def leaf(path: str, *shape: int, axes: tuple[Any, ...] | None = None) -> Leaf:
    return Leaf(name=path, value=jax.ShapeDtypeStruct(shape, np.float32), axes=axes)


def plan(of: Leaf, *rules: Rule, **changes: Any) -> LeafPlan:
    policies: dict[str, Any] = {
        "mesh": MESH,
        "weight_axes": ("fsdp", "tensor"),
        "rules": rules,
        "presets": RULES["standard"],
        "logical_axes": LOGICAL_AXES,
        "min_shard_bytes": 1024,
    }
    return plan_leaf(of, Policies(**{**policies, **changes}))


def test_what_is_said_most_closely_wins() -> None:
    """Rule before annotation before preset before automatic; each decision names its reason."""
    head = leaf("head/kernel", 64, 32, axes=("vocab", "embed"))
    assert plan(head, Rule("head", (None, "data"))).spec == PartitionSpec(None, "data")
    assert plan(head).spec == PartitionSpec("tensor", "fsdp")
    assert plan(leaf("head/kernel", 64, 32)).spec == PartitionSpec("fsdp", "tensor")
    assert plan(leaf("other", 64, 32)).spec == PartitionSpec("fsdp")
    assert plan(leaf("other", 4, 4)).spec == PartitionSpec()
    sources = [
        plan(head, Rule("head", (None, "data"))).source,
        *(plan(one).source for one in (head, leaf("head/kernel", 64, 32), leaf("other", 64, 32))),
        plan(leaf("other", 4, 4)).source,
    ]
    assert sources == ["rule", "annotation", "preset", "automatic", "whole"]
    assert plan(head).matched == "annotation (vocab, embed)"


def test_automatic_fsdp_cuts_the_largest_dimension_that_divides() -> None:
    """Of equal ones the last; a size that does not divide is passed over, however large."""
    assert plan(leaf("w", 3, 3, 8, 64)).partition == (None, None, None, "fsdp")
    assert plan(leaf("w", 32, 32)).partition == (None, "fsdp")
    assert plan(leaf("w", 1001, 16)).partition == (None, "fsdp")


def test_automatic_fsdp_leaves_small_parameters_whole() -> None:
    """Below the bound nothing is cut, at it everything that divides is."""
    assert plan(leaf("w", 256)).partition == ("fsdp",)
    assert plan(leaf("w", 252)).whole
    assert plan(leaf("w", 252), min_shard_bytes=0).partition == ("fsdp",)


def test_a_parameter_that_nothing_divides_is_whole_and_says_so() -> None:
    """The note names the shape, the axis and the remedy."""
    found = plan(leaf("w", 1001, 3))
    assert found.whole
    assert found.notes == ("w: no dimension of [1001, 3] divides by fsdp=4; pad one",)


def test_a_dimension_that_does_not_divide_stays_whole_and_says_what_to_pad_it_to() -> None:
    """GPT-2's vocabulary is odd: the other dimension is still cut."""
    found = plan(leaf("embed/embedding", 50257, 64))
    assert found.partition == (None, "fsdp")
    assert "dimension 0 of [50257, 64] does not divide by tensor=2" in found.notes[0]
    assert "pad it to 50258" in found.notes[0]


def test_a_preset_that_comes_to_nothing_leaves_the_parameter_to_automatic_fsdp() -> None:
    """A rule about an axis that is not cut here is no reason to keep a parameter whole."""
    bias = leaf("layers/0/mlp/up/bias", 4096)
    assert plan(bias).partition == ("tensor",)
    alone = plan(bias, weight_axes=("fsdp",))
    assert (alone.source, alone.partition) == ("automatic", ("fsdp",))


def test_stacked_layers_keep_their_first_dimension_whole() -> None:
    """One rule holds for a layer and for a stack of them."""
    found = plan(leaf("layers/mlp/up/kernel", 12, 64, 128))
    assert found.spec == PartitionSpec(None, "fsdp", "tensor")


def test_a_rule_with_too_many_dimensions_is_refused() -> None:
    """The message names rule and parameter, and what to do."""
    with pytest.raises(ConfigError, match=r"rule 'head' names 2 dimensions.*'head/bias'.*1 \[8\]"):
        plan(leaf("head/bias", 8), Rule("head", ("fsdp", "tensor")))


def test_an_axis_that_the_mesh_does_not_have_cuts_nothing() -> None:
    """The same rules do for every mesh."""
    found = plan(leaf("w", 8, 8), Rule("w", ("expert", "tensor")))
    assert found.spec == PartitionSpec(None, "tensor")


def test_annotations_use_each_axis_once() -> None:
    """Of two dimensions that want ``tensor``, the first gets it; mesh axes are names too."""
    found = plan(leaf("w", 8, 8, axes=("mlp", "heads")))
    assert found.spec == PartitionSpec("tensor")
    assert plan(leaf("w", 8, 8, axes=("model", None))).spec == PartitionSpec("tensor")


def test_an_unknown_annotation_is_said() -> None:
    """The note names the axis and how to name it."""
    found = plan(leaf("w", 8, 8, axes=("mood", "mlp")))
    assert found.spec == PartitionSpec(None, "tensor")
    assert "the annotated axis 'mood' is in no table" in found.notes[0]
    assert 'logical_axes={**LOGICAL_AXES, "mood": ("fsdp",)}' in found.notes[0]


def test_a_strategy_that_cuts_no_weights_ignores_everything_but_rules() -> None:
    """Data parallelism keeps weights whole whatever their author named."""
    head = leaf("head/kernel", 64, 32, axes=("vocab", "embed"))
    assert plan(head, weight_axes=()).whole
    assert plan(head, Rule("head", ("fsdp",)), weight_axes=()).spec == PartitionSpec(None, "fsdp")


@pytest.mark.parametrize(
    ("own", "followed"),
    [
        ((64, 32), ("fsdp", "tensor")),  # a moment
        ((1, 32), (None, "tensor")),  # a scale per output channel
        ((64, 1), ("fsdp", None)),  # a scale per row
        ((8, 32), ("fsdp", "tensor")),  # a scale per tile of 8 rows
        ((2, 32), (None, "tensor")),  # a scale per tile of 32 rows: 2 does not divide by 4
        ((64,), ("fsdp",)),  # the rows of a factored moment
        ((32,), ("tensor",)),
        ((), ()),
        ((7,), (None,)),
        ((64, 32, 2), (None, None, None)),
    ],
)
def test_what_belongs_to_a_weight_is_cut_like_it(own: Any, followed: Any) -> None:
    """Equal dimensions follow, dimensions of size 1 stay whole, strangers are whole."""
    assert follow(("fsdp", "tensor"), (64, 32), own, MESH) == followed


def test_dimensions_that_cannot_be_told_apart_stay_whole() -> None:
    """A factored moment of a square weight could be of its rows or of its columns."""
    assert follow(("fsdp", "tensor"), (64, 64), (64,), MESH) == (None,)


def test_a_spec_ends_with_its_last_axis() -> None:
    """As jax writes it: two spellings of one sharding would compile a program twice."""
    assert spec_of((None, "fsdp", None)) == PartitionSpec(None, "fsdp")
    assert spec_of((None, None)) == PartitionSpec()


PATHS = st.sampled_from(["head/kernel", "layers/0/mlp/up/kernel", "embed/embedding", "w"])
ENTRIES = st.sampled_from([None, "data", "fsdp", "tensor", "stage"])


@given(
    path=PATHS,
    shape=st.lists(st.integers(1, 48), min_size=2, max_size=4),
    entries=st.none() | st.lists(ENTRIES, max_size=2, unique_by=lambda e: e or object()),
    mesh=st.fixed_dictionaries(
        {}, optional={axis: st.integers(1, 4) for axis in ("data", "fsdp", "tensor")}
    ),
    weight_axes=st.sampled_from([(), ("fsdp",), ("tensor",), ("fsdp", "tensor")]),
)
def test_a_plan_can_always_be_carried_out(
    path: str, shape: list[int], entries: Any, mesh: dict[str, int], weight_axes: tuple[str, ...]
) -> None:
    """Whatever comes in: one entry per dimension, each axis once and on the mesh, sizes divide."""
    rules = () if entries is None else (Rule("", tuple(entries)),)
    found = plan(leaf(path, *shape), *rules, mesh=mesh, weight_axes=weight_axes, min_shard_bytes=0)
    assert len(found.partition) == len(shape)
    used = [axis for entry in found.partition for axis in axes_of(entry)]
    assert len(used) == len(set(used))
    assert all(mesh[axis] > 1 for axis in used)
    parts = 1
    for size, entry in zip(shape, found.partition, strict=True):
        for axis in axes_of(entry):
            assert size % mesh[axis] == 0
            parts *= mesh[axis]
    assert found.bytes_per_device * parts == found.nbytes
