"""Images as rows: order, sizes, shades, and files that are none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maas_sdk.batch.config import BatchConfig
from maas_sdk.batch.fingerprint import identity
from maas_sdk.errors import ConfigError, DependencyError, InputError
from maas_sdk.tables.images import listed
from maas_sdk.tables.open_table import open_table
from maas_sdk.tensors import Signature, TensorSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)


def takes(dtype: str, *shape: int) -> Signature:
    specs = {"image": TensorSpec(dtype=dtype, shape=(None, *shape))}
    return Signature(inputs=specs, outputs=specs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images in two folders and the top one, one damaged, and what is no image."""
    names = ["b/2.png", "a/1.png", "0.png", "b/10.PNG", "a/deep/3.bmp"]
    for name, pixels in zip(names, PIXELS, strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    data = (tmp_path / "in" / "0.png").read_bytes()
    (tmp_path / "in" / "b" / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "in" / "notes.txt").write_text("none")
    (tmp_path / "in" / ".hidden").mkdir()
    Image.fromarray(PIXELS[0]).save(tmp_path / "in" / ".hidden" / "x.png")
    return tmp_path / "in"


def read(path: Path, signature: Signature, first: int = 0, **options: bool):
    source = open_table(path, signature.inputs, BatchConfig(**options), chunk_rows=2)
    assert source.key == "file"
    chunks = list(source.read(first))
    keys = [key for chunk in chunks for key in chunk.keys]
    values = np.concatenate([chunk.inputs["image"] for chunk in chunks])
    return keys, values, [bad for chunk in chunks for bad in chunk.bad]


def test_rows_are_files_in_the_order_of_their_paths(folder: Path) -> None:
    """Every pixel as it was written; the one that cannot be decoded has a reason and its path."""
    assert listed(folder) == [
        "0.png",
        "a/1.png",
        "a/deep/3.bmp",
        "b/10.PNG",
        "b/2.png",
        "b/cut.png",
    ]
    keys, values, [bad] = read(folder, takes("uint8", 8, 6, 3))
    assert keys == ["0.png", "a/1.png", "a/deep/3.bmp", "b/10.PNG", "b/2.png"]
    np.testing.assert_array_equal(values, PIXELS[[2, 1, 4, 3, 0]])
    assert (bad.row, bad.key) == (5, "b/cut.png")
    assert "cut or damaged" in bad.reason
    assert read(folder, takes("uint8", 8, 6, 3), first=4)[0] == ["b/2.png"]


def test_floats_go_from_0_to_1(folder: Path) -> None:
    """Dark is 0, or 1 where ``invert`` asks for it."""
    _, values, _ = read(folder, takes("float32", 8, 6, 3))
    np.testing.assert_allclose(values[0], PIXELS[2] / 255, rtol=1e-6)
    _, inverted, _ = read(folder, takes("float32", 8, 6, 3), invert=True)
    np.testing.assert_allclose(inverted, 1 - values, atol=1e-6)
    assert read(folder, takes("float32", 8, 6))[1].shape == (5, 8, 6)


def test_another_size_is_a_flaw_unless_scaled(folder: Path) -> None:
    """The reason says both sizes and the option."""
    _, values, bad = read(folder, takes("uint8", 4, 4, 1))
    assert len(values) == 0
    assert bad[0].reason == (
        "expected an image of 4 × 4 pixels (height × width), found 8 × 6; --resize scales images"
    )
    _, values, bad = read(folder, takes("uint8", 4, 4, 1), resize=True)
    assert (values.shape, len(bad)) == ((5, 4, 4, 1), 1)


def test_a_single_image_is_a_row(folder: Path) -> None:
    """Its key is its name."""
    assert read(folder / "a" / "1.png", takes("uint8", 8, 6, 3))[0] == ["1.png"]


def test_sixteen_bits_of_grey_keep_their_shades(tmp_path: Path) -> None:
    """Scaled from their own range, not clipped to white; floats, which have none, are a bad row."""
    ramp = np.linspace(0, 1, 48, dtype=np.float32).reshape(8, 6)
    (tmp_path / "in").mkdir()
    Image.fromarray((ramp * 65535).round().astype(np.uint16)).save(tmp_path / "in" / "deep.png")
    Image.fromarray((ramp * 65535).round().astype(np.uint16)).save(tmp_path / "in" / "deep.tif")
    Image.fromarray(ramp).save(tmp_path / "in" / "float.tif")
    keys, values, [bad] = read(tmp_path / "in", takes("float32", 8, 6))
    assert keys == ["deep.png", "deep.tif"]
    np.testing.assert_allclose(values, [ramp, ramp], atol=0.5 / 255 + 1e-6)
    assert bad.key == "float.tif"
    assert "found mode 'F', whose values have no range" in bad.reason


@pytest.mark.parametrize("resize", [False, True])
def test_a_photo_is_turned_as_viewers_turn_it(tmp_path: Path, resize: bool) -> None:
    """All eight orientations of EXIF; four of them swap height and width."""
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    (tmp_path / "in").mkdir()
    image = Image.fromarray(PIXELS[0])
    image.save(tmp_path / "in" / "1.png")
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.transpose(turn).save(tmp_path / "in" / f"{orientation}.png", exif=exif)
    keys, values, bad = read(tmp_path / "in", takes("uint8", 8, 6, 3), resize=resize)
    assert (len(keys), bad) == (8, [])
    np.testing.assert_array_equal(values, np.repeat(PIXELS[:1], 8, axis=0))


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    """Its pixels are whole; it is shown as it lies."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (6, 8), "white").save(tmp_path / "in" / "a.jpg", exif=b"Exif\0\0no exif")
    _, values, bad = read(tmp_path / "in", takes("uint8", 8, 6, 3))
    assert (values.tolist(), bad) == (np.full((1, 8, 6, 3), 255).tolist(), [])


def test_a_link_that_leads_nowhere_is_a_bad_row(folder: Path) -> None:
    """The others are read, and the folder has a fingerprint."""
    (folder / "b" / "gone.png").symlink_to("nowhere.png")
    keys, _, bad = read(folder, takes("uint8", 8, 6, 3))
    assert len(keys) == 5
    assert [row.key for row in bad] == ["b/cut.png", "b/gone.png"]
    assert "No such file" in bad[1].reason
    assert identity(folder)["images"] == 7


def test_what_does_not_go_with_images(folder: Path, tmp_path: Path) -> None:
    """No pictures, a program that takes none, options of tables."""
    with pytest.raises(InputError, match=r"the program takes image float32\[B, 4\]: expected one"):
        read(folder, takes("float32", 4))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"found none"):
        read(tmp_path / "empty", takes("uint8", 8, 6, 3))
    with pytest.raises(ConfigError, match="their keys are their paths"):
        open_table(folder, takes("uint8", 8, 6).inputs, BatchConfig(key="id"), chunk_rows=1)


def test_without_pillow_the_install_line_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow is part of an extra."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DependencyError, match=r"pip install 'maas-sdk\[data\]'"):
        read(folder, takes("uint8", 8, 6, 3))
