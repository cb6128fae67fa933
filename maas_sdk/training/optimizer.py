"""The optimizer of a training run, by name, with its schedule, clipping and averaging by optax.

The rule it keeps: one frozen configuration is one chain, always in this order:

    skip what is not finite → accumulate → clip by value, by global norm, adaptively
      → the optimizer under its schedule → decoupled weight decay

Weight decay is decoupled for every optimizer (Loshchilov and Hutter 2019): with the learning rate
η and the decay λ each update takes η·λ·w from the weights that ``decay_mask`` names, and nothing
from the gradients. Biases and the scales of norms are not decayed unless told otherwise.

Gradients that are accumulated are averaged in float32, and count as one update: schedules and
moments see updates, not steps.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from maas_sdk.errors import ConfigError
from maas_sdk.model.names import map_named
from maas_sdk.training.schedules import make_schedule

__all__ = [
    "DECAY_MASKS",
    "OPTIMIZERS",
    "OptimizerConfig",
    "decay_mask",
    "depends_on_steps",
    "learning_rate_schedule",
    "make_optimizer",
    "skipped_steps",
    "update_ema",
]

T = TypeVar("T")

# Which weights are decayed, by name of the mask.
DECAY_MASKS: Final[Mapping[str, str]] = {
    "matrices": "all but biases, scales of norms and vectors",
    "matrices_no_embeddings": "the same without embeddings",
    "all": "every weight",
}

_VECTORS: Final = re.compile(r"(^|/)(bias|scale)$|(^|/|_)(layer_?|batch_?|rms_?|group_?)?norm\d*/")
_EMBEDDINGS: Final = re.compile(r"embed", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Named:
    """An optimizer of optax under our name."""

    make: Callable[..., optax.GradientTransformation]
    # Keywords that are given unless ``options`` says otherwise.
    options: Mapping[str, Any] = field(default_factory=dict)
    # Decay where ``weight_decay`` is None.
    weight_decay: float = 0.0
    # Keywords under which optax takes a decay and its mask; empty where it is added by us.
    decay_keywords: tuple[str, ...] = ()


def _muon(learning_rate: optax.Schedule, **options: Any) -> optax.GradientTransformation:
    """Return Muon for matrices and Adam for the rest, embeddings included (Jordan et al. 2024)."""

    def matrices(params: Any) -> Any:
        def dimensions(name: str, leaf: jax.Array) -> Any:
            # The biases of attention have two dimensions, heads and width, and are no matrices.
            other = _VECTORS.search(name) or _EMBEDDINGS.search(name)
            muon = leaf.ndim == 2 and not other
            return optax.contrib.MuonDimensionNumbers() if muon else None

        return map_named(dimensions, params)

    made: optax.GradientTransformation = optax.contrib.muon(
        learning_rate, muon_weight_dimension_numbers=matrices, **options
    )
    return made


# lamb divides by the length of an update that has the decay in it, lion and adamw are defined with
# theirs; muon decays only what it orthogonalizes. For all others decay is one more link.
OPTIMIZERS: Final[Mapping[str, _Named]] = {
    "sgd": _Named(make=optax.sgd),
    "momentum": _Named(make=optax.sgd, options={"momentum": 0.9}),
    "nesterov": _Named(make=optax.sgd, options={"momentum": 0.9, "nesterov": True}),
    "adam": _Named(make=optax.adam),
    "adamw": _Named(make=optax.adamw, weight_decay=1e-2, decay_keywords=("weight_decay", "mask")),
    "adagrad": _Named(make=optax.adagrad),
    "adadelta": _Named(make=optax.adadelta),
    "rmsprop": _Named(make=optax.rmsprop),
    "lion": _Named(make=optax.lion, weight_decay=1e-2, decay_keywords=("weight_decay", "mask")),
    "lamb": _Named(make=optax.lamb, weight_decay=1e-2, decay_keywords=("weight_decay", "mask")),
    "adafactor": _Named(make=optax.adafactor),
    "muon": _Named(
        make=_muon, weight_decay=1e-2, decay_keywords=("weight_decay", "weight_decay_mask")
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Configuration of an optimizer, its schedule, and the processing of gradients."""

    # A name out of ``OPTIMIZERS``.
    name: str = "adamw"
    # The highest learning rate of the schedule.
    learning_rate: float = 3e-3
    # A name out of ``schedules.SCHEDULES``, or a function: updates made so far → learning rate.
    schedule: str | Callable[[Any], Any] = "warmup_cosine"
    # Share of all updates that the warm-up takes; None is as the schedule has it.
    warmup_fraction: float | None = None
    # Learning rate at the end as a share of the highest; None is as the schedule has it.
    end_fraction: float | None = None
    # Share of all updates in which the schedule ``wsd`` falls.
    cooldown_fraction: float = 0.2
    # (share of all updates, factor) in order, for the schedule ``piecewise``.
    pieces: tuple[tuple[float, float], ...] = ((0.5, 0.1), (0.75, 0.1))
    # Decoupled weight decay; 0 turns it off, None is 0.01 where the optimizer is known for it
    # (adamw, lion, lamb, muon) and 0 for the others.
    weight_decay: float | None = None
    # A name out of ``DECAY_MASKS``, or a function: params → the same tree of bool.
    decay_mask: str | Callable[[Any], Any] = "matrices"
    # Gradients are scaled down to this global L2 norm; None leaves them as they are.
    clip_norm: float | None = 1.0
    # Each element of a gradient is cut to [-x, x].
    clip_value: float | None = None
    # Each unit's gradient is scaled down to this share of the unit's weights (Brock et al. 2021).
    clip_adaptive: float | None = None
    # Steps whose gradients are averaged for one update.
    accumulate_steps: int = 1
    # So many gradients in a row may be not finite and are skipped, and counted. The next one ends
    # the run of a ``Trainer``; ``make_optimizer`` alone applies it, so that a broken run is not
    # mistaken for one that stands still.
    skip_nonfinite: int = 0
    # Weight of the old average in an exponential moving average of the weights; None keeps none.
    ema_decay: float | None = None
    # Further keywords of the optax function, such as {"b2": 0.95}.
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ConfigError(
                f"optimizer: unknown name {self.name!r}; known are {', '.join(OPTIMIZERS)}",
                optimizer=self.name,
            )
        if self.weight_decay is not None and self.weight_decay < 0:
            raise ConfigError(f"weight_decay: expected 0 or more, got {self.weight_decay}")
        if isinstance(self.decay_mask, str) and self.decay_mask not in DECAY_MASKS:
            raise ConfigError(
                f"decay_mask: unknown name {self.decay_mask!r}; known are {', '.join(DECAY_MASKS)}"
            )
        for name in ("clip_norm", "clip_value", "clip_adaptive"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name}: expected more than 0 or None, got {value}")
        if self.accumulate_steps < 1:
            raise ConfigError(f"accumulate_steps: expected 1 or more, got {self.accumulate_steps}")
        if self.skip_nonfinite < 0:
            raise ConfigError(f"skip_nonfinite: expected 0 or more, got {self.skip_nonfinite}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"ema_decay: expected 0 < x < 1 or None, got {self.ema_decay}")
        _check_options(self.name, self.options)
        # Shares and names of a schedule are checked where it is made, before any work is lost.
        learning_rate_schedule(self, steps=1)


def learning_rate_schedule(config: OptimizerConfig, *, steps: int) -> optax.Schedule:
    """Return a function: updates made so far → learning rate, for a run of ``steps`` steps."""
    if callable(config.schedule):
        return config.schedule
    return make_schedule(
        config.schedule,
        peak=config.learning_rate,
        updates=steps // config.accumulate_steps,
        warmup_fraction=config.warmup_fraction,
        end_fraction=config.end_fraction,
        cooldown_fraction=config.cooldown_fraction,
        pieces=config.pieces,
    )


def depends_on_steps(config: OptimizerConfig) -> bool:
    """Return True when the learning rate depends on the run's number of updates."""
    if callable(config.schedule):
        return False
    return config.schedule != "constant" or bool(config.warmup_fraction)


def make_optimizer(config: OptimizerConfig, *, steps: int) -> optax.GradientTransformation:
    """Return the optax transformation for a run of ``steps`` steps.

    Its ``update`` needs the parameters. Gradients should be in the masters' dtype.
    """
    links = _clipping(config)
    links += _optimizer(config, learning_rate_schedule(config, steps=steps))
    made: Any = optax.chain(*links)
    if config.accumulate_steps > 1:
        made = optax.MultiSteps(
            made, config.accumulate_steps, accumulator_dtype=jnp.float32
        ).gradient_transformation()
    if config.skip_nonfinite:
        made = optax.apply_if_finite(made, config.skip_nonfinite)
    transformation: optax.GradientTransformation = made
    return transformation


def skipped_steps(opt_state: Any) -> jax.Array:
    """Return the count, int32[], of non-finite steps that ``skip_nonfinite`` has skipped.

    0 where the configuration skips none. Works on tracers too.
    """
    found = optax.tree.get(opt_state, "total_notfinite", jnp.zeros((), jnp.int32))
    counted: jax.Array = found
    return counted


def update_ema(ema: T, params: T, *, decay: float, updates: jax.typing.ArrayLike) -> T:
    """Return the exponential moving average after one more update, in the dtype of ``ema``.

    d = min(decay, (1 + n) / (10 + n)) with n updates made before this one; the average is
    d · ema + (1 - d) · params. Without the ramp the first weights, which are random, would stay in
    the average for about 1 / (1 - decay) updates.

    Args:
        ema: the average so far; the first weights at the start.
        params: the weights after the update.
        decay: weight of the old average in the long run.
        updates: n, updates made before this one.
    """
    n = jnp.asarray(updates, jnp.float32)
    step_size = 1 - jnp.minimum(decay, (1 + n) / (10 + n))
    new = optax.incremental_update(params, ema, step_size)
    averaged: T = jax.tree.map(lambda value, old: value.astype(old.dtype), new, ema)
    return averaged


def decay_mask(name: str) -> Callable[[Any], Any]:
    """Return a function: params → the same tree with True where weight decay applies.

    What a leaf is for is read off its path: ``blocks/0/norm/scale`` is not decayed, and neither is
    a stacked bias [L, D] of scanned blocks. A leaf with fewer than two dimensions never is.
    """

    def decayed(path: str, leaf: jax.Array) -> bool:
        if name == "all":
            return True
        if name == "matrices_no_embeddings" and _EMBEDDINGS.search(path):
            return False
        return leaf.ndim > 1 and not _VECTORS.search(path)

    return lambda params: map_named(decayed, params)


def _clipping(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    links = []
    if config.clip_value is not None:
        links.append(optax.clip(config.clip_value))
    if config.clip_norm is not None:
        links.append(optax.clip_by_global_norm(config.clip_norm))
    if config.clip_adaptive is not None:
        links.append(optax.adaptive_grad_clip(config.clip_adaptive))
    return links


def _optimizer(
    config: OptimizerConfig, schedule: optax.Schedule
) -> list[optax.GradientTransformation]:
    named = OPTIMIZERS[config.name]
    decay = named.weight_decay if config.weight_decay is None else config.weight_decay
    mask = (
        decay_mask(config.decay_mask) if isinstance(config.decay_mask, str) else (config.decay_mask)
    )
    options = {**named.options, **config.options}
    if named.decay_keywords:
        options.update(zip(named.decay_keywords, (decay, mask), strict=True))
        return [named.make(schedule, **options)]
    links = [named.make(schedule, **options)]
    if decay:
        # Updates carry the learning rate already, so the decay brings its own.
        links.append(optax.add_decayed_weights(lambda count: -decay * schedule(count), mask))
    return links


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    made = optax.contrib.muon if name == "muon" else OPTIMIZERS[name].make
    fixed = {"learning_rate", "muon_weight_dimension_numbers", *OPTIMIZERS[name].decay_keywords}
    known = sorted(set(inspect.signature(made).parameters) - fixed)
    for option in options:
        if option not in known:
            raise ConfigError(
                f"optimizer {name!r}: unknown option {option!r}; known are {', '.join(known)}"
            )
