"""A causal language model of GPT-2's and of Llama's shape: tokens in, logits of the next ones out.

The rule it keeps: one module, and what tells the families apart is configuration (positions learned
or rotary, LayerNorm or RMSNorm, plain or gated feed-forward layers, shared heads of keys and
values, biases, tied heads). All are pre-norm: ``x + attention(norm(x))``, then
``x + mlp(norm(x))``.

Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama 2); Grattafiori et al. 2024 (Llama 3).

Dimension letters: B rows of a batch, T positions, D features, V tokens of the vocabulary, L layers,
N heads, K heads of keys and values, H features of a head, F features in the feed-forward layers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.errors import InputError
from maas_sdk.models.attention import Attention, FeedForward
from maas_sdk.models.decoder_config import DecoderConfig
from maas_sdk.models.embedding import Embedding, head
from maas_sdk.models.norms import norm
from maas_sdk.models.stack import make_layers, run_layers

__all__ = ["Decoder", "DecoderBlock", "DecoderConfig"]


class DecoderBlock(nnx.Module):
    """One layer: attention, then the feed-forward layers, each with a residual connection.

    Args:
        config: the decoder's.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        # GPT-2 (section 2.3): what is added to the residual stream starts smaller the more layers
        # add to it, two each.
        out_std = config.init_std / (2 * config.layers) ** 0.5
        given: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        dense = {"use_bias": config.use_bias, "std": config.init_std, "out_std": out_std, **given}
        self.attention_norm = norm(
            config.norm, config.features, epsilon=config.norm_epsilon, **given
        )
        self.attention = Attention(
            config.features,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_features=config.head_features,
            causal=True,
            rotary=config.rotary,
            implementation=config.attention,
            **dense,
        )
        self.mlp_norm = norm(config.norm, config.features, epsilon=config.norm_epsilon, **given)
        self.mlp = FeedForward(
            config.features,
            config.hidden_features,
            activation_name=config.activation,
            gated=config.gated,
            **dense,
        )
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs) if config.dropout else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """float[B, T, D] → float[B, T, D]."""
        x = x + self._dropped(self.attention(self.attention_norm(x)))
        return x + self._dropped(self.mlp(self.mlp_norm(x)))

    def _dropped(self, x: jax.Array) -> jax.Array:
        return x if self.dropout is None else self.dropout(x)


class Decoder(nnx.Module):
    """A causal language model.

    ``layers`` may be replaced by any module that takes float[B, T, D] through all of them, such as
    ``sharding.pipeline.Pipelined(decoder.layers, …)`` over scanned ones.

    Args:
        config: its shape.
        dtype: dtype to compute in; None follows the parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters; one seed gives the same parameters everywhere, with
            ``scan_layers`` and without.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        given: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.embed = Embedding(config.vocab_size, config.features, std=config.init_std, **given)
        self.position_embed = (
            Embedding(config.max_length, config.features, std=config.init_std, **given)
            if config.rotary is None
            else None
        )
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs) if config.dropout else None
        self.layers = make_layers(
            lambda rngs: DecoderBlock(config, dtype=dtype, param_dtype=param_dtype, rngs=rngs),
            count=config.layers,
            scan=config.scan_layers,
            rngs=rngs,
        )
        self.norm = norm(config.norm, config.features, epsilon=config.norm_epsilon, **given)
        self.head = (
            None
            if config.tied
            else head(
                config.features, config.vocab_size, use_bias=False, std=config.init_std, **given
            )
        )
        self.config = config

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return logits of the token that follows each position.

        Args:
            tokens: integer[B, T], each in 0 … V-1 (others give NaN), T at most
                ``config.max_length``.

        Returns:
            float32[B, T, V].

        Raises:
            InputError: another rank or dtype, or too many positions.
        """
        x = self.hidden(tokens)
        return self.embed.logits(x) if self.head is None else self.head(x)

    def hidden(self, tokens: jax.Array) -> jax.Array:
        """Return the head's input: integer[B, T] → float[B, T, D]; see ``__call__``."""
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
        x = self.embed(tokens)
        if self.position_embed is not None:
            x = x + self.position_embed(jnp.arange(length))
        if self.dropout is not None:
            x = self.dropout(x)
        if isinstance(self.layers, nnx.List | DecoderBlock):
            x = run_layers(self.layers, x, lambda block, x: block(x), remat=self.config.remat)
        else:
            # Put in place of the blocks by someone who runs them otherwise: in pipeline stages.
            x = self.layers(x)
        hidden: jax.Array = self.norm(x)
        return hidden
