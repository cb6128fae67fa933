"""A folder of images with a folder per class, as rows that are read on demand.

Classes are the folders' names, sorted, so the same tree gives the same numbers on any machine. Each
row has one shape and dtype, or the error names the file.

Dimension letters: N images, B rows of a batch, H height, W width, C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tables import ReadOptions
from maas_sdk.tables.images import IMAGE_SUFFIXES, image_size, read_image
from maas_sdk.tensors import Array
from maas_sdk.training.data.examples import Batch

__all__ = ["MODES", "ImageFolder"]

# Pillow's names: grey, colour, colour with transparency; C is 1, 3, 4.
MODES: Final = ("L", "RGB", "RGBA")


class ImageFolder:
    """Images under ``path/<class>/<file>``: a ``Source``.

    Inputs are uint8[H, W, C], labels int32, the place of the class's folder among the sorted names.

    Args:
        path: the folder.
        mode: what images are converted to, one of ``MODES``.
        size: (H, W) that images are scaled to; None demands that all have the first one's.

    Raises:
        InputError: no such folder, none inside it, one without an image, or a damaged first image.
        ConfigError: an unknown mode; a size below 1.
        DependencyError: pillow is not installed.
    """

    def __init__(
        self, path: Path | str, *, mode: str = "RGB", size: tuple[int, int] | None = None
    ) -> None:
        path = Path(path)
        if mode not in MODES:
            raise ConfigError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if size is not None and min(size) < 1:
            raise ConfigError(f"size: expected (height, width) of 1 or more, got {size}")
        if not path.is_dir():
            raise InputError(f"{path}: no such folder", path=path)
        folders = sorted(
            entry for entry in path.iterdir() if entry.is_dir() and entry.name[:1] != "."
        )
        if not folders:
            raise InputError(f"{path}: expected a folder for each class, found none", path=path)
        # Names of the classes; the label k stands for classes[k].
        self.classes: tuple[str, ...] = tuple(folder.name for folder in folders)
        self._files: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            files = sorted(
                file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES
            )
            if not files:
                raise InputError(
                    f"{folder}: expected one image or more of the class {folder.name!r}, a file "
                    f"that ends in {', '.join(IMAGE_SUFFIXES)}; found none",
                    path=folder,
                )
            self._files += files
            labels += [label] * len(files)
        # int32[N], the class of each row.
        self.labels: Array = np.array(labels, np.int32)
        self._mode = mode
        self._scaled = size is not None
        # (H, W)
        self._size = _size_of(self._files[0]) if size is None else size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> Batch:
        return {"inputs": self._image(self._files[row]), "labels": self.labels[row]}

    def read(self, rows: Array) -> Batch:
        """Return the rows at ``rows``, int64[B], in their order.

        Returns:
            inputs uint8[B, H, W, C]; labels int32[B].

        Raises:
            InputError: a file that is no image, cut, damaged or of another size.
        """
        images = [self._image(self._files[int(row)]) for row in rows]
        return {"inputs": np.stack(images), "labels": self.labels[rows]}

    def _image(self, file: Path) -> Array:
        """Return a file's image, uint8[H, W, C]."""
        try:
            pixels = read_image(
                file,
                self._mode,
                self._size,
                resize=self._scaled,
                scaling=ReadOptions.scaling,
            )
        except InputError as error:
            raise _of(file, error) from error
        return pixels.reshape(*self._size, -1)


def _size_of(file: Path) -> tuple[int, int]:
    try:
        return image_size(file)
    except InputError as error:
        raise _of(file, error) from error


def _of(file: Path, error: InputError) -> InputError:
    return InputError(f"{file}: {error.message}", path=file)
