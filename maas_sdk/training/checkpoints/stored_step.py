"""One checkpoint on disk: its layout, written and read.

``<folder>/<step>/`` is orbax's: the state under ``state``, nested by name so that orbax alone can
read it too; its description, and the position in the data, in the metadata; and beside that our
``checksums.json``.

The rule it keeps: a checkpoint is checked leaf by leaf against the expected state before an array
is read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import orbax.checkpoint.experimental.v1 as ocp

from maas_sdk.errors import ConfigError, CorruptError
from maas_sdk.training.checkpoints.checksums import check_checksums
from maas_sdk.training.checkpoints.named_state import (
    differences,
    nest,
    raw,
    stored_spec,
    typed,
    unnest,
)

__all__ = ["data_state_of", "described", "metrics_of", "read_step", "storable"]

_FORMAT: Final = 1
_STATE: Final = "state"
# Differences that a message lists; the evidence has all.
_SHOWN: Final = 8


def described(
    arrays: Mapping[str, jax.Array], data_state: Any, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Return metadata of named arrays: their specs, the position in the data, the metrics.

    Raises:
        ConfigError: the position is not JSON-able.
    """
    try:
        position = json.loads(json.dumps(data_state))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"data_state: expected what JSON can say, got {data_state!r:.80}: {error}"
        ) from error
    return {
        "format": _FORMAT,
        "data": position,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "leaves": {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()},
    }


def storable(arrays: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Return the tree that orbax stores: random keys as numbers, no array without elements.

    Orbax refuses those; their shape and dtype, which ``described`` has, are all there is to them.
    """
    return nest({name: raw(array) for name, array in arrays.items() if array.size})


def read_step(
    folder: Path,
    expected: Mapping[str, jax.ShapeDtypeStruct],
    *,
    former: Mapping[str, Sequence[str]] | None = None,
    partial: bool = False,
) -> tuple[dict[str, jax.Array], Any]:
    """Return a checkpoint's arrays by name, placed as ``expected`` says, and the data position.

    Args:
        folder: of the one checkpoint.
        expected: every leaf that is wanted, with the sharding to read it to.
        former: other names that a leaf may have in a checkpoint of an earlier release.
        partial: what the checkpoint has beyond those is left out, rather than a fault.

    Raises:
        ConfigError: the checkpoint does not fit, or is not of this kind.
        CorruptError: a file of it is damaged or missing.
    """
    check_checksums(folder)
    try:
        return _read(folder, expected, former or {}, partial)
    except _Unreadable as error:
        raise CorruptError(f"{folder} cannot be read: {error}", file=str(folder)) from error


def metrics_of(folder: Path) -> dict[str, float]:
    """Return the metrics of a checkpoint; none where its metadata cannot be read."""
    try:
        return dict(_about(folder)["metrics"])
    except (_Unreadable, ConfigError):
        return {}


def data_state_of(folder: Path) -> Any:
    """Return the position in the data that a checkpoint was saved with.

    Raises:
        ConfigError: it is not of this kind.
        CorruptError: what says so cannot be read.
    """
    try:
        return _about(folder)["data"]
    except _Unreadable as error:
        raise CorruptError(f"{folder} cannot be read: {error}", file=str(folder)) from error


class _Unreadable(Exception):
    """Error that orbax raised while reading."""


def _read(
    folder: Path,
    expected: Mapping[str, jax.ShapeDtypeStruct],
    former: Mapping[str, Sequence[str]],
    partial: bool,
) -> tuple[dict[str, jax.Array], Any]:
    about = _about(folder)
    written = {name: (dtype, tuple(shape)) for name, (dtype, shape) in about["leaves"].items()}
    # Name in the checkpoint → name today, where they differ.
    renamed = {
        old: name
        for name in expected
        if name not in written
        for old in former.get(name, ())
        if old in written and old not in expected
    }
    found = {renamed.get(name, name): kind for name, kind in written.items()}
    asked = {name: found[name] for name in found if name in expected} if partial else found
    if faults := differences(expected, asked):
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ConfigError(
            f"checkpoint {folder} does not fit: {'; '.join(faults[:_SHOWN])}{more}. Build the "
            "model, the optimizer and the precision as in the run that wrote it, or train into "
            "another folder",
            differences=faults,
        )
    stored = {name: stored_spec(spec) for name, spec in expected.items()}
    here = {name: old for old, name in renamed.items()}
    wanted = {here.get(name, name): spec for name, spec in stored.items() if spec.size}
    # Arrays without elements are not among what orbax has; see ``storable``.
    nested = {name for name, (_, shape) in written.items() if 0 not in shape}
    loaded = _load(folder, wanted, nested, partial)
    arrays = {renamed.get(name, name): array for name, array in loaded.items()}
    for name, spec in stored.items():
        if not spec.size:
            arrays[name] = jax.device_put(jax.numpy.zeros(spec.shape, spec.dtype), spec.sharding)
    return {name: typed(arrays[name], str(expected[name].dtype)) for name in expected}, about[
        "data"
    ]


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = ocp.metadata(folder).custom_metadata
    except Exception as error:
        raise _Unreadable(f"{type(error).__name__}: {error}") from error
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise ConfigError(
            f"{folder} is a checkpoint, but not one of this kind (format {_FORMAT}): it was "
            "written by orbax alone, or by another release",
        )
    return about


def _load(
    folder: Path, specs: Mapping[str, jax.ShapeDtypeStruct], among: Collection[str], partial: bool
) -> dict[str, jax.Array]:
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    try:
        with context:
            tree = ocp.load_checkpointables(folder, {_STATE: nest(specs, among)})[_STATE]
            return unnest(tree, among)
    except Exception as error:
        raise _Unreadable(f"{type(error).__name__}: {error}") from error
