"""Keys as lines of text, kept outside the bundle and named by reference.

A key is one line that states its purpose, so that a key used for another purpose is refused at
once:

    ed25519:<base64>           a public key to trust
    ed25519-private:<base64>   a private key that signs
    aes256:<base64>            a key that encrypts and decrypts

The rule: a message names the place of a key and its kind, never a character of it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from maas_sdk.bundle.crypto.primitives import KEY_BYTES, public_key_of
from maas_sdk.errors import ConfigError, CredentialsError, StorageError

__all__ = [
    "KeyKind",
    "Made",
    "key_id",
    "key_text",
    "new_key",
    "parse_key",
    "read_key",
    "trusted",
    "write_keys",
]

_MAX_FILE_BYTES: Final = 64 * 1024
_KINDS_OF_REFERENCE: Final = (
    "env:NAME, file:PATH or gcp-secret:projects/PROJECT/secrets/NAME/versions/VERSION"
)


class KeyKind(StrEnum):
    """Purpose of a key; the word before the colon."""

    PUBLIC = "ed25519"
    PRIVATE = "ed25519-private"
    ENCRYPTION = "aes256"


_WORDS: Final = {
    KeyKind.PUBLIC: "a public key",
    KeyKind.PRIVATE: "a private signing key",
    KeyKind.ENCRYPTION: "an encryption key",
}


def new_key() -> bytes:
    """Return a new signing or encryption key: 32 bytes of the system's randomness."""
    return os.urandom(KEY_BYTES)


def key_text(kind: KeyKind, key: bytes) -> str:
    """The line for a key."""
    return f"{kind}:{base64.b64encode(key).decode()}"


def parse_key(text: str, kind: KeyKind, where: str) -> bytes:
    """The 32 bytes of a key from its line.

    Args:
        text: the line; white space around it does not count.
        kind: what it must be for.
        where: what messages call the place it came from.

    Raises:
        ConfigError: it is of another kind, or no key.
    """
    found, colon, encoded = text.strip().partition(":")
    if not colon or found not in set(KeyKind):
        raise ConfigError(
            f"{where}: expected {_WORDS[kind]}, one line that starts with {kind}:, found something "
            "else; maas keygen makes keys"
        )
    if found != kind:
        raise ConfigError(f"{where}: expected {_WORDS[kind]}, found {_WORDS[KeyKind(found)]}")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{where}: {_WORDS[kind]} is {KEY_BYTES} bytes in base64: it was cut")
    return key


def read_key(reference: str, kind: KeyKind) -> bytes:
    """Fetch the key that a reference names.

    Args:
        reference: ``env:NAME``, ``file:PATH`` or ``gcp-secret:projects/…/secrets/…/versions/…``.
        kind: what it must be for.

    Raises:
        ConfigError: no such reference, or not a key of that kind.
        CredentialsError: the environment or Secret Manager has none, or gives no right to it.
        StorageError: the file cannot be read.
        TransportError: Secret Manager gave no answer.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "env" and rest:
        found = os.environ.get(rest)
        if found is None:
            raise CredentialsError(f"{reference}: the environment has no {rest}: set it to the key")
        return parse_key(found, kind, reference)
    if scheme == "file" and rest:
        return parse_key(_read_file(rest), kind, reference)
    if scheme == "gcp-secret" and rest:
        # Only here: an HTTP client is slow to import.
        from maas_sdk.bundle.crypto.secret_manager import read_secret

        try:
            text = read_secret(rest).decode("ascii")
        except UnicodeDecodeError:
            text = ""
        return parse_key(text, kind, reference)
    raise ConfigError(f"a key is named by {_KINDS_OF_REFERENCE}, not by a text like this one")


def _read_file(path: str) -> str:
    try:
        # A device or a pipe might never end.
        if not os.path.isfile(path):
            raise FileNotFoundError
        with open(path, "rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise StorageError(
            f"no key can be read from {path}: {error.strerror or 'no such file'}; maas keygen "
            "makes keys"
        ) from error


def trusted(keys: Sequence[str]) -> tuple[bytes, ...]:
    """The public keys of a list, whose entries are keys, or files with a key on each line.

    In a file, empty lines and those that start with # do not count.

    Raises:
        ConfigError: an entry is neither, or there is no key in all.
        StorageError: a file cannot be read.
    """
    found: list[bytes] = []
    for entry in filter(None, (key.strip() for key in keys)):
        if entry.startswith(f"{KeyKind.PUBLIC}:"):
            found.append(parse_key(entry, KeyKind.PUBLIC, "trusted keys"))
            continue
        path = entry.removeprefix("file:")
        lines = (line.strip() for line in _read_file(path).splitlines())
        found += [
            parse_key(line, KeyKind.PUBLIC, path)
            for line in lines
            if line and not line.startswith("#")
        ]
    if not found:
        raise ConfigError(
            "trusted keys were asked for and none is named: set MAAS_TRUSTED_KEYS to public keys "
            "or their files, with commas between, or leave it unset"
        )
    return tuple(dict.fromkeys(found))


def key_id(key: bytes) -> str:
    """Return an identifier of an encryption key that does not reveal it: 32 hex digits."""
    return hashlib.sha256(b"maas-sdk key id\0" + key).hexdigest()[:32]


class Made(NamedTuple):
    """Keys that ``write_keys`` made."""

    files: tuple[Path, ...]
    # As a line; None where no signing pair was asked for.
    public_key: str | None


def write_keys(folder: Path, *, signing: bool = True, encryption: bool = True) -> Made:
    """Make keys and write each into its own file.

    Private ones, ``signing.key`` and ``encryption.key``, are readable by their owner alone;
    ``signing.pub`` is for everybody.

    Raises:
        ConfigError: one of the files is there already; then none is written.
        DependencyError: the package ``cryptography`` is not there.
        StorageError: the folder cannot be written to.
    """
    lines: dict[str, tuple[str, int]] = {}
    public_key = None
    if signing:
        seed = new_key()
        public_key = key_text(KeyKind.PUBLIC, public_key_of(seed))
        lines["signing.key"] = (key_text(KeyKind.PRIVATE, seed), 0o600)
        lines["signing.pub"] = (public_key, 0o644)
    if encryption:
        lines["encryption.key"] = (key_text(KeyKind.ENCRYPTION, new_key()), 0o600)
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if there := [name for name in lines if os.path.lexists(folder / name)]:
            raise FileExistsError(f"{', '.join(there)} is there already")
        for name, (line, mode) in lines.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            descriptor = os.open(folder / name, flags, mode)
            written.append(folder / name)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(line + "\n")
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        kind = ConfigError if isinstance(error, FileExistsError) else StorageError
        raise kind(
            f"{folder}: {error.strerror or error}; keys are never replaced: choose another folder"
        ) from error
    return Made(tuple(written), public_key)
