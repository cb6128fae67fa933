"""Images in a folder, in all its folders, as rows; the one place here that opens them.

The rule it keeps: rows are the files in the order of their paths, so the same tree gives the same
rows on any machine; a file that is no image is one row that is not answered.

Dimension letters: N rows of a chunk, H height, W width, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from maas_sdk.batch.config import BatchConfig
from maas_sdk.errors import ConfigError, DependencyError, InputError
from maas_sdk.tables.chunk import Chunk, chunk_of
from maas_sdk.tensors import Array, Signature, dtype_from_name

__all__ = ["FILE", "PICTURES", "Images", "listed"]

# Endings of the files that count as images; the same that training reads.
PICTURES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Name of the column of paths, which are the keys.
FILE: Final = "file"
# Pillow's names by C.
_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
_THREADS: Final = 4


def listed(path: Path) -> list[str]:
    """Paths below a folder of its images, sorted, with forward slashes; of a file its name.

    What starts with a dot is left alone.
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
            if name.lower().endswith(PICTURES) and not name.startswith(".")
        ]
    return sorted(found)


class Images:
    """A folder of images, or a single one: a ``Source`` for programs that take pictures.

    A picture is floats from 0 to 1, or bytes from 0 to 255, as the program's input is.
    """

    def __init__(
        self, path: Path, signature: Signature, config: BatchConfig, *, chunk_rows: int
    ) -> None:
        """Arguments and errors are those of ``open_source``."""
        if config.key is not None or config.columns or config.ignore:
            raise ConfigError(f"{path}: images have no columns; their keys are their paths")
        self._pillow = _pillow()
        self._folder = path if path.is_dir() else path.parent
        self._chunk_rows = chunk_rows
        self._resize, self._invert = config.resize, config.invert
        [(self._input, spec), *more] = signature.inputs.items()
        sizes = tuple(size or 0 for size in spec.shape[1:])
        channels = sizes[2] if len(sizes) == 3 else 1
        if more or len(sizes) not in (2, 3) or channels not in _MODES:
            raise InputError(
                f"{path} holds images, but the program takes "
                f"{', '.join(f'{name} {found}' for name, found in signature.inputs.items())}: "
                "expected one input [B, height, width] or [B, height, width, 1, 3 or 4]",
                path=str(path),
            )
        self._dtype = dtype_from_name(spec.dtype)
        self._mode = _MODES[channels]
        self._shape = sizes
        self._files = listed(path)
        if not self._files:
            raise InputError(
                f"{path}: expected images, files that end in {', '.join(PICTURES)}; found none",
                path=str(path),
            )
        self.key = FILE
        self.rows: int | None = len(self._files)

    def read(self, first: int) -> Iterator[Chunk]:
        """As ``Source.read``; files are decoded by a few threads."""
        total = len(self._files)
        with ThreadPoolExecutor(_THREADS, "maas-images") as pool:
            for start in range(first, total, self._chunk_rows):
                files = self._files[start : start + self._chunk_rows]
                values = np.zeros((len(files), *self._shape), self._dtype)
                flaws: dict[int, str] = {}
                for place, found in enumerate(pool.map(self._image, files)):
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

    def _image(self, file: str) -> Array | str:
        """A file as the program takes it, [H, W] or [H, W, C]; or why not."""
        height, width = self._shape[:2]
        try:
            with self._pillow.open(self._folder / file) as image:
                # Before the pixels are decoded: a damaged header may promise any number of them.
                if image.size != (width, height) and not self._resize:
                    found = f"{image.size[1]} × {image.size[0]}"
                    return (
                        f"expected {height} × {width} pixels (height × width), found {found}; "
                        "--resize scales pictures"
                    )
                pixels = image.convert(self._mode)
                if pixels.size != (width, height):
                    pixels = pixels.resize((width, height), self._pillow.Resampling.LANCZOS)
                values = np.asarray(pixels)
        # Each of Pillow's readers has errors of its own; a header may also promise too much.
        except Exception as error:
            return f"cannot be read as an image, it may be cut or damaged: {str(error)[:120]}"
        if self._invert:
            values = 255 - values
        if self._dtype.kind not in "ui":
            values = values / np.float32(255)
        return values.astype(self._dtype).reshape(self._shape)


def _pillow() -> Any:
    """The module of Pillow that opens images."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DependencyError(
            "images are read by pillow, which is not installed: pip install 'maas-sdk[data]'"
        ) from error
    return Image
