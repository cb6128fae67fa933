"""The pointer of a model: versions and labels, as pure functions, and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.bundle.manifest import FileEntry
from maas_sdk.errors import ConfigError, CorruptError, DependencyError, MaasError, NotFoundError
from maas_sdk.store.labels import labelled, moved, moved_back
from maas_sdk.store.model_index import Pointer, Version
from maas_sdk.store.reference import StoreReference, parse_reference

ENTRY = FileEntry(5, "ab" * 32)


def version(id: str = "x") -> Version:
    return Version(id=id, published="now", total_bytes=7, heads={"manifest.json": ENTRY})


def full() -> Pointer:
    pointer = Pointer()
    for _ in range(5):
        pointer, _ = pointer.publish(version(), None, "m")
    labels = moved(moved({}, "stable", "2"), "stable", "4")
    pointer = Pointer(versions=pointer.versions, labels=labels)
    return pointer.retire(1, 100)


def test_numbers_count_up_and_never_come_again() -> None:
    """The next is after all that were; one that is taken, or was, is refused."""
    pointer, first = Pointer().publish(version(), None, "m")
    pointer, tenth = pointer.publish(version(), "10", "m")
    pointer, next_ = pointer.publish(version(), None, "m")
    assert (first, tenth, next_) == ("1", "10", "11")
    assert pointer.numbers() == ["1", "10", "11"]
    with pytest.raises(ConfigError, match="m: version 10 exists already; a version never changes"):
        pointer.publish(version(), "10", "m")
    with pytest.raises(ConfigError, match="version 1 exists already, retired"):
        pointer.retire(1, 0).publish(version(), "1", "m")


def test_what_labels_remember_is_not_retired() -> None:
    """The latest stay, and what a label is at or was at; the rest keeps its objects for a while."""
    pointer = full()
    assert pointer.numbers() == ["2", "4", "5"]
    assert sorted(pointer.retired) == ["1", "3"]
    assert len(pointer.heads()) == 5
    assert len(pointer.forget(100).heads()) == 5
    assert len(pointer.forget(101).heads()) == 3
    assert pointer.forget(101).publish(version(), None, "m")[1] == "6"


def test_a_label_goes_back_the_way_it_came() -> None:
    """Step by step, past versions that are gone; at the first it says so."""
    labels = moved(moved(moved({}, "stable", "1"), "stable", "2"), "stable", "5")
    assert moved(labels, "stable", "5") == labels
    assert labelled(labels, "stable", "m") == "5"
    there = {"1", "2", "5"}
    once = moved_back(labels, "stable", "m", there)
    assert once == {"stable": ("2", "1")}
    assert moved_back(labels, "stable", "m", {"1", "5"}) == {"stable": ("1",)}
    with pytest.raises(ConfigError, match="is at version 1 and was at no other before"):
        moved_back(moved_back(once, "stable", "m", there), "stable", "m", there)
    with pytest.raises(NotFoundError, match="no label 'canary' at m; it has stable: set it with"):
        labelled(labels, "canary", "m")


def test_a_pointer_is_read_as_it_was_written() -> None:
    """All fields, there and back."""
    assert Pointer.from_json(full().to_json(), "m") == full()
    assert Pointer.from_json(Pointer().to_json(), "m") == Pointer()


def changed(path: str, value: Any) -> bytes:
    document = json.loads(full().to_json())
    *parents, last = path.split("/")
    at = document
    for key in parents:
        at = at[key]
    at[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "m.json does not name the versions of a model"),
        (b"[]", "expected an object, got a list"),
        (b"{}", "pointer.schema: expected 1, got None"),
        (changed("schema", True), "pointer.schema"),
        (changed("more", 1), "unknown field more"),
        (changed("versions/x", json.loads(full().to_json())["versions"]["2"]), "'x' is no version"),
        (changed("versions/2/heads", {}), "a version without manifest.json"),
        (changed("versions/2/heads/manifest.json/sha256", "AB" * 32), "is no file of a bundle"),
        (changed("versions/2/heads/..", ENTRY._asdict()), "'..' is no file of a bundle"),
        (changed("versions/2/heads/a\\b", ENTRY._asdict()), "is no file of a bundle"),
        (changed("labels/stable", ["9"]), "pointer.labels.stable: points at no version"),
        (changed("labels/7", ["2"]), "pointer.labels: label '7'"),
        (changed("labels/stable", []), "points at no version"),
    ],
)
def test_what_is_no_pointer_is_refused(data: bytes, message: str) -> None:
    """With the place, what is wrong, and what to do; nothing is guessed."""
    with pytest.raises(CorruptError) as caught:
        Pointer.from_json(data, "gs://b/m.json")
    assert message in str(caught.value)
    assert "nothing was changed" in str(caught.value)


def test_a_newer_pointer_asks_for_a_newer_release() -> None:
    """It is not damaged, and is not called so."""
    with pytest.raises(DependencyError, match=r"is of schema 2, .* pip install --upgrade"):
        Pointer.from_json(changed("schema", 2), "m")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.binary(max_size=50) | st.builds(lambda v: json.dumps(v).encode(), JSON))
def test_junk_is_refused_and_nothing_else_happens(data: bytes) -> None:
    """Whatever the bytes are, they are a pointer or an error of the family."""
    try:
        pointer = Pointer.from_json(data, "m")
    except MaasError:
        return
    assert Pointer.from_json(pointer.to_json(), "m") == pointer


@given(
    st.sampled_from(["schema", "versions/2/heads", "labels/stable", "retired/1", "versions/2/id"]),
    JSON,
)
def test_a_spoilt_field_is_refused_or_read(path: str, value: Any) -> None:
    """One field of a good pointer replaced by anything."""
    try:
        pointer = Pointer.from_json(changed(path, value), "m")
    except MaasError:
        return
    assert Pointer.from_json(pointer.to_json(), "m") == pointer


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("gs://b/p/digits@3", StoreReference("gs://b/p", "digits", version="3")),
        ("gs://b/digits", StoreReference("gs://b", "digits")),
        ("store/digits@stable", StoreReference("store", "digits", label="stable")),
        ("memory://a/m@v1", StoreReference("memory://a", "m", label="v1")),
        ("file:///srv/store/m/", StoreReference("file:///srv/store", "m")),
    ],
)
def test_references_name_a_store_a_model_and_a_version(
    text: str, reference: StoreReference
) -> None:
    """Taken apart, and written again."""
    assert parse_reference(text) == reference
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digits", "expected a store and a model"),
        ("gs://digits", "expected a store and a model"),
        ("gs://b/di gits", "is not a model's name"),
        ("gs://b/m@", "after '@' expected a version such as 3 or a label"),
        ("gs://b/m@007", "after '@'"),
        ("gs://b/m@-1", "after '@'"),
        ("", "expected a store and a model"),
    ],
)
def test_what_is_no_reference_says_what_one_is(text: str, message: str) -> None:
    """One sentence with an example."""
    with pytest.raises(ConfigError, match=message):
        parse_reference(text)


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    """Nothing but the family's errors, and what is read is read again from itself."""
    try:
        reference = parse_reference(text)
    except ConfigError:
        return
    assert parse_reference(str(reference)) == reference
