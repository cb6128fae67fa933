"""Who takes part in a collective: the three forms that XLA writes, and mesh axes behind them."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk.errors import InputError
from maas_sdk.hlo.replica_groups import (
    axes_of_groups,
    axes_of_pairs,
    parse_groups,
    parse_pairs,
)

ALONG_FIRST = ((0, 4), (1, 5), (2, 6), (3, 7))


@pytest.mark.parametrize(
    "text",
    [
        "{{0,4},{1,5},{2,6},{3,7}}",
        "[4,2]<=[2,4]T(1,0)",
        "mesh['a'=2,'b'=4] {'a'}",
        "mesh['a'=2,'b'=1,'c'=4] {'a'}",
        "mesh['x'=8] {'x':(1)2}",
    ],
)
def test_three_forms_of_the_same_groups(text):
    """A list, an iota and a mesh with axes or parts of axes say the same four pairs."""
    assert parse_groups(f", channel_id=1, replica_groups={text}, to_apply=%add", 8) == ALONG_FIRST


def test_all_and_inner_and_permuted():
    """The empty list is everybody; inner parts of an axis; meshes whose devices are permuted."""
    assert parse_groups("replica_groups={}", 3) == ((0, 1, 2),)
    assert parse_groups("", 2) == ((0, 1),)
    assert parse_groups("replica_groups=[2,4]<=[8]", 8) == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert parse_groups("replica_groups=mesh['x'=8] {'x':(4)2}", 8) == (
        *((0, 1), (2, 3)),
        *((4, 5), (6, 7)),
    )
    permuted = "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]<=[2,2]T(1,0)) {'b'}"
    assert parse_groups(permuted, 4) == ((0, 2), (1, 3))
    listed = "replica_groups=mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}"
    assert parse_groups(listed, 4) == ((3, 2), (1, 0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<nonsense>", "unknown form"),
        ("[4,3]<=[2,4]", "cannot be made of"),
        ("[4,2]<=[2,4]T(1,1)", "cannot be made of"),
        ("mesh['a'=2] {'b'}", "no axis 'b'"),
        ("mesh['a'=8] {'a':(3)2}", r"no part \(3\)2"),
        ("mesh['a'=8]", "no axes are named"),
        ("[99999999,2]<=[99999999,2]", "expected 1 to"),
    ],
)
def test_other_forms_are_refused(text, words):
    """The message quotes what came."""
    with pytest.raises(InputError, match=words):
        parse_groups(f"replica_groups={text}", 8)


@settings(deadline=None)
@given(st.lists(st.sampled_from((1, 2, 3, 4)), min_size=1, max_size=4), st.data())
def test_groups_along_axes_name_those_axes(sizes, data):
    """Groups written for a set of axes divide all devices, and are recognized as those axes."""
    axes = {f"axis{i}": size for i, size in enumerate(sizes)}
    chosen = [n for n in axes if data.draw(st.booleans())]
    text = ",".join(f"'{n}'={s}" for n, s in axes.items())
    names = ",".join(f"'{n}'" for n in chosen)
    groups = parse_groups(f"replica_groups=mesh[{text}] {{{names}}}", 1)
    total = int(np.prod(sizes))
    assert sorted(i for group in groups for i in group) == list(range(total))
    assert axes_of_groups(groups, axes) == tuple(n for n in chosen if axes[n] > 1)


def test_groups_that_follow_no_axis():
    """Neither axis of 2 × 4 has the neighbours 0, 1 alone together."""
    assert axes_of_groups(((0, 1), (2, 3), (4, 5), (6, 7)), {"a": 2, "b": 4}) is None


def test_permutations_name_the_axes_they_move_along():
    """Pairs that differ in one coordinate move along that axis."""
    pairs = parse_pairs("source_target_pairs={{0,4},{4,0},{1,5},{5,1}}, metadata={}")
    assert pairs == ((0, 4), (4, 0), (1, 5), (5, 1))
    assert axes_of_pairs(pairs, {"a": 2, "b": 4}) == ("a",)
    assert axes_of_pairs(((0, 5),), {"a": 2, "b": 4}) == ("a", "b")
    assert axes_of_pairs(((0, 9),), {"a": 2, "b": 4}) is None


@settings(deadline=None)
@given(st.text(max_size=60))
def test_junk_is_refused_with_our_error(text):
    """No text brings any other error, and none takes much memory."""
    for form in ("{}", "mesh[{}", "[{}"):
        with suppress(InputError):
            parse_groups("replica_groups=" + form.replace("{}", text), 8)
