"""``maas serve``: a bundle behind a server on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from maas_sdk.cli.options import BundlePlace, Debug, Json, TrustedKey
from maas_sdk.cli.output import extra, reporting
from maas_sdk.cli.panels import add_command
from maas_sdk.errors import MachineError

if TYPE_CHECKING:
    import socket

__all__ = ["register", "serve"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        serve,
        "maas serve digits.maas",
        "maas serve digits.maas --host 0.0.0.0 --port 9000",
        "maas serve gs://my-bucket/models/digits@stable",
    )


def serve(
    bundle: BundlePlace,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="Port to listen on; 0 takes a free one, which --json prints.",
        ),
    ] = 8080,
    trusted_key: TrustedKey = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Serve a bundle on this machine until Ctrl-C.

    Answers msgpack frames and TensorFlow Serving's JSON. With --json, it prints the address as soon
    as the port is open.

    Needs maas-sdk[serve]. See docs/serving.md.
    """
    with reporting(as_json, debug) as output:
        with extra("serve"):
            import uvicorn

            from maas_sdk.bundle import open_bundle
            from maas_sdk.runtime import load
            from maas_sdk.serve import Endpoint, EndpointLimits, ModelHost, asgi_app
            from maas_sdk.store import find_version, in_store, parse_reference

        # The same variables as in the cloud, so that a deployment can be tried here.
        limits = EndpointLimits.from_environ(os.environ)
        folder, version = find_version(bundle)
        trusted_keys = trusted_key or None
        name = open_bundle(folder, trusted_keys=trusted_keys).manifest.name
        listener = _listen(host, port)
        address = _address(host, listener.getsockname()[1])
        output.note(f"[bold]{name}[/bold] at {address}/v1/models/{name}:predict  (Ctrl-C stops)")
        output.document({"url": address, "model": name})
        model = ModelHost(
            lambda: load(folder, trusted_keys=trusted_keys),
            name=name,
            # A bundle outside a store has none, and TensorFlow Serving's answers need a number.
            version=version or "1",
            label=parse_reference(bundle).label if in_store(bundle) else None,
        )
        endpoint = Endpoint(model, limits)
        # The model is loaded in the lifespan. "auto" would take an error there for an app that has
        # no lifespan, and go on.
        config = uvicorn.Config(
            asgi_app(endpoint), log_level="warning", access_log=False, lifespan="on"
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Open the listening socket before anything is loaded: a taken port fails at once.

    Raises:
        MachineError: the port is taken, or the address is not this machine's.
    """
    # Here, not above: every `maas` command would load it.
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # Else the port stays taken for a while after the last server's end.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # As many as uvicorn lets wait when it opens the socket itself.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise MachineError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "choose another with --port, or --port 0 for any free one",
            host=host,
            port=port,
        ) from error
    return listener


def _address(host: str, port: int) -> str:
    # The note is to be opened or copied, and nothing can connect to "any address".
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"
