"""A quantized model: codes, scales and codebooks, and the program that uses them.

The rule it keeps: the model holds no float copy of a quantized weight, and it is exported like any
model. It can be served in two ways, chosen by ``decode``:

    "program"   the program takes codes and scales as its arguments: small in memory, and where the
                processor multiplies whole numbers, fast
    "open"      weights are decoded once, while the bundle opens, into the float program: small on
                the network, as fast as the float model; activations are not quantized

Either may be entropy-coded on top, which is undone while the bundle opens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from maas_sdk.bundle.encoding.encode import compress_tensor
from maas_sdk.bundle.encoding.spec import Encoding, Stored
from maas_sdk.compress.program.products import Quantized
from maas_sdk.compress.program.quantized_weight import WeightPlan, whole_encodings
from maas_sdk.compress.program.recipes import Recipe
from maas_sdk.compress.program.report import QuantizationReport
from maas_sdk.compress.program.traced_model import TracedModel
from maas_sdk.compress.program.traced_weight import Known
from maas_sdk.errors import ConfigError
from maas_sdk.model.adapt import Model, ProgramFn
from maas_sdk.model.leaf import Leaf
from maas_sdk.tensors import Array, dtype_name, packed_nbytes

__all__ = [
    "Decode",
    "Entropy",
    "QuantizedModel",
    "QuantizedWeight",
    "check_serving",
    "hollow",
    "needed",
]

Decode = Literal["program", "open"]
Entropy = Literal["zstd", "zlib"]

# Smaller tensors win nothing by entropy coding that their descriptions would not cost.
_ENTROPY_BYTES: Final = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedWeight:
    """One quantized weight."""

    plan: WeightPlan
    # Tensors of the whole weight; encodings of one layer where it is a stack.
    stored: Stored
    # By role, see ``products.ROLES``; float32.
    roles: Mapping[str, Array] = field(default_factory=dict)

    @property
    def arrays(self) -> dict[str, Array]:
        """Arrays that a program takes for the weight, by leaf name."""
        return {
            **self.stored.tensors,
            **{f"{self.plan.name}/{role}": value for role, value in self.roles.items()},
        }

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(
            packed_nbytes(dtype_name(array.dtype), array.shape) for array in self.arrays.values()
        )

    def to_float(self) -> Array:
        """Decode the weight to float32, in the order of its own axes."""
        found = self.decoded().decode()
        order = self.plan.order
        if order is None:
            return found
        inverse = [order.index(axis) for axis in range(len(order))]
        stacked = self.plan.layout.stack is not None
        return found.transpose([0, *(axis + 1 for axis in inverse)] if stacked else inverse)

    def decoded(self) -> Stored:
        """Return the decoded weight together with its stored parts."""
        return Stored(
            name=self.stored.name,
            encodings=whole_encodings(self.plan),
            tensors=self.stored.tensors,
        )


@dataclass(frozen=True, kw_only=True)
class QuantizedModel:
    """A quantized model; call it, or export it."""

    recipe: Recipe
    # The float model's structure, without its arrays.
    source: Model
    # What stayed as it was, by name; without what no output depends on, random state excepted.
    kept: Mapping[str, Leaf]
    weights: Mapping[str, QuantizedWeight]
    report: QuantizationReport
    # Whether the model takes one array without a name.
    bare: bool
    decode: Decode = "program"
    entropy: Entropy | None = None
    _compiled: dict[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Return the model's answer: an array [B, …], a dict of them, or arrays by keyword."""
        given: Any = dict(named) if named else inputs[0]
        arrays = dict(given) if isinstance(given, Mapping) else {"input": given}
        if "call" not in self._compiled:
            model = self.as_model()
            run = model.bind(None)
            values = [
                leaf.value if leaf.stored is None else leaf.to_numpy() for leaf in model.leaves
            ]
            call = jax.jit(lambda values, arrays: run(values, arrays, self.bare))
            self._compiled["call"] = call, jax.device_put(values)
        call, values = self._compiled["call"]
        return call(values, {name: jnp.asarray(array) for name, array in arrays.items()})

    def serving(
        self, *, decode: Decode | None = None, entropy: Entropy | Literal["none"] | None = None
    ) -> QuantizedModel:
        """Return the same model, served in another way; None leaves a setting as it is."""
        check_serving(decode, entropy)
        return replace(
            self,
            decode=decode or self.decode,
            entropy=self.entropy if entropy is None else None if entropy == "none" else entropy,
            _compiled={},
        )

    def as_model(self) -> Model:
        """Return the model as ``export`` takes it: leaves by name, and the program over them."""
        leaves = list(self.kept.values())
        plans: dict[str, WeightPlan] = {}
        encodings: dict[str, Encoding] = {}
        for name, weight in self.weights.items():
            if self.decode == "open":
                stored = weight.decoded()
                stored = _squeezed(stored, self.entropy)
                struct: Any = jax.ShapeDtypeStruct
                value = struct(stored.spec.shape, np.float32)
                leaves.append(Leaf(name=name, value=value, stored=stored))
                # Smoothing goes with the input; the rest of the weight's roles too.
                plans[name] = replace(weight.plan, encodings={}, tensors=(name,), activations=None)
                roles = {role: v for role, v in weight.roles.items() if role != "input_scale"}
                plans[name] = replace(plans[name], roles=tuple(roles), cuts=True)
                leaves += [Leaf(name=f"{name}/{role}", value=v) for role, v in roles.items()]
                continue
            plans[name] = weight.plan
            encodings.update(whole_encodings(weight.plan))
            for part, array in weight.arrays.items():
                leaves.append(_leaf(part, array, self.entropy))
        program = TracedModel(model=self.source, bare=self.bare)
        return _Model(
            kind="apply",
            leaves=tuple(leaves),
            rebuild=lambda values: dict(zip([leaf.name for leaf in leaves], values, strict=True)),
            encodings=encodings,
            compression=self.report.compression(),
            source=program,
            products=Quantized(plans=plans),
        )


def check_serving(decode: str | None, entropy: str | None) -> None:
    """Check the ways of serving against those that exist, the codec's package included.

    Raises:
        ConfigError: another one.
        DependencyError: zstd without its package.
    """
    if decode not in (None, "program", "open"):
        raise ConfigError(f"decode: expected 'program' or 'open', got {decode!r}")
    if entropy not in (None, "none", "zstd", "zlib"):
        raise ConfigError(f"entropy: expected 'zstd', 'zlib' or 'none', got {entropy!r}")
    if entropy == "zstd":
        compress_tensor("probe", np.zeros(1, np.uint8), codec=entropy)


def _leaf(name: str, array: Array, entropy: Entropy | None) -> Leaf:
    stored = Stored(name=name, encodings={}, tensors={name: array})
    squeezed = _squeezed(stored, entropy)
    return Leaf(name=name, value=array, stored=None if squeezed is stored else squeezed)


def _squeezed(stored: Stored, entropy: Entropy | None) -> Stored:
    """Entropy-code those of a tensor's parts that become smaller by it."""
    if entropy is None:
        return stored
    tensors: dict[str, Array] = {}
    encodings = dict(stored.encodings)
    for name, array in stored.tensors.items():
        if array.nbytes < _ENTROPY_BYTES:
            tensors[name] = array
            continue
        found = compress_tensor(name, array, codec=entropy)
        if found.nbytes >= 0.98 * packed_nbytes(dtype_name(array.dtype), array.shape):
            tensors[name] = array
            continue
        tensors.update(found.tensors)
        encodings.update(found.encodings)
    if encodings == dict(stored.encodings):
        return stored
    return Stored(name=stored.name, encodings=encodings, tensors=tensors)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model(Model):
    """Leaves of a quantized model, and the float program rewritten over them."""

    source: TracedModel
    products: Quantized

    def bind(self, fn: ProgramFn) -> Any:
        program = replace(self.source, fn=fn, _traced={})
        names = [leaf.name for leaf in self.leaves]
        plans = self.products.plans

        def run(values: Sequence[Any], inputs: Mapping[str, Any], bare: bool) -> Any:
            arrays = dict(zip(names, values, strict=True))
            found = [
                self.products.weight(leaf.name, arrays)
                if leaf.name in plans
                else Known(
                    arrays[leaf.name]
                    if leaf.name in arrays
                    # Folded into a product, or without any influence on the answer.
                    else jnp.zeros(leaf.value.shape, leaf.value.dtype)
                )
                for leaf in self.source.model.leaves
            ]
            return replace(program, bare=bare).run(found, inputs, self.products)

        return run


def hollow(model: Model) -> Model:
    """Return a model's structure without its arrays."""
    struct: Any = jax.ShapeDtypeStruct
    return replace(
        model,
        leaves=tuple(
            replace(leaf, value=struct(np.shape(leaf.value), leaf.value.dtype))
            for leaf in model.leaves
        ),
    )


def needed(model: Model, inputs: Mapping[str, Any], *, bare: bool) -> set[str]:
    """Return names of the leaves that any output depends on."""
    run = model.bind(None)
    struct: Any = jax.ShapeDtypeStruct
    leaves = [struct(np.shape(leaf.value), leaf.value.dtype) for leaf in model.leaves]
    given = {name: struct(np.shape(array), array.dtype) for name, array in inputs.items()}
    closed = jax.make_jaxpr(lambda leaves, given: run(leaves, given, bare))(leaves, given)
    _, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals))
    return {leaf.name for leaf, needs in zip(model.leaves, used, strict=False) if needs}
