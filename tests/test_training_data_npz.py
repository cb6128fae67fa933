from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from maas_sdk.errors import InputError
from maas_sdk.training.data import read_npz

DIGITS = load_digits()


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_digits_come_back(tmp_path: Path, write: Any) -> None:
    """Real images and classes, written by NumPy: the same arrays, under any names."""
    write(tmp_path / "digits.npz", x=DIGITS.images, y=DIGITS.target, other=np.zeros(3))
    found = read_npz(tmp_path / "digits.npz", inputs="x", labels="y")
    np.testing.assert_array_equal(found.inputs, DIGITS.images)
    np.testing.assert_array_equal(found.labels, DIGITS.target)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x": np.zeros(3), "labels": np.zeros(3, int)},
            r"expected arrays named 'inputs' and 'labels', found \['labels', 'x'\]; missing: "
            r"\['inputs'\]",
        ),
        (
            {"inputs": np.zeros(3), "labels": np.zeros(2, int)},
            "'inputs' has 3 rows, 'labels' has 2",
        ),
        (
            {"inputs": np.zeros(3), "labels": np.array(["a", "b", "c"])},
            r"'labels': expected numbers \[N, …\], found <U1\[3\]",
        ),
        ({"inputs": np.float32(3), "labels": np.zeros(1, int)}, r"'inputs': .* found float32\[\]"),
        ({"inputs": np.zeros((0, 2)), "labels": np.zeros(0, int)}, "'inputs' has no rows"),
        (
            {"inputs": np.array([[0, 1], [np.nan, 0]]), "labels": np.zeros(2, int)},
            r"'inputs': expected finite numbers, got nan in row 1, element \[0\]",
        ),
        (
            {"inputs": np.zeros(1), "labels": np.array([{}], dtype=object)},
            "plain arrays, .* allow_pickle=False",
        ),
    ],
)
def test_a_file_of_another_schema(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    """The message has the file, what was expected and what was found; pickles stay closed."""
    file = tmp_path / "data.npz"
    np.savez(file, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_npz(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_or_no_archive(tmp_path: Path) -> None:
    """No such file; a lone array; nothing at all."""
    with pytest.raises(InputError, match="no such file"):
        read_npz(tmp_path / "none.npz")
    np.save(tmp_path / "lone.npy", np.zeros(3))
    (tmp_path / "empty.npz").touch()
    for name in ("lone.npy", "empty.npz"):
        with pytest.raises(InputError, match=r"cannot be read as an \.npz"):
            read_npz(tmp_path / name)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_of_ours_or_no_damage(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut anywhere it is refused; with bytes flipped, refused or read, and no file stays open.

    A zip has a checksum for each array, so what is read is what was written.
    """
    file = tmp_path_factory.getbasetemp() / "damaged.npz"
    np.savez(file, inputs=DIGITS.data[:5], labels=DIGITS.target[:5])
    whole = file.read_bytes()
    if data.draw(st.booleans(), label="cut"):
        file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(InputError):
            read_npz(file)
        return
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(damaged)
    found, message = None, ""
    try:
        found = read_npz(file)
    except InputError as error:
        message = str(error)
    if found is None:
        assert str(file) in message
    else:
        np.testing.assert_array_equal(found.inputs, DIGITS.data[:5])
        np.testing.assert_array_equal(found.labels, DIGITS.target[:5])
