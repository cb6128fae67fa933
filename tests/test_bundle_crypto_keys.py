"""Keys: one line each, kept elsewhere, and never told in a message."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.bundle.crypto.keys import (
    KeyKind,
    key_id,
    key_text,
    new_key,
    parse_key,
    read_key,
    trusted,
    write_keys,
)
from maas_sdk.bundle.crypto.primitives import public_key_of
from maas_sdk.errors import ConfigError, CredentialsError, MaasError, StorageError

KEY = bytes(range(32))
TEXT = "aes256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
PUBLIC = [key_text(KeyKind.PUBLIC, public_key_of(bytes([n]) * 32)) for n in range(3)]


def test_a_key_is_a_line() -> None:
    """There and back, with white space around it, as files and secrets have."""
    assert key_text(KeyKind.ENCRYPTION, KEY) == TEXT
    assert parse_key(f"  {TEXT}\n", KeyKind.ENCRYPTION, "here") == KEY
    assert len({new_key() for _ in range(100)}) == 100
    assert key_id(KEY) == key_id(bytes(KEY)) != key_id(new_key())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "here: expected an encryption key, one line that starts with aes256:"),
        ("AAECAwQFBgcICQoLDA0ODw==", "found something else; maas keygen makes keys"),
        (key_text(KeyKind.PRIVATE, KEY), "expected an encryption key, found a private signing"),
        (PUBLIC[0], "expected an encryption key, found a public key"),
        (TEXT[:-5], "an encryption key is 32 bytes in base64: it was cut"),
        (TEXT[:-5] + "====", "it was cut"),
        (TEXT.replace("A", "*"), "it was cut"),
    ],
)
def test_what_is_no_such_key(text: str, message: str) -> None:
    """The message says what was expected, and not a character of the key."""
    with pytest.raises(ConfigError) as caught:
        parse_key(text, KeyKind.ENCRYPTION, "here")
    assert message in caught.value.message
    secret = text.partition(":")[2]
    assert not secret or secret not in caught.value.message


@given(st.text())
def test_junk_is_no_key(text: str) -> None:
    """Any text at all ends in a key or in a ConfigError."""
    for kind in KeyKind:
        with pytest.raises(ConfigError):
            parse_key(text, kind, "here")


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment and files, also those that a platform mounts with a line feed or without."""
    monkeypatch.setenv("MODEL_KEY", TEXT)
    (tmp_path / "key").write_text(TEXT + "\n")
    assert read_key("env:MODEL_KEY", KeyKind.ENCRYPTION) == KEY
    assert read_key(f"file:{tmp_path}/key", KeyKind.ENCRYPTION) == KEY
    monkeypatch.chdir(tmp_path)
    assert read_key("file:key", KeyKind.ENCRYPTION) == KEY


@pytest.mark.parametrize(
    ("reference", "kind", "message"),
    [
        ("env:NOT_THERE", CredentialsError, "env:NOT_THERE: the environment has no NOT_THERE"),
        ("file:/not/there", StorageError, "no key can be read from /not/there: no such file"),
        ("file:/dev/zero", StorageError, "no key can be read from /dev/zero: no such file"),
        ("file:.", StorageError, "no key can be read from ."),
        ("env:", ConfigError, "a key is named by env:NAME, file:PATH or gcp-secret:projects/"),
        (
            "gcp-secret:projects/p/secrets/s",
            ConfigError,
            "expected projects/PROJECT/secrets/NAME",
        ),
        (
            "gcp-secret:projects/p/secrets/s/versions/1/../2",
            ConfigError,
            "expected projects/PROJECT/",
        ),
        ("gcp-secret:projects/../secrets/s/versions/1", ConfigError, "expected projects/"),
        ("gcp-secret:projects/p/secrets/s/versions/1?x", ConfigError, "expected projects/"),
        (TEXT, ConfigError, "not by a text like this one"),
    ],
)
def test_references_that_lead_nowhere(reference: str, kind: type[MaasError], message: str) -> None:
    """Says what is missing; a key given in place of its reference is not repeated."""
    with pytest.raises(kind) as caught:
        read_key(reference, KeyKind.ENCRYPTION)
    assert message in caught.value.message
    assert TEXT.partition(":")[2] not in caught.value.message


def test_trusted_keys(tmp_path: Path) -> None:
    """Keys, files of keys with remarks, and both, each key once."""
    file = tmp_path / "trusted"
    file.write_text(f"# the release team\n{PUBLIC[1]}\n\n  {PUBLIC[2]}\n")
    assert [key_text(KeyKind.PUBLIC, key) for key in trusted([PUBLIC[0], str(file)])] == PUBLIC
    assert len(trusted([f" {PUBLIC[1]} ", "", f"file:{file}"])) == 2
    for none in ([], [""], [" ", ""]):
        with pytest.raises(ConfigError, match="set MAAS_TRUSTED_KEYS to public keys"):
            trusted(none)
    file.write_text(key_text(KeyKind.PRIVATE, KEY))
    with pytest.raises(ConfigError, match="trusted: expected a public key, found a private"):
        trusted([str(file)])
    with pytest.raises(StorageError, match="no key can be read from nowhere"):
        trusted([PUBLIC[0], "nowhere"])


def test_keys_are_written_for_their_owner_and_never_replaced(tmp_path: Path) -> None:
    """Private files are 0600 whatever the umask; where one is there, nothing is written."""
    before = os.umask(0)
    try:
        made = write_keys(tmp_path / "keys")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.files}
    assert modes == {"signing.key": 0o600, "signing.pub": 0o644, "encryption.key": 0o600}
    read_key(f"file:{tmp_path}/keys/encryption.key", KeyKind.ENCRYPTION)
    seed = read_key(f"file:{tmp_path}/keys/signing.key", KeyKind.PRIVATE)
    assert trusted([f"{tmp_path}/keys/signing.pub"]) == (public_key_of(seed),)
    assert made.public_key == key_text(KeyKind.PUBLIC, public_key_of(seed))
    content = {path: path.read_bytes() for path in made.files}
    made.files[0].unlink()
    with pytest.raises(ConfigError, match=r"signing.pub, encryption.key is there already; keys"):
        write_keys(tmp_path / "keys")
    assert not made.files[0].exists()
    assert all(path.read_bytes() == content[path] for path in made.files[1:])
    assert write_keys(tmp_path / "a", signing=False).files == (tmp_path / "a/encryption.key",)
    assert write_keys(tmp_path / "b", encryption=False).public_key is not None
    with pytest.raises(ConfigError, match="keys are never replaced"):
        write_keys(tmp_path / "a" / "encryption.key")
