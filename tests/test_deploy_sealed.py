from __future__ import annotations

from pathlib import Path

import pytest

from maas_sdk.bundle.crypto.keys import write_keys
from maas_sdk.bundle.seal import seal_bundle
from maas_sdk.deploy.container import container
from maas_sdk.deploy.package import package


@pytest.mark.parametrize("how", ["sign", "encrypt"])
def test_a_sealed_bundle_is_deployed_with_what_opens_it(
    tiny_bundle: Path, tmp_path: Path, how: str
) -> None:
    """A function and a container of a signed or encrypted bundle install cryptography."""
    write_keys(tmp_path)
    key = f"file:{tmp_path}/{'signing.key' if how == 'sign' else 'encryption.key'}"
    sealed = seal_bundle(tiny_bundle, tmp_path / "sealed.maas", **{how: key}).path
    folder = package(sealed, tmp_path / "function")
    assert "\ncryptography==" in (folder / "requirements.txt").read_text()
    image = container(sealed, tmp_path / "image")
    assert "\ncryptography==" in (image / "requirements.txt").read_text()
    plain = package(tiny_bundle, tmp_path / "plain")
    assert "cryptography" not in (plain / "requirements.txt").read_text()
