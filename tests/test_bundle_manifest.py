"""manifest.json: strict both ways, with the field's path in every refusal."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk.bundle.compression import CompressedLayer, Compression, LatencyRecord
from maas_sdk.bundle.crypto.encryption import Encryption
from maas_sdk.bundle.encoding.spec import Encoding
from maas_sdk.bundle.manifest import (
    SCHEMA,
    FileEntry,
    Manifest,
    Program,
    Target,
    Verification,
    executable_path,
    golden_path,
    stablehlo_path,
)
from maas_sdk.errors import ManifestError
from maas_sdk.tensors import BITS, Signature, TensorSpec

SPEC = TensorSpec(dtype="float32", shape=(None, 8))
FULL = Manifest(
    name="digits",
    created="2026-01-31T12:00:00Z",
    producer={"jax": "0.10.2"},
    metadata={"accuracy": "97 %"},
    programs={
        "predict": Program(
            signature=Signature(inputs={"x": SPEC}, outputs={"y": SPEC}),
            weights=("b", "a"),
            buckets=(1, 2, 4),
            row_independent=True,
            custom_calls=("lapack_spotrf_ffi",),
            verification=Verification(
                rows=7,
                atol=1e-5,
                rtol=0.0,
                max_abs_error={"y": 1e-7},
                targets_run=("cpu",),
                run_s={"1": 1e-4},
            ),
        )
    },
    targets={
        "cpu": Target(platform="cpu", arch="x86_64", jaxlib="0.10.2+abc", cpu_features=("avx2",))
    },
    files={"programs/predict-b1.stablehlo": FileEntry(size_bytes=3, sha256="0" * 64)},
    encodings={
        "a": Encoding(
            scheme="packed",
            dtype="int8",
            shape=(3, 4),
            parts={"data": "a/data"},
            params={"bits": 4, "axis": 1, "signed": 1},
        )
    },
    compression=Compression(
        recipe="int4",
        metric="accuracy",
        before=0.98,
        after=0.97,
        bytes_before=48,
        bytes_stored=6,
        bytes_memory=12,
        layers=(
            CompressedLayer(
                name="a", format="int4", bits=4.0, bytes_before=48, bytes_stored=6, sqnr_db=20.5
            ),
        ),
        latency_s={"1": LatencyRecord(before=2e-3, after=1e-3)},
    ),
    encryption=Encryption(id="0" * 32, key="env:KEY", key_id="1" * 32, wrapped_key="2" * 120),
)
DOCUMENT: dict[str, Any] = json.loads(FULL.to_json())


def records(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values in a document."""
    yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from records(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from records(item, (*path, index))


def changed(path: tuple[Any, ...], value: Any) -> bytes:
    """The full document with one value replaced."""
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(document).encode()


def spoken(path: tuple[Any, ...]) -> str:
    return "manifest" + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path)


# Objects whose keys the user chooses; all others have fixed fields.
MAPS = {"programs", "targets", "files", "producer", "metadata", "inputs", "outputs"} | {
    *("max_abs_error", "run_s", "encodings", "parts", "params", "latency_s")
}
PATHS = [path for path in records(DOCUMENT) if path]
RECORDS = [
    path
    for path in records(DOCUMENT)
    if isinstance(reduce(lambda v, s: v[s], path, DOCUMENT), dict)
    and not (path and path[-1] in MAPS)
]


def test_what_is_written_is_read() -> None:
    """A manifest comes back equal, and the same manifest gives the same bytes."""
    assert Manifest.from_json(FULL.to_json()) == FULL
    assert Manifest.from_json(FULL.to_json()).to_json() == FULL.to_json()


@pytest.mark.parametrize("path", PATHS, ids=spoken)
def test_a_value_of_the_wrong_type_is_refused_by_path(path: tuple[Any, ...]) -> None:
    """Every single value, replaced by one of another type, is named in the message."""
    for wrong in ([{}], {"x": [1]}):
        with pytest.raises(ManifestError) as caught:
            Manifest.from_json(changed(path, wrong))
        assert caught.value.message.startswith(spoken(path)), (caught.value.message, wrong)


@pytest.mark.parametrize("path", RECORDS, ids=spoken)
def test_missing_and_unknown_fields_are_refused_by_name(path: tuple[Any, ...]) -> None:
    """Every record has exactly its fields: each one removed, or one added, is named."""
    place: Any = DOCUMENT
    for step in path:
        place = place[step]
    for name in place.keys() - {"schema"}:
        fewer = {key: value for key, value in place.items() if key != name}
        data = changed(path, fewer) if path else json.dumps(fewer).encode()
        with pytest.raises(ManifestError, match=f"missing field {name}") as caught:
            Manifest.from_json(data)
        assert caught.value.message.startswith(f"{spoken(path)}: ")
    more = {**place, "extra": 1}
    with pytest.raises(ManifestError, match="unknown field extra"):
        Manifest.from_json(changed(path, more) if path else json.dumps(more).encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "expected an object, got a list"),
        (b"{}", "manifest.schema: expected a whole number, got None"),
        (b'{"schema": true}', "manifest.schema: expected a whole number, got True"),
        (b'{"schema": 4}', "of schema 4, .* reads schemas 1 to 3: pip install --upgrade maas-sdk"),
        (b'{"schema": 4, "anything": []}', "pip install --upgrade maas-sdk"),
        (b'{"schema": 0}', "export the model again with this version"),
        (b'{"schema": 1, "schema": 1}', "the same key twice: schema"),
        (b'{"schema": 1, "a": {"b": 1, "b": 2}}', "the same key twice: b"),
        (b'{"schema": 1, "\xff": 1}', "not JSON"),
        (b'\xef\xbb\xbf{"schema": 1}', "not JSON"),
        (json.dumps(DOCUMENT).encode("utf-16"), "not JSON"),
        (b'{"schema": NaN}', "NaN is not a JSON number"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"a":' * 200_000, "not JSON"),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes, message: str) -> None:
    """Junk, other encodings, other schemas and deep nesting end in one kind of error."""
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(data)


P = ("programs", "predict")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("name",), "../up", r"manifest.name: '../up' is not a name"),
        (("name",), "a" * 129, "at most 128 characters"),
        (("name",), "\ud800", "manifest.name.* is not valid text"),
        (("created",), "yesterday", "manifest.created: expected a time like"),
        (("programs",), {}, "manifest.programs: expected at least one program"),
        (("programs",), {"a/b": DOCUMENT["programs"]["predict"]}, "'a/b' is not a name"),
        (("targets",), {"": DOCUMENT["targets"]["cpu"]}, "manifest.targets: '' is not a name"),
        ((*P, "buckets"), [], "manifest.programs.predict.buckets: expected ascending sizes"),
        ((*P, "buckets"), [2, 1], "predict.buckets: expected ascending sizes"),
        ((*P, "buckets"), [1, 1], "predict.buckets: expected ascending sizes"),
        ((*P, "buckets"), [0], "predict.buckets: expected ascending sizes"),
        ((*P, "buckets"), [True], r"predict.buckets\[0\]: expected a whole number, got true"),
        ((*P, "inputs", "x", "dtype"), "float31", "predict.inputs.x: unknown dtype 'float31'"),
        ((*P, "inputs", "x", "shape"), [1, None], "predict.inputs.x: shape .* dimension 1"),
        ((*P, "verification", "atol"), 10**400, "verification.atol: expected a finite number"),
        ((*P, "verification", "atol"), -1, "verification: expected rows, atol and rtol ≥ 0"),
        (("metadata",), {"\udc00": ""}, "is not valid text"),
        (("metadata",), {"a": 1}, "manifest.metadata.a: expected a string, got a whole number"),
        *(
            (("files",), {bad: DOCUMENT["files"]["programs/predict-b1.stablehlo"]}, "not a path")
            for bad in [
                "",
                "/a",
                "a//b",
                "../a",
                "a/..",
                "./a",
                "a\\b",
                "c:a",
                "a\0",
                "manifest.json",
            ]
        ),
        (("files",), {"a": {"size_bytes": -1, "sha256": "0" * 64}}, "manifest.files.a: expected"),
        (("files",), {"a": {"size_bytes": 1, "sha256": "A" * 64}}, "64 lower-case hex digits"),
        (
            ("files",),
            {n: {"size_bytes": 1, "sha256": "0" * 64} for n in ("a", "a/b")},
            "'a' is both a file and a folder",
        ),
    ],
)
def test_values_without_meaning_are_refused(
    path: tuple[Any, ...], value: Any, message: str
) -> None:
    """A value of the right type that cannot be meant is refused by path."""
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(changed(path, value))


def test_null_stands_for_no_verification() -> None:
    """Verification is the one field that may be null."""
    read = Manifest.from_json(changed((*P, "verification"), None))
    assert read.programs["predict"].verification is None


def test_what_json_cannot_hold_is_not_written() -> None:
    """NaN and broken text are refused when writing, not left for the reader to find."""
    with pytest.raises(ManifestError, match="cannot be written"):
        Manifest(name="m", programs=FULL.programs, targets={}, metadata={"a": "\ud800"}).to_json()


def test_file_names_follow_from_names() -> None:
    """Where programs, executables and golden tensors lie is part of the format."""
    assert stablehlo_path("predict", 4) == "programs/predict-b4.stablehlo"
    assert executable_path("cpu-x", "predict", 4) == "executables/cpu-x/predict-b4.xla"
    assert golden_path("predict") == "golden/predict.safetensors"


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
COUNTS = st.integers(0, 2**50)
FINITE = st.floats(0, allow_nan=False, allow_infinity=False)
SPECS = st.dictionaries(
    TEXT,
    st.builds(
        TensorSpec,
        dtype=st.sampled_from(list(BITS)),
        shape=st.lists(st.integers(0, 99), max_size=3).map(tuple),
    ),
    max_size=2,
)
PROGRAMS = st.builds(
    Program,
    signature=st.builds(Signature, inputs=SPECS, outputs=SPECS),
    weights=st.lists(TEXT, max_size=3).map(tuple),
    buckets=st.sets(st.integers(1, 99), min_size=1, max_size=3).map(sorted).map(tuple),
    row_independent=st.booleans(),
    custom_calls=st.lists(TEXT, max_size=2).map(tuple),
    verification=st.none()
    | st.builds(
        Verification,
        rows=st.integers(0, 9),
        atol=FINITE,
        rtol=FINITE,
        max_abs_error=st.dictionaries(TEXT, FINITE, max_size=2),
        targets_run=st.lists(TEXT, max_size=2).map(tuple),
        run_s=st.dictionaries(TEXT, FINITE, max_size=2),
    ),
)
MANIFESTS = st.builds(
    Manifest,
    name=NAMES,
    programs=st.dictionaries(NAMES, PROGRAMS, min_size=1, max_size=2),
    targets=st.dictionaries(
        NAMES,
        st.builds(
            Target,
            platform=TEXT,
            arch=TEXT,
            jaxlib=TEXT,
            cpu_features=st.lists(TEXT, max_size=3).map(tuple),
        ),
        max_size=2,
    ),
    files=st.dictionaries(
        st.integers(0, 99).map("assets/{}".format),
        st.builds(
            FileEntry,
            size_bytes=st.integers(0, 2**50),
            sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
        ),
        max_size=3,
    ),
    producer=st.dictionaries(TEXT, TEXT, max_size=2),
    metadata=st.dictionaries(TEXT, TEXT, max_size=2),
    encodings=st.dictionaries(
        TEXT,
        st.builds(
            Encoding,
            scheme=TEXT,
            dtype=st.sampled_from(list(BITS)),
            shape=st.lists(st.integers(0, 99), max_size=3).map(tuple),
            parts=st.dictionaries(TEXT, TEXT, max_size=2),
            params=st.dictionaries(TEXT, st.integers(), max_size=2),
        ),
        max_size=2,
    ),
    compression=st.none()
    | st.builds(
        Compression,
        recipe=TEXT,
        metric=st.none() | TEXT,
        before=st.none() | FINITE,
        after=st.none() | FINITE,
        bytes_before=COUNTS,
        bytes_stored=COUNTS,
        bytes_memory=COUNTS,
        layers=st.lists(
            st.builds(
                CompressedLayer,
                name=TEXT,
                format=TEXT,
                bits=FINITE,
                bytes_before=COUNTS,
                bytes_stored=COUNTS,
                sqnr_db=st.none() | FINITE,
            ),
            max_size=2,
        ).map(tuple),
        latency_s=st.dictionaries(
            st.integers(1, 99).map(str), st.builds(LatencyRecord, FINITE, FINITE), max_size=2
        ),
    ),
)


@settings(max_examples=100, deadline=None)
@given(MANIFESTS)
def test_any_manifest_comes_back(manifest: Manifest) -> None:
    """Whatever can be said is read back equal."""
    assert Manifest.from_json(manifest.to_json()) == manifest


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=100)
    | st.sampled_from(PATHS).flatmap(
        lambda path: st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
            max_leaves=5,
        ).map(lambda value: changed(path, value))
    )
)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Junk, and manifests with one value replaced by junk, never end in another error."""
    try:
        manifest = Manifest.from_json(data)
    except ManifestError:
        return
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_schema_is_three() -> None:
    """A change of the schema is a change of this number, and of docs/bundle.md."""
    assert SCHEMA == 3


def test_a_plain_bundle_is_of_schema_2() -> None:
    """Readers of before encryption still open what is not encrypted."""
    plain = replace(FULL, encryption=None)
    document = json.loads(plain.to_json())
    assert document["schema"] == 2
    assert {**document, "schema": 3, "encryption": DOCUMENT["encryption"]} == DOCUMENT
    assert Manifest.from_json(plain.to_json()) == plain
    with pytest.raises(ManifestError, match="manifest: unknown field encryption"):
        Manifest.from_json(json.dumps({**DOCUMENT, "schema": 2}).encode())


def test_a_manifest_of_schema_1_is_still_read() -> None:
    """Bundles of before encodings: none of them, no compression; its fields are as strict."""
    new = {"encodings", "compression", "encryption"}
    old = {key: value for key, value in DOCUMENT.items() if key not in new} | {"schema": 1}
    plain = replace(FULL, encodings={}, compression=None, encryption=None)
    assert Manifest.from_json(json.dumps(old).encode()) == plain
    for name in new:
        with pytest.raises(ManifestError, match=f"manifest: unknown field {name}"):
            Manifest.from_json(json.dumps({**old, name: DOCUMENT[name]}).encode())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("encodings", "a", "dtype"), "int5", "manifest.encodings.a: unknown dtype 'int5'"),
        (("encodings", "a", "shape"), [-1], r"manifest.encodings.a: shape \[-1\]"),
        (("compression", "bytes_stored"), -1, "model: expected bytes ≥ 0"),
        (("compression", "layers", 0, "bytes_before"), -1, "layer 'a': expected bytes ≥ 0"),
        (("compression", "layers", 0, "bits"), -1, "layer 'a': expected bits ≥ 0"),
        (("compression", "latency_s"), {"one": {"before": 1, "after": 1}}, "in digits, got 'one'"),
        (("encryption", "algorithm"), "ROT13", "algorithm: expected AES-256-GCM, got 'ROT13'"),
        (("encryption", "chunk_bytes"), 63, "chunk_bytes: expected 64 to 67108864, got 63"),
        (("encryption", "chunk_bytes"), 2**26 + 1, "chunk_bytes: expected 64 to"),
        (("encryption", "id"), "0" * 31, "encryption.id: expected 32 lower-case hex digits"),
        (("encryption", "key_id"), "A" * 32, "key_id: expected 32 lower-case hex digits"),
        (("encryption", "wrapped_key"), "g" * 120, "wrapped_key: expected 120 lower-case hex"),
        (("compression", "latency_s"), {"1": {"before": -1, "after": 1}}, "expected seconds ≥ 0"),
    ],
)
def test_numbers_that_cannot_be(path: tuple[Any, ...], value: Any, message: str) -> None:
    """Encodings have dtypes and sizes; bytes, bits and seconds are not negative."""
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(changed(path, value))


def test_the_table_in_the_docs_lists_these_fields() -> None:
    """docs/bundle.md names every field of a manifest, and no other."""
    page = (Path(__file__).parents[1] / "docs" / "bundle.md").read_text("utf-8")
    documented = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    found = set()
    for path in records(DOCUMENT):
        value: Any = reduce(lambda v, s: v[s], path, DOCUMENT)
        steps = [
            "<name>" if above in MAPS else step
            for above, step in zip(("", *path), path, strict=False)
            if isinstance(step, str)
        ]
        whole = path and not any(isinstance(step, int) for step in path)
        nullable = path and path[-1] in ("verification", "compression")
        if whole and (not isinstance(value, dict) or nullable):
            found.add(".".join(steps))
    assert set(documented) == found
    assert len(documented) == len(found)
