"""``reweight``: a new version of a bundle with other weights, without compiling.

Weights are arguments of a bundle's programs, so a model that has learned on needs no export: the
programs and executables are copied, the weights are replaced, and the golden answers are asked of
the new version itself, by the engine that will serve it.

The rule it keeps: the new weights have the names, shapes and dtypes of the old ones, or nothing is
written; a weight that was stored encoded comes encoded again; and what is sealed has answered.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from flax import linen, nnx

from maas_sdk.bundle.compression import Compression
from maas_sdk.bundle.encoding.spec import Encoding, check_encodings
from maas_sdk.bundle.files.safetensors import Spec
from maas_sdk.bundle.files.staging import Staging
from maas_sdk.bundle.files.weights import open_weights, write_weights
from maas_sdk.bundle.folder import Bundle, copy_checked, open_bundle
from maas_sdk.bundle.manifest import MANIFEST, WEIGHTS, FileEntry, Manifest, golden_path
from maas_sdk.errors import ConfigError, ExportError
from maas_sdk.export.stored_leaves import stored_form
from maas_sdk.model.adapt import Exportable, Model, adapt
from maas_sdk.model.leaf import Leaf
from maas_sdk.model.names import named_leaves
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
        model_or_weights: the trained model, as ``export`` was given it: an ``nnx.Module``, an
            ``Exportable``, or the variables of a linen module or the weights of an ``apply``
            function; or arrays by the names that they have in the bundle. What the programs do
            not use is left aside.
        path: the folder to write; None is the next version beside a bundle that lies in a store,
            ``<store>/<model>/<version>/``.
        metadata: words for the manifest, beside those that it has.

    Returns:
        The sealed bundle. It appears whole or not at all.

    Raises:
        ExportError: a tensor is missing, or of another shape or dtype, or is stored encoded in
            the bundle and comes as a plain array; a golden input is answered with what is not
            finite. Names the tensor, or the output.
        ConfigError: ``path`` exists, or is missing for a bundle that is in no store.
        BundleError: the bundle is damaged, cannot run here.
        StorageError: the disk is full.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    opened.require_clear("reweight")
    model = _model(model_or_weights)
    new = _New(model, *_fitting(opened, model))
    target = Path(path) if path is not None else _next_version(opened.path)
    with Staging(target) as staging:
        manifest = _fill(opened, new, staging.path, metadata or {})
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


class _New(NamedTuple):
    """Replacement weights."""

    model: Model
    tensors: Mapping[str, Array]
    encodings: Mapping[str, Encoding]


def _model(model_or_weights: Any) -> Model:
    """Return the leaves of the given model; nothing is rebuilt from them."""
    if isinstance(model_or_weights, nnx.Module | Exportable):
        model = adapt(model_or_weights, None)
        return replace(model, leaves=tuple(map(_on_host, model.leaves)))
    tree = linen.meta.unbox(model_or_weights)
    leaves = [
        Leaf(name=name, value=np.asarray(value), former=former)
        for name, value, _, _, former in named_leaves(tree)
        if not jax.numpy.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key)
    ]
    return Model(kind="apply", leaves=tuple(leaves), rebuild=lambda values: values)


def _on_host(leaf: Leaf) -> Leaf:
    """Return a leaf as a program sees it, unless it is stored encoded or is no number."""
    return leaf if leaf.random or leaf.stored else replace(leaf, value=leaf.to_numpy())


def _fitting(bundle: Bundle, model: Model) -> tuple[dict[str, Array], dict[str, Encoding]]:
    """Return the bundle's tensors and encodings for the new weights that its programs take."""
    bundle.check([WEIGHTS])
    manifest, specs = bundle.manifest, open_weights(bundle.path / WEIGHTS).specs
    check_encodings(manifest.encodings, specs)
    names = dict.fromkeys(
        name for program in manifest.programs.values() for name in program.weights
    )
    given = _as_named([leaf for leaf in model.leaves if not leaf.random], names)
    faults: list[str] = []
    for name in names:
        made = manifest.encodings.get(name)
        expected = specs[name] if made is None else made.spec
        if name not in given:
            faults.append(f"{name!r}: expected {expected}, it is not there")
            continue
        leaf = given[name]
        value = leaf.value
        # By the name that numpy gives it: not every array can travel.
        found = leaf.stored.spec if leaf.stored else Spec(str(value.dtype), tuple(value.shape))
        if found != expected:
            faults.append(f"{name!r}: expected {expected}, got {found}")
        elif made is not None and leaf.stored is None:
            faults.append(f"{name!r}: is stored encoded ({made.scheme}), got a plain array")
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ExportError(
            f"the weights do not fit {bundle.path}: tensor {'; '.join(faults[:_SHOWN])}{more}. "
            "Give the model that was exported, trained on and compressed as it was; a model of "
            "another shape needs an export of its own",
            faults=faults,
        )
    consumed = {name: made for name, made in manifest.encodings.items() if name not in names}
    # The program is the old one, so what it consumes is made as it was, from other parts.
    consumed |= {name: made for name, made in model.encodings.items() if name in consumed}
    return stored_form([given[name] for name in names], consumed)


def _as_named(leaves: Sequence[Leaf], names: Container[str]) -> dict[str, Leaf]:
    """Leaves by the names that the bundle has for them, be they today's or an earlier release's.

    Today's name goes first: a former one never takes the place of a leaf that is called so now.
    """
    found = {leaf.name: leaf for leaf in leaves}
    for leaf in leaves:
        if leaf.name not in names:
            known = [name for name in leaf.former if name in names and name not in found]
            found |= {name: replace(leaf, name=name) for name in known}
    return found


def _next_version(folder: Path) -> Path:
    here = Path(os.path.abspath(folder))
    if not here.name.isdigit():
        raise ConfigError(
            f"{folder} is no version of a store (<store>/<model>/<version>): say with path= where "
            "the new bundle shall lie, or publish this one into a store first"
        )
    versions = [int(found.name) for found in here.parent.iterdir() if found.name.isdigit()]
    return here.parent / str(max(versions) + 1)


def _fill(bundle: Bundle, new: _New, folder: Path, metadata: Mapping[str, str]) -> Manifest:
    """Write everything into the new folder, manifest last; it computes its own golden answers."""
    old = bundle.manifest
    goldens = {golden_path(name): name for name in old.programs}
    for name, entry in old.files.items():
        if name != WEIGHTS:
            with open(bundle.path / name, "rb", buffering=0) as file:
                copy_checked(file, folder / name, name, entry)
    write_weights(folder / WEIGHTS, new.tensors)
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
        encodings=new.encodings,
        compression=new.model.compression or _unmeasured(old.compression),
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


def _unmeasured(old: Compression | None) -> Compression | None:
    """Return the old record without the measurements on the old weights."""
    if old is None:
        return None
    layers = tuple(replace(layer, sqnr_db=None) for layer in old.layers)
    return replace(old, metric=None, before=None, after=None, layers=layers)


def _answers(folder: Path, goldens: Mapping[str, Path]) -> dict[str, dict[str, Array]]:
    """Return golden tensors by program: the old inputs with the new folder's answers."""
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
