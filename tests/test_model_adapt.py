from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import linen as nn
from flax import nnx

from maas_sdk.errors import ExportError
from maas_sdk.model.adapt import adapt


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs)])

    def __call__(self, x):
        x = self.drop(self.norm(self.conv(x))).mean(axis=(1, 2))
        return self.layers[0](x)

    def two(self, left, right):
        return left - right

    def one_dict(self, inputs):
        return inputs["a"] - inputs["b"]


def values(model):
    return [leaf.value for leaf in model.leaves]


def names(model):
    return [leaf.name for leaf in model.leaves if not leaf.random]


def test_nnx_names_are_paths_and_the_module_is_left_as_it_was():
    """Leaves are named by their path; the user's module stays in training mode, and is told."""
    net = Net(nnx.Rngs(0))
    model = adapt(net, None)
    assert names(model) == [
        "conv/bias",
        "conv/kernel",
        "layers/0/bias",
        "layers/0/kernel",
        "norm/bias",
        "norm/mean",
        "norm/scale",
        "norm/var",
    ]
    assert net.norm.use_running_average is False
    assert net.drop.deterministic is False
    assert model.notes == ("BatchNorm, Dropout: in training mode, exported in evaluation mode",)
    x = jnp.ones((2, 4, 4, 1))
    expected = nnx.view(net, deterministic=True, use_running_average=True)(x)
    np.testing.assert_array_equal(model.bind(None)(values(model), {"input": x}, True), expected)


def test_quantized_weights_keep_their_int8_values():
    """A module that qwix quantized has int8 leaves with a scale beside them."""
    net = nnx.view(Net(nnx.Rngs(0)), deterministic=True, use_running_average=True)
    rules = [qwix.QuantizationRule(module_path="layers.*", weight_qtype="int8")]
    quantized = qwix.quantize_model(net, qwix.PtqProvider(rules), jnp.ones((2, 4, 4, 1)))
    leaves = {
        leaf.name: leaf.to_numpy() for leaf in adapt(quantized, None).leaves if not leaf.random
    }
    assert leaves["layers/0/kernel/array/qvalue"].dtype == np.int8
    assert leaves["layers/0/kernel/array/scale"].dtype == np.float32


def test_linen_programs_take_the_bound_module():
    """Programs of a linen model are its call or functions of the bound module."""
    module = nn.Dense(3)
    variables = module.init(jax.random.key(0), jnp.ones((1, 2)))
    model = adapt(module, variables)
    assert names(model) == ["params/bias", "params/kernel"]
    x = {"input": jnp.ones((4, 2))}
    expected = module.apply(variables, x["input"])
    np.testing.assert_array_equal(model.bind(None)(values(model), x, True), expected)
    twice = model.bind(lambda bound, inputs: 2 * bound(inputs))
    np.testing.assert_array_equal(twice(values(model), x, True), 2 * expected)


def test_a_function_gets_what_the_example_was():
    """``apply`` sees an array when the example was an array, and a dict when it was a dict."""
    seen = []
    model = adapt(lambda weights, inputs: seen.append((weights, inputs)), {"a": [1.0, 2.0]})
    assert names(model) == ["a/0", "a/1"]
    model.bind(None)(values(model), {"input": 5}, True)
    model.bind(None)(values(model), {"image": 5}, False)
    assert seen == [({"a": [1.0, 2.0]}, 5), ({"a": [1.0, 2.0]}, {"image": 5})]


def test_several_inputs_of_a_method():
    """Several inputs go by keyword, or as a dict where the method takes one argument."""
    model = adapt(Net(nnx.Rngs(0)), None)
    leaves = values(model)
    assert model.bind("two")(leaves, {"left": 5, "right": 3}, False) == 2
    assert model.bind("one_dict")(leaves, {"a": 5, "b": 3}, False) == 2
    with pytest.raises(
        ExportError, match=r"named \['a', 'b'\], the method takes \['left', 'right'\]"
    ):
        model.bind("two")(leaves, {"a": 5, "b": 3}, False)
    with pytest.raises(ExportError, match="Net has no method 'three'"):
        model.bind("three")(leaves, {"a": 5}, True)


@jax.tree_util.register_pytree_with_keys_class
class SameKeys:
    """Two leaves under keys that read the same, "1" and 1."""

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.DictKey(key), 1.0) for key in ("1", 1)], None

    @classmethod
    def tree_unflatten(cls, _aux, _children):
        return cls()


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        (Net, None, "weights are missing"),
        (nn.Dense(3), None, "weights=variables for a linen module"),
        (3, {}, "cannot export a int"),
        (lambda w, x: x, {"a": "text"}, "weight 'a': expected an array of numbers, got str 'text'"),
        (lambda w, x: x, {"a": np.array([object()])}, "weight 'a': expected an array"),
        (lambda w, x: x, SameKeys(), "two weights have the same name '1'"),
    ],
)
def test_what_cannot_be_taken_apart(model, weights, message):
    """Every refusal names the weight or says what is missing."""
    with pytest.raises(ExportError, match=message):
        adapt(model, weights)


def test_an_nnx_module_brings_its_own_weights():
    """Weights given beside an nnx module would be ignored, so they are refused."""
    with pytest.raises(ExportError, match="carries its own weights: drop weights="):
        adapt(Net(nnx.Rngs(0)), {})


def test_an_apply_has_no_methods():
    """A program of a function cannot be a method's name."""
    with pytest.raises(ExportError, match="an apply function has no methods"):
        adapt(lambda w, x: x, {}).bind("embed")
