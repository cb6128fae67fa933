from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from maas_sdk.cli.inputs.arrays import read_inputs, write_outputs
from maas_sdk.errors import ConfigError, InputError, MaasError, StorageError
from maas_sdk.tensors import Signature, TensorSpec


def signature(**inputs: TensorSpec) -> Signature:
    return Signature(inputs=inputs, outputs={"y": TensorSpec(dtype="float32", shape=(None,))})


DIGITS = signature(image=TensorSpec(dtype="float32", shape=(None, 8, 8, 1)))
TWO = signature(
    a=TensorSpec(dtype="float32", shape=(None, 2)), b=TensorSpec(dtype="int32", shape=(None,))
)


def test_an_npy_file_is_the_only_input(tmp_path: Path) -> None:
    """float64 becomes the model's float, a lone row gets its batch dimension."""
    rows = np.random.default_rng(0).random((3, 8, 8, 1))
    np.save(tmp_path / "x.npy", rows)
    [(name, array)] = read_inputs(tmp_path / "x.npy", DIGITS).items()
    assert name == "image"
    np.testing.assert_array_equal(array, rows.astype(np.float32), strict=True)
    np.save(tmp_path / "x.npy", rows[0])
    assert read_inputs(tmp_path / "x.npy", DIGITS)["image"].shape == (1, 8, 8, 1)


def test_whole_numbers_are_not_made_of_fractions(tmp_path: Path) -> None:
    """What would lose meaning is left to the model's own check."""
    np.savez(tmp_path / "x.npz", a=np.zeros((1, 2)), b=np.array([0.5]))
    found = read_inputs(tmp_path / "x.npz", TWO)
    assert found["a"].dtype == np.float32
    assert found["b"].dtype == np.float64


def test_the_only_array_of_an_npz_needs_no_name(tmp_path: Path) -> None:
    """np.savez(path, x) calls it arr_0."""
    np.savez(tmp_path / "x.npz", np.zeros((2, 8, 8, 1), np.float32))
    assert list(read_inputs(tmp_path / "x.npz", DIGITS)) == ["image"]


@pytest.mark.parametrize("shape", ["instances", "inputs", "list"])
def test_json_is_read_as_tensorflow_serving_reads_it(tmp_path: Path, shape: str) -> None:
    """Rows, columns, or a bare list of rows."""
    rows = np.zeros((2, 8, 8, 1)).tolist()
    (tmp_path / "x.json").write_text(json.dumps(rows if shape == "list" else {shape: rows}))
    array = read_inputs(tmp_path / "x.json", DIGITS)["image"]
    assert array.shape == (2, 8, 8, 1)
    assert array.dtype == np.float32


def test_a_picture_is_scaled_to_the_model(tmp_path: Path) -> None:
    """Any size and mode becomes [1, H, W, C] from 0 to 1; --invert makes ink high."""
    Image.new("RGB", (40, 30), (255, 255, 255)).save(tmp_path / "x.png")
    found = read_inputs(tmp_path / "x.png", DIGITS)["image"]
    np.testing.assert_array_equal(found, np.ones((1, 8, 8, 1), np.float32), strict=True)
    assert read_inputs(tmp_path / "x.png", DIGITS, invert=True)["image"].max() == 0


def test_a_picture_for_a_model_of_bytes_keeps_its_bytes(tmp_path: Path) -> None:
    """uint8 inputs run from 0 to 255."""
    Image.new("L", (4, 2), 200).save(tmp_path / "x.jpg")
    spec = signature(x=TensorSpec(dtype="uint8", shape=(None, 2, 4, 3)))
    found = read_inputs(tmp_path / "x.jpg", spec)["x"]
    assert found.dtype == np.uint8
    assert found.shape == (1, 2, 4, 3)
    assert abs(int(found.mean()) - 200) <= 2


@pytest.mark.parametrize(
    ("name", "content", "spec", "words"),
    [
        ("none.npy", None, DIGITS, "none.npy: no such file"),
        ("x.npy", b"junk", DIGITS, "not a readable .npy"),
        ("x.npz", b"junk", DIGITS, "cannot be read as an .npz"),
        ("x.json", b"{", DIGITS, "not JSON"),
        ("x.json", b'{"rows": 1}', DIGITS, "'inputs' or 'instances'"),
        ("x.png", b"junk", DIGITS, "cannot be read as an image"),
        ("x.png", b"junk", TWO, "put them in an .npz"),
        ("x.csv", b"1,2", DIGITS, "expected a file that ends in .npy"),
    ],
)
def test_unusable_files_are_named(
    tmp_path: Path, name: str, content: bytes | None, spec: Signature, words: str
) -> None:
    """Each message says which file, and what is wrong or to do."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MaasError) as caught:
        read_inputs(tmp_path / name, spec)
    assert words in caught.value.message


def test_a_model_that_takes_no_picture_says_so(tmp_path: Path) -> None:
    """Its signature is in the message."""
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    spec = signature(x=TensorSpec(dtype="float32", shape=(None, 7)))
    with pytest.raises(InputError, match=r"float32\[B, 7\], which is not a picture"):
        read_inputs(tmp_path / "x.png", spec)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    """An .npy with objects in it could run code."""
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="not a readable"):
        read_inputs(tmp_path / "x.npy", DIGITS)


def test_answers_are_written_by_name(tmp_path: Path) -> None:
    """bfloat16, which npz has no name for, as float32; other endings are refused."""
    write_outputs(
        tmp_path / "y.npz", {"y": np.ones((2, 3)), "z": np.array([1.5], ml_dtypes.bfloat16)}
    )
    with np.load(tmp_path / "y.npz") as found:
        assert found["y"].shape == (2, 3)
        assert found["z"].dtype == np.float32
    with pytest.raises(ConfigError, match="ending"):
        write_outputs(tmp_path / "y.csv", {})
    with pytest.raises(StorageError, match="cannot be written"):
        write_outputs(tmp_path / "no" / "y.npz", {"y": np.ones(1)})
