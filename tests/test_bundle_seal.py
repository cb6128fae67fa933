"""Sealed bundles: opened as they were sealed, or not at all."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maas_sdk.bundle import BundleWriter, Manifest, open_bundle, write_weights
from maas_sdk.bundle.archive import unzip_bundle, zip_bundle
from maas_sdk.bundle.crypto.keys import KeyKind, key_text
from maas_sdk.bundle.crypto.primitives import public_key_of
from maas_sdk.bundle.folder import copy_bundle
from maas_sdk.bundle.manifest import MANIFEST, SIGNATURE, WEIGHTS, Program
from maas_sdk.bundle.seal import seal_bundle
from maas_sdk.bundle.signature import signer_of
from maas_sdk.errors import (
    BundleError,
    ConfigError,
    CorruptError,
    CredentialsError,
    NotFoundError,
    SealError,
    StorageError,
)
from maas_sdk.store.opening import LocalStore
from maas_sdk.tensors import Signature

SEED, OTHER_SEED = bytes(range(32)), bytes(range(1, 33))
PUBLIC = key_text(KeyKind.PUBLIC, public_key_of(SEED))
STRANGER = key_text(KeyKind.PUBLIC, public_key_of(OTHER_SEED))
SECRET = b"a secret of 27 bytes, often" * 4
TENSORS = {"w": np.arange(4096, dtype=np.float32).reshape(64, 64), "b": np.ones(3, np.int8)}


@pytest.fixture(scope="module", autouse=True)
def _keys() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGNING_KEY", key_text(KeyKind.PRIVATE, SEED))
        patch.setenv("OTHER_SIGNING_KEY", key_text(KeyKind.PRIVATE, OTHER_SEED))
        patch.setenv("MODEL_KEY", key_text(KeyKind.ENCRYPTION, SEED))
        patch.setenv("OTHER_MODEL_KEY", key_text(KeyKind.ENCRYPTION, OTHER_SEED))
        for name in ("MAAS_TRUSTED_KEYS", "MAAS_DECRYPTION_KEY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain.maas, and what was made of it: signed.maas, encrypted.maas and both.maas."""
    folder = tmp_path_factory.mktemp("sealed")
    program = Program(
        signature=Signature(inputs={}, outputs={}),
        weights=("w",),
        buckets=(1,),
        row_independent=True,
    )
    with BundleWriter(folder / "plain.maas") as writer:
        writer.add("assets/labels.txt", SECRET)
        writer.add("assets/empty", b"")
        write_weights(writer.path / WEIGHTS, TENSORS, metadata={"note": SECRET.decode()})
        writer.seal(Manifest(name="m", programs={"predict": program}, targets={}))
    for name, how in HOW.items():
        seal_bundle(folder / "plain.maas", folder / f"{name}.maas", **how)
    return folder


HOW: dict[str, dict[str, str]] = {
    "signed": {"sign": "env:SIGNING_KEY"},
    "encrypted": {"encrypt": "env:MODEL_KEY"},
    "both": {"sign": "env:SIGNING_KEY", "encrypt": "env:MODEL_KEY"},
}


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the bundles, to be altered."""
    return lambda name: Path(shutil.copytree(folder / f"{name}.maas", tmp_path / f"{name}.maas"))


def open_all(path: Path, **how: Any) -> None:
    """Read every file in every way there is."""
    bundle = open_bundle(path, **how)
    bundle.check()
    for name in bundle.manifest.files:
        bundle.read(name)
    weights = bundle.weights(WEIGHTS)
    for name in weights:
        assert (np.asarray(weights[name]) == TENSORS[name]).all()


@pytest.mark.parametrize("name", HOW)
def test_what_was_sealed_is_read_as_it_was(folder: Path, name: str) -> None:
    """Files and tensors of the sealed bundle are those of the plain one."""
    plain, sealed = open_bundle(folder / "plain.maas"), open_bundle(folder / f"{name}.maas")
    open_all(sealed.path)
    for path in plain.manifest.files:
        assert sealed.read(path) == plain.read(path)
    weights = sealed.weights(WEIGHTS, checked=False)
    assert weights.copied == ("b",) or weights.copied == ()
    assert weights["w"].ctypes.data % 64 == 0
    assert not weights["w"].flags.writeable
    assert weights.metadata == {"note": SECRET.decode()}
    weights.prefault()
    with pytest.raises(NotFoundError, match="has no file 'nothing'"):
        sealed.weights("nothing")
    with pytest.raises(CorruptError, match="empty: expected at least 8 bytes, found 0"):
        sealed.weights("assets/empty")


@pytest.mark.parametrize("name", ["encrypted", "both"])
def test_nothing_encrypted_lies_there_in_clear(folder: Path, name: str) -> None:
    """No piece of any file is found in the folder; two sealings share no byte of them."""
    plain = folder / "plain.maas"
    stored = b"".join(path.read_bytes() for path in (folder / f"{name}.maas").rglob("*.*"))
    for path in open_bundle(plain).manifest.files:
        data = (plain / path).read_bytes()
        for at in range(0, len(data) - 16, 16):
            assert data[at : at + 16] not in stored or data[at : at + 16] == bytes(16)
    one, other = folder / "encrypted.maas" / WEIGHTS, folder / "both.maas" / WEIGHTS
    assert one.read_bytes()[9:64] != other.read_bytes()[9:64]


def test_a_signature_changes_nothing_else(folder: Path) -> None:
    """A signed bundle is the plain one with one file more, and opens where nobody asks."""
    plain, signed = folder / "plain.maas", folder / "signed.maas"
    for path in [MANIFEST, *open_bundle(plain).manifest.files]:
        assert (signed / path).read_bytes() == (plain / path).read_bytes()
    bundle = open_bundle(signed)
    assert bundle.signed_by is None
    assert bundle.signature == (signed / SIGNATURE).read_bytes()
    assert signer_of(bundle.manifest_bytes, bundle.signature, "here") == PUBLIC


@pytest.mark.parametrize("name", ["signed", "both"])
def test_where_a_key_is_trusted_its_bundles_open(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By argument, by environment, by file, among others."""
    path = folder / f"{name}.maas"
    (tmp_path / "trusted").write_text(f"{STRANGER}\n{PUBLIC}\n")
    for keys in ([PUBLIC], [STRANGER, PUBLIC], [str(tmp_path / "trusted")]):
        assert open_bundle(path, trusted_keys=keys).signed_by == PUBLIC
        open_all(path, trusted_keys=keys)
        monkeypatch.setenv("MAAS_TRUSTED_KEYS", ",".join(keys))
        assert open_bundle(path).signed_by == PUBLIC
    assert open_bundle(path, trusted_keys="any").signed_by is None


def test_where_a_key_is_trusted_no_other_bundle_opens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsigned, or signed by a stranger; by argument and by environment, which says what to do."""
    for name in ("plain", "encrypted"):
        with pytest.raises(SealError, match=rf"{name}.maas is not signed, and only .*maas seal"):
            open_bundle(folder / f"{name}.maas", trusted_keys=[PUBLIC])
    with pytest.raises(SealError, match="which is not trusted here; trusted are ed25519:"):
        open_bundle(folder / "signed.maas", trusted_keys=[STRANGER])
    monkeypatch.setenv("MAAS_TRUSTED_KEYS", PUBLIC)
    with pytest.raises(SealError, match=r"plain.maas is not signed"):
        open_bundle(folder / "plain.maas")
    for listed, kind, message in (
        (",", ConfigError, "none is named"),
        ("nowhere", StorageError, "no key can be read"),
    ):
        monkeypatch.setenv("MAAS_TRUSTED_KEYS", listed)
        with pytest.raises(kind, match=message):
            open_bundle(folder / "signed.maas")
    monkeypatch.setenv("MAAS_TRUSTED_KEYS", "")  # as Terraform spells "not set"
    open_bundle(folder / "plain.maas")
    with pytest.raises(ConfigError, match="none is named"):
        open_bundle(folder / "signed.maas", trusted_keys=[])
    with pytest.raises(ConfigError, match="expected a list of keys, got one text"):
        open_bundle(folder / "signed.maas", trusted_keys=PUBLIC)


def test_the_signature_comes_before_all_else(copied: Callable[[str], Path]) -> None:
    """A manifest that is not the signed one is not even parsed, whatever else is wrong."""
    path = copied("signed")
    (path / MANIFEST).write_bytes(b"junk")
    (path / WEIGHTS).unlink()
    with pytest.raises(SealError, match=rf"{MANIFEST} is not what {PUBLIC}".replace("+", r"\+")):
        open_bundle(path, trusted_keys=[PUBLIC])


def test_a_manifest_that_agrees_with_altered_files_is_not_the_signed_one(
    copied: Callable[[str], Path],
) -> None:
    """Whoever exchanges a file and mends its hash opens it nowhere where keys are trusted."""
    path = copied("signed")
    document = json.loads((path / MANIFEST).read_bytes())
    with BundleWriter(path.with_name("other")) as writer:
        writer.add("assets/labels.txt", b"evil")
        other = writer.seal(
            Manifest(name="m", programs=open_bundle(path).manifest.programs, targets={})
        )
    document["files"]["assets/labels.txt"] = other.manifest.files["assets/labels.txt"]._asdict()
    (path / MANIFEST).write_text(json.dumps(document))
    (path / "assets/labels.txt").write_bytes(b"evil")
    assert open_bundle(path).read("assets/labels.txt") == b"evil"
    with pytest.raises(SealError):
        open_bundle(path, trusted_keys=[PUBLIC])


def relative_files(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.parametrize("name", ["signed", "encrypted", "both"])
def test_any_alteration_is_refused(folder: Path, name: str, data: st.DataObject) -> None:
    """Of any file, the manifest and signature too: a bit flipped, a cut, bytes added or moved.

    The signed ones are opened where their key is trusted, the others just with their key.
    """
    path = folder / f"{name}.maas"
    how: dict[str, Any] = {} if name == "encrypted" else {"trusted_keys": [PUBLIC]}
    file = path / data.draw(st.sampled_from(relative_files(path)))
    whole = file.read_bytes()
    bad = bytearray(whole)
    at = data.draw(st.integers(0, max(0, len(bad) - 1)))
    match data.draw(st.sampled_from(["flip", "cut", "add", "move"])):
        case "flip" if bad:
            bad[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut" if bad:
            del bad[at:]
        case "move" if bad:
            bad = bad[at:] + bad[:at]
        case _:
            bad += data.draw(st.binary(min_size=1, max_size=100))
    if bad == whole:
        return
    try:
        file.write_bytes(bad)
        with pytest.raises((BundleError, ConfigError)):
            open_all(path, **how)
    finally:
        file.write_bytes(whole)
    open_all(path, **how)


def rehashed(path: Path, name: str) -> None:
    """Make an unsigned manifest agree with a file that was changed."""
    import hashlib

    document = json.loads((path / MANIFEST).read_bytes())
    data = (path / name).read_bytes()
    document["files"][name] = {
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (path / MANIFEST).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def test_an_encrypted_bundle_vouches_for_itself(copied: Callable[[str], Path]) -> None:
    """Without a signature, too: a file exchanged and its hash mended is found by the key."""
    path = copied("encrypted")
    shutil.copy(path / "assets/empty", path / "assets/labels.txt")
    rehashed(path, "assets/labels.txt")
    bundle = open_bundle(path)
    bundle.check()
    with pytest.raises(SealError, match="the manifest is not the one that was encrypted with"):
        bundle.read("assets/labels.txt")


def test_the_wrapped_key_is_spelled_once(copied: Callable[[str], Path]) -> None:
    """A manifest that repeats it elsewhere, where it would count as zeros, is not taken."""
    path = copied("encrypted")
    text = (path / MANIFEST).read_text()
    wrapped = json.loads(text)["encryption"]["wrapped_key"]
    (path / MANIFEST).write_text(text.replace('"metadata": {}', f'"metadata": {{"a":"{wrapped}"}}'))
    with pytest.raises(SealError, match="the manifest is not the one"):
        open_bundle(path).read("assets/empty")


@pytest.mark.parametrize("name", ["encrypted", "both"])
def test_the_key_is_asked_for_by_reference(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The argument comes first, then the environment, then the place that the bundle names."""
    path = folder / f"{name}.maas"
    assert open_bundle(path).manifest.encryption.key == "env:MODEL_KEY"  # type: ignore[union-attr]
    (tmp_path / "key").write_text(os.environ["MODEL_KEY"])
    monkeypatch.delenv("MODEL_KEY")
    bundle = open_bundle(path)
    bundle.check()  # hashes need no key
    with pytest.raises(CredentialsError, match="env:MODEL_KEY: the environment has no MODEL_KEY"):
        bundle.read("assets/empty")
    monkeypatch.setenv("MAAS_DECRYPTION_KEY", f"file:{tmp_path}/key")
    open_all(path)
    monkeypatch.setenv("MAAS_DECRYPTION_KEY", "env:OTHER_MODEL_KEY")
    with pytest.raises(SealError, match=r"the key at env:OTHER_MODEL_KEY is \w{32}, and the bun"):
        open_bundle(path).read("assets/empty")
    open_all(path, decryption_key=f"file:{tmp_path}/key")


def test_a_key_of_another_kind(folder: Path, tmp_path: Path) -> None:
    """To sign with an encryption key, or the other way round, is told before anything is done."""
    for how in ({"sign": "env:MODEL_KEY"}, {"encrypt": "env:SIGNING_KEY"}):
        with pytest.raises(ConfigError, match=r"expected an? .* key, found"):
            seal_bundle(folder / "plain.maas", tmp_path / "out", **how)
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_sealed(copied: Callable[[str], Path], tmp_path: Path) -> None:
    """Nothing asked for, encrypted twice, a signature lost, a target that is there, a bad file."""
    out = tmp_path / "out"
    plain, both = copied("plain"), copied("both")
    with pytest.raises(ConfigError, match="nothing to do: name a key"):
        seal_bundle(plain, out)
    with pytest.raises(ConfigError, match="exists already"):
        seal_bundle(plain, both, **HOW["both"])
    with pytest.raises(ConfigError, match="is signed, and the signature is not one of the encry"):
        seal_bundle(
            seal_bundle(plain, tmp_path / "s", **HOW["signed"]).path, out, **HOW["encrypted"]
        )
    (plain / "assets/labels.txt").write_bytes(SECRET[::-1])
    for how in HOW.values():
        with pytest.raises(CorruptError, match=r"assets/labels.txt: expected sha256"):
            seal_bundle(plain, out, **how)
    assert not out.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_encrypted_bundle_is_signed_later_and_by_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signing needs no decryption key, replaces the old signature, and works where keys are set."""
    monkeypatch.setenv("MAAS_TRUSTED_KEYS", PUBLIC)
    monkeypatch.delenv("MODEL_KEY")
    for name in ("encrypted", "both"):
        seal_bundle(folder / f"{name}.maas", tmp_path / name, sign="env:OTHER_SIGNING_KEY")
        assert open_bundle(tmp_path / name, trusted_keys=[STRANGER]).signed_by == STRANGER
    seal_bundle(folder / "plain.maas", tmp_path / "both", sign="env:SIGNING_KEY", overwrite=True)
    assert open_bundle(tmp_path / "both").manifest.encryption is None


def test_an_encrypted_bundle_gets_another_key(folder: Path, tmp_path: Path) -> None:
    """Its files stay byte for byte; the old key opens it no more. The old key is needed for it."""
    old, new = folder / "both.maas", tmp_path / "new.maas"
    seal_bundle(old, new, sign="env:SIGNING_KEY", encrypt="env:OTHER_MODEL_KEY")
    for path in open_bundle(old).manifest.files:
        assert (new / path).read_bytes() == (old / path).read_bytes()
    open_all(new, trusted_keys=[PUBLIC])
    with pytest.raises(SealError, match="the key at env:MODEL_KEY is"):
        open_all(new, decryption_key="env:MODEL_KEY")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OTHER_MODEL_KEY")
        with pytest.raises(CredentialsError, match="the environment has no OTHER_MODEL_KEY"):
            seal_bundle(new, tmp_path / "newer.maas", **HOW["both"])
    assert not (tmp_path / "newer.maas").exists()


def test_what_was_altered_is_not_signed_anew(copied: Callable[[str], Path], tmp_path: Path) -> None:
    """A signature that does not hold is not papered over."""
    path = copied("signed")
    document = json.loads((path / MANIFEST).read_bytes())
    (path / MANIFEST).write_text(json.dumps({**document, "metadata": {"a": "b"}}))
    with pytest.raises(SealError, match="it was changed afterwards"):
        seal_bundle(path, tmp_path / "out", sign="env:OTHER_SIGNING_KEY")


@pytest.mark.parametrize("name", HOW)
def test_copies_carry_the_seal(folder: Path, name: str, tmp_path: Path) -> None:
    """Through a copy, a zip and a store; each byte for byte."""
    sealed = open_bundle(folder / f"{name}.maas")
    copy_bundle(sealed, tmp_path / "copy")
    unzip_bundle(zip_bundle(sealed.path, tmp_path / "a.zip"), tmp_path / "unzipped")
    store = LocalStore(tmp_path / "store")
    store.publish(sealed.path, "m")
    for made in (tmp_path / "copy", tmp_path / "unzipped", store.resolve("m")):
        assert relative_files(made) == relative_files(sealed.path)
        for path in relative_files(made):
            assert (made / path).read_bytes() == (sealed.path / path).read_bytes()
        open_all(made)


def test_a_zip_is_held_to_its_signature(folder: Path, tmp_path: Path) -> None:
    """Before a file of it is unpacked."""
    signed = zip_bundle(folder / "signed.maas", tmp_path / "signed.zip")
    plain = zip_bundle(folder / "plain.maas", tmp_path / "plain.zip")
    made = unzip_bundle(signed, tmp_path / "out", trusted_keys=[PUBLIC])
    assert made.signed_by == PUBLIC
    for zipped, keys in ((plain, [PUBLIC]), (signed, [STRANGER])):
        with pytest.raises(SealError):
            unzip_bundle(zipped, tmp_path / "refused", trusted_keys=keys)
    assert not (tmp_path / "refused").exists()


@given(st.binary(max_size=200))
def test_junk_is_no_signature(junk: bytes) -> None:
    """Any bytes end in a SealError."""
    with pytest.raises(SealError):
        signer_of(b"{}", junk, "here")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"algorithm": "none"},
        {"key_id": "ed25519:AAAA"},
        {"signature": ""},
        {"signature": "é"},
        {"signature": base64.b64encode(bytes(64)).decode()},
        {"extra": 1},
        {"schema": True},
    ],
)
def test_a_signature_of_another_form(folder: Path, change: dict[str, Any]) -> None:
    """Each field has the one value that it can have."""
    bundle = open_bundle(folder / "signed.maas")
    assert bundle.signature is not None
    document = {**json.loads(bundle.signature), **change}
    data = json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
    with pytest.raises(SealError):
        signer_of(bundle.manifest_bytes, data, "here")
    same = {**document, **json.loads(bundle.signature)}
    if "extra" not in change:
        other = json.dumps(same, sort_keys=True).encode()
        with pytest.raises(SealError, match="expected the very bytes that maas seal writes"):
            signer_of(bundle.manifest_bytes, other, "here")
