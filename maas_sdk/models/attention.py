"""Multi-head and grouped-query attention, and the feed-forward layers that follow it.

The rule it keeps: every kernel is a matrix whose last dimension is what it puts out, heads side by
side, so one rule of a table shards or quantizes it in any architecture. The softmax is float32
(``jax.nn.dot_product_attention``).

Dimension letters: B rows of a batch, T positions, D features, N heads, K heads of keys and values
(N is a multiple of K), H features of a head, F features inside the feed-forward layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.models.activations import activation
from maas_sdk.models.rotary import RotaryConfig, rotate

__all__ = ["Attention", "FeedForward"]


class Attention(nnx.Module):
    """Self-attention (Vaswani et al. 2017; grouped queries: Ainslie et al. 2023).

    Args:
        features: D.
        heads: N.
        kv_heads: K; N is one key per query, 1 is multi-query attention.
        head_features: H.
        causal: whether a position sees only itself and what is before it.
        rotary: positions turn queries and keys; None leaves them as they are.
        use_bias: whether the four dense layers have biases.
        std: standard deviation of the initial kernels.
        out_std: the same for ``out``, which writes to the residual stream.
        implementation: "xla", or "cudnn" for fused attention on an NVIDIA GPU in 16 bits.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        kv_heads: int,
        head_features: int,
        causal: bool,
        rotary: RotaryConfig | None = None,
        use_bias: bool = True,
        std: float = 0.02,
        out_std: float = 0.02,
        implementation: Literal["xla", "cudnn"] = "xla",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        dense = _dense(use_bias=use_bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.query = dense(features, heads * head_features, std)
        self.key = dense(features, kv_heads * head_features, std)
        self.value = dense(features, kv_heads * head_features, std)
        self.out = dense(heads * head_features, features, out_std)
        self.head_features = head_features
        self.causal = causal
        self.rotary = rotary
        self.implementation = implementation

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Mix positions.

        Args:
            x: float[B, T, D].
            mask: bool[B, T], true where a position may be looked at; None is everywhere.

        Returns:
            float[B, T, D].
        """
        rows, length, _ = x.shape

        def heads(y: jax.Array) -> jax.Array:
            return y.reshape(rows, length, -1, self.head_features)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        if self.rotary is not None:
            positions = jnp.arange(length)
            query = rotate(query, self.rotary, positions)
            key = rotate(key, self.rotary, positions)
        mixed = jax.nn.dot_product_attention(
            query,
            key,
            value,
            mask=None if mask is None else mask[:, None, None, :],
            is_causal=self.causal,
            implementation=self.implementation,
        )
        return self.out(mixed.reshape(rows, length, -1))


class FeedForward(nnx.Module):
    """Two dense layers around an activation; gated, a third one beside the first.

    Plain: ``down(act(up(x)))``. Gated (Shazeer 2020; with "silu" it is SwiGLU):
    ``down(act(gate(x)) · up(x))``.

    Args:
        features: D.
        hidden_features: F.
        activation_name: a name out of ``activations.ACTIVATIONS``.
        gated: whether there is a ``gate``.
        use_bias: whether the dense layers have biases.
        std: standard deviation of the initial kernels.
        out_std: the same for ``down``, which writes to the residual stream.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        features: int,
        hidden_features: int,
        *,
        activation_name: str,
        gated: bool = False,
        use_bias: bool = True,
        std: float = 0.02,
        out_std: float = 0.02,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        dense = _dense(use_bias=use_bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.gate = dense(features, hidden_features, std) if gated else None
        self.up = dense(features, hidden_features, std)
        self.down = dense(hidden_features, features, out_std)
        self.activation_name = activation_name

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map float[B, T, D] → float[B, T, D], each position independently."""
        act = activation(self.activation_name)
        if self.gate is None:
            return self.down(act(self.up(x)))
        return self.down(act(self.gate(x)) * self.up(x))


def _dense(**options: Any) -> Callable[[int, int, float], nnx.Linear]:
    """A maker of dense layers: (inputs, outputs, standard deviation of the kernel) → layer."""
    return lambda inputs, outputs, std: nnx.Linear(
        inputs, outputs, kernel_init=nnx.initializers.normal(std), **options
    )
