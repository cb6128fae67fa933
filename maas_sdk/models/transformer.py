"""One transformer: a causal language model (GPT-2, Llama) or a bidirectional encoder (BERT).

The families differ by configuration alone: positions learned or rotary, LayerNorm or RMSNorm, norms
before or after what a block adds, plain or gated feed-forward layers, shared heads of keys and
values, biases. ``Decoder`` and ``Encoder`` add the heads that they end in.

Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama 2); Grattafiori et al. 2024 (Llama 3);
Devlin et al. 2019 (BERT).

Dimension letters: B rows of a batch, T positions, D features, V tokens of the vocabulary, L layers,
N heads, K heads of keys and values, H features of a head, F features in the feed-forward layers,
C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.errors import InputError
from maas_sdk.models.activations import activation
from maas_sdk.models.attention import Attention, FeedForward
from maas_sdk.models.embedding import Embedding, head
from maas_sdk.models.norms import norm
from maas_sdk.models.stack import make_layers, run_layers
from maas_sdk.models.transformer_config import DecoderConfig, EncoderConfig, TransformerConfig

__all__ = ["Decoder", "Encoder", "TransformerBlock"]


class TransformerBlock(nnx.Module):
    """One layer: attention, then the feed-forward layers, each with a residual connection.

    Args:
        config: the transformer's.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        given: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        # GPT-2 (section 2.3): what is added to the residual stream starts smaller the more layers
        # add to it, two each. Post-norm has no such stream: each sum is normed at once.
        shrunk = (2 * config.layers) ** 0.5 if config.pre_norm else 1.0
        dense: Any = {
            "use_bias": config.use_bias,
            "std": config.init_std,
            "out_std": config.init_std / shrunk,
            **given,
        }

        def attention() -> Attention:
            return Attention(
                config.features,
                heads=config.heads,
                kv_heads=config.kv_heads,
                head_features=config.head_features,
                causal=config.causal,
                rotary=config.rotary,
                implementation=config.attention,
                **dense,
            )

        def feed_forward() -> FeedForward:
            return FeedForward(
                config.features,
                config.hidden_features,
                activation_name=config.activation,
                gated=config.gated,
                **dense,
            )

        def with_norm(make: Callable[[], Any]) -> tuple[Any, Any]:
            # In the order of the data. Norms draw from the source of parameters as well, so another
            # order would give other parameters for the same seed.
            if config.pre_norm:
                return _norm(config, given), make()
            made = make()
            return _norm(config, given), made

        self.attention_norm, self.attention = with_norm(attention)
        self.mlp_norm, self.mlp = with_norm(feed_forward)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs) if config.dropout else None
        self.pre_norm = config.pre_norm

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Map float[B, T, D] → float[B, T, D]; ``mask`` bool[B, T] is true where a token is."""
        if self.pre_norm:
            x = x + self._dropped(self.attention(self.attention_norm(x), mask=mask))
            return x + self._dropped(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self._dropped(self.attention(x, mask=mask)))
        y: jax.Array = self.mlp_norm(x + self._dropped(self.mlp(x)))
        return y

    def _dropped(self, x: jax.Array) -> jax.Array:
        return x if self.dropout is None else self.dropout(x)


class _Transformer(nnx.Module):
    """Embeddings and layers, up to the features that a head takes."""

    config: TransformerConfig

    def __init__(
        self,
        config: TransformerConfig,
        given: Any,
        *,
        types: int = 0,
    ) -> None:
        """Make the modules; ``given`` are dtypes and ``rngs`` as every one of them takes them."""

        def table(count: int) -> Embedding:
            return Embedding(count, config.features, std=config.init_std, **given)

        self.embed = table(config.vocab_size)
        self.position_embed = table(config.max_length) if config.rotary is None else None
        self.type_embed = table(types) if types else None
        self.embed_norm = None if config.pre_norm else _norm(config, given)
        rngs = given["rngs"]
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs) if config.dropout else None
        self.layers = make_layers(
            lambda rngs: TransformerBlock(config, **{**given, "rngs": rngs}),
            count=config.layers,
            scan=config.scan_layers,
            rngs=rngs,
        )
        # The sum that pre-norm blocks hand on has not been normed itself.
        self.norm = _norm(config, given) if config.pre_norm else None
        self.config = config

    def _features(
        self, tokens: jax.Array, *, types: jax.Array | None = None, mask: jax.Array | None = None
    ) -> jax.Array:
        """Map integer[B, T] → float[B, T, D]."""
        self._check(tokens)
        x = self.embed(tokens)
        if self.position_embed is not None:
            x = x + self.position_embed(jnp.arange(tokens.shape[1]))
        if self.type_embed is not None:
            x = x + self.type_embed(jnp.zeros_like(tokens) if types is None else types)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        if self.dropout is not None:
            x = self.dropout(x)
        if isinstance(self.layers, nnx.List | TransformerBlock):
            remat = self.config.remat
            x = run_layers(self.layers, x, lambda block, x: block(x, mask=mask), remat=remat)
        else:
            # Put in place of the blocks to run them otherwise: in pipeline stages.
            if mask is not None:
                raise InputError("mask: layers that were put in place of the blocks take none")
            x = self.layers(x)
        return x if self.norm is None else self.norm(x)

    def _check(self, tokens: jax.Array) -> None:
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise InputError(
                f"tokens: expected integers of shape [B, T], got {tokens.dtype}{list(tokens.shape)}"
            )
        length, most = tokens.shape[1], self.config.max_length
        if length > most:
            raise InputError(
                f"tokens: expected at most {most} positions (max_length), got {length}"
            )


class Decoder(_Transformer):
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

    config: DecoderConfig

    def __init__(
        self,
        config: DecoderConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        given: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(config, given)
        sizes = (config.features, config.vocab_size)
        self.head = (
            None if config.tied else head(*sizes, use_bias=False, std=config.init_std, **given)
        )

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
        return self._features(jnp.asarray(tokens))


class Encoder(_Transformer):
    """A bidirectional encoder with the head that ``config.task`` names.

    Args:
        config: its shape.
        dtype: dtype to compute in; None follows the parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters; one seed gives the same parameters everywhere, with
            ``scan_layers`` and without.
    """

    config: EncoderConfig

    def __init__(
        self,
        config: EncoderConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        given: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(config, given, types=config.types)

        def dense() -> nnx.Linear:
            init = nnx.initializers.normal(config.init_std)
            return nnx.Linear(config.features, config.features, kernel_init=init, **given)

        if config.task == "classify":
            self.pooler = dense()
            self.head = head(config.features, config.classes, std=config.init_std, **given)
        else:
            self.transform = dense()
            self.transform_norm = _norm(config, given)
            self.head_bias = nnx.Param(jnp.zeros((config.vocab_size,), param_dtype))

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
            float32[B, C] for task "classify", float32[B, T, V] for "fill".

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
        if mask is None and self.config.pad_token is not None:
            mask = tokens != self.config.pad_token
        if mask is not None:
            mask = jnp.asarray(mask).astype(bool)
        return self._features(tokens, types=types, mask=mask)


def _norm(config: TransformerConfig, given: Any) -> Any:
    return norm(config.norm, config.features, epsilon=config.norm_epsilon, **given)
