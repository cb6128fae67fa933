"""Rows and batches → requests of a good size, and answers → one per item."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.client.chunking import CallPart, Chunker, Collector, Outputs
from maas_sdk.client.inputs import ProgramInputs, as_inputs, program_inputs
from maas_sdk.errors import (
    ConfigError,
    InputError,
    MaasError,
    ModelError,
    NotFoundError,
    TooLargeError,
    TransportError,
)
from maas_sdk.tensors import Array

SIGNATURE = ProgramInputs(names=("scale", "x"), batched=frozenset({"x"}))


def chunker(of: Literal["rows", "batches"], **options: Any) -> Chunker:
    defaults: dict[str, Any] = {
        "signature": SIGNATURE,
        "chunk_rows": 4,
        "max_rows": None,
        "max_bytes": 1 << 20,
        "max_calls": 4096,
    }
    return Chunker(of=of, **(defaults | options))


def chunks_of(chunker: Chunker, items: list[dict[str, Array]]) -> Iterator[tuple[CallPart, ...]]:
    for item in items:
        yield from chunker.push(item)
    yield from chunker.finish()


def double(part: CallPart) -> Outputs:
    return {"y": part.inputs["x"] * 2}


def test_rows_are_stacked_and_unstacked() -> None:
    """Rows become [B, …] calls of chunk_rows; each row gets its own row of the answer."""
    rows = [{"x": np.full((2, 3), i, np.float32)} for i in range(10)]
    chunks = list(chunks_of(chunker("rows"), rows))
    assert [[part.inputs["x"].shape for part in chunk] for chunk in chunks] == [
        [(4, 2, 3)],
        [(4, 2, 3)],
        [(2, 2, 3)],
    ]
    assert [(part.start, part.stop) for (part,) in chunks] == [(0, 4), (4, 8), (8, 10)]
    collector = Collector()
    answers = [a for (part,) in chunks for a in collector.add(part, double(part))]
    assert [answer["y"].tolist() for answer in answers] == [  # type: ignore[index]
        (row["x"] * 2).tolist() for row in rows
    ]


def test_a_row_of_another_kind_gets_a_call_of_its_own() -> None:
    """A row with another shape or dtype neither fails its neighbours nor is cast silently."""
    rows = [
        {"x": np.zeros(3, np.float32)},
        {"x": np.zeros(3, np.float32)},
        {"x": np.zeros(3, np.float64)},
        {"x": np.zeros(4, np.float32)},
    ]
    (chunk,) = chunks_of(chunker("rows"), rows)
    assert [part.inputs["x"].shape for part in chunk] == [(2, 3), (1, 3), (1, 4)]
    assert [part.inputs["x"].dtype for part in chunk] == [np.float32, np.float64, np.float32]
    assert [(part.start, part.stop) for part in chunk] == [(0, 2), (2, 3), (3, 4)]


def test_batches_share_a_request_each_in_a_call_of_its_own() -> None:
    """Batches are neither joined nor cut as long as they fit."""
    batches = [{"x": np.zeros((rows, 3), np.float32)} for rows in (2, 2, 1, 0, 9, 1)]
    chunks = list(chunks_of(chunker("batches"), batches))
    assert [[part.rows for part in chunk] for chunk in chunks] == [[2, 2], [1, 0], [9], [1]]
    assert chunks[0][0].inputs["x"] is batches[0]["x"]


def test_a_chunk_holds_no_more_calls_than_a_frame_may() -> None:
    """The server's limit on calls per frame is kept."""
    chunks = list(chunks_of(chunker("batches", chunk_rows=99, max_calls=2), [{"x": ROW}] * 5))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]


ROW = np.zeros((1, 3), np.float32)


def test_bytes_bound_a_chunk_too() -> None:
    """A request is full at max_bytes even if it has few rows."""
    rows = [{"x": np.zeros(1000, np.float32)}] * 7
    chunks = list(chunks_of(chunker("rows", chunk_rows=99, max_bytes=13_000), rows))
    assert [part.rows for (part,) in chunks] == [3, 3, 1]


def test_a_large_batch_is_split_by_rows_and_joined() -> None:
    """Inputs without a batch dimension go with every piece; no piece is over the limit."""
    x = np.arange(10_000, dtype=np.float32).reshape(100, 100)
    item = {"x": x, "scale": np.array(3, np.float32)}
    chunks = list(chunks_of(chunker("batches", max_bytes=9_000), [item]))
    assert len(chunks) > 4
    assert all(part.inputs["scale"] is item["scale"] for (part,) in chunks)
    assert all(part.inputs["x"].nbytes < 9_000 for (part,) in chunks)
    assert [part.last for (part,) in chunks] == [False] * (len(chunks) - 1) + [True]
    collector = Collector()
    (answer,) = [a for (part,) in chunks for a in collector.add(part, double(part))]
    np.testing.assert_array_equal(answer["y"], x * 2)  # type: ignore[index]


def test_a_batch_of_too_many_rows_is_split() -> None:
    """max_rows holds even where bytes would allow more."""
    chunks = list(chunks_of(chunker("batches", max_rows=4), [{"x": np.zeros((10, 3))}]))
    assert [(part.first_row, part.rows) for (part,) in chunks] == [(0, 4), (4, 4), (8, 2)]


def test_what_cannot_be_split_says_why() -> None:
    """One row over the limit, or no batch dimension: TooLargeError with the item and the option."""
    wide = {"x": np.zeros((2, 10_000))}
    with pytest.raises(TooLargeError, match=r"item 0: .*max_request_bytes=9000.*one row alone"):
        list(chunks_of(chunker("batches", max_bytes=9_000), [wide]))
    fixed = {"scale": np.zeros(10_000)}
    with pytest.raises(TooLargeError, match="no input has a batch dimension"):
        list(chunks_of(chunker("batches", max_bytes=9_000), [fixed]))
    with pytest.raises(TooLargeError, match=r"row 1: takes \d+ bytes"):
        list(
            chunks_of(
                chunker("rows", max_bytes=9_000), [{"x": np.zeros(3)}, {"x": np.zeros(10_000)}]
            )
        )


def test_an_error_covers_exactly_the_items_of_its_call() -> None:
    """Rows of a failed call all get its error; a split item fails as a whole, with the first."""
    collector, error, other = Collector(), ModelError("a"), ModelError("b")
    (chunk,) = chunks_of(chunker("rows"), [{"x": np.zeros(3)}] * 3)
    assert list(collector.add(chunk[0], error)) == [error] * 3
    pieces = list(chunks_of(chunker("batches", max_rows=4), [{"x": np.zeros((10, 3))}]))
    outcomes = [double(pieces[0][0]), error, other]
    found = [a for (part,), o in zip(pieces, outcomes, strict=True) for a in collector.add(part, o)]
    assert found == [error]
    (chunk,) = chunks_of(chunker("batches"), [{"x": ROW}])
    assert list(collector.add(chunk[0], double(chunk[0])))  # and nothing is left over


def test_outputs_without_rows_are_not_dealt_out() -> None:
    """An output whose first dimension is not B cannot be given to rows: an error, with the way."""
    (chunk,) = chunks_of(chunker("rows"), [{"x": np.zeros(3)}] * 2)
    answers = list(Collector().add(chunk[0], {"y": np.zeros(())}))
    assert [type(answer) for answer in answers] == [InputError] * 2
    assert "output 'y'" in str(answers[0])
    assert "of='batches'" in str(answers[0])


def test_a_split_batch_with_outputs_without_rows_is_not_joined() -> None:
    """A mean over all rows cannot be had from the pieces' means: an error instead of a guess."""
    pieces = list(chunks_of(chunker("batches", max_rows=4), [{"x": np.zeros((10, 3))}]))
    collector = Collector()
    means: Outputs = {"mean": np.zeros(3)}
    (answer,) = [a for (part,) in pieces for a in collector.add(part, means)]
    assert type(answer) is InputError
    assert "output 'mean': expected one row per input row, 4" in str(answer)
    assert list(collector.finish()) == []


def test_options_that_make_no_sense_are_refused() -> None:
    """The argument is named as the caller wrote it."""
    with pytest.raises(ConfigError, match="of: expected 'rows' or 'batches', got 'row'"):
        chunker("row")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_rows: expected at least 1"):
        chunker("rows", chunk_rows=0)


@given(
    st.lists(st.integers(0, 20), max_size=12),
    st.integers(1, 9),
    st.none() | st.integers(1, 7),
    st.integers(900, 4000),
)
def test_chunks_lose_nothing_and_keep_every_limit(
    sizes: list[int], chunk_rows: int, max_rows: int | None, max_bytes: int
) -> None:
    """For any batches and limits, the joined answers are the answers to the items, in order."""
    rng = np.random.default_rng(0)
    items = [{"x": rng.random((rows, 5), np.float32)} for rows in sizes]
    made = chunker("batches", chunk_rows=chunk_rows, max_rows=max_rows, max_bytes=max_bytes)
    collector, answers = Collector(), list[Any]()
    for chunk in chunks_of(made, items):
        rows = sum(part.rows for part in chunk)
        assert len(chunk) == 1 or rows <= chunk_rows
        assert max_rows is None or all(part.rows <= max_rows for part in chunk)
        assert sum(part.inputs["x"].nbytes for part in chunk) <= max_bytes
        for part in chunk:
            answers += collector.add(part, double(part))
    assert len(answers) == len(items)
    for answer, item in zip(answers, items, strict=True):
        np.testing.assert_array_equal(answer["y"], item["x"] * 2)


# ---- inputs ----

ONE = ProgramInputs(names=("image",), batched=frozenset({"image"}))


def test_bare_arrays_get_the_programs_input_name() -> None:
    """An array, a list or a number is the one input; a mapping stays as it is."""
    array = np.zeros((2, 3), np.float32)
    assert as_inputs(array, ONE)["image"] is array
    assert as_inputs([[1, 2], [3, 4]], ONE)["image"].shape == (2, 2)
    assert as_inputs({"a": array, "b": 1.5}, None)["a"] is array


@pytest.mark.parametrize(
    ("x", "signature", "message"),
    [
        (np.zeros(3), SIGNATURE, "program has 2 inputs; name the arrays: {'scale': …, 'x': …}"),
        (np.array(["a"]), ONE, "input 'image': an array of dtype <U1 cannot travel"),
        ([[1, 2], [3]], ONE, "input 'image': not an array"),
        ({}, None, "expected a mapping from input names to arrays"),
        ({1: np.zeros(3)}, None, r"got keys \[1\]"),
        (None, ONE, "input 'image': an array of dtype object cannot travel"),
    ],
)
def test_what_is_no_input_is_refused_with_its_name(
    x: object, signature: ProgramInputs | None, message: str
) -> None:
    """The message has the item and the input."""
    with pytest.raises(InputError, match=f"item 7: .*{message}"):
        as_inputs(x, signature, where="item 7")


def metadata(**programs: Any) -> dict[str, Any]:
    return {"metadata": {"signature_def": {"signature_def": programs}}}


def spec(*sizes: str) -> dict[str, Any]:
    return {"tensor_shape": {"dim": [{"size": size} for size in sizes]}}


def test_inputs_are_read_from_the_metadata() -> None:
    """Names sorted, batch dimensions found, scalars understood; the usual program by default."""
    document = metadata(
        embed={"inputs": {"a": spec("-1", "3")}},
        serving_default={
            "inputs": {"x": spec("-1", "8"), "k": spec("4"), "s": {"tensor_shape": {}}}
        },
    )
    assert program_inputs(document, None, url="u") == ProgramInputs(
        names=("k", "s", "x"), batched=frozenset({"x"})
    )
    assert program_inputs(document, "embed", url="u").names == ("a",)
    with pytest.raises(NotFoundError, match="no program 'nope'; the model has embed, serving_def"):
        program_inputs(document, "nope", url="u")


@pytest.mark.parametrize("document", [None, [], {}, {"metadata": 1}, metadata(), metadata(p=1)])
def test_other_metadata_is_refused_with_the_way_out(document: Any) -> None:
    """A caller who names the inputs does not need the metadata, and is told so."""
    with pytest.raises(MaasError, match="to do without") as caught:
        program_inputs(document, None, url="u")
    assert type(caught.value) is TransportError
