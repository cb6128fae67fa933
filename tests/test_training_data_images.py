from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from maas_sdk.errors import ConfigError, DependencyError, InputError
from maas_sdk.training.data import ImageFolder, batches, load

DIGITS = load_digits()
COUNT = 60
PIXELS = (DIGITS.images[:COUNT] * 15.9375).astype(np.uint8)
CLASSES = ("eight", "five", "four", "nine", "one", "seven", "six", "three", "two", "zero")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 handwritten digits as PNG files, a folder for each, and things that are no images."""
    for number, (image, label) in enumerate(zip(PIXELS, DIGITS.target[:COUNT], strict=True)):
        file = tmp_path / "digits" / NAMES[label] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    (tmp_path / "digits" / "zero" / "notes.txt").write_text("no image")
    (tmp_path / "digits" / ".cache").mkdir()
    (tmp_path / "digits" / "README").write_text("no folder")
    return tmp_path / "digits"


def test_digits_come_back(folder: Path) -> None:
    """Classes are the sorted names of the folders; every pixel is as it was written."""
    source = ImageFolder(folder, mode="L")
    assert len(source) == COUNT
    assert source.classes == CLASSES
    found = load(source)
    assert (found.inputs.shape, found.inputs.dtype) == ((COUNT, 8, 8, 1), np.uint8)
    order = sorted(range(COUNT), key=lambda n: (NAMES[DIGITS.target[n]], n))
    np.testing.assert_array_equal(found.inputs[..., 0], PIXELS[order])
    names = [source.classes[label] for label in found.labels]
    assert names == [NAMES[DIGITS.target[n]] for n in order]
    np.testing.assert_array_equal(source.labels, found.labels)
    assert source[7]["inputs"].shape == (8, 8, 1)


def test_images_are_read_by_threads_in_the_order_of_memory(folder: Path) -> None:
    """Batches of files are the batches of the same images in memory."""
    source = ImageFolder(folder)
    with batches(source, batch_size=16, seed=0, epochs=2) as lazy:
        for one, other in zip(
            lazy, batches(load(source), batch_size=16, seed=0, epochs=2), strict=True
        ):
            assert one["inputs"].shape == (16, 8, 8, 3)
            np.testing.assert_array_equal(one["inputs"], other["inputs"])
            np.testing.assert_array_equal(one["labels"], other["labels"])


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_images_of_any_kind_come_in_one(tmp_path: Path, mode: str, channels: int) -> None:
    """Grey, colour, palettes and transparency; other sizes are scaled where that is asked for."""
    kinds = ("L", "RGB", "RGBA", "P", "1")
    (tmp_path / "all").mkdir()
    for number, kind in enumerate(kinds):
        image = Image.new(kind, (9 + number, 7), 1 if kind in "P1" else 200)
        image.save(tmp_path / "all" / f"{number}.png")
    Image.new("RGB", (20, 10), "white").save(tmp_path / "all" / "photo.JPEG")
    found = load(ImageFolder(tmp_path, mode=mode, size=(5, 6)))
    assert found.inputs.shape == (6, 5, 6, channels)
    assert (found.inputs[5] == 255).all()


def test_photos_come_as_viewers_show_them(tmp_path: Path) -> None:
    """Turned by EXIF, the first one's size too; 16 bits of grey are scaled, not clipped."""
    ramp = np.linspace(0, 65535, 48).reshape(8, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray((ramp / 257).round().astype(np.uint8))
    (tmp_path / "a").mkdir()
    grey.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a" / "1.png", exif=exif)
    Image.fromarray(ramp.round().astype(np.uint16)).save(tmp_path / "a" / "2.png")
    one, other = load(ImageFolder(tmp_path, mode="L")).inputs[..., 0]
    np.testing.assert_array_equal(one, np.asarray(grey))
    np.testing.assert_allclose(other.astype(int), one.astype(int), atol=1)


def empty_class(folder: Path) -> None:
    (folder / "ten").mkdir()
    (folder / "ten" / "notes.txt").touch()


def other_size(folder: Path) -> None:
    Image.new("L", (16, 8)).save(folder / "one" / "999.png")


def cut(folder: Path) -> None:
    file = folder / "one" / "001.png"
    file.write_bytes(file.read_bytes()[:70])


def no_image(folder: Path) -> None:
    (folder / "one" / "999.png").write_text("not a picture")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (empty_class, r"ten: expected one image or more of the class 'ten', .*; found none"),
        (other_size, r"999\.png: expected an image of 8 × 8 .*, found 8 × 16; size= scales"),
        (cut, r"001\.png: cannot be read as an image, it may be cut or damaged"),
        (no_image, r"999\.png: cannot be read as an image"),
    ],
)
def test_a_folder_of_another_schema(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    """The message names the file or folder, what was expected and what was found."""
    damage(folder)
    with pytest.raises(InputError, match=message):
        load(ImageFolder(folder, mode="L"))


def test_what_is_no_folder_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing there, nothing inside, an unknown mode, a size of nothing, no pillow."""
    with pytest.raises(InputError, match="no such folder"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(InputError, match="expected a folder for each class, found none"):
        ImageFolder(tmp_path)
    with pytest.raises(ConfigError, match="mode: expected one of L, RGB, RGBA, got 'grey'"):
        ImageFolder(tmp_path, mode="grey")
    with pytest.raises(ConfigError, match="size: expected"):
        ImageFolder(tmp_path, size=(0, 5))
    (tmp_path / "a").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "a" / "1.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DependencyError, match=r"pip install 'maas-sdk\[data\]'"):
        ImageFolder(tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), suffix=st.sampled_from([".png", ".bmp", ".jpeg", ".gif"]))
def test_damage_is_an_error_of_ours_or_another_picture(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, suffix: str
) -> None:
    """Cut and flipped bytes, beside a whole image: a picture of the right size, or our error.

    A header that promises another size is refused before its pixels take memory.
    """
    folder = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    (folder / "a").mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS[0]).save(folder / "a" / f"0{suffix}")
    whole = (folder / "a" / f"0{suffix}").read_bytes()
    damaged = bytearray(whole)
    if data.draw(st.booleans(), label="cut"):
        damaged = damaged[: data.draw(st.integers(0, len(whole) - 1))]
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a" / f"1{suffix}").write_bytes(damaged)
    found, message = None, ""
    try:
        found = ImageFolder(folder, mode="L").read(np.array([0, 1]))
    except InputError as error:
        message = str(error)
    if found is None:
        assert f"1{suffix}" in message
    else:
        assert found["inputs"].shape == (2, 8, 8, 1)
