"""The two algorithms, held to their published vectors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from maas_sdk.bundle.crypto.primitives import Cipher, public_key_of, sign, verify

# McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)", test cases 13 to 16: AES-256.
GCM = {
    "13": (
        "00" * 32,
        "00" * 12,
        "",
        "",
        "530f8afbc74536b9a963b4f1c4cb738b",
    ),
    "14": (
        "00" * 32,
        "00" * 12,
        "00" * 16,
        "",
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
    ),
    "16": (
        "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        "cafebabefacedbaddecaf888",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
}
# RFC 8032, 7.1: seed, public key, message, signature.
ED25519 = {
    "1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
}


@pytest.mark.parametrize("case", GCM)
def test_aes_gcm_is_the_published_one(case: str) -> None:
    """Each vector, both ways; a byte of anything else, and it is not authentic."""
    key, nonce, data, associated, sealed = map(bytes.fromhex, GCM[case])
    cipher = Cipher(key)
    assert cipher.encrypt(nonce, data, associated) == sealed
    assert cipher.decrypt(nonce, sealed, associated) == data
    out = bytearray(len(data))
    assert cipher.decrypt_into(nonce, memoryview(sealed), associated, memoryview(out))
    assert out == data
    for wrong in [
        (nonce, flipped(sealed), associated),
        (flipped(nonce), sealed, associated),
        (nonce, sealed, associated + b"\0"),
        (nonce, sealed[:-1], associated),
    ]:
        assert cipher.decrypt(*wrong) is None
    assert not cipher.decrypt_into(nonce, memoryview(flipped(sealed)), associated, memoryview(out))
    assert Cipher(flipped(key)).decrypt(nonce, sealed, associated) is None


@pytest.mark.parametrize("case", ED25519)
def test_ed25519_is_that_of_the_rfc(case: str) -> None:
    """Each vector, both ways; another message, key or signature, and it does not hold."""
    seed, public, message, signature = map(bytes.fromhex, ED25519[case])
    assert public_key_of(seed) == public
    assert sign(seed, message) == signature
    assert verify(public, message, signature)
    assert not verify(public, message + b"\0", signature)
    assert not verify(public, message, flipped(signature))
    assert not verify(public, message, signature[:-1])
    assert not verify(public_key_of(flipped(seed)), message, signature)


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    "call", ["Cipher(bytes(32))", "sign(bytes(32), b'')", "verify(bytes(32), b'', bytes(64))"]
)
def test_without_the_package_the_install_line_is_said(call: str) -> None:
    """The base install has no cryptography; what needs it names the extra."""
    code = (
        "import sys\n"
        "sys.modules['cryptography'] = None\n"
        "from maas_sdk.bundle.crypto.primitives import *\n"
        "from maas_sdk.errors import DependencyError\n"
        f"try:\n    {call}\nexcept DependencyError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'maas-sdk[seal]'" in done.stdout
