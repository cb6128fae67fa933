"""``reweight``: a new version of a bundle with other weights, and nothing compiled.

Weights are arguments of a bundle's programs, so a model that has learned on needs no export: the
programs and executables are copied, the weights are replaced, and the golden answers are asked of
the new version itself, by the engine that will serve it.

The rule it keeps: the new weights have the names, shapes and dtypes of the old ones, or nothing is
written; and what is sealed has answered.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from flax import linen, nnx

from maas_sdk.bundle.folder import Bundle, copy_checked, open_bundle
from maas_sdk.bundle.manifest import MANIFEST, WEIGHTS, FileEntry, Manifest, golden_path
from maas_sdk.bundle.staging import Staging
from maas_sdk.bundle.weights import open_weights, write_weights
from maas_sdk.errors import ConfigError, ExportError
from maas_sdk.export.model import adapt, path_name
from maas_sdk.runtime.load import load
from maas_sdk.tensors import Array

__all__ = ["reweight"]

# Mismatches that a message lists; the evidence has all.
_SHOWN: Final = 5


def reweight(
    bundle: Bundle | str | os.PathLike[str],
    model_or_weights: Any,
    *,
    path: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Bundle:
    """Write a new version of a bundle with other weights beside the same programs.

    Args:
        bundle: the bundle, or its folder; every byte that is taken over is checked.
        model_or_weights: the trained model, as ``export`` was given it: an ``nnx.Module``, or the
            variables of a linen module or the weights of an ``apply`` function; or arrays by the
            names that they have in the bundle. What the programs do not use is left aside.
        path: the folder to write; None is the next version beside a bundle that lies in a store,
            ``<store>/<model>/<version>/``.
        metadata: words for the manifest, beside those that it has.

    Returns:
        The sealed bundle. It appears whole or not at all.

    Raises:
        ExportError: a tensor is missing or of another shape or dtype; a golden input is answered
            with what is not finite. Names the tensor, or the output.
        ConfigError: ``path`` exists, or is missing for a bundle that is in no store.
        BundleError: the bundle is damaged, cannot run here, or the disk is full.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    weights = _fitting(opened, model_or_weights)
    target = Path(path) if path is not None else _next_version(opened.path)
    with Staging(target) as staging:
        manifest = _fill(opened, weights, staging.path, metadata or {})
        while True:
            try:
                staging.commit()
                break
            except ConfigError as error:
                # Somebody else took that version meanwhile.
                if path is not None or not error.evidence.get("exists"):
                    raise
                staging.target = _next_version(opened.path)
    return Bundle(staging.target, manifest)


def _fitting(bundle: Bundle, model_or_weights: Any) -> dict[str, Array]:
    """The bundle's tensors with their new values."""
    bundle.check([WEIGHTS])
    given = _named(model_or_weights)
    found: dict[str, Array] = {}
    faults: list[str] = []
    for name, old in open_weights(bundle.path / WEIGHTS).items():
        new = given.get(name)
        expected = f"{old.dtype}{list(old.shape)}"
        if new is None:
            faults.append(f"{name!r}: expected {expected}, it is not there")
        elif new.dtype != old.dtype or new.shape != old.shape:
            faults.append(f"{name!r}: expected {expected}, got {new.dtype}{list(new.shape)}")
        else:
            found[name] = new
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ExportError(
            f"the weights do not fit {bundle.path}: tensor {'; '.join(faults[:_SHOWN])}{more}. "
            "Give the model that was exported, trained on and compressed as it was; a model of "
            "another shape needs an export of its own",
            faults=faults,
        )
    return found


def _named(model_or_weights: Any) -> dict[str, Array]:
    if isinstance(model_or_weights, nnx.Module):
        leaves = adapt(model_or_weights, None).leaves
        return {leaf.name: leaf.to_numpy() for leaf in leaves if not leaf.random}
    tree = linen.meta.unbox(model_or_weights)
    return {
        path_name(path) or "weights": np.asarray(value)
        for path, value in jax.tree_util.tree_flatten_with_path(tree)[0]
        if not jax.numpy.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key)
    }


def _next_version(folder: Path) -> Path:
    here = Path(os.path.abspath(folder))
    if not here.name.isdigit():
        raise ConfigError(
            f"{folder} is no version of a store (<store>/<model>/<version>): say with path= where "
            "the new bundle shall lie, or publish this one into a store first"
        )
    versions = [int(found.name) for found in here.parent.iterdir() if found.name.isdigit()]
    return here.parent / str(max(versions) + 1)


def _fill(
    bundle: Bundle, weights: Mapping[str, Array], folder: Path, metadata: Mapping[str, str]
) -> Manifest:
    """Everything into the new folder, manifest last; its answers come from the folder itself."""
    old = bundle.manifest
    goldens = {golden_path(name): name for name in old.programs}
    for name, entry in old.files.items():
        if name != WEIGHTS:
            with open(bundle.path / name, "rb", buffering=0) as file:
                copy_checked(file, folder / name, name, entry)
    write_weights(folder / WEIGHTS, weights)
    manifest = replace(
        old,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        metadata={**old.metadata, "reweighted_from": _parent(bundle), **metadata},
        # Nothing is compared here: the new answers are the packaged programs' own.
        programs={
            name: program._replace(
                verification=program.verification
                and replace(program.verification, rows=0, max_abs_error={}, targets_run=())
            )
            for name, program in old.programs.items()
        },
        files={**old.files, WEIGHTS: _entry(folder / WEIGHTS)},
    )
    _write(folder, manifest)
    answers = _answers(folder, {name: folder / path for path, name in goldens.items()})
    for path, name in goldens.items():
        # A new file: the old one may still be mapped.
        (folder / path).unlink()
        write_weights(folder / path, answers[name])
    files = {**manifest.files, **{path: _entry(folder / path) for path in goldens}}
    manifest = replace(manifest, files=files)
    _write(folder, manifest)
    return manifest


def _answers(folder: Path, goldens: Mapping[str, Path]) -> dict[str, dict[str, Array]]:
    """Golden tensors by program: the old inputs with the answers that the folder now gives."""
    found = {}
    with load(folder) as engine:
        for program, file in goldens.items():
            old = open_weights(file)
            inputs = {name: old[name] for name in old if name.startswith("input/")}
            outputs = engine.run(
                {name.removeprefix("input/"): array for name, array in inputs.items()},
                program=program,
            )
            for name, array in outputs.items():
                # NaN where the old model gave NaN too is the model's own word.
                if _broken(array) and not _broken(old[f"output/{name}"]):
                    raise ExportError(
                        f"with the new weights program {program!r} answers golden inputs with NaN "
                        f"or infinity in output {name!r}: training has diverged, nothing is "
                        "written",
                        program=program,
                        output=name,
                    )
            found[program] = {
                **inputs,
                **{f"output/{name}": np.asarray(array) for name, array in outputs.items()},
            }
    return found


def _broken(array: Array) -> bool:
    inexact = array.dtype.kind in "fc" or "float" in array.dtype.name
    return inexact and not bool(np.isfinite(array.astype(np.complex128)).all())


def _parent(bundle: Bundle) -> str:
    return f"sha256:{hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()}"


def _entry(file: Path) -> FileEntry:
    with open(file, "rb", buffering=0) as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return FileEntry(size_bytes=file.stat().st_size, sha256=digest)


def _write(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_bytes(manifest.to_json())
