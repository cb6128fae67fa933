from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maas_sdk.compress.methods import adaquant as module
from maas_sdk.compress.methods.adaquant import adaquant
from maas_sdk.compress.methods.gptq import gptq
from maas_sdk.compress.methods.grids import Codes, symmetric
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array


def layer(outputs: int = 24, inputs: int = 32, rows: int = 200) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    mixing = np.eye(inputs) + random.standard_normal((inputs, inputs)) * 0.9 / inputs**0.5
    x = random.standard_normal((rows, inputs)) @ mixing
    return random.standard_normal((outputs, inputs)).astype(np.float32), x.astype(np.float32)


def errors(w: Array, found: Codes, x: Array, received: Array | None = None) -> Array:
    """‖W X − Ŵ Q(X)‖² of every output channel."""
    got = x if received is None else received
    off = x.astype(float) @ w.T.astype(float) - got.astype(float) @ found.decode().T.astype(float)
    return np.asarray((off**2).sum(axis=0))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("granularity", ["channel", 8])
def test_no_channel_becomes_worse_and_the_layer_better(bits: int, granularity: Any) -> None:
    """Than the start, by a tenth at least, in codes and scales of the grid."""
    w, x = layer()
    start = symmetric(w, bits=bits, granularity=granularity, clip="mse")
    found = adaquant(w, x, bits=bits, granularity=granularity)
    assert (errors(w, found, x) <= errors(w, start, x) * (1 + 1e-4)).all()
    assert errors(w, found, x).sum() < 0.9 * errors(w, start, x).sum()
    assert found.codes.dtype == np.int8
    assert np.abs(found.codes).max() <= 2 ** (bits - 1) - 1
    assert found.scale.shape == start.scale.shape
    assert (found.scale > 0).all()


@pytest.mark.parametrize("learning_rate", [1e-9, 100.0])
def test_the_start_is_what_is_left_at_worst(learning_rate: float) -> None:
    """With a rate that goes nowhere or astray, from codes that are not the nearest ones."""
    w, x = layer()
    start = gptq(w, x.T.astype(float) @ x, bits=4)
    found = adaquant(w, x, bits=4, start=start, steps=20, learning_rate=learning_rate)
    assert (errors(w, found, x) <= errors(w, start, x) * (1 + 1e-4)).all()
    same = (found.codes == start.codes).all(axis=1)
    assert same.sum() > len(w) / 2


def test_learning_starts_from_what_it_is_given() -> None:
    """Codes of GPTQ, which are not the nearest ones, are where it goes on."""
    w, x = layer()
    start = gptq(w, x.T.astype(float) @ x, bits=3, clip="mse")
    found = adaquant(w, x, bits=3, start=start)
    assert errors(w, found, x).sum() < 0.98 * errors(w, start, x).sum()


def test_what_the_layer_receives_counts() -> None:
    """Rows that were rounded before are made up for; without them the error is larger."""
    w, x = layer()
    received = symmetric(x, bits=3, granularity="tensor").decode()
    told = adaquant(w, x, bits=4, received=received)
    untold = adaquant(w, x, bits=4)
    assert errors(w, told, x, received).sum() < errors(w, untold, x, received).sum()


def test_many_rows_are_as_few() -> None:
    """What stands for the rows has the same sums of squares, for both kinds of rows together."""
    x = layer(rows=500)[1]
    received = x + np.float32(0.1)
    rows, got = module._reduced(x, received)
    assert rows.shape == got.shape == (64, 32)
    off = np.random.default_rng(0).standard_normal((2, 32))
    expected = np.square(x @ off[0] - received @ off[1]).sum()
    assert np.square(rows @ off[0] - got @ off[1]).sum() == pytest.approx(expected, rel=1e-4)
    rows, got = module._reduced(x, x)
    assert rows.shape == (32, 32)
    assert got is rows
    few = module._reduced(x[:32], x[:32])
    assert few[0].shape == (32, 32)


def test_blocks_of_channels_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix in parts has the codes of the whole, the last part of another size included."""
    w, x = layer(outputs=11)
    whole = adaquant(w, x, bits=4, steps=5)
    monkeypatch.setattr(module, "_WEIGHTS", 4 * 32)
    # What jax gives a jitted function; its published type leaves both methods out.
    learn: Any = module._learn
    learn.clear_cache()
    parts = adaquant(w, x, bits=4, steps=5)
    assert learn._cache_size() == 1
    assert (parts.codes != whole.codes).mean() < 0.01
    np.testing.assert_allclose(parts.scale, whole.scale, rtol=1e-3)


def test_channels_of_zeros_stay() -> None:
    """They have no error to divide by."""
    w, x = layer()
    w[3] = 0
    found = adaquant(w, x, bits=4, steps=5)
    assert not found.codes[3].any()
    assert np.isfinite(found.scale).all()


W, X = layer(4, 8, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits: expected one of 2, 3, 4, 8, got 5"),
        ({"granularity": "tensor"}, "AdaQuant solves each channel by itself"),
        ({"granularity": 3}, "groups of 3 do not divide 8 inputs"),
        ({"steps": 0}, "expected 1 or more steps and a learning rate over 0, got 0 and 0.02"),
        ({"learning_rate": 0}, "got 200 and 0"),
    ],
)
def test_options_that_there_are_not(options: Any, message: str) -> None:
    """The message says which there are."""
    with pytest.raises(ConfigError, match=message):
        adaquant(W, X, **{"bits": 4, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w": W * np.nan}, "weights: expected finite numbers"),
        ({"x": X[:, :3]}, r"x: expected rows \[n, 8\] for weights of 8 inputs, got \[5, 3\]"),
        ({"x": X[:0]}, r"x: expected rows \[n, 8\] .* got \[0, 8\]"),
        ({"x": np.where(np.arange(5) == 3, np.inf, X.T).T}, "x: row 3 is not finite; look for a"),
        ({"received": X[:2]}, "received: expected the 5 rows of x .* got 2"),
        ({"start": symmetric(W, bits=4, granularity=4)}, r"start: expected codes \[4, 8\] with"),
        (
            {"start": symmetric(W, bits=8)},
            "start: expected int8 codes from -7 to 7, those of 4 bit",
        ),
    ],
)
def test_what_is_refused(options: Any, message: str) -> None:
    """Rows of other inputs or not finite, and a start of another grid."""
    with pytest.raises(InputError, match=message):
        adaquant(**{"w": W, "x": X, "bits": 4, **options})
