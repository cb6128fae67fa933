"""Embedding tables: tokens → vectors, and vectors → logits.

The rule it keeps: logits are float32 sums of products, whatever the operands are; the gradient that
flows back through them is rounded to the operands' dtype first, so that the three largest products
of a language model all run at that dtype's speed.

Dimension letters: B rows of a batch, T positions, D features, V tokens of a vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

__all__ = ["Embedding", "dot_general_float32", "head"]


class Embedding(nnx.Embed):
    """A table float[V, D]: tokens in, vectors out.

    Args:
        count: V.
        features: D.
        std: standard deviation of the initial values.
        dtype: dtype of the vectors; None is that of the table. (``nnx.Embed`` remembers the dtype
            the table was made in, and would turn a policy's bfloat16 copy into float32 again.)
        param_dtype: dtype of the table.
        rngs: source of the initial values.
    """

    def __init__(
        self,
        count: int,
        features: int,
        *,
        std: float = 0.02,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            count,
            features,
            dtype=dtype,
            param_dtype=param_dtype,
            embedding_init=nnx.initializers.normal(std),
            rngs=rngs,
        )
        self.dtype = dtype

    def logits(self, x: jax.Array) -> jax.Array:
        """The table as a tied head: float[B, T, D] → float32[B, T, V]."""
        x, table = nnx.nn.dtypes.promote_dtype((x, self.embedding[...]), dtype=self.dtype)
        return dot_general_float32(x, table, (((x.ndim - 1,), (1,)), ((), ())))


def head(
    inputs: int,
    outputs: int,
    *,
    use_bias: bool = True,
    std: float | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Return a dense layer with float32 logits: float[…, inputs] → float32[…, outputs].

    Args:
        inputs: features that come in.
        outputs: logits that go out.
        use_bias: whether there is a bias.
        std: standard deviation of the initial kernel; None is nnx's own initializer.
        dtype: dtype of the operands; None follows inputs and kernel.
        param_dtype: dtype of the parameters.
        rngs: source of the initial values.
    """
    given: dict[str, Any] = {} if std is None else {"kernel_init": nnx.initializers.normal(std)}
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=use_bias,
        dtype=dtype,
        param_dtype=param_dtype,
        dot_general=dot_general_float32,
        rngs=rngs,
        **given,
    )


def dot_general_float32(
    lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, **options: Any
) -> jax.Array:
    """Compute ``dot_general`` with a float32 result, gradients in the operands' dtypes."""
    return _dot_float32((dimension_numbers, tuple(sorted(options.items()))), lhs, rhs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dot_float32(how: Any, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    dimension_numbers, options = how
    return jax.lax.dot_general(
        lhs, rhs, dimension_numbers, **{**dict(options), "preferred_element_type": jnp.float32}
    )


def _forward(how: Any, lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, Any]:
    return _dot_float32(how, lhs, rhs), (lhs, rhs)


def _backward(how: Any, operands: Any, cotangent: jax.Array) -> Any:
    dimension_numbers, options = how

    def product(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return jax.lax.dot_general(lhs, rhs, dimension_numbers, **dict(options))

    # Of two operands with one dtype the product has that dtype, and so has its cotangent.
    out, pull_back = jax.vjp(product, *operands)
    return pull_back(cotangent.astype(out.dtype))


_dot_float32.defvjp(_forward, _backward)
