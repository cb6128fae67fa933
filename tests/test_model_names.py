"""One table of names, held in all four places that go by them; and names given before."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import qwix
from flax import linen, nnx

from maas_sdk.bundle import open_bundle, open_weights
from maas_sdk.compress.program.traced_model import TracedModel, find_sites
from maas_sdk.errors import ConfigError
from maas_sdk.export import default_targets, export
from maas_sdk.export.reweight import reweight
from maas_sdk.model import names as model_names
from maas_sdk.model.adapt import adapt
from maas_sdk.model.names import map_named, named_leaves
from maas_sdk.models import Decoder, DecoderConfig
from maas_sdk.sharding.layout import lay_out
from maas_sdk.sharding.mesh import make_mesh
from maas_sdk.sharding.rules import Rule
from maas_sdk.training.checkpoints.manager import CheckpointConfig, Checkpoints
from maas_sdk.training.checkpoints.named_state import named_arrays


class Pair(NamedTuple):
    kernel: Any
    value: Any


class Only(NamedTuple):
    value: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Head:
    output: Any
    value: Any


class Net(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = self.layers
        return second(self.norm(first(x)))


def a() -> jax.Array:
    """An array of its own: in two dimensions, as a product's weight is."""
    return jnp.ones((2, 2))


def quantized() -> Any:
    """What qwix makes of a module's weights."""
    net = nnx.view(Net(), use_running_average=True)
    rule = qwix.QuantizationRule(module_path="layers/0", weight_qtype="int8")
    return nnx.state(
        qwix.quantize_model(net, qwix.PtqProvider([rule]), jnp.ones((2, 4))), nnx.Param
    )


def linen_variables() -> Any:
    init = linen.with_partitioning(linen.initializers.ones, ("embed", "mlp"))
    return linen.Dense(3, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 2)))


def optimizer_state() -> Any:
    params = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    return optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params)


def stacked() -> Any:
    config = DecoderConfig.preset("decoder-tiny", scan_layers=True, layers=2)
    return nnx.state(Decoder(config, rngs=nnx.Rngs(0)))


# A tree, and the names of its leaves in the tree's order.
TABLE: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "nnx module": (
        lambda: nnx.state(Net()),
        [
            *("layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel"),
            *("norm/bias", "norm/mean", "norm/scale", "norm/var"),
        ],
    ),
    "linen variables": (linen_variables, ["params/bias", "params/kernel"]),
    "nested dict": (
        lambda: {"a": {"b": a()}, "a/c": a(), "50%": a(), "a%2Fd": a(), "value": a()},
        ["50%", "a/b", "a%2Fd", "a/c", "value"],
    ),
    # A flat dict of names, as a safetensors file gives one, has the names that it says.
    "flat dict": (
        lambda: {"conv/kernel": a(), "conv/kernel/scale": a()},
        ["conv/kernel", "conv/kernel/scale"],
    ),
    "same names": (
        lambda: {"a": {"b": a()}, "a/b": a()},
        ["a/b", "a%2Fb"],
    ),
    "list": (lambda: [a(), {"w": (a(), a())}], ["0", "1/w/0", "1/w/1"]),
    "namedtuple": (lambda: Pair(a(), a()), ["kernel", "value"]),
    "namedtuple inside": (lambda: {"w": Pair(a(), Only(a()))}, ["w/kernel", "w/value/value"]),
    "dataclass": (lambda: {"head": Head(a(), a())}, ["head/output", "head/value"]),
    "box around a namedtuple": (
        lambda: nnx.State({"w": nnx.Param(Pair(a(), a()))}),
        ["w/kernel", "w/value"],
    ),
    "optax state": (
        optimizer_state,
        ["1/0/count", "1/0/mu/bias", "1/0/mu/kernel", "1/0/nu/bias", "1/0/nu/kernel"],
    ),
    "qwix": (
        quantized,
        [
            *("layers/0/bias", "layers/0/kernel/array/qvalue", "layers/0/kernel/array/scale"),
            *("layers/1/bias", "layers/1/kernel", "norm/bias", "norm/scale"),
        ],
    ),
    "stacked layers": (
        stacked,
        [
            *("embed/embedding", "head/kernel", "layers/attention/key/kernel"),
            *("layers/attention/out/kernel", "layers/attention/query/kernel"),
            *("layers/attention/value/kernel", "layers/attention_norm/scale"),
            *("layers/mlp/down/kernel", "layers/mlp/gate/kernel", "layers/mlp/up/kernel"),
            *("layers/mlp_norm/scale", "norm/scale"),
        ],
    ),
    "bare array": (a, ["weights"]),
}


@pytest.mark.parametrize("kind", TABLE)
def test_a_leaf_has_one_name_in_all_four_places(kind: str, tmp_path: Path) -> None:
    """Sharding rules, checkpoints, quantization and ``weights.safetensors`` say the same path."""
    make, expected = TABLE[kind]
    tree = make()
    assert [leaf.name for leaf in named_leaves(tree)] == expected
    assert [row.path for row in lay_out(tree, make_mesh({"data": 1})).rows] == expected
    # A rule finds each leaf by its name and nothing else.
    for name in expected:
        rule = Rule(f"^{re.escape(name)}$", ())
        rows = lay_out(tree, make_mesh({"data": 1}), rules=[rule]).rows
        found = [row.path for row in rows if row.source == "rule"]
        # The parts of a quantized weight go by the name of the weight.
        assert found == ([] if "/array/" in name else [name])
    assert list(named_arrays(tree)) == expected
    with Checkpoints(CheckpointConfig(folder=tmp_path, asynchronous=False)) as checkpoints:
        checkpoints.save(1, tree)
        restored = checkpoints.restore(tree).state
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), restored, tree))
    model = adapt(lambda weights, x: x, tree)
    assert [leaf.name for leaf in model.leaves] == expected


def test_an_exported_bundle_and_quantization_go_by_the_names(tmp_path: Path) -> None:
    """Fields of a tuple are tensors of the bundle and weights of a recipe by their own names."""
    weights = {"w": Pair(np.ones((4, 4), np.float32), Only(np.ones((4, 4), np.float32)))}

    def apply(weights: Any, x: jax.Array) -> jax.Array:
        return x @ weights["w"].kernel @ weights["w"].value.value

    x = np.ones((2, 4), np.float32)
    bundle = export(
        apply,
        x,
        path=tmp_path / "a.maas",
        weights=weights,
        buckets=(1,),
        targets=default_targets()[:1],
    )
    assert bundle.manifest.programs["predict"].weights == ("w/kernel", "w/value/value")
    assert sorted(open_weights(bundle.path / "weights.safetensors")) == [
        "w/kernel",
        "w/value/value",
    ]
    sites = find_sites(TracedModel(model=adapt(apply, weights)), {"input": x}, fold=False)
    assert sorted(site.name for site in sites) == ["w/kernel", "w/value/value"]


class ActorCritic(NamedTuple):
    logits: Any
    value: Any


class Both(NamedTuple):
    output: Any
    value: Any


@pytest.mark.parametrize("kind", [ActorCritic, Both])
def test_outputs_are_named_as_their_fields_are(kind: Any, tmp_path: Path) -> None:
    """A field ``value`` is an output ``value``, also with a field ``output`` beside it."""
    bundle = export(
        lambda w, x: kind(x * w["a"], x.sum(-1)),
        np.ones((2, 3), np.float32),
        path=tmp_path / "a.maas",
        weights={"a": np.ones(3, np.float32)},
        buckets=(1,),
        targets=default_targets()[:1],
    )
    assert tuple(bundle.manifest.programs["predict"].signature.outputs) == kind._fields


def test_a_tree_is_mapped_by_name() -> None:
    """Each leaf is replaced; boxes and classes stay."""
    found = map_named(lambda name, leaf: f"{name}{leaf.shape}", {"p": nnx.Param(Pair(a(), a()))})
    assert found["p"].get_value() == Pair("p/kernel(2, 2)", "p/value(2, 2)")


def named_before(escaped: bool, bare: str) -> Callable[[Any], Any]:
    """``named_leaves`` as releases before 0.1.0 named leaves."""

    def text(path: Any) -> str:
        keys = [
            str(
                next(getattr(key, field) for field in ("key", "name", "idx") if hasattr(key, field))
            )
            for key in path
        ]
        if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and keys[-1] == "value":
            keys.pop()
        if escaped:
            keys = [key.replace("%", "%25").replace("/", "%2F") for key in keys]
        return "/".join(keys) or bare

    def named(tree: Any) -> Any:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return [model_names.NamedLeaf(text(path), leaf, path, None, ()) for path, leaf in leaves]

    return named


# Trees whose names were others, and which names these were in a checkpoint.
BEFORE: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "keys": (lambda: {"a/b": a(), "50%": a() * 2}, ["50%25", "a%2Fb"]),
    "one field": (lambda: {"w": Only(a()), "x": a() * 2}, ["w", "x"]),
    "box": (
        lambda: nnx.State({"w": nnx.Param({"k": a(), "b": 2 * a()})}),
        ["w/value/b", "w/value/k"],
    ),
    "bare array": (lambda: a() * 3, ["state"]),
    "as today": (lambda: nnx.state(Net()), [*TABLE["nnx module"][1]]),
}


@pytest.mark.parametrize("kind", BEFORE)
def test_a_checkpoint_written_before_still_opens(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaves that had other names are found under those, each with its own numbers."""
    make, names = BEFORE[kind]
    tree = make()
    with monkeypatch.context() as before:
        before.setattr(
            "maas_sdk.training.checkpoints.named_state.named_leaves", named_before(True, "state")
        )
        assert list(named_arrays(tree)) == names
        with Checkpoints(CheckpointConfig(folder=tmp_path, asynchronous=False)) as checkpoints:
            checkpoints.save(1, tree)
    with Checkpoints(CheckpointConfig(folder=tmp_path)) as checkpoints:
        found = checkpoints.restore(tree).state
        assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), found, tree))
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        # What is of neither name is still told by today's.
        with pytest.raises(ConfigError, match=r"expected float32.*does not have it"):
            checkpoints.restore({"w": tree, "other": a()})


def test_a_former_name_never_hides_a_leaf_of_today(
    tmp_path: Path,
) -> None:
    """``{"w": Only(x)}`` was "w" once; a checkpoint that has both "w" and "w/value" gives each."""
    tree = {"w": Only(a()), "w/value/x": 2 * a(), "v": a()}
    with Checkpoints(CheckpointConfig(folder=tmp_path, asynchronous=False)) as checkpoints:
        checkpoints.save(1, tree)
        found = checkpoints.restore(tree).state
        assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), found, tree))
        part = checkpoints.restore({"w/value/x": a()}, partial=True).state
        np.testing.assert_array_equal(part["w/value/x"], tree["w/value/x"])


def test_a_bundle_written_before_takes_new_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``reweight`` finds weights under the names that an earlier release gave them."""
    weights = Pair(np.ones(3, np.float32), np.ones(3, np.float32))

    def apply(weights: Pair, x: jax.Array) -> jax.Array:
        return x * weights.kernel + weights.value

    with monkeypatch.context() as before:
        before.setattr("maas_sdk.model.adapt.named_leaves", named_before(False, "weights"))
        bundle = export(
            apply,
            np.ones((2, 3), np.float32),
            path=tmp_path / "old.maas",
            weights=weights,
            buckets=(1,),
            targets=default_targets()[:1],
        )
    assert bundle.manifest.programs["predict"].weights == ("kernel", "weights")
    new = Pair(np.full(3, 2, np.float32), np.full(3, 5, np.float32))
    for number, given in enumerate([new, {"kernel": new.kernel, "weights": new.value}]):
        path = reweight(bundle.path, given, path=tmp_path / f"new-{number}.maas").path
        stored = open_weights(path / "weights.safetensors")
        np.testing.assert_array_equal(stored["kernel"], new.kernel)
        np.testing.assert_array_equal(stored["weights"], new.value)
        assert open_bundle(path).manifest.programs["predict"].weights == ("kernel", "weights")
