"""A transformer encoder of BERT's shape: tokens in, classes or the masked tokens out.

The rule it keeps: the order is BERT's, post-norm: ``norm(x + attention(x))``, then
``norm(x + mlp(x))``; padding is never looked at.

Devlin et al. 2019.

Dimension letters: B rows of a batch, T positions, D features, V tokens of the vocabulary, K
classes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.errors import InputError
from maas_sdk.models.activations import activation
from maas_sdk.models.attention import Attention, FeedForward
from maas_sdk.models.embedding import Embedding, head
from maas_sdk.models.encoder_config import EncoderConfig
from maas_sdk.models.norms import norm
from maas_sdk.models.stack import make_layers, run_layers

__all__ = ["Encoder", "EncoderBlock", "EncoderConfig"]


class EncoderBlock(nnx.Module):
    """One layer: attention and feed-forward layers, each with residual connection and norm.

    Args:
        config: the encoder's.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        given: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        std: Any = {"std": config.init_std, "out_std": config.init_std}
        self.attention = Attention(
            config.features,
            heads=config.heads,
            kv_heads=config.heads,
            head_features=config.features // config.heads,
            causal=False,
            implementation=config.attention,
            **std,
            **given,
        )
        self.attention_norm = norm("layer", config.features, epsilon=config.norm_epsilon, **given)
        self.mlp = FeedForward(
            config.features,
            config.hidden_features,
            activation_name=config.activation,
            **std,
            **given,
        )
        self.mlp_norm = norm("layer", config.features, epsilon=config.norm_epsilon, **given)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs) if config.dropout else None

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """float[B, T, D] → float[B, T, D]; ``mask`` bool[B, T] is true where there is a token."""
        x = self.attention_norm(x + self._dropped(self.attention(x, mask=mask)))
        y: jax.Array = self.mlp_norm(x + self._dropped(self.mlp(x)))
        return y

    def _dropped(self, x: jax.Array) -> jax.Array:
        return x if self.dropout is None else self.dropout(x)


class Encoder(nnx.Module):
    """A bidirectional encoder with the head that ``config.task`` names.

    Args:
        config: its shape.
        dtype: dtype to compute in; None follows the parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters; one seed gives the same parameters everywhere, with
            ``scan_layers`` and without.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        given: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}

        def table(count: int) -> Embedding:
            return Embedding(count, config.features, std=config.init_std, **given)

        def dense() -> nnx.Linear:
            init = nnx.initializers.normal(config.init_std)
            return nnx.Linear(config.features, config.features, kernel_init=init, **given)

        def layer_norm() -> Any:
            return norm("layer", config.features, epsilon=config.norm_epsilon, **given)

        self.embed = table(config.vocab_size)
        self.position_embed = table(config.max_length)
        self.type_embed = table(config.types) if config.types else None
        self.embed_norm = layer_norm()
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs) if config.dropout else None
        self.layers = make_layers(
            lambda rngs: EncoderBlock(config, dtype=dtype, param_dtype=param_dtype, rngs=rngs),
            count=config.layers,
            scan=config.scan_layers,
            rngs=rngs,
        )
        if config.task == "classify":
            self.pooler = dense()
            self.head = head(config.features, config.classes, std=config.init_std, **given)
        else:
            self.transform = dense()
            self.transform_norm = layer_norm()
            self.head_bias = nnx.Param(jnp.zeros((config.vocab_size,), param_dtype))
        self.config = config

    def __call__(
        self,
        tokens: jax.Array,
        *,
        types: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Return logits of the row's class, or of each position's token.

        Args:
            tokens: integer[B, T], each in 0 … V-1 (others give NaN), T at most
                ``config.max_length``. For "classify" the first one stands for the row ([CLS]).
            types: integer[B, T], which of two texts a token is from; None is 0.
            mask: bool (or 0 and 1) [B, T], true where there is a token; None is where
                ``config.pad_token`` is not, or everywhere without one.

        Returns:
            float32[B, K] for task "classify", float32[B, T, V] for "fill".

        Raises:
            InputError: another rank or dtype, or too many positions.
        """
        x = self.hidden(tokens, types=types, mask=mask)
        if self.config.task == "classify":
            pooled = jnp.tanh(self.pooler(x[:, 0]))
            if self.dropout is not None:
                pooled = self.dropout(pooled)
            logits: jax.Array = self.head(pooled)
            return logits
        x = self.transform_norm(activation(self.config.activation)(self.transform(x)))
        return self.embed.logits(x) + self.head_bias[...].astype(jnp.float32)

    def hidden(
        self,
        tokens: jax.Array,
        *,
        types: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Return the heads' input: integer[B, T] → float[B, T, D]; see ``__call__``."""
        tokens = jnp.asarray(tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise InputError(
                f"tokens: expected integers of shape [B, T], got {tokens.dtype}{list(tokens.shape)}"
            )
        length, most = tokens.shape[1], self.config.max_length
        if length > most:
            raise InputError(
                f"tokens: expected at most {most} positions (max_length), got {length}"
            )
        if mask is None and self.config.pad_token is not None:
            mask = tokens != self.config.pad_token
        if mask is not None:
            mask = jnp.asarray(mask).astype(bool)
        x = self.embed(tokens) + self.position_embed(jnp.arange(length))
        if self.type_embed is not None:
            x = x + self.type_embed(jnp.zeros_like(tokens) if types is None else types)
        x = self.embed_norm(x)
        if self.dropout is not None:
            x = self.dropout(x)
        return run_layers(
            self.layers, x, lambda block, x: block(x, mask=mask), remat=self.config.remat
        )
