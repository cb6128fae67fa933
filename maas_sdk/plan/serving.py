"""The serving step of a decoder of Llama's shape, for planning: a prefill, or one token decoded.

The rule it keeps: shapes and arithmetic are those of a served model (weights in bfloat16, or in
int8 with a float32 scale per output channel; a cache of keys and values; logits of the last
position only), and it is written over stacked layers: it compiles in seconds whatever the depth.

Int8 is W8A8: activations are rounded per row, products are int8 × int8 → int32.

Dimension letters: B rows, T positions that are computed, S positions of the cache, L layers,
D features, N heads, K heads of keys and values, H features of a head, F features inside the
feed-forward layers, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maas_sdk.errors import ConfigError
from maas_sdk.plan.published import PublishedShape
from maas_sdk.tpu.flops import matmul_flops
from maas_sdk.tpu.program import PlannedProgram

__all__ = ["serving_step"]

_NEGATIVE: Final = -1e30
# Which dimension of a product's weights [D, …] the tensor axis cuts: what it puts out, or, for the
# second product of each pair, what it takes in (Shoeybi et al. 2019, section 3).
_TAKES_IN: Final = {"out", "down"}


def serving_step(
    mesh: Mesh,
    *,
    shape: Mapping[str, int],
    rows: int,
    length: int,
    phase: str = "prefill",
    precision: str = "bf16",
) -> PlannedProgram:
    """Recipe of one prefill of B rows of T tokens, or one token for each of B rows.

    Args:
        mesh: rows are cut over its axes ``data`` and ``fsdp``, weights over ``fsdp`` and
            ``tensor``.
        shape: fields of ``published.Shape``.
        rows: B.
        length: T of a prefill; S that a decode step looks back on.
        phase: "prefill" or "decode".
        precision: "bf16" or "int8", of weights and their products.

    Raises:
        ConfigError: an unknown phase or precision, or rows that the mesh does not divide.
    """
    if phase not in ("prefill", "decode") or precision not in ("bf16", "int8"):
        raise ConfigError(
            f"serving step: expected phase prefill or decode and precision bf16 or int8, got "
            f"{phase!r} and {precision!r}"
        )
    decoder = PublishedShape(**shape)
    row_axes = tuple(name for name in ("data", "fsdp") if mesh.shape.get(name, 1) > 1)
    parts = _sizes(mesh, row_axes)
    if rows % parts:
        raise ConfigError(f"rows {rows} cannot be cut over {parts} devices; take a multiple")
    weights = _weights(decoder, mesh, precision)
    head = decoder.features // decoder.heads
    tensor = mesh.shape.get("tensor", 1)
    by_head = decoder.kv_heads % tensor == 0
    spec = (
        None,
        row_axes or None,
        None if by_head else _axis(mesh),
        _axis(mesh) if by_head else None,
    )
    cache = _leaf(mesh, (decoder.layers, rows, length, decoder.kv_heads, head), jnp.bfloat16, *spec)
    tokens = _leaf(mesh, (rows, length if phase == "prefill" else 1), jnp.int32, row_axes or None)

    def step(weights: Any, tokens: Any, keys: Any, values: Any) -> Any:
        return _forward(decoder, weights, tokens, keys, values, decode=phase == "decode")

    return PlannedProgram(
        fn=step,
        arguments=(weights, tokens, cache, cache),
        kinds=("weights", "batch", "cache", "cache"),
        donate=(2, 3),
        out_shardings=(None, cache.sharding, cache.sharding),
        model_flops=matmul_flops(step, weights, tokens, cache, cache),
        items=tokens.shape[0] * tokens.shape[1],
        item_name="tokens",
    )


def _sizes(mesh: Mesh, names: tuple[str, ...]) -> int:
    total = 1
    for name in names:
        total *= mesh.shape[name]
    return total


def _axis(mesh: Mesh, name: str = "tensor") -> str | None:
    return name if mesh.shape.get(name, 1) > 1 else None


def _leaf(mesh: Mesh, shape: tuple[int, ...], dtype: Any, *spec: Any) -> Any:
    sharding = NamedSharding(mesh, PartitionSpec(*spec))  # type: ignore[no-untyped-call]
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)  # type: ignore[no-untyped-call]


def _weights(decoder: PublishedShape, mesh: Mesh, precision: str) -> dict[str, Any]:
    """Return shapes of all weights: products as [L, in, out], int8 with scales [L, out]."""
    layers, features = decoder.layers, decoder.features
    head = features // decoder.heads
    outputs = {
        "query": features,
        "key": decoder.kv_heads * head,
        "value": decoder.kv_heads * head,
        "out": features,
        "gate": decoder.hidden_features,
        "up": decoder.hidden_features,
        "down": features,
    }
    fsdp, tensor = _axis(mesh, "fsdp"), _axis(mesh)
    found: dict[str, Any] = {}
    for name, out in outputs.items():
        inputs = decoder.hidden_features if name == "down" else features
        cut = (tensor, fsdp) if name in _TAKES_IN else (fsdp, tensor)
        if precision == "int8":
            found[name] = {
                "q": _leaf(mesh, (layers, inputs, out), jnp.int8, None, *cut),
                "scale": _leaf(mesh, (layers, out), jnp.float32, None, cut[1]),
            }
        else:
            found[name] = _leaf(mesh, (layers, inputs, out), jnp.bfloat16, None, *cut)
    norms = {name: _leaf(mesh, (layers, features), jnp.bfloat16) for name in ("norm1", "norm2")}
    table = _leaf(mesh, (decoder.vocab_size, features), jnp.bfloat16, fsdp, tensor)
    last = _leaf(mesh, (features, decoder.vocab_size), jnp.bfloat16, fsdp, tensor)
    return {
        "layers": found | norms,
        "table": table,
        "head": last,
        "norm": _leaf(mesh, (features,), jnp.bfloat16),
    }


def _product(x: jax.Array, weight: Any) -> Any:
    """[B, T, in] × [in, out] → [B, T, out] in bfloat16."""
    if not isinstance(weight, dict):
        return jnp.einsum("btd,df->btf", x, weight)
    scale = jnp.max(jnp.abs(x), axis=-1, keepdims=True).astype(jnp.float32) / 127 + 1e-12
    rounded = jnp.round(x / scale).astype(jnp.int8)
    summed = jnp.einsum("btd,df->btf", rounded, weight["q"], preferred_element_type=jnp.int32)
    return (summed.astype(jnp.float32) * scale * weight["scale"]).astype(jnp.bfloat16)


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    mean = (wide * wide).mean(axis=-1, keepdims=True)
    normed: jax.Array = (wide * jax.lax.rsqrt(mean + 1e-5)).astype(x.dtype) * scale
    return normed


def _rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Apply rotary positions: [B, T, heads, H], positions [T]."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * 10000.0 ** (-jnp.arange(half) / half)
    sin, cos = jnp.sin(angles)[None, :, None], jnp.cos(angles)[None, :, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _forward(
    decoder: PublishedShape, weights: Any, tokens: Any, keys: Any, values: Any, *, decode: bool
) -> Any:
    """Return (logits [B, V] of the last position, keys, values); caches [L, B, S, K, H] filled."""
    length = keys.shape[2]
    head = decoder.features // decoder.heads
    at = length - 1 if decode else 0
    positions = jnp.arange(tokens.shape[1]) + at
    seen = jnp.arange(length)[None, :] <= positions[:, None]

    def layer(x: jax.Array, given: Any) -> Any:
        w, key_cache, value_cache = given
        y = _norm(x, w["norm1"])

        def heads(name: str) -> Any:
            return _product(y, w[name]).reshape(*y.shape[:2], -1, head)

        query, key = _rotate(heads("query"), positions), _rotate(heads("key"), positions)
        key_cache = jax.lax.dynamic_update_slice_in_dim(key_cache, key, at, axis=1)
        value_cache = jax.lax.dynamic_update_slice_in_dim(value_cache, heads("value"), at, axis=1)
        grouped = query.reshape(*query.shape[:2], decoder.kv_heads, -1, head)
        scores = jnp.einsum(
            "btkgh,bskh->bkgts", grouped, key_cache, preferred_element_type=jnp.float32
        )
        scores = jnp.where(seen, scores * head**-0.5, _NEGATIVE)
        share = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = jnp.einsum("bkgts,bskh->btkgh", share, value_cache).reshape(x.shape)
        x = x + _product(mixed, w["out"])
        y = _norm(x, w["norm2"])
        inner = jax.nn.silu(_product(y, w["gate"])) * _product(y, w["up"])
        return x + _product(inner, w["down"]), (key_cache, value_cache)

    x = weights["table"][tokens]
    x, (keys, values) = jax.lax.scan(layer, x, (weights["layers"], keys, values))
    last = _norm(x[:, -1:], weights["norm"])
    return _product(last, weights["head"])[:, 0].astype(jnp.float32), keys, values
