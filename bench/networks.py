"""The networks that are served in the benchmarks: a 68 MB CNN and a 503 MB MLP.

Needs flax alone: the tutorial peer imports this file too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx

__all__ = ["NETWORKS", "Cnn", "Mlp", "Network"]


class Cnn(nnx.Module):
    """float32[B, 32, 32, 3] → float32[B, 10]: two convolutions and two dense layers.

    The shape of a tutorial's CNN; nearly all of its 17 million weights are in ``hidden``.
    """

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.convs = nnx.List(
            [
                nnx.Conv(3, 64, (3, 3), rngs=rngs),
                nnx.Conv(64, 128, (3, 3), strides=2, rngs=rngs),
            ]
        )
        self.layers = nnx.List(
            [nnx.Linear(128 * 16 * 16, 512, rngs=rngs), nnx.Linear(512, 10, rngs=rngs)]
        )

    def __call__(self, x: Any) -> Any:
        """Logits of a batch of images."""
        for conv in self.convs:
            x = nnx.relu(conv(x))
        x = nnx.relu(self.layers[0](x.reshape(x.shape[0], -1)))
        return self.layers[1](x)


class Mlp(nnx.Module):
    """float32[B, 1024] → float32[B, 10] by way of 8192, 8192 and 6144 features."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        sizes = (1024, 8192, 8192, 6144, 10)
        self.layers = nnx.List(
            [
                nnx.Linear(fan_in, fan_out, rngs=rngs)
                for fan_in, fan_out in itertools.pairwise(sizes)
            ]
        )

    def __call__(self, x: Any) -> Any:
        """Logits of a batch of rows."""
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A network, and the shape of one row of its input."""

    name: str
    make: Callable[..., nnx.Module]
    input_shape: tuple[int, ...]

    def build(self) -> Any:
        """The model, the same weights at every call."""
        return self.make(rngs=nnx.Rngs(0))


NETWORKS = {
    network.name: network
    for network in (
        Network(name="cnn", make=Cnn, input_shape=(32, 32, 3)),
        Network(name="mlp", make=Mlp, input_shape=(1024,)),
    )
}
