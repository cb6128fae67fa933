"""Sealed bundles in the runtime and behind the shells: what opens, what does not, what is left."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_sdk import runtime
from maas_sdk.bundle import open_bundle
from maas_sdk.bundle.crypto.keys import KeyKind, key_text
from maas_sdk.bundle.crypto.primitives import public_key_of
from maas_sdk.bundle.manifest import MANIFEST, WEIGHTS, executable_path
from maas_sdk.bundle.seal import seal_bundle
from maas_sdk.errors import ConfigError, CorruptError, CredentialsError, SealError
from maas_sdk.export import default_targets
from maas_sdk.export.reweight import reweight
from maas_sdk.export.verification.answers import verify
from maas_sdk.wire.frames import CONTENT_TYPE, Call, Result, decode_results, encode_calls

SEED = bytes(range(32))
PUBLIC = key_text(KeyKind.PUBLIC, public_key_of(SEED))
KEYS = {
    "SIGNING_KEY": key_text(KeyKind.PRIVATE, SEED),
    "MODEL_KEY": key_text(KeyKind.ENCRYPTION, SEED),
}
X = np.ones((2, 4), np.float32)
Y = X @ np.arange(12, dtype=np.float32).reshape(4, 3)
BEST = default_targets()[:1]

pytestmark = pytest.mark.skipif(not BEST, reason="nothing can be compiled ahead of time here")


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    monkeypatch.setenv("MAAS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def sealed(tiny_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a sealed copy of the tiny bundle, which may be altered."""

    def make(**how: str) -> Path:
        return seal_bundle(tiny_bundle, tmp_path / "sealed.maas", **how).path

    return make


BOTH = {"sign": "env:SIGNING_KEY", "encrypt": "env:MODEL_KEY"}


@pytest.mark.parametrize("check", ["before", "deferred"])
@pytest.mark.parametrize("tier", ["executable", "program"])
@pytest.mark.parametrize("keys", [None, [PUBLIC]])
def test_a_sealed_bundle_answers_as_the_plain_one(
    sealed: Callable[..., Path], tier: Any, check: Any, keys: Any
) -> None:
    """In both tiers, with weights used in place, and its golden answers hold."""
    with runtime.load(sealed(**BOTH), tier=tier, check=check, trusted_keys=keys) as engine:
        assert np.allclose(engine.predict(X), Y)
        assert engine.predict(np.ones((9, 4), np.float32)).shape == (9, 3)
        assert engine.report.tier == tier
        assert engine.report.copied_weights == ()
        engine.prime()


def test_decrypted_weights_are_used_where_they_are(sealed: Callable[..., Path]) -> None:
    """Aligned as XLA wants it: no second copy of them is made."""
    weights = open_bundle(sealed(**BOTH)).weights(WEIGHTS)
    assert weights["w"].ctypes.data % 64 == 0
    assert weights.copied == ()


@pytest.mark.parametrize("how", [{}, {"encrypt": "env:MODEL_KEY"}])
def test_unsigned_bundles_do_not_open_where_a_key_is_trusted(
    sealed: Callable[..., Path], tiny_bundle: Path, how: dict[str, str], monkeypatch: Any
) -> None:
    """By argument and by environment, whichever way hashes are checked."""
    path = sealed(**how) if how else tiny_bundle
    for check in ("before", "deferred"):
        with pytest.raises(SealError, match="is not signed"):
            runtime.load(path, check=check, trusted_keys=[PUBLIC])  # type: ignore[arg-type]
    monkeypatch.setenv("MAAS_TRUSTED_KEYS", PUBLIC)
    with pytest.raises(SealError, match="is not signed"):
        runtime.load(path)


@pytest.mark.parametrize("check", ["before", "deferred"])
@pytest.mark.parametrize("how", [{"sign": "env:SIGNING_KEY"}, BOTH])
@pytest.mark.parametrize("file", [WEIGHTS, executable_path(BEST[0] if BEST else "", "predict", 4)])
def test_altered_bundles_do_not_open_where_a_key_is_trusted(
    sealed: Callable[..., Path], how: dict[str, str], check: Any, file: str
) -> None:
    """Not even for half a second: with a trusted key no check is deferred, of any file."""
    path = sealed(**how)
    data = bytearray((path / file).read_bytes())
    data[-1] ^= 1
    (path / file).write_bytes(data)
    with pytest.raises(CorruptError, match=f"{file}: expected sha256"):
        runtime.load(path, check=check, trusted_keys=[PUBLIC])


def test_altered_weights_of_an_encrypted_bundle_never_answer(sealed: Callable[..., Path]) -> None:
    """Also unsigned and with checks deferred: they do not decrypt."""
    path = sealed(encrypt="env:MODEL_KEY")
    data = bytearray((path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (path / WEIGHTS).write_bytes(data)
    with pytest.raises(SealError, match=rf"{WEIGHTS}: chunk 0 of 1 does not decrypt"):
        runtime.load(path, check="deferred")


def test_without_its_key_a_bundle_does_not_open(
    sealed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says where the key was looked for; another place may be named."""
    path = sealed(encrypt="env:MODEL_KEY")
    monkeypatch.delenv("MODEL_KEY")
    with pytest.raises(CredentialsError, match="env:MODEL_KEY: the environment has no MODEL_KEY"):
        runtime.load(path)
    monkeypatch.setenv("ELSEWHERE", KEYS["MODEL_KEY"])
    with runtime.load(path, decryption_key="env:ELSEWHERE") as engine:
        assert np.allclose(engine.predict(X), Y)


def test_no_clear_copy_is_made_of_an_encrypted_bundle(sealed: Callable[..., Path]) -> None:
    """What would write its content to the disk says so instead."""
    path = sealed(encrypt="env:MODEL_KEY")
    with pytest.raises(ConfigError, match="is encrypted, and verify would write what it holds"):
        verify(path)
    with pytest.raises(ConfigError, match="is encrypted, and reweight would write"):
        reweight(path, {"w": np.zeros((4, 3), np.float32)}, path=path.with_name("new.maas"))


# Serves from the sealed bundle with every opened file noted; native code is seen by what it leaves.
WATCH = """
import os, sys
written = []
def hook(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        written.append(str(args[0]))
sys.addaudithook(hook)
import numpy as np
from maas_sdk import runtime
with runtime.load(sys.argv[1], tier=sys.argv[2]) as engine:
    engine.prime()
    assert engine.predict(np.ones((2, 4), np.float32)).shape == (2, 3)
    maps = open("/proc/self/maps").read()
assert written == [], written
print(maps)
"""


@pytest.mark.parametrize("tier", ["executable", "program"])
def test_nothing_of_it_comes_to_lie_on_a_disk(
    sealed: Callable[..., Path], tier: str, tmp_path: Path
) -> None:
    """Python writes no file, native code leaves none where it would put one, none is mapped."""
    path = sealed(encrypt="env:MODEL_KEY")
    home = tmp_path / "home"
    home.mkdir()
    places = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "MAAS_CACHE_DIR")
    environment = {**os.environ, **dict.fromkeys(places, str(home)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WATCH, path, tier],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    mapped = [line for line in done.stdout.splitlines() if str(tmp_path) in line]
    assert mapped == []


def test_a_plain_bundle_is_still_cached(tiny_bundle: Path, tmp_path: Path) -> None:
    """What the test above would see, were it there."""
    runtime.load(tiny_bundle, tier="program").close()
    assert list((tmp_path / "cache").glob("*.xla"))


MAIN = "from maas_sdk.serve.shells.function import serve\npredict = serve({path!r}{how})\n"


def ask_function(
    folder: Path, bundle: Path, how: str = "", **environment: str
) -> tuple[int, bytes]:
    """The answer of a real functions-framework process that serves a bundle."""
    (folder / "main.py").write_text(MAIN.format(path=str(bundle), how=how))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "functions_framework", "--target", "predict"),
            *("--host", "127.0.0.1", "--port", str(port), "--source", str(folder / "main.py")),
        ],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            body = b"".join(bytes(part) for part in encode_calls([Call(id="0", inputs={"x": X})]))
            for _ in range(600):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                try:
                    connection.request(
                        "POST", "/v1/models/tiny:predict", body, {"Content-Type": CONTENT_TYPE}
                    )
                    reply = connection.getresponse()
                    return reply.status, reply.read()
                except OSError:
                    assert server.poll() is None
                    time.sleep(0.1)
                finally:
                    connection.close()
            raise AssertionError("the function does not answer")
        finally:
            server.terminate()


def test_the_function_serves_what_is_trusted(sealed: Callable[..., Path], tmp_path: Path) -> None:
    """Decrypted before the fork, answered by a worker; the environment names key and signer."""
    status, body = ask_function(tmp_path, sealed(**BOTH), MAAS_TRUSTED_KEYS=PUBLIC)
    assert status == 200, body
    [result] = decode_results(body)
    assert isinstance(result, Result)
    assert np.allclose(result.outputs["y"], Y)


@pytest.mark.parametrize(
    ("how", "environment"),
    [("", {"MAAS_TRUSTED_KEYS": PUBLIC}), (f", trusted_keys=[{PUBLIC!r}]", {})],
)
def test_the_function_serves_nothing_else(
    tiny_bundle: Path, tmp_path: Path, how: str, environment: dict[str, str]
) -> None:
    """Who calls is told why, with the code of the class; by argument and by environment."""
    status, body = ask_function(tmp_path, tiny_bundle, how, **environment)
    assert status == 500
    assert b"bundle_untrusted" in body
    assert b"is not signed" in body


def test_a_signature_of_another_bundle(sealed: Callable[..., Path], tmp_path: Path) -> None:
    """A right signature beside the wrong manifest is none."""
    path = sealed(sign="env:SIGNING_KEY")
    document = json.loads((path / MANIFEST).read_bytes())
    other = Path(shutil.copytree(path, tmp_path / "other.maas"))
    (other / MANIFEST).write_text(json.dumps({**document, "created": "2020-01-01T00:00:00Z"}))
    with pytest.raises(SealError, match=r"is not what ed25519:\S+ signed"):
        runtime.load(other, trusted_keys=[PUBLIC])
