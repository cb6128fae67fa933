"""What an event says, and what the environment asks for, before anything is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.batch.config import BatchConfig
from maas_sdk.batch.event import FINALIZED, Arrived, EventConfig
from maas_sdk.errors import ConfigError, InputError

JSON = st.none() | st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=2)


@given(
    kind=st.just(FINALIZED) | JSON,
    data=JSON
    | st.dictionaries(st.sampled_from(["bucket", "name", "generation"]), JSON | st.just("12")),
)
def test_any_event_is_read_or_refused(kind, data):
    """Never anything but our own error; what is read names an object and its generation."""
    try:
        found = Arrived.of(kind, data)
    except InputError:
        return
    assert found.bucket
    assert found.name
    assert isinstance(found.generation, int)


def test_options_of_the_environment():
    """Every one of them, and what is said of those that make no sense."""
    found = EventConfig.from_environ(
        {
            "MAAS_OUTPUT": "gs://b/a/c/",
            "MAAS_INPUT_PREFIX": "day/",
            "MAAS_FORMAT": "jsonl",
            "MAAS_KEY": "id",
            "MAAS_COLUMNS": "x=a,b;n=c",
            "MAAS_IGNORE": "d,e",
            "MAAS_PROGRAM": "p",
            "MAAS_FINITE": "1",
            "MAAS_RESIZE": "1",
            "MAAS_INVERT": "1",
            "MAAS_PART_ROWS": "10",
            "MAAS_BUCKET": "4",
        }
    )
    assert found == EventConfig(
        output="gs://b/a/c/",
        watched="day/",
        options=BatchConfig(
            format="jsonl",
            program="p",
            key="id",
            columns={"x": ("a", "b"), "n": ("c",)},
            ignore=("d", "e"),
            finite=True,
            resize=True,
            invert=True,
            bucket=4,
            part_rows=10,
        ),
    )
    assert found.place == ("b", "a/c/")
    for output in ("", "b/a", "gs://b", "gs:///a"):
        with pytest.raises(ConfigError, match="output: expected gs://BUCKET/PREFIX"):
            EventConfig.from_environ({"MAAS_OUTPUT": output})
    with pytest.raises(ConfigError, match="MAAS_PART_ROWS: expected a whole number, got 'x'"):
        EventConfig.from_environ({"MAAS_OUTPUT": "gs://b/a", "MAAS_PART_ROWS": "x"})
