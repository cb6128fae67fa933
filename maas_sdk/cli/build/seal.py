"""``maas keygen`` and ``maas seal``: keys, and bundles signed and encrypted with them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from maas_sdk.cli.options import BundlePlace, Debug, Json, Overwrite
from maas_sdk.cli.output import Output, reporting
from maas_sdk.cli.panels import add_command

if TYPE_CHECKING:
    from maas_sdk.bundle import Bundle

__all__ = ["Only", "keygen", "register", "seal", "seal_of", "show_seal"]


class Only(StrEnum):
    """The half of a key set that ``--only`` asks for."""

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
    folder: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Folder for the keys. Created if it does not exist."),
    ],
    only: Annotated[
        Only | None,
        typer.Option(
            metavar="signing|encryption",
            show_default="both",
            help="Make only the signing pair, or only the encryption key.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a key pair to sign bundles with, and a key to encrypt them with.

    Writes signing.key, signing.pub and encryption.key, one line each; only you can read the two
    private ones. An existing file is never replaced: a lost key cannot be made again.

    Needs maas-sdk[seal]. See docs/seal.md.
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
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder to write the copy to.")],
    sign: Annotated[
        str | None,
        typer.Option(
            metavar="KEYREF", show_default="not signed", help="Sign with this private key."
        ),
    ] = None,
    encrypt: Annotated[
        str | None,
        typer.Option(
            metavar="KEYREF",
            show_default="not encrypted",
            help="Encrypt with this key. The bundle notes the reference, and servers look there "
            "for the key.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a signed copy of a bundle, an encrypted one, or one that is both.

    KEYREF names a key: env:NAME, file:PATH or
    gcp-secret:projects/PROJECT/secrets/NAME/versions/VERSION. On a server, MAAS_DECRYPTION_KEY
    overrides the reference that --encrypt noted in the bundle.

    Needs maas-sdk[seal]. See docs/seal.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.bundle.seal import seal_bundle
        from maas_sdk.charts.quantities import data_size
        from maas_sdk.store import find_bundle

        folder = find_bundle(bundle)
        made = seal_bundle(folder, out, sign=sign, encrypt=encrypt, overwrite=overwrite)
        nbytes = sum(entry.size_bytes for entry in made.manifest.files.values())
        output.show(
            f"{escape(str(made.path))}  {len(made.manifest.files)} files, {data_size(nbytes)}"
        )
        show_seal(output, made)
        output.document({"path": str(made.path), "nbytes": nbytes, **seal_of(made)})


def seal_of(bundle: Bundle) -> dict[str, object]:
    """Return a bundle's signer, the trust in it here, and the key that it is encrypted with.

    Raises:
        SealError: the signature is not one of this bundle.
        DependencyError: there is one, and the package ``cryptography`` is not there.
    """
    signer = None
    if bundle.signature is not None:
        # Here, not above: most bundles are not signed, and `maas --help` loads this file.
        from maas_sdk.bundle.signature import signer_of

        signer = signer_of(bundle.manifest_bytes, bundle.signature, str(bundle.path))
    encryption = bundle.manifest.encryption
    return {
        "signed_by": signer,
        # Only set where trusted keys are named: a signature tells which key signed, and anybody
        # can make a key.
        "trusted": bundle.signed_by is not None,
        "encrypted_with": encryption and encryption.key,
    }


def show_seal(output: Output, bundle: Bundle) -> None:
    """Print the signer and the encryption of a bundle. Raises as ``seal_of``."""
    found = seal_of(bundle)
    if found["signed_by"] is None:
        output.lines("not signed")
    else:
        trust = "trusted here" if found["trusted"] else "compare it with a key that you know"
        output.lines(f"signed by {found['signed_by']} ({trust})")
    if found["encrypted_with"] is not None:
        output.lines(f"encrypted, the key is at {found['encrypted_with']}")
