"""The float model that a command names: MODULE:OBJECT, or the bundle that was made of it.

The rule it keeps: a bundle holds no model that could be changed, only where it came from; what the
manifest says of that is read as if it had been typed, and it is said when it leads nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maas_sdk.cli.inputs.model_words import read_example
from maas_sdk.errors import ConfigError
from maas_sdk.model.load_object import make_object

__all__ = ["FloatModelSource", "Given", "find_source", "load_source"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatModelSource:
    """Place of the float model, and its known settings."""

    model: str
    example: str | None
    weights: str | None
    name: str
    # What files of it are called: the bundle's own name on the disk, unless a name is given.
    stem: str
    # Of the bundle that it was named by; else those of ``export``.
    buckets: tuple[int, ...] | None = None
    # The word for that bundle, for what goes wrong.
    bundle: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """Values of the arguments of the command line."""

    model: Any
    weights: Any
    # Rows as the model takes them: one array, or a dict of them.
    example: Any
    calibration: Any
    evaluate: Any
    changes: Mapping[str, Any] = field(default_factory=dict)


def find_source(
    model: str, example: str | None, weights: str | None, name: str | None
) -> FloatModelSource:
    """Return the words that name the float model; those of a bundle are its manifest's.

    Raises:
        ConfigError: a bundle that was quantized, or that does not say what it was made of.
        NotFoundError: no bundle there.
        MaasError: of a model in a store: as ``find_bundle``.
    """
    from maas_sdk.store import find_bundle, in_store

    # A module's file may lie in a folder with an @; no model's name has a colon.
    stored = in_store(model) and ":" not in model.rpartition("/")[2]
    folder = Path(model)
    if not stored and not folder.is_dir() and folder.suffix != ".maas":
        title = name or model.rpartition(":")[2].rpartition(".")[2]
        return FloatModelSource(
            model=model, example=example, weights=weights, name=title, stem=title
        )
    from maas_sdk.bundle.folder import open_bundle

    manifest = open_bundle(find_bundle(model) if stored else folder).manifest
    if manifest.compression is not None:
        raise ConfigError(
            f"{model} is quantized already ({manifest.compression.recipe}), and quantizing it "
            "twice would add up the errors: name the float model's bundle, or MODULE:OBJECT"
        )
    words = manifest.metadata
    if "source" not in words:
        raise ConfigError(
            f"{model}: its manifest does not say which model it was made of; only maas export "
            "notes that, where the model lies below the current folder. Name the model itself: "
            "maas quantize MODULE:OBJECT"
        )
    first = next(iter(manifest.programs.values()))
    return FloatModelSource(
        model=words["source"],
        example=example or words.get("source_example"),
        weights=weights or words.get("source_weights"),
        name=name or manifest.name,
        stem=name or (manifest.name if stored else folder.resolve().stem),
        buckets=manifest.programs.get("predict", first).buckets,
        bundle=model,
    )


def load_source(
    source: FloatModelSource,
    calibration: str | None,
    evaluate: str | None,
    changes: Mapping[str, Any],
) -> Given:
    """Import and read the named model.

    Args:
        source: the model.
        calibration: as ``calibration_of`` takes it, or None.
        evaluate: as ``evaluation_of`` takes it, or None.
        changes: fields of the recipe.

    Raises:
        ConfigError: something is not found, or there are no rows at all.
        DependencyError: a module imports a package that is not installed.
        InputError: a file without what it is named for.
        ModelError: a module raised.
    """
    from maas_sdk.cli.inputs.rows import calibration_of, evaluation_of, example_of

    try:
        model = make_object(source.model)
        weights = None if source.weights is None else make_object(source.weights)
        rows = None if source.example is None else read_example(source.example)
    # The words were read from the manifest and not typed here: the error has to say so.
    except ConfigError as error:
        if source.bundle is None:
            raise
        raise ConfigError(
            f"{source.bundle} was made of {source.model}, which is not found from here: "
            f"{error.message}. Run it in the folder where maas export ran, or name the model: "
            "maas quantize MODULE:OBJECT"
        ) from error
    seen = None if calibration is None else calibration_of(calibration, rows)
    judged = None if evaluate is None else evaluation_of(evaluate, rows)
    return Given(
        model=model,
        weights=weights,
        example=example_of(rows, judged, seen),
        calibration=seen,
        evaluate=judged,
        changes=changes,
    )
