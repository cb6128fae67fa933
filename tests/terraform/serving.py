"""Stand-ins as servers in this process, to which Terraform connects instead of starting plugins.

``TF_REATTACH_PROVIDERS`` names their addresses. Terraform then asks no registry, starts no program
and writes no lock file. It does not compare versions either: a test of ``versions.tf`` does.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]  # its types are a package of their own

from tests.terraform.protocol import MESSAGES, METHODS, SERVICE
from tests.terraform.standin import StandIn

__all__ = ["attached"]

# The whole schema of the google provider is one message of many megabytes.
_OPTIONS = [
    ("grpc.max_receive_message_length", 1 << 28),
    ("grpc.max_send_message_length", 1 << 28),
]


@contextmanager
def attached(*standins: StandIn) -> Iterator[str]:
    """Serve; gives the value of ``TF_REATTACH_PROVIDERS``. They are stopped at the end."""
    servers, addresses = [], {}
    try:
        for standin in standins:
            server = _server(standin)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            servers.append(server)
            addresses[standin.source] = {
                "Protocol": "grpc",
                "ProtocolVersion": 6,
                "Pid": os.getpid(),
                "Test": True,
                "Addr": {"Network": "tcp", "String": f"127.0.0.1:{port}"},
            }
        yield json.dumps(addresses)
    finally:
        for server in servers:
            server.stop(0).wait()


def _server(standin: StandIn) -> grpc.Server:
    # Terraform plans in parallel; a stand-in is not made for that.
    lock = threading.Lock()

    def procedure(name: str) -> grpc.RpcMethodHandler:
        request, answer = (MESSAGES[kind] for kind in METHODS[name])
        method = getattr(standin, name)

        def call(message: Any, _: grpc.ServicerContext) -> Any:
            with lock:
                return method(message)

        return grpc.unary_unary_rpc_method_handler(
            call, request.FromString, answer.SerializeToString
        )

    server = grpc.server(futures.ThreadPoolExecutor(8), options=_OPTIONS)
    empty = MESSAGES["Empty"]
    # What go-plugin expects beside the provider: its output, of which there is none.
    streams = grpc.unary_stream_rpc_method_handler(
        lambda *_: iter(()), empty.FromString, empty.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(SERVICE, {n: procedure(n) for n in METHODS}),
            grpc.method_handlers_generic_handler("plugin.GRPCStdio", {"StreamStdio": streams}),
        )
    )
    return server
