"""Post-training quantization to int8, through qwix.

The rule it keeps: a quantized model is an nnx module like any other. Where a layer had a float
kernel it has an int8 ``qvalue`` and a float32 ``scale`` per output channel, plain arrays in its
state, so it is exported, sharded and saved by the same code.

    kernel ≈ qvalue · scale,   scale = max|kernel over the channel| / 127.5   (symmetric, "absmax")

Activations are quantized as they come, with one scale per row of the batch, so no row's answer
depends on the other rows. Products of int8 are accumulated in int32 and scaled back to float32.
Int8 has no NaN: a quantized layer makes finite numbers of it, so NaN in a row is answered by
numbers that mean nothing. Where inputs may hold NaN, it is for the caller to look.

qwix works by swapping JAX functions for the time of a call, in the whole process: quantize, trace
and export from one thread only. What is exported is a compiled program, without qwix in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import jax.numpy as jnp
import qwix
from flax import nnx

from maas_sdk.errors import ConfigError

__all__ = ["INT8", "QuantRule", "QuantizedModel", "parameters", "quantize"]

# Dtypes that a rule may name.
_QTYPES: Final = {"int8": jnp.int8}

# The attribute under which qwix keeps a quantized array beside the notes on how it was made.
_WRAPPER: Final = "array"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantRule:
    """Which layers are quantized, and to what. Of several rules the first that matches counts."""

    # Regular expression for the whole path of a module, such as "blocks/0/hidden".
    module_path: str = ".*"
    # Dtype of kernels.
    weights: str = "int8"
    # Dtype of inputs of the layer's product; None keeps them in float, which dense layers allow
    # and convolutions do not (a limit of qwix).
    activations: str | None = "int8"

    def __post_init__(self) -> None:
        for name, value in (("weights", self.weights), ("activations", self.activations)):
            if value is not None and value not in _QTYPES:
                raise ConfigError(
                    f"QuantRule.{name}: {value!r} is not supported; "
                    f"expected one of {', '.join(sorted(_QTYPES))}",
                    dtype=value,
                )


# Weights and activations of every convolution and dense layer.
INT8: Final = (QuantRule(),)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedModel:
    """A quantized model, and which of its layers are."""

    # Called like the model it came from, with the same inputs and outputs.
    model: nnx.Module
    # Paths of the quantized parameters, such as "hidden/kernel", sorted.
    quantized: tuple[str, ...]
    # Paths of the parameters that stayed as they were, biases mostly, sorted.
    kept: tuple[str, ...]

    def __call__(self, *inputs: jax.Array) -> Any:
        """The model's answer."""
        model: Any = self.model
        return model(*inputs)


def quantize(
    model: nnx.Module, example_inputs: Sequence[Any], *, rules: Sequence[QuantRule] = INT8
) -> QuantizedModel:
    """Quantize a trained model, which is left as it was.

    Args:
        model: the model, in eval mode.
        example_inputs: positional arguments for one call. Shapes and dtypes count, values do not:
            weights are quantized by their own range, activations by each row's.
        rules: what to quantize.

    Raises:
        ConfigError: a rule that matches no layer, or that asks of qwix what it cannot do.
    """
    provider = qwix.PtqProvider([_qwix_rule(rule) for rule in rules])
    try:
        quantized = qwix.quantize_model(model, provider, *example_inputs)
    except ValueError as error:
        raise ConfigError(f"the rules cannot be applied to this model: {error}") from error
    unused = provider.get_unused_rules()
    if unused:
        paths = ", ".join(repr(rule.module_path) for rule in unused)
        modules = sorted("/".join(map(str, path)) for path, _ in nnx.iter_modules(model) if path)
        raise ConfigError(
            f"no layer that can be quantized matches the rule for module_path {paths}; "
            f"the model's modules are {', '.join(modules)}"
        )
    before, after = parameters(model), parameters(quantized)
    kept = before.keys() & after.keys()
    return QuantizedModel(
        model=quantized,
        quantized=tuple(sorted(before.keys() - kept)),
        kept=tuple(sorted(kept)),
    )


def parameters(model: nnx.Module) -> dict[str, jax.Array]:
    """The model's parameters by path, such as ``hidden/bias``, in the order of the module.

    A quantized kernel is two of them, ``hidden/kernel/qvalue`` and ``hidden/kernel/scale``.
    """
    return {
        "/".join(str(part) for part in path if part != _WRAPPER): variable.get_value()
        for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }


def _qwix_rule(rule: QuantRule) -> qwix.QuantizationRule:
    return qwix.QuantizationRule(
        module_path=rule.module_path,
        weight_qtype=_QTYPES[rule.weights],
        act_qtype=None if rule.activations is None else _QTYPES[rule.activations],
    )
