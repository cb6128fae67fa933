"""Import of a torch checkpoint's weights into a module of ours.

The rule it keeps: every parameter gets its tensor and every tensor its parameter, in the right
shape, or nothing is loaded and the message names the missing, unused and ill-shaped ones. Tensors
come in as numpy arrays; torch is not imported.

    from safetensors.numpy import load_file

    config = config_from_transformers(json.loads(Path("config.json").read_text()))
    model = load_weights(config, load_file("model.safetensors"))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.models.presets import make_model
from maas_sdk.models.weight_names import FAMILIES, TensorSource
from maas_sdk.tensors import Array

__all__ = ["load_weights"]

# How many names a message lists.
_SHOWN = 5


def load_weights(
    config: Any,
    tensors: Mapping[str, Array],
    *,
    new: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
    rngs: nnx.Rngs | None = None,
    param_dtype: DTypeLike = jnp.float32,
    put: Callable[[str, Array], Any] | None = None,
) -> Any:
    r"""Return the module that ``config`` describes, with the weights of a checkpoint.

    Names are those of transformers' GPT-2, Llama, BERT and ResNet, for an MLP and a
    ConvNet those of ``torch.nn.Sequential``, and for LSTM and GRU those of a module whose
    attributes are called ``rnn``, ``head`` and, with tokens, ``embed``.

    Args:
        config: a configuration out of this package; ``config_from_transformers`` makes one.
        tensors: the checkpoint's, by name, of any floating-point dtype. It is read one tensor after
            the other, so a lazy mapping is enough.
        new: regular expressions for paths of parameters that keep their initial values, e.g.
            ``("^head/",)`` for a classifier on another number of classes.
        ignore: regular expressions for names of tensors that are not wanted, e.g. ``(r"^cls\.",)``.
        rngs: source of the initial values of ``new`` parameters, and of dropout.
        param_dtype: dtype of the parameters.
        put: (path, array) → the array on its devices; None is the default device. A sharded model
            is loaded leaf by leaf with it.

    Raises:
        ConfigError: something that is no configuration.
        InputError: tensors are missing, left over or of another shape, or the regular expressions
            match nothing.
    """
    if type(config) not in FAMILIES:
        raise ConfigError(
            f"load_weights: expected one of {', '.join(kind.__name__ for kind in FAMILIES)}, "
            f"got {type(config).__name__}"
        )
    # One key: the module is traced, and streams counted inside of a trace would stay there.
    seed = (nnx.Rngs(0) if rngs is None else rngs).params()

    def make() -> Any:
        return make_model(config, rngs=nnx.Rngs(seed), param_dtype=param_dtype)

    graphdef, state = nnx.split(nnx.eval_shape(make))
    leaves = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
    stored = [p for p, v in leaves.items() if isinstance(v, nnx.Param | nnx.BatchStat)]
    _check_patterns("new", new, stored)
    _check_patterns("ignore", ignore, tensors)
    wanted = [path for path in stored if not _matches(new, path)]

    family = FAMILIES[type(config)]
    names = {re.sub(f"^{family.prefix}", "", name): name for name in tensors}
    sources = family.sources(config, list(names))
    plan = _plan(sources, wanted, getattr(config, "layers", 0))
    needed = {name for layers in plan.values() for source in layers for name in source.names}
    replaced = {
        name for path, source in sources.items() if _matches(new, path) for name in source.names
    }
    _check_names(needed, names, replaced, (*family.buffers, *ignore))

    values = _initial(make, leaves.keys() - plan.keys())
    for path, layers in plan.items():
        expected = leaves[path].get_value()
        stacked = _is_stacked(path)
        shape = expected.shape[1:] if stacked else expected.shape
        parts = [
            _made(
                path,
                source,
                [(names[n], np.asarray(tensors[names[n]])) for n in source.names],
                shape,
            )
            for source in layers
        ]
        value = (np.stack(parts) if stacked else parts[0]).astype(expected.dtype)
        values[path] = jnp.asarray(value) if put is None else put(path, value)
    flat = [
        (path, leaf.replace(values["/".join(map(str, path))]))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def _plan(
    sources: Mapping[str, TensorSource], wanted: list[str], count: int
) -> dict[str, list[TensorSource]]:
    """Return the sources of every wanted path: one, or one per layer where layers are stacked."""
    plan = {}
    for path in wanted:
        layers = [path]
        if _is_stacked(path):
            layers = [path.replace("layers/", f"layers/{i}/", 1) for i in range(count)]
        if layers[0] not in sources:
            raise InputError(
                f"{path}: no tensor of such a checkpoint is known to hold it; change the "
                "configuration, or give it an initial value with new=",
                path=path,
            )
        plan[path] = [sources[layer] for layer in layers]
    return plan


def _is_stacked(path: str) -> bool:
    return re.match(r"layers/\D", path) is not None


def _made(
    path: str, source: TensorSource, found: list[tuple[str, Array]], shape: tuple[int, ...]
) -> Array:
    """Make one parameter out of its tensors, in its shape."""
    try:
        value = source.make(*(tensor for _, tensor in found))
    except ValueError:
        # A transposition or a cut that such a tensor does not have.
        value = None
    if value is None or value.shape != shape:
        came = " and ".join(f"{name} {list(tensor.shape)}" for name, tensor in found)
        became = "" if value is None else f", which becomes {list(value.shape)}"
        raise InputError(
            f"{path}: expected {list(shape)}, got {came}{became}; does the configuration fit the "
            "checkpoint?",
            path=path,
        )
    return value


def _check_names(
    needed: set[str], names: Mapping[str, str], replaced: set[str], spare: tuple[str, ...]
) -> None:
    """Check that every needed tensor exists and every other is replaced or a known spare."""
    if missing := sorted(needed - names.keys()):
        raise InputError(
            f"tensors missing: {_listed(missing)}; what no checkpoint holds can keep its initial "
            "value with new=",
            missing=missing,
        )
    over = [
        whole
        for short, whole in names.items()
        if short not in needed | replaced
        and not _matches(spare, short)
        and not _matches(spare, whole)
    ]
    if over:
        raise InputError(
            f"tensors left over: {_listed(sorted(over))}; change the configuration, or leave them "
            "out with ignore=",
            unexpected=over,
        )


def _check_patterns(field: str, patterns: tuple[str, ...], names: Iterable[str]) -> None:
    names = list(names)
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise InputError(f"{field}: {pattern!r} matches none of {_listed(names)}")


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _initial(make: Callable[[], Any], paths: set[str]) -> dict[str, Any]:
    """Compute initial values of some leaves, compiled so that the others are skipped."""
    if not paths:
        return {}

    def compute() -> dict[str, Any]:
        flat = nnx.to_flat_state(nnx.state(make()))
        values = {"/".join(map(str, path)): leaf.get_value() for path, leaf in flat}
        return {path: values[path] for path in sorted(paths)}

    values: dict[str, Any] = jax.jit(compute)()
    return values


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
