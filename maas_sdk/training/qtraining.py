"""Training with products in int8 or fp8, through qwix.

The rule it keeps: only products with weights are quantized, and only while they are computed.
Weights stay the policy's masters, norms, softmax and loss stay float32, and a model that was
trained this way is a plain module with float weights. Each product's operands are scaled by their
largest absolute value, a weight per output channel and an activation per row, and rounded:

    x · w ≈ scale_x · (q_x · q_w) · scale_w,   q = round(value / scale)   ("absmax")

and gradients go straight through the rounding (Bengio et al. 2013), as if it were not there. With
``int8`` and ``fp8`` the backward products take the unrounded operands in the compute dtype; with
``int8_full`` and ``fp8_full`` they are quantized too.

What a model evaluates to while it is trained is in the same numerics as its training. To serve it
so, quantize the trained model with ``compress.quantize``; its scales are found in the same way.

qwix works by swapping JAX functions for the time of a call, in the whole process: the model is
called, and so traced, from one thread at a time. What is compiled holds no qwix.

Where XLA has no fp8 arithmetic (CPUs, GPUs before Ada), it computes with the rounded values in
float32 or float16: the numbers are those of fp8, the time is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
import qwix
from flax import nnx

from maas_sdk.errors import ConfigError
from maas_sdk.training.precision import Policy, keep_compute_dtype

__all__ = ["RULES", "prepare", "quantize_calls"]

Module = TypeVar("Module", bound=nnx.Module)

# What dense layers and convolutions call. Attention multiplies activations with each other, by
# einsum: those products feed or follow a softmax and stay in the compute dtype.
_DENSE: Final = ("dot_general", "ragged_dot")
_CONV: Final = ("conv_general_dilated",)


def _rule(operations: Sequence[str], dtype: Any, backward: Any = None) -> qwix.QtRule:
    return qwix.QtRule(op_names=operations, weight_qtype=dtype, act_qtype=dtype, bwd_qtype=backward)


# Rules by the names of ``precision.QUANTIZED``; the first that names an operation decides.
RULES: Final[Mapping[str, tuple[qwix.QtRule, ...]]] = {
    "int8": (_rule((*_DENSE, *_CONV), jnp.int8),),
    "int8_full": (_rule((*_DENSE, *_CONV), jnp.int8, jnp.int8),),
    "fp8": (_rule((*_DENSE, *_CONV), jnp.float8_e4m3fn),),
    # Gradients need e5m2's range (Micikevicius et al. 2022, section 3). A convolution must have
    # both operands of one dtype, so there they stay in the compute dtype.
    "fp8_full": (
        _rule(_DENSE, jnp.float8_e4m3fn, jnp.float8_e5m2),
        _rule(_CONV, jnp.float8_e4m3fn),
    ),
}

# jnp.matmul and its like keep what they were traced to, by shapes alone: without a context of its
# own a quantized call would be answered with a plain product that was traced before, and a plain
# one with a quantized. The value is part of every key under which jax keeps a trace.
_numerics: Any = jax.make_user_context(None)  # type: ignore[no-untyped-call]


def prepare(model: Module, policy: Policy) -> Module:
    """Return a copy of ``model`` whose calls are computed as ``policy`` says.

    It has variables of its own over the same arrays, and a state of the same structure, so weights
    trained with the one fit the other. Casting to the policy's dtypes is left to the caller.

    Raises:
        ConfigError: a name that is not in ``RULES``.
    """
    prepared = keep_compute_dtype(model) if policy.compute != "float32" else model
    return prepared if policy.quantized is None else quantize_calls(prepared, policy.quantized)


def quantize_calls(model: Module, name: str, *, paths: str = ".*") -> Module:
    """Return a copy of ``model`` whose ``__call__`` computes products with weights in ``name``.

    Args:
        model: of any kind; only ``__call__`` of it is changed, and what that calls.
        name: out of ``RULES``.
        paths: regular expression for whole paths of the layers that are quantized, such as
            ``"blocks/.*"``. It decides for layers of ``flax.nnx``; products that a model writes
            itself with ``@`` or ``jnp.dot`` share what jax keeps of them where shapes are equal.

    Raises:
        ConfigError: no such name, or ``paths`` is no regular expression.
    """
    if name not in RULES:
        raise ConfigError(
            f"quantized training: unknown format {name!r}; known are {', '.join(sorted(RULES))}",
            dtype=name,
        )
    rules = [_at(rule, paths) for rule in RULES[name]]
    provider = _Provider(rules)
    # Skipping the first call: it is for numerics with statistics to initialize, which none of
    # these has, and it would move random streams and batch statistics.
    quantized: Any = qwix.quantize_model(model, provider, skip_nnx_init=True)
    intercepted = type(quantized)

    class InContext(intercepted):  # type: ignore[misc, valid-type]
        def __call__(self, *inputs: Any, **options: Any) -> Any:
            with _numerics((name, paths)):
                return super().__call__(*inputs, **options)

    InContext.__name__ = InContext.__qualname__ = type(model).__name__
    quantized.__class__ = InContext
    called: Module = quantized
    return called


def _at(rule: qwix.QtRule, paths: str) -> qwix.QtRule:
    try:
        re.compile(paths)
    except re.error as error:
        raise ConfigError(f"quantized training: paths {paths!r}: {error}") from error
    return replace(rule, module_path=paths)


class _Provider(qwix.QtProvider):  # type: ignore[misc]
    """Provider for qwix, which tells weights from activations by their shapes.

    Here both operands are quantized alike, so it is told that neither is a weight.
    """

    def _create_dot_general_qt_config(self, rule: Any, op_id: str, lhs: Any, rhs: Any) -> Any:
        neither = jax.ShapeDtypeStruct((0,), jnp.float32)  # type: ignore[no-untyped-call]
        return super()._create_dot_general_qt_config(rule, op_id, neither, neither)
