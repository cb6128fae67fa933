"""``maas keygen`` and ``maas seal``: keys, and bundles signed and encrypted with them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from maas_sdk.cli.output import BundlePlace, Debug, Json, Output, add_command, reporting

if TYPE_CHECKING:
    from maas_sdk.bundle import Bundle

__all__ = ["Only", "keygen", "register", "seal", "seal_of", "show_seal"]


class Only(StrEnum):
    """What to make, where not everything is wanted."""

    SIGNING = "signing"
    ENCRYPTION = "encryption"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(app, keygen, "maas keygen keys", "maas keygen keys --only signing")
    add_command(
        app,
        seal,
        "maas seal digits.maas --out sealed.maas --sign file:keys/signing.key",
        "maas seal digits.maas --out sealed.maas --sign env:SIGNING_KEY --encrypt env:MODEL_KEY",
    )


def keygen(
    folder: Annotated[Path, typer.Argument(help="Folder for the keys; made if it is not there.")],
    only: Annotated[
        Only | None, typer.Option(help="Make just the signing pair, or just the encryption key.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a pair of keys to sign with, and a key to encrypt with.

    Writes signing.key, signing.pub and encryption.key, a line each; the two private ones are
    readable by you alone. Nothing that is there is replaced: a lost key cannot be made again.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.bundle.crypto.keys import write_keys

        made = write_keys(
            folder,
            signing=only is not Only.ENCRYPTION,
            encryption=only is not Only.SIGNING,
        )
        for path in made.files:
            output.show(escape(str(path)))
        if made.public_key is not None:
            output.lines(f"public key, for MAAS_TRUSTED_KEYS: {made.public_key}")
        output.document(
            {"files": [str(path) for path in made.files], "public_key": made.public_key}
        )


def seal(
    bundle: BundlePlace,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    sign: Annotated[
        str | None,
        typer.Option(
            metavar="KEYREF",
            help="The private key that signs: env:NAME, file:PATH or gcp-secret:projects/…",
        ),
    ] = None,
    encrypt: Annotated[
        str | None,
        typer.Option(metavar="KEYREF", help="The key to encrypt with, named in the same way."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a signed copy of a bundle, an encrypted one, or one that is both.

    The reference of --encrypt is noted in the bundle, and is where a server then looks for the key;
    MAAS_DECRYPTION_KEY names another place there.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.bundle.seal import seal_bundle
        from maas_sdk.charts.quantities import data_size
        from maas_sdk.store.resolve import find_bundle

        folder = find_bundle(bundle)
        made = seal_bundle(folder, out, sign=sign, encrypt=encrypt, overwrite=overwrite)
        nbytes = sum(entry.size_bytes for entry in made.manifest.files.values())
        output.show(
            f"{escape(str(made.path))}  {len(made.manifest.files)} files, {data_size(nbytes)}"
        )
        show_seal(output, made)
        output.document({"path": str(made.path), "nbytes": nbytes, **seal_of(made)})


def seal_of(bundle: Bundle) -> dict[str, object]:
    """Who signed a bundle, whether that is trusted here, and the key that it is encrypted with.

    Raises:
        SealError: the signature is not one of this bundle.
        ConfigError: there is one, and the package ``cryptography`` is not there.
    """
    signer = None
    if bundle.signature is not None:
        from maas_sdk.bundle.signature import signer_of

        signer = signer_of(bundle.manifest_bytes, bundle.signature, str(bundle.path))
    encryption = bundle.manifest.encryption
    return {
        "signed_by": signer,
        "trusted": bundle.signed_by is not None,
        "encrypted_with": encryption and encryption.key,
    }


def show_seal(output: Output, bundle: Bundle) -> None:
    """The same for people. Raises as ``seal_of``."""
    found = seal_of(bundle)
    if found["signed_by"] is None:
        output.lines("not signed")
    else:
        trust = "trusted here" if found["trusted"] else "compare it with a key that you know"
        output.lines(f"signed by {found['signed_by']} ({trust})")
    if found["encrypted_with"] is not None:
        output.lines(f"encrypted, the key is at {found['encrypted_with']}")
