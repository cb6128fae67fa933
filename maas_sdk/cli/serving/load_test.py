"""Load test: threads that call one endpoint, and the latencies that they measure."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from maas_sdk.cli.serving.predict import endpoint_signature, split_url
from maas_sdk.client import Client, RetryPolicy
from maas_sdk.demo.result import quantile
from maas_sdk.errors import ConfigError, MaasError, traits
from maas_sdk.tensors import Array, Signature, TensorSpec, dtype_from_name

__all__ = ["Load", "LoadConfig", "made_up", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadConfig:
    """Endpoint to call, number of calls and of threads."""

    url: str
    # None: the URL has to name it.
    model: str | None = None
    calls: int = 500
    clients: int = 1
    rows: int = 1

    def __post_init__(self) -> None:
        if min(self.calls, self.clients, self.rows) < 1:
            raise ConfigError("calls, clients and rows: expected 1 or more of each")


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Figures of a load test. Latencies are of answered calls; without any they are 0."""

    answered: int
    # By the code of ``errors.TRAITS``.
    errors: Mapping[str, int]
    duration_s: float
    rows_per_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


def run(config: LoadConfig, progress: Callable[[], None] = lambda: None) -> Load:
    """Send all calls and wait for their answers.

    Args:
        config: what to call.
        progress: called after each call, from any thread.

    Raises:
        MaasError: the endpoint cannot be asked for the model's signature.
    """
    base, named = split_url(config.url)
    model = named or config.model
    if model is None:
        raise ConfigError(f"{config.url}: which model? End the URL in /v1/models/NAME, or --model")
    # Refusals under load are a result; retried, they would show as slow answers.
    never_again = RetryPolicy(max_attempts=1)
    with Client(base, model, retry=never_again) as client:
        inputs = made_up(endpoint_signature(client.metadata(), None, config.url), config.rows)
        # Not measured: the first answer may wait until the model is loaded.
        client.predict(inputs)
        # Threads draw from one counter, so that a slow one does not hold back its share of calls.
        numbers = itertools.count()
        latencies: list[float] = []
        errors: Counter[str] = Counter()

        def work() -> None:
            while next(numbers) < config.calls:
                began = time.perf_counter()
                try:
                    client.predict(inputs)
                    latencies.append(time.perf_counter() - began)
                except MaasError as error:
                    errors[traits(error).code] += 1
                progress()

        threads = [threading.Thread(target=work) for _ in range(config.clients)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        duration_s = time.perf_counter() - began
    # Quantiles of nothing are not defined; ``answered`` says that these are none.
    seen = tuple(latencies) or (0.0,)
    return Load(
        answered=len(latencies),
        errors=dict(errors),
        duration_s=duration_s,
        rows_per_s=len(latencies) * config.rows / duration_s,
        p50_s=quantile(seen, 0.5),
        p90_s=quantile(seen, 0.9),
        p99_s=quantile(seen, 0.99),
        max_s=max(seen),
    )


def made_up(signature: Signature, rows: int) -> dict[str, Array]:
    """Make inputs [rows, …] that fit a signature, equal on each call: 0 to 1, integers 0 or 1."""
    generator = np.random.default_rng(0)

    def one(spec: TensorSpec) -> Array:
        shape = tuple(rows if size is None else size for size in spec.shape)
        dtype = dtype_from_name(spec.dtype)
        if dtype.kind in "biu":
            # 0 and 1 are valid as booleans, tokens and indexes of any table.
            return generator.integers(0, 2, shape).astype(dtype)
        return generator.random(shape).astype(dtype)

    return {name: one(spec) for name, spec in signature.inputs.items()}
