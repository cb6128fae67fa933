"""Cold and warm calls of a deployed endpoint, told apart by the process's own age.

An endpoint that scales to zero is left alone until its platform has taken its instances away, then
called: that call is cold if the process that answers says that it is younger than the call itself.
Warm calls follow at once, over connections of their own like the cold one, so that the network and
its handshakes are in both and their difference is what the start costs.

The rule: no warm call counts as cold: the process reports its age, nothing is assumed. Where
several instances run, the one that reports may be another than the one that answered; then calls
count as unknown rather than as cold.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from maas_sdk.deploy.golden import FirstCall
from maas_sdk.errors import ConfigError, CredentialsError, DeadlineError, ModelError, TransportError

__all__ = ["DeployedCold", "measure_deployed"]

# How much older than the call a process may be that was started for it: it is started before the
# request reaches it, and ages while it is asked.
_SLACK_S: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployedCold:
    """Durations of the calls in seconds, in the order of the rounds.

    Attributes:
        cold_s: first calls of a round whose instance was started for them.
        met_warm_s: first calls that an instance was there for.
        warm_s: the calls that followed.
        idle_s: how long the endpoint was left alone before each round.
    """

    cold_s: tuple[float, ...]
    met_warm_s: tuple[float, ...]
    warm_s: tuple[float, ...]
    idle_s: float

    @property
    def start_s(self) -> float | None:
        """Median of cold calls less the median of warm ones: the cost of a start to a caller."""
        if not self.cold_s:
            return None
        return statistics.median(self.cold_s) - statistics.median(self.warm_s)


def measure_deployed(
    url: str,
    call: FirstCall,
    *,
    model: str,
    headers: Mapping[str, str] | None = None,
    runs: int = 5,
    warm_calls: int = 5,
    idle_s: float = 900.0,
    timeout_s: float = 120.0,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[int], None] = lambda done: None,
) -> DeployedCold:
    """Leave an endpoint idle, call it, call it again; ``runs`` times.

    Args:
        url: of the endpoint, without a path.
        call: what to ask, and what must be answered.
        model: name of the model there.
        headers: of every request: who calls.
        runs: rounds.
        warm_calls: after the first one, in each round.
        idle_s: before each round. Cloud Run keeps an idle instance for up to 15 minutes.
        timeout_s: to wait for an answer.
        sleep: how to wait.
        progress: called with the number of finished rounds.

    Raises:
        ConfigError: the URL is none.
        CredentialsError: the endpoint asks for a token, or refuses this one.
        ModelError: an answer is wrong, or an error.
        TransportError: nothing answers there.
        DeadlineError: no answer in time.
    """
    shared = dict(headers or {})
    cold, met_warm, warm = [], [], []
    for turn in range(runs):
        sleep(idle_s)
        began = time.perf_counter()
        first_s = _timed(url, call, shared, timeout_s)
        age_s = _age(url, model, shared, timeout_s)
        # Over both requests: a process that was started for the first one is younger than that.
        since_s = time.perf_counter() - began
        if age_s is not None and age_s <= since_s + _SLACK_S:
            cold.append(first_s)
        else:
            met_warm.append(first_s)
        warm += [_timed(url, call, shared, timeout_s) for _ in range(warm_calls)]
        progress(turn + 1)
    return DeployedCold(
        cold_s=tuple(cold), met_warm_s=tuple(met_warm), warm_s=tuple(warm), idle_s=idle_s
    )


def _timed(url: str, call: FirstCall, headers: Mapping[str, str], timeout_s: float) -> float:
    began = time.perf_counter()
    status, body = _ask(
        url, "POST", call.path, b"".join(call.body), {**call.headers, **headers}, timeout_s
    )
    took_s = time.perf_counter() - began
    # The request is right and the caller unknown: other credentials mend it, no other call.
    if status in (401, 403):
        raise CredentialsError(
            f"{url}: answers {status}: it is not open to everybody. Give a token with --token or "
            "MAAS_TOKEN: gcloud auth print-identity-token",
            status=status,
        )
    if status != 200:
        words = body[:500].decode(errors="replace")
        raise ModelError(f"{url}{call.path}: answers with status {status}: {words}", status=status)
    call.check(body)
    return took_s


def _age(url: str, model: str, headers: Mapping[str, str], timeout_s: float) -> float | None:
    """Return the answering process's age in seconds; None where it does not say."""
    status, body = _ask(url, "GET", f"/v1/models/{model}/metadata", b"", headers, timeout_s)
    if status != 200:
        return None
    try:
        return float(json.loads(body)["maas"]["age_s"])
    except (ValueError, KeyError, TypeError):
        return None


def _ask(
    url: str, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> tuple[int, bytes]:
    """Send one request over a connection of its own."""
    parts = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in kinds or not parts.hostname:
        raise ConfigError(f"{url!r}: expected an address such as https://digits-abc.a.run.app")
    connection = kinds[parts.scheme](parts.netloc, timeout=timeout_s)
    try:
        # None and not b"", for which a GET would get a Content-Length.
        connection.request(method, parts.path.rstrip("/") + path, body or None, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    except TimeoutError as error:
        raise DeadlineError(f"{url}: no answer within {timeout_s:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise TransportError(f"{url}: {error}") from error
    finally:
        connection.close()
