"""``maas keygen``, ``maas seal``, and what ``verify`` and ``serve`` say of a seal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.kit.command_line import maas

MAAS = [sys.executable, "-c", "from maas_sdk.cli import main; main()"]


def document(*arguments: object) -> Any:
    result = maas(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "keys"
    made = document("keygen", folder)
    assert made["files"] == [
        str(folder / name) for name in ("signing.key", "signing.pub", "encryption.key")
    ]
    assert made["public_key"] == (folder / "signing.pub").read_text().strip()
    return folder


@pytest.fixture(scope="module")
def sealed(tiny_bundle: Path, keys: Path) -> Path:
    path = keys.parent / "sealed.maas"
    made = document(
        *("seal", tiny_bundle, "--out", path),
        *("--sign", f"file:{keys}/signing.key", "--encrypt", f"file:{keys}/encryption.key"),
    )
    assert made["path"] == str(path)
    assert made["signed_by"] == (keys / "signing.pub").read_text().strip()
    assert made["encrypted_with"] == f"file:{keys}/encryption.key"
    return path


def test_keys_are_not_replaced(keys: Path) -> None:
    """A second keygen in the same folder fails and changes nothing; one kind alone can be made."""
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    result = maas("keygen", keys)
    assert result.exit_code == 1
    assert "keys are never replaced" in result.output
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before
    made = document("keygen", keys.parent / "more", "--only", "encryption")
    assert made == {"files": [str(keys.parent / "more" / "encryption.key")], "public_key": None}
    shown = maas("keygen", keys.parent / "signing", "--only", "signing").output
    assert "public key, for MAAS_TRUSTED_KEYS: ed25519:" in shown


def test_seal_says_what_it_did(tiny_bundle: Path, keys: Path, tmp_path: Path) -> None:
    """For people: who signs, and where the key is; and what is missing."""
    out = tmp_path / "out.maas"
    shown = maas("seal", tiny_bundle, "--out", out, "--encrypt", f"file:{keys}/encryption.key")
    assert "not signed\n" in shown.output
    assert "encrypted, the key is at file:" in shown.output
    again = maas("seal", tiny_bundle, "--out", out, "--sign", f"file:{keys}/signing.key")
    assert again.exit_code == 1
    assert "exists already" in again.output
    assert maas("seal", tiny_bundle, "--out", tmp_path / "x").exit_code == 1


def test_inspect_needs_no_key(sealed: Path, tiny_bundle: Path) -> None:
    """It shows that a bundle is sealed, and opens nothing."""
    shown = maas("inspect", sealed).output
    assert "signed; maas verify says by whom" in shown
    assert "encrypted, the key is at" in shown
    assert document("inspect", sealed)["manifest"]["encryption"]["algorithm"] == "AES-256-GCM"
    assert "signed" not in maas("inspect", tiny_bundle).output


def test_verify_says_who_signed(
    sealed: Path, tiny_bundle: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key, and whether it is trusted here; where it is not, or nobody signed, the exit is 1."""
    public = (keys / "signing.pub").read_text().strip()
    assert document("verify", sealed)["signed_by"] == public
    assert document("verify", sealed)["trusted"] is False
    assert document("verify", tiny_bundle)["signed_by"] is None
    shown = maas("verify", sealed).output
    assert f"signed by {public} (compare it with a key that you know)" in shown
    for key in (public, keys / "signing.pub"):
        found = document("verify", sealed, "--trusted-key", key)
        assert (found["signed_by"], found["trusted"]) == (public, True)
        result = maas("verify", tiny_bundle, "--trusted-key", key)
        assert result.exit_code == 1
        assert "is not signed" in result.output
    monkeypatch.setenv("MAAS_TRUSTED_KEYS", public)
    assert f"signed by {public} (trusted here)" in maas("verify", sealed).output
    result = maas("verify", tiny_bundle, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["code"] == "bundle_untrusted"


def test_serve_opens_what_is_trusted_alone(sealed: Path, tiny_bundle: Path, keys: Path) -> None:
    """``maas serve`` refuses at once; a sealed bundle it serves."""
    trusted = ["--trusted-key", str(keys / "signing.pub")]
    refused = subprocess.run(
        [*MAAS, "serve", tiny_bundle, "--port", "0", *trusted], capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "is not signed" in refused.stderr
    with subprocess.Popen(
        [*MAAS, "serve", sealed, "--port", "0", "--json", *trusted],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            answer = httpx.post(
                f"{url}/v1/models/tiny:predict", json={"instances": [[1, 1, 1, 1]]}, timeout=60
            )
            assert answer.json() == {"predictions": [[18, 22, 26]]}
        finally:
            server.terminate()
