"""``maas_sdk.testing``: what users build their own tests of."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from maas_sdk.bundle import open_bundle
from maas_sdk.client import Client, RetryPolicy
from maas_sdk.errors import ConfigError, InputError, MaasError, NotFoundError, TooLargeError
from maas_sdk.runtime import load
from maas_sdk.serve import Endpoint, EndpointLimits, ModelHost
from maas_sdk.testing import EndpointTransport, served_client, tiny_bundle

W = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


def test_the_client_answers_as_the_model_does(bundle: Path) -> None:
    """Through frames and back, one batch and many rows, from several threads at once."""
    rows = np.random.default_rng(0).random((9, 4), np.float32)
    with served_client(bundle) as client, load(bundle) as engine:
        np.testing.assert_array_equal(client.predict(rows), engine.predict(rows))
        found = np.stack(list(client.predict_many(rows, batch_rows=2)))
        np.testing.assert_allclose(found, rows @ W, rtol=1e-6)
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(client.predict, [rows] * 16):
                np.testing.assert_allclose(answer, rows @ W, rtol=1e-6)
        assert client.ready()
        assert "predict" in str(client.metadata())


def test_errors_are_those_of_an_endpoint(bundle: Path) -> None:
    """A wrong shape, another model, a request over the limit: the class and sentence of each."""
    x = np.ones((2, 4), np.float32)
    once = RetryPolicy(max_attempts=1)
    with served_client(bundle) as client, pytest.raises(InputError, match="x"):
        client.predict(np.ones((2, 5), np.float32))
    with (
        served_client(bundle, model="other") as client,
        pytest.raises(NotFoundError, match="this endpoint serves tiny"),
    ):
        client.predict({"x": x})
    limits = EndpointLimits(max_request_bytes=100)
    with (
        served_client(bundle, limits=limits, retry=once) as client,
        pytest.raises(TooLargeError, match="the limit is 100"),
    ):
        client.predict({"x": np.ones((20, 4), np.float32)})


def test_no_bundle_is_said_before_a_call(tmp_path: Path) -> None:
    """Where there is none, the block is never entered."""
    with pytest.raises(MaasError, match=r"none\.maas"), served_client(tmp_path / "none.maas"):
        pytest.fail("entered")


def test_a_second_version_answers_differently(bundle: Path, tmp_path: Path) -> None:
    """``scale`` multiplies the answers; a bundle made anew replaces the one before it, whole."""
    x = np.ones((1, 4), np.float32)
    for scale in (2.0, 10.0):
        made = tiny_bundle(tmp_path, name="mine", scale=scale)
        open_bundle(made).check()
        with served_client(made) as client:
            np.testing.assert_allclose(client.predict(x), scale * x @ W)
    assert made == tmp_path / "mine.maas"


def test_an_endpoint_of_ones_own_has_clients_too(bundle: Path, tmp_path: Path) -> None:
    """Two models behind one transport, each by its name."""
    other = tiny_bundle(tmp_path, name="other", scale=3.0)
    hosts = [
        ModelHost(lambda path=path: load(path), name=name)
        for name, path in (("tiny", bundle), ("other", other))
    ]
    transport = EndpointTransport(Endpoint(hosts))
    x = np.ones((1, 4), np.float32)
    for name, scale in (("tiny", 1.0), ("other", 3.0)):
        with Client("http://both.test", name, transport=transport) as client:
            np.testing.assert_allclose(client.predict({"x": x}), scale * x @ W)
    with pytest.raises(ConfigError):
        Endpoint([])
