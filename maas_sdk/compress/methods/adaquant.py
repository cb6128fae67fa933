"""AdaQuant: step sizes and weights of one layer, learned so that its rounded output is right.

The rule it keeps: the result is, for every output channel, at least as good on the given rows as
the starting codes.

    minimise over s, V   ‖W X − Q_s(W + V) Q(X)‖²     (Hubara et al. 2020, equation 2, section 3.1)
    Q_s(u) = s · clip(round(u / s), −Q, Q)

The gradient passes the rounding as if it were not there, and stops where it clips (Bengio, Léonard
and Courville 2013); through the division by s it then is that of learned step sizes (Esser et al.
2020, LSQ, equation 3). V may change a weight by more than a step, unlike in AdaRound. s and V are
measured in units of the steps they start from, so one learning rate serves every layer.

Rows count only through sums of squares, so more rows than there are numbers in one are turned into
as many as that, by an orthogonal transformation (QR) that keeps the objective as it is.

Dimension letters: O output channels, I inputs, g inputs of a group, n rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maas_sdk.compress.methods.grids import Codes, check_bits, symmetric
from maas_sdk.compress.methods.tiles import Granularity, check_matrix, shared_shape
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

__all__ = ["adaquant"]

# Output channels are learned so many weights at a time; each weight takes some ten numbers.
_WEIGHTS: Final = 2**19

# How much slower than weights the logarithm of a step moves: a step moves all weights of a group.
_STEP_RATE: Final = 0.1

# The smallest normal float32, which is no channel's error but one of zeros.
_LEAST_ERROR: Final = 2.0**-126


def adaquant(
    w: Any,
    x: Any,
    *,
    bits: int,
    granularity: Granularity = "channel",
    received: Any = None,
    start: Codes | None = None,
    steps: int = 200,
    learning_rate: float = 0.02,
) -> Codes:
    """Learn codes and scales that keep a layer's output on calibration rows.

    Args:
        w: float [O, I], finite.
        x: float [n, I], inputs of the layer in the float model.
        bits: 2, 3, 4 or 8.
        granularity: who shares a scale: "channel" or g neighbouring inputs.
        received: float [n, I], Q(X): the same rows as the quantized layer will get them, after what
            was quantized before it and after rounding of its own input. None takes ``x``.
        start: codes and scales to begin with, such as of GPTQ. None takes ``grids.symmetric`` with
            clip "mse".
        steps: of Adam, with a rate that falls in half a cosine.
        learning_rate: of V, in units of the step sizes at the start.

    Returns:
        Codes int8 [O, I] and scale [O, 1] or [O, I/g], the best of all steps and the start, for
        each output channel.

    Raises:
        ConfigError: bits, granularity, steps or a learning rate that there are not.
        InputError: not a matrix of finite floats; rows of another shape or not finite; a start of
            other codes.
    """
    w = check_matrix(w)
    top = check_bits(bits)
    shared = shared_shape(w.shape, granularity)
    if granularity == "tensor":
        raise ConfigError(
            "granularity: AdaQuant solves each channel by itself, so 'tensor' has no meaning here; "
            "expected 'channel' or a number of inputs",
            granularity=granularity,
        )
    if steps < 1 or learning_rate <= 0:
        raise ConfigError(
            f"adaquant: expected 1 or more steps and a learning rate over 0, got {steps} and "
            f"{learning_rate}"
        )
    rows, got = _reduced(*_check_rows(w.shape[1], x, received))
    if start is None:
        start = symmetric(w, bits=bits, granularity=granularity, clip="mse")
    if start.codes.shape != w.shape or start.scale.shape != shared:
        raise InputError(
            f"start: expected codes {list(w.shape)} with scales {list(shared)}, got "
            f"{list(start.codes.shape)} with {list(start.scale.shape)}; quantize with the same "
            "granularity"
        )
    if start.codes.dtype != np.int8 or np.abs(start.codes.astype(np.int16)).max() > top:
        raise InputError(
            f"start: expected int8 codes from {-top} to {top}, those of {bits} bits; quantize "
            "with the same bits",
            bits=bits,
        )
    codes, scale = np.empty(w.shape, np.int8), np.empty(shared, np.float32)
    # All blocks have one shape, so that one is compiled: the last one begins earlier if need be.
    step = min(max(1, _WEIGHTS // w.shape[1]), len(w))
    for begin in range(0, len(w), step):
        part = slice(min(begin, len(w) - step), min(begin, len(w) - step) + step)
        found = _learn(
            np.asarray(w[part], np.float32),
            rows,
            got,
            start.codes[part],
            start.scale[part],
            learning_rate,
            top=top,
            steps=steps,
        )
        codes[part], scale[part] = (np.asarray(value) for value in found)
    return Codes(codes=codes, scale=scale)


def _check_rows(inputs: int, x: Any, received: Any) -> tuple[Array, Array]:
    """Return rows in float and as received, float32 [n, I] each."""
    rows: Array = np.asarray(x)
    got: Array = rows if received is None else np.asarray(received)
    for name, array in (("x", rows), ("received", got)):
        if array.ndim != 2 or array.shape[1] != inputs or len(array) == 0:
            raise InputError(
                f"{name}: expected rows [n, {inputs}] for weights of {inputs} inputs, got "
                f"{list(array.shape)}",
                found=array.shape,
            )
        if not np.isfinite(array).all():
            wrong = int(np.argwhere(~np.isfinite(array))[0, 0])
            raise InputError(f"{name}: row {wrong} is not finite; look for a broken one", row=wrong)
    if len(got) != len(rows):
        raise InputError(
            f"received: expected the {len(rows)} rows of x as the quantized layer gets them, got "
            f"{len(got)}"
        )
    return rows.astype(np.float32, copy=False), got.astype(np.float32, copy=False)


def _reduced(rows: Array, got: Array) -> tuple[Array, Array]:
    """Reduce to at most as many rows as columns, with the same sums of squares."""
    same = got is rows
    both = rows if same else np.concatenate([rows, got], axis=1)
    if len(both) <= both.shape[1]:
        return rows, got
    triangle: Any = np.linalg.qr(both.astype(np.float64), mode="r")
    both = triangle.astype(np.float32)
    return (both, both) if same else (both[:, : rows.shape[1]], both[:, rows.shape[1] :])


@partial(jax.jit, static_argnames=("top", "steps"))
def _learn(
    w: jax.Array,
    rows: jax.Array,
    got: jax.Array,
    codes: jax.Array,
    scale: jax.Array,
    learning_rate: float,
    *,
    top: int,
    steps: int,
) -> tuple[jax.Array, jax.Array]:
    """Learn codes [O, I] and scales [O, I/g] of some output channels."""
    target = rows @ w.T
    folded = w.reshape(*scale.shape, -1) / scale[..., None]

    def output_errors(q: jax.Array, s: jax.Array) -> jax.Array:
        return jnp.sum((got @ (q * s[..., None]).reshape(w.shape).T - target) ** 2, axis=0)

    started = codes.reshape(folded.shape).astype(jnp.float32)
    first = output_errors(started, scale)
    # Channels weigh alike. One without an error, as of zeros, has nothing to learn.
    weight = jnp.where(first > 0, 1 / jnp.maximum(first, _LEAST_ERROR), 0)

    def loss(parameters: dict[str, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        growth = jnp.exp(_STEP_RATE * parameters["step"])
        exact = jnp.clip((folded + parameters["weights"]) / growth[..., None], -top, top)
        q = exact + jax.lax.stop_gradient(jnp.round(exact) - exact)
        found = output_errors(q, scale * growth)
        return jnp.sum(weight * found), (found, jnp.round(exact), scale * growth)

    falling = optax.cosine_decay_schedule(1.0, steps)
    optimizer = optax.adam(lambda count: learning_rate * falling(count))

    def update(carry: Any, _: None) -> tuple[Any, None]:
        parameters, state, least, best, best_scale = carry
        (_, (found, q, s)), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
        changes, state = optimizer.update(gradient, state)
        better = found < least
        best = jnp.where(better[:, None], q.reshape(w.shape).astype(jnp.int8), best)
        best_scale = jnp.where(better[:, None], s, best_scale)
        least = jnp.minimum(found, least)
        return (optax.apply_updates(parameters, changes), state, least, best, best_scale), None

    # Zero where the start rounds to the nearest, what leads to its code elsewhere.
    moved = jnp.where(jnp.clip(jnp.round(folded), -top, top) == started, 0, started - folded)
    parameters = {"weights": moved, "step": jnp.zeros_like(scale)}
    carry = parameters, optimizer.init(parameters), first, codes, scale
    (_, _, _, best, best_scale), _ = jax.lax.scan(update, carry, None, length=steps)
    return best, best_scale
