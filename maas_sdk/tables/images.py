"""Images as rows: a folder with its subfolders, or a single file. Only this file opens images.

Rows are the files in the order of their paths, so the same tree gives the same rows on any machine;
a file that is no image is a bad row.

Dimension letters: N rows of a chunk, H height, W width, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from maas_sdk.errors import ConfigError, DependencyError, InputError
from maas_sdk.tables.chunk import Chunk, chunk_of
from maas_sdk.tables.columns import ReadOptions
from maas_sdk.tensors import Array, TensorSpec, dtype_from_name

__all__ = [
    "FILE",
    "IMAGE_SUFFIXES",
    "Images",
    "image_mode",
    "image_size",
    "image_values",
    "listed",
    "pillow",
    "read_image",
]

# Endings of the files that count as images.
IMAGE_SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Name of the column of paths, which are the keys.
FILE: Final = "file"
# Pillow's names by C.
_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
# Pillow clips these to 0 … 255 without a word; only the 16-bit ones have a range of their own.
_DEEP: Final = ("I", "F")
_THREADS: Final = 4


def listed(path: Path) -> list[str]:
    """List the images below a folder by their paths, sorted, with forward slashes.

    A file is listed by its name alone. What starts with a dot is left out.
    """
    if path.is_file():
        return [path.name]
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(folder).relative_to(path)
        found += [
            (inside / name).as_posix()
            for name in files
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


def pillow() -> Any:
    """Return Pillow, with its modules that open and turn images.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise DependencyError(
            "images are read by pillow, which is not installed: pip install 'maas-sdk[data]'"
        ) from error
    return PIL


def image_mode(spec: TensorSpec) -> str | None:
    """Return Pillow's mode for rows [H, W] or [H, W, C]; None for rows that are no images."""
    sizes = spec.shape[1:]
    return _MODES.get(sizes[2] or 0 if len(sizes) == 3 else 1) if len(sizes) in (2, 3) else None


def image_size(file: Path) -> tuple[int, int]:
    """Return (H, W) of an image as viewers show it. Errors are those of ``read_image``."""
    pil = pillow()
    try:
        with pil.Image.open(file) as image:
            pil.ImageOps.exif_transpose(image, in_place=True)
            width, height = image.size
    # Each of Pillow's readers has errors of its own.
    except Exception as error:
        raise _damaged(file, error) from error
    return height, width


def read_image(
    file: Path, mode: str, size: tuple[int, int], *, resize: bool, scaling: str = ""
) -> Array:
    """Read an image the way up that viewers show it.

    Args:
        file: the image. 16-bit grey is scaled to 8 bits.
        mode: "L", "RGB" or "RGBA".
        size: (H, W).
        resize: images of another size are scaled.
        scaling: hint for images of another size, in the message.

    Returns:
        uint8[H, W] for "L", uint8[H, W, C] for the others.

    Raises:
        InputError: no image, cut, damaged, of another size or of a mode without a range. The
            message leaves the file to the caller.
    """
    pil, wanted = pillow(), size[::-1]
    try:
        with pil.Image.open(file) as image:
            # Before the pixels are decoded: a damaged header may promise any number of them.
            if not resize and sorted(image.size) != sorted(wanted):
                raise _other_size(file, image.size, size, scaling)
            pil.ImageOps.exif_transpose(image, in_place=True)
            if not resize and image.size != wanted:
                raise _other_size(file, image.size, size, scaling)
            pixels = _eight_bits(file, image).convert(mode)
            if pixels.size != wanted:
                pixels = pixels.resize(wanted, pil.Image.Resampling.LANCZOS)
            return np.asarray(pixels)
    except InputError:
        raise
    # Each of Pillow's readers has errors of its own; a header may also promise too much.
    except Exception as error:
        raise _damaged(file, error) from error


def image_values(pixels: Array, spec: TensorSpec, *, invert: bool) -> Array:
    """Convert pixels to a row of ``spec``: floats from 0 to 1, or integers from 0 to 255."""
    dtype = dtype_from_name(spec.dtype)
    values = 255 - pixels if invert else pixels
    if dtype.kind not in "ui":
        values = values / np.float32(255)
    return values.astype(dtype).reshape([size or 0 for size in spec.shape[1:]])


class Images:
    """A folder of images, or a single one: a ``RowSource`` of one input."""

    def __init__(
        self,
        path: Path,
        specs: Mapping[str, TensorSpec],
        options: ReadOptions,
        *,
        chunk_rows: int,
    ) -> None:
        """Open the images. Arguments and errors are those of ``open_table``."""
        if options.key is not None or options.columns or options.ignore:
            raise ConfigError(f"{path}: images have no columns; their keys are their paths")
        # Refused here where it is missing, and not row by row.
        pillow()
        self._folder = path if path.is_dir() else path.parent
        self._chunk_rows = chunk_rows
        self._options = options
        [(self._input, self._spec), *more] = specs.items()
        mode = image_mode(self._spec)
        if more or mode is None:
            raise InputError(
                f"{path} holds images, but the program takes "
                f"{', '.join(f'{name} {found}' for name, found in specs.items())}: "
                "expected one input [B, height, width] or [B, height, width, 1, 3 or 4]",
                path=str(path),
            )
        self._mode = mode
        self._files = listed(path)
        if not self._files:
            raise InputError(
                f"{path}: expected images, files that end in {', '.join(IMAGE_SUFFIXES)}; found "
                "none",
                path=str(path),
            )
        self.key = FILE
        self.rows: int | None = len(self._files)

    def read(self, first: int) -> Iterator[Chunk]:
        """Read as ``RowSource.read``; files are decoded by a few threads."""
        total = len(self._files)
        shape = [size or 0 for size in self._spec.shape[1:]]
        with ThreadPoolExecutor(_THREADS, "maas-images") as pool:
            for start in range(first, total, self._chunk_rows):
                files = self._files[start : start + self._chunk_rows]
                values = np.zeros((len(files), *shape), dtype_from_name(self._spec.dtype))
                flaws: dict[int, str] = {}
                for place, found in enumerate(pool.map(self._row, files)):
                    if isinstance(found, str):
                        flaws[place] = found
                    else:
                        values[place] = found
                yield chunk_of(
                    start,
                    len(files),
                    {self._input: values},
                    np.array(files, object),
                    flaws,
                    share=(start + len(files)) / total,
                )

    def _row(self, file: str) -> Array | str:
        """Return a file as a row of the input; or the reason why not."""
        height, width = (size or 0 for size in self._spec.shape[1:3])
        try:
            pixels = read_image(
                self._folder / file,
                self._mode,
                (height, width),
                resize=self._options.resize,
                scaling=self._options.scaling,
            )
        except InputError as error:
            return error.message
        return image_values(pixels, self._spec, invert=self._options.invert)


def _eight_bits(file: Path, image: Any) -> Any:
    """An image of at most 8 bits in each channel; 16 bits of grey are scaled, 257 to one."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return pillow().Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if image.mode in _DEEP:
        raise InputError(
            f"expected an image of 8 or 16 bits in each channel, found mode {image.mode!r}, whose "
            "values have no range of their own: save it with 16 bits",
            path=file,
        )
    return image


def _other_size(
    file: Path, found: tuple[int, int], size: tuple[int, int], scaling: str
) -> InputError:
    return InputError(
        f"expected an image of {size[0]} × {size[1]} pixels (height × width), found {found[1]} × "
        f"{found[0]}; {scaling}",
        path=file,
    )


def _damaged(file: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot be read as an image, it may be cut or damaged: {str(error)[:200]}", path=file
    )
