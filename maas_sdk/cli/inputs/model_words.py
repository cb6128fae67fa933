"""Command-line arguments that name a model, its example inputs and batch sizes, as values.

numpy is imported where it is used: ``maas --help`` loads this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maas_sdk.errors import ConfigError
from maas_sdk.model.load_object import make_object

__all__ = ["read_example", "read_sizes", "source_metadata"]


def read_example(spec: str, option: str = "--example") -> Any:
    """Return an array or a dict of them: from an .npy or .npz file, or from MODULE:OBJECT.

    Raises:
        ConfigError: not a readable file.
        MaasError: as ``make_object``.
    """
    import numpy as np

    path = Path(spec)
    if path.suffix not in (".npy", ".npz"):
        return make_object(spec)
    try:
        # A pickle may run code, and no array of numbers needs one.
        loaded = np.load(path, allow_pickle=False)
        return loaded if path.suffix == ".npy" else {k: loaded[k] for k in loaded.files}
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{option} {spec}: not a readable file: {error}") from error


def read_sizes(option: str, text: str) -> tuple[int, ...]:
    """Parse batch sizes such as "1,2,4,8"."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option}: expected sizes such as 1,2,4,8, got {text!r}") from error


def source_metadata(model: str, example: str | None, weights: str | None) -> dict[str, str]:
    """Return a model's origin, for its manifest: the arguments as they were typed.

    An absolute path would mean nothing on another machine and says more of this one than a bundle
    should: it is written relative to the current folder, or left out when it is not below it.
    """
    words = {"source": model, "source_example": example, "source_weights": weights}
    portable = {key: _portable(spec) for key, spec in words.items() if spec is not None}
    # Without the model its example leads nowhere.
    if portable.get("source") is None:
        return {}
    return {key: spec for key, spec in portable.items() if spec is not None}


def _portable(spec: str) -> str | None:
    """Return the argument; None for a path that leads out of the current folder."""
    path = Path(spec)
    if not path.is_absolute():
        return spec
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return None
