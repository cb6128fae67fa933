"""Keys, signatures and encryption of a bundle's files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_sdk.faces import lazy_names

if TYPE_CHECKING:
    from maas_sdk.bundle.crypto.keys import KeyKind, key_text, new_key, write_keys

__all__ = [
    "KeyKind",
    "key_text",
    "new_key",
    "write_keys",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "KeyKind": "keys",
            "key_text": "keys",
            "new_key": "keys",
            "write_keys": "keys",
        },
    )
