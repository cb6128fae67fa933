from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.compress.methods.matrix_view import MatrixView
from maas_sdk.compress.program.fit import folded
from maas_sdk.compress.program.products import Quantized
from maas_sdk.compress.program.quantized_weight import WeightPlan
from maas_sdk.compress.program.traced_model import Site, TracedModel, find_sites
from maas_sdk.compress.program.traced_weight import Known
from maas_sdk.compress.quantize import quantize
from maas_sdk.errors import ExportError
from maas_sdk.model.adapt import adapt

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


IMAGES = normal(2, 5, 5, 3)
ROWS = normal(3, 6)
IDS = np.array([[1, 2, 3]], np.int32)


def sites_of(
    model: Any, rows: np.ndarray, weights: Any = None, *, fold: bool = False
) -> dict[str, Site]:
    program = TracedModel(model=adapt(model, weights))
    return {site.name: site for site in find_sites(program, {"input": rows}, fold=fold)}


class Zoo(nnx.Module):
    """One of each."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(10, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.einsum = nnx.Einsum("btd,df->btf", (8, 12), rngs=rngs)
        self.conv = nnx.Conv(12, 4, (3,), rngs=rngs)
        self.head = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, ids: Any) -> Any:
        return self.head(self.conv(self.einsum(self.attention(self.embed(ids)))))


def test_layers_of_nnx() -> None:
    """Embeddings, attention, einsums, convolutions and dense layers, in the program's order."""
    found = sites_of(Zoo(nnx.Rngs(0)), IDS)
    shapes = {n: (s.kinds, s.layout.channels, s.layout.inputs) for n, s in found.items()}
    assert shapes == {
        "embed/embedding": (("lookup",), 10, 8),
        "attention/query/kernel": (("dense",), 8, 8),
        "attention/key/kernel": (("dense",), 8, 8),
        "attention/value/kernel": (("dense",), 8, 8),
        "attention/out/kernel": (("dense",), 8, 8),
        "einsum/kernel": (("dense",), 12, 8),
        "conv/kernel": (("conv",), 4, 36),
        "head/kernel": (("dense",), 5, 4),
    }
    # [D, heads, head_dim], and [heads, head_dim, D] on the way out.
    assert found["attention/query/kernel"].layout.in_axes == (0,)
    assert found["attention/out/kernel"].layout.in_axes == (0, 1)
    names = [*found]
    assert (names[0], names[-3:]) == (
        "embed/embedding",
        ["einsum/kernel", "conv/kernel", "head/kernel"],
    )
    assert found["head/kernel"].layer == "head"


class LinenZoo(nn.Module):
    """A convolution with its norm, and a dense layer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(4, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(5)(x.reshape(x.shape[0], -1))


def test_layers_of_linen() -> None:
    """Named by their path in the variables."""
    model = LinenZoo()
    found = sites_of(model, IMAGES, model.init(jax.random.key(0), IMAGES))
    assert {name: site.kinds for name, site in found.items()} == {
        "params/Conv_0/kernel": ("conv",),
        "params/Dense_0/kernel": ("dense",),
    }
    assert found["params/Conv_0/kernel"].layout == MatrixView(
        shape=(3, 3, 3, 4), out_axes=(3,), in_axes=(0, 1, 2)
    )


def test_weights_of_a_function() -> None:
    """A pytree of weights, one of them used twice and one in no product."""
    weights = {"a": normal(6, 6), "positions": normal(3, 6), "idle": normal(6, 6)}

    def apply(weights: Any, x: Any) -> Any:
        return jnp.tanh((x + weights["positions"]) @ weights["a"]) @ weights["a"]

    found = sites_of(apply, ROWS, weights)
    assert {name: (site.kinds, site.uses) for name, site in found.items()} == {
        "a": (("dense",), 2),
        "positions": (("table",), 1),
    }


def test_a_stack_of_layers() -> None:
    """Layers that a scan cuts are seen as one weight of so many layers."""
    weights = {"a": normal(4, 6, 6)}

    def apply(weights: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, a: (jnp.tanh(x @ a), None), x, weights["a"])[0]

    (site,) = sites_of(apply, ROWS, weights).values()
    assert site.layout == MatrixView(shape=(6, 6), out_axes=(1,), in_axes=(0,), stack=4)


def test_a_model_that_raises() -> None:
    """Its own words are passed on, with what it was given."""

    def apply(weights: Any, x: Any) -> Any:
        raise ValueError("no such thing")

    with pytest.raises(
        ExportError, match=r"traced with input: float32\[3, 6\]: ValueError: no such thing"
    ):
        sites_of(apply, ROWS, {"a": normal(2, 2)})


# --- folding ---------------------------------------------------------------------------------


class Normed(nnx.Module):
    """A convolution, its norm with statistics of some data, and a dense layer with its own."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 6, rngs=rngs)
        self.last = nnx.BatchNorm(6, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = jax.nn.relu(self.norm(self.conv(x)))
        return self.last(self.head(x.mean(axis=(1, 2))))


def trained(model: Any, rows: np.ndarray) -> Any:
    """Statistics moved by data, scales and biases by chance."""
    for _ in range(5):
        model(rows)
    for norm in (model.norm, model.last):
        norm.scale[...] = jnp.asarray(RNG.uniform(0.5, 2, norm.scale[...].shape), jnp.float32)
        norm.bias[...] = jnp.asarray(RNG.normal(size=norm.bias[...].shape), jnp.float32)
    model.eval()
    return model


def replayed(model: Any, rows: np.ndarray, weights: Any = None) -> np.ndarray:
    """The float model with its norms folded, computed in float32."""
    program = TracedModel(model=adapt(model, weights))
    sites = {site.name: site for site in find_sites(program, {"input": rows}, fold=True)}
    assert any(site.fold for site in sites.values())
    plans, arrays, values = {}, {}, []
    for leaf in program.model.leaves:
        site = sites.get(leaf.name)
        if site is None:
            continue
        arrays[leaf.name] = folded(site, np.asarray(leaf.value))
        if site.fold is not None:
            arrays[f"{leaf.name}/shift"] = site.fold.shift
        plans[leaf.name] = WeightPlan(
            name=leaf.name,
            layout=site.layout,
            dtype="float32",
            encodings={},
            tensors=(leaf.name,),
            roles=() if site.fold is None else ("shift",),
            operations=0 if site.fold is None else site.fold.operations,
        )
    products = Quantized(plans=plans)
    for leaf in program.model.leaves:
        # What was folded is not read: nonsense in its place changes nothing.
        gone = leaf.name.rpartition("/")[2] in ("mean", "var", "scale", "bias")
        values.append(
            products.weight(leaf.name, arrays)
            if leaf.name in plans
            else Known(jnp.full_like(leaf.value, jnp.nan) if gone else leaf.value)
        )
    return np.asarray(program.run(values, {"input": rows}, products))


def test_batch_norms_of_nnx_are_folded() -> None:
    """With real statistics the folded model answers as the model does, within 1e-5."""
    model = trained(Normed(nnx.Rngs(0)), IMAGES)
    expected = np.asarray(model(IMAGES))
    np.testing.assert_allclose(replayed(model, IMAGES), expected, rtol=1e-5, atol=1e-5)
    quantized = quantize(model, "int8w", IMAGES, min_size=1)
    # Neither norm is left among what is stored.
    assert {leaf.name.partition("/")[0] for leaf in quantized.as_model().leaves} == {"conv", "head"}
    assert "2 norms are folded" in quantized.report.notes[0]
    np.testing.assert_allclose(quantized(IMAGES), expected, atol=0.1)
    np.testing.assert_allclose(
        quantized.serving(decode="open")(IMAGES), quantized(IMAGES), rtol=1e-4, atol=1e-4
    )


def test_batch_norms_of_linen_are_folded() -> None:
    """The same for linen, whose statistics lie in a collection of their own."""
    model = LinenZoo()
    variables = model.init(jax.random.key(0), IMAGES)
    stats = {"mean": normal(4), "var": RNG.uniform(0.5, 3, 4).astype(np.float32)}
    params = {**variables["params"], "BatchNorm_0": {"scale": 1 + normal(4), "bias": normal(4)}}
    variables = {"params": params, "batch_stats": {"BatchNorm_0": stats}}
    expected = np.asarray(model.apply(variables, IMAGES))
    quantized = quantize(model, "int8w", IMAGES, weights=variables, min_size=1)
    assert not any("Norm" in leaf.name for leaf in quantized.as_model().leaves)
    found = np.asarray(quantized(IMAGES))
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_folding_can_be_left_out() -> None:
    """Norms stay as they are."""
    model = trained(Normed(nnx.Rngs(0)), IMAGES)
    quantized = quantize(model, "int8w", IMAGES, min_size=1, fold_norms=False)
    assert any(leaf.name.startswith("norm/") for leaf in quantized.as_model().leaves)
    np.testing.assert_allclose(quantized(IMAGES), model(IMAGES), atol=0.1)


def fold_of(fn: Any) -> Any:
    weights = {"w": normal(6, 8), "k": normal(8), "b": normal(8)}
    return sites_of(fn, ROWS, weights, fold=True)["w"].fold, weights


def test_what_is_folded_by_hand() -> None:
    """y = (x·w)·factor + shift, of all operations in their order."""
    fold, weights = fold_of(lambda w, x: (1 - (x @ w["w"] + w["b"]) * w["k"]) / 4)
    assert fold.operations == 4
    np.testing.assert_allclose(fold.factor, -weights["k"] / 4, rtol=1e-6)
    np.testing.assert_allclose(fold.shift, (1 - weights["b"] * weights["k"]) / 4, rtol=1e-6)


@pytest.mark.parametrize(
    "fn",
    [
        # Somebody else reads the product.
        lambda w, x: (y := x @ w["w"]) * w["k"] + y,
        # Something that depends on the input lies between.
        lambda w, x: (x @ w["w"] + x.sum()) * w["k"],
        # Nothing is multiplied: there is nothing to save.
        lambda w, x: x @ w["w"] + w["b"],
        # The weight is used twice.
        lambda w, x: (x @ w["w"]) * w["k"] + (2 * x) @ w["w"],
        # The weight is read as it is, too.
        lambda w, x: (x @ w["w"]) * w["k"] + jnp.abs(w["w"]).sum(),
    ],
    ids=["used twice", "residual", "bias", "two products", "read elsewhere"],
)
def test_what_is_not_folded(fn: Any) -> None:
    """Anything but a chain of numbers behind a product of its own, and answers stay right."""
    fold, weights = fold_of(fn)
    assert fold is None
    found = quantize(fn, "int8w", ROWS, weights=weights, min_size=1)
    expected = np.asarray(fn({name: jnp.asarray(array) for name, array in weights.items()}, ROWS))
    assert np.linalg.norm(found(ROWS) - expected) < 0.02 * np.linalg.norm(expected)
