"""Lines of JSON: the fast codec and the standard library's say the same."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from maas_sdk.tables import json_codec
from maas_sdk.tables.json_codec import decode_line, encode_line

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def without(call, line):
    """What comes of a line where orjson is not installed, errors included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_codec, "_orjson", lambda: None)
        return outcome(call, line)


def outcome(call, line):
    try:
        return repr(call(line))
    except (ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


@given(st.binary(max_size=40) | VALUES.map(json.dumps).map(str.encode))
@example(b"[NaN, -Infinity]")
@example(b"123456789012345678901234567890")
@example(b"[-9223372036854775808, 18446744073709551615, 18446744073709551616, 0.1e1]")
@example(b"[0.0010999999940395355, 12345678901234567890.5, 1234567890123456789e3]")
@example(b'"\\ud800"')
@example(b"\xff")
@example(b"[" * 5000)
@example(b"1e400")
@example(b"-0.0")
def test_a_line_is_read_the_same_either_way(line):
    """The same value, or the same error."""
    assert outcome(decode_line, line) == without(decode_line, line)


@given(st.dictionaries(st.text(), VALUES))
@example({"x": [math.nan, math.inf], "n": 2**70})
@example({"x": "\ud800"})
def test_a_line_that_was_written_is_json(value):
    """Either way one line of UTF-8 of the same value, null in the place of NaN and infinity."""

    def read(data):
        assert data.endswith(b"\n")
        assert data.count(b"\n") == 1
        assert b"NaN" not in data or "NaN" in repr(value)
        return json.loads(data)

    assert outcome(lambda v: read(encode_line(v)), value) == without(
        lambda v: read(encode_line(v)), value
    )
