"""Recipes of ``maas plan``: named models, and the user's own modules, as programs of shapes.

The rule it keeps: recipes are called in the compiling process, never in the requesting one; options
are JSON values. See ``tpu.program``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import jax
from jax.sharding import Mesh

from maas_sdk.errors import ConfigError
from maas_sdk.model.load_object import load_object
from maas_sdk.models.transformer import Decoder
from maas_sdk.models.transformer_config import DECODER_PRESETS, DecoderConfig
from maas_sdk.plan.published import PublishedShape
from maas_sdk.plan.serving import serving_step
from maas_sdk.plan.steps import (
    forward_program,
    from_seed,
    language_batch,
    mean_square,
    train_program,
)
from maas_sdk.tpu.program import PlannedProgram

__all__ = ["serve", "train"]


def train(
    mesh: Mesh,
    *,
    model: str,
    strategy: str,
    rows: int,
    length: int,
    precision: str = "bf16",
    remat: bool | str = True,
    changes: Mapping[str, Any] | None = None,
    example: str | None = None,
) -> PlannedProgram:
    """Recipe of a training step.

    Args:
        mesh: of the slice.
        model: a decoder's preset, or ``file.py:make_model``.
        strategy: how weights are cut.
        rows: B, over all chips.
        length: T, for models of tokens.
        precision: a policy's text.
        remat: what a decoder's blocks compute again.
        changes: fields of a decoder's configuration to change.
        example: ``file.py:object`` with the inputs of a model of one's own, ``[…]`` per row or
            ``[B, …]``; None are tokens.
    """
    given: dict[str, Any] = {"strategy": strategy, "precision": precision}
    tokens: dict[str, Any] = {"items": rows * length, "item_name": "tokens"}
    if model in DECODER_PRESETS:
        config = _config(model, length, {"remat": remat, **(changes or {})})
        return train_program(
            from_seed(lambda rngs: Decoder(config, rngs=rngs)),
            mesh,
            language_batch(rows, length),
            **given,
            **tokens,
        )
    make = _factory(model)
    if example is None:
        return train_program(make, mesh, language_batch(rows, length), **given, **tokens)
    batch = {"inputs": _inputs(example, rows)}
    return train_program(make, mesh, batch, objective=mean_square, **given)


def serve(
    mesh: Mesh,
    *,
    model: str,
    strategy: str,
    rows: int,
    length: int,
    precision: str = "bf16",
    phase: str = "prefill",
    changes: Mapping[str, Any] | None = None,
    example: str | None = None,
) -> PlannedProgram:
    """Recipe of a serving step; arguments as of ``train``, and ``phase``.

    Raises:
        ConfigError: a decode step, or one in int8, of anything but a decoder of Llama's shape.
    """
    config = _config(model, length, changes or {}) if model in DECODER_PRESETS else None
    if config is not None and _like_llama(config):
        return serving_step(
            mesh,
            shape=asdict(_shape(config)),
            rows=rows,
            length=length,
            phase=phase,
            precision=precision,
        )
    if phase != "prefill":
        raise ConfigError(f"{model}: a decode step is planned for decoders of Llama's shape only")
    own = None if config is None else from_seed(lambda rngs: Decoder(config, rngs=rngs))
    make = own or _factory(model)
    given: dict[str, Any] = {"strategy": strategy, "precision": precision}
    if example is None:
        inputs = language_batch(rows, length)["inputs"]
        given |= {"items": rows * length, "item_name": "tokens"}
    else:
        inputs = _inputs(example, rows)
    return forward_program(make, mesh, inputs, **given)


def _config(name: str, length: int, changes: Mapping[str, Any]) -> DecoderConfig:
    # Scanned: the compiler sees one block, whatever the depth.
    fields = {"scan_layers": True, "max_length": length, **changes}
    return DecoderConfig.preset(name, **fields)


def _like_llama(config: DecoderConfig) -> bool:
    """Return True when ``plan.serving`` does the arithmetic of such a decoder."""
    return config.gated and config.rotary is not None and not config.use_bias


def _shape(config: DecoderConfig) -> PublishedShape:
    return PublishedShape(
        layers=config.layers,
        features=config.features,
        heads=config.heads,
        kv_heads=config.kv_heads,
        hidden_features=config.hidden_features,
        vocab_size=config.vocab_size,
    )


def _factory(reference: str) -> Callable[[], Any]:
    found = load_object(reference)
    return found if callable(found) and not hasattr(found, "train") else lambda: found


def _inputs(example: str, rows: int) -> Any:
    """Return the example's shape with B rows."""
    found = load_object(example)
    shape, dtype = tuple(found.shape), found.dtype
    return jax.ShapeDtypeStruct((rows, *shape[1:]), dtype)  # type: ignore[no-untyped-call]
