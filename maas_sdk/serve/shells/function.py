"""The shell for functions-framework, on a laptop, in Cloud Functions and on Cloud Run.

    predict = serve("model.maas")       # at module level of main.py; then --target predict
    predict = serve("gs://bucket/models/digits@stable")

functions-framework imports main.py in gunicorn's master process and forks the workers afterwards.
An XLA client made before the fork hangs the worker, so the rule here: before the fork, modules are
imported and the bundle is opened (their pages are shared), and no thread and no client is made; in
the child, loading goes on at once, in a thread, while the framework is still setting itself up.
Where nothing forks, in the debug server and in tests, the first request starts it.

Environment: ``MAAS_MAX_REQUEST_BYTES`` and ``MAAS_READY_WAIT_S`` set ``EndpointLimits``;
``MAAS_TRUSTED_KEYS`` and ``MAAS_DECRYPTION_KEY`` are for sealed bundles (``runtime.load``). The
framework's own ``THREADS`` (default 4 per CPU) and ``WORKERS`` (default 1) say how many requests
run at once, and in how many processes, each with the model loaded.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import flask

from maas_sdk.serve import start  # isort: skip, comes before what imports numpy
from maas_sdk.errors import MaasError, WireError
from maas_sdk.serve.core.endpoint import Endpoint
from maas_sdk.serve.core.limits import EndpointLimits
from maas_sdk.serve.core.messages import Request, Response
from maas_sdk.serve.host import ModelHost

if TYPE_CHECKING:
    from maas_sdk.bundle.folder import TrustedKeys
    from maas_sdk.runtime.load import Prepared
    from maas_sdk.serve.core.served import ServedEngine

__all__ = ["serve"]

# At the end of the process calls have ended (gunicorn waits 30 s for them); this bound is for a
# load that is still going on.
_EXIT_WAIT_S: Final = 5.0
# What loading gets of a new process before the framework goes on; most models need less.
_HEAD_START_S: Final = 0.05

# Paused since ``start`` was imported; ``serve`` pauses it again.
start.resume_collector()


def serve(
    bundle: str | os.PathLike[str],
    *,
    limits: EndpointLimits | None = None,
    load: Callable[[], ServedEngine] | None = None,
    trusted_keys: TrustedKeys = None,
    decryption_key: str | None = None,
) -> Callable[[flask.Request], flask.Response]:
    """Return a function for functions-framework that serves a bundle.

    Args:
        bundle: path of the bundle's folder, or a model in a store, ``<store URL>/<model>`` with
            ``@<version>`` or ``@<label>`` behind it. Each worker fetches that, after the fork, into
            a cache that they share; calls wait for it as for any loading.
        limits: what a request may ask; None: as the environment has it.
        load: what loads the model; None: ``maas_sdk.runtime.load``.
        trusted_keys: as for ``maas_sdk.runtime.load``; None: ``MAAS_TRUSTED_KEYS``.
        decryption_key: as for ``maas_sdk.runtime.load``; None: ``MAAS_DECRYPTION_KEY``.

    Returns:
        A plain function, as the framework asks for: a callable object would not do.

    Raises:
        ConfigError: the environment holds a limit that is none. Whatever is wrong with the bundle
            is told to those who call.
    """
    start.pause_collector()
    limits = limits or EndpointLimits.from_environ(os.environ)
    loader = _Loader(os.fspath(bundle), trusted_keys, decryption_key)
    host = ModelHost(load or loader.load, is_stopping=_worker_is_stopping)
    loader.host = host
    endpoint = Endpoint(host, limits)
    begun = False

    def begin() -> None:
        nonlocal begun
        if not begun:
            begun = True
            endpoint.start()
            # Frees the engine while the interpreter is whole, so that XLA's threads end in peace.
            atexit.register(endpoint.drain, _EXIT_WAIT_S)

    def begin_in_child() -> None:
        _let_sigterm_end_us()
        begin()
        # Loading and the framework's own start would only take turns. So it waits a moment, but
        # not for a model that hangs or is large to load.
        host.wait(_HEAD_START_S)
        start.resume_collector()

    def predict(request: flask.Request) -> flask.Response:
        if not begun:  # nothing forked
            begin()
            start.resume_collector()
        return _send(_answer(endpoint, request))

    def before_fork() -> None:
        start.finish()
        if load is None:
            loader.prepare()

    os.register_at_fork(
        before=before_fork,
        after_in_child=begin_in_child,
        after_in_parent=start.resume_collector,
    )
    return predict


class _Loader:
    """Loader of a bundle, as much of it as possible before the fork."""

    def __init__(self, bundle: str, trusted_keys: TrustedKeys, decryption_key: str | None) -> None:
        self._bundle = bundle
        # As ``place.in_store`` tells URLs, which a bundle's folder starts without.
        self._remote = "://" in bundle
        self._trusted_keys = trusted_keys
        self._decryption_key = decryption_key
        self._prepared: Prepared | None = None
        # Is told version and label of a model that comes from a store, before it is ready.
        self.host: ModelHost | None = None

    def prepare(self) -> None:
        """Prepare in the master, without starting a thread; errors are raised by ``load``."""
        # A store is called with threads and sockets, which no fork survives.
        if self._prepared is None and not self._remote:
            with contextlib.suppress(Exception):
                self._prepared = self._prepare(self._bundle)

    def load(self) -> ServedEngine:
        """Finish loading in the worker. Raises as ``maas_sdk.runtime.load``."""
        if self._prepared is not None:
            return self._prepared.load()
        bundle: str | Path = self._bundle
        if self._remote:
            from maas_sdk.store import find_version, parse_reference

            bundle, version = find_version(self._bundle)
            if self.host is not None and version is not None:
                self.host.version = version
                self.host.label = parse_reference(self._bundle).label
        return self._prepare(bundle).load()

    def _prepare(self, bundle: str | Path) -> Prepared:
        from maas_sdk.runtime.load import Prepared

        return Prepared(
            bundle,
            check="deferred",
            trusted_keys=self._trusted_keys,
            decryption_key=self._decryption_key,
        )


def _let_sigterm_end_us() -> None:
    """Let SIGTERM end the process until the worker around us has a handler for it.

    What a worker has until then is the handler of gunicorn's master, which would swallow it: the
    master would wait for its end for 30 s.
    """
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if type(owner).__module__ == "gunicorn.arbiter":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _worker_is_stopping() -> bool:
    """Return True when the gunicorn worker around us has got its SIGTERM.

    functions-framework leaves no way to gunicorn's hooks, and the signal is the worker's to handle;
    so the worker is asked: it is the owner of the handler, and ``alive`` until the signal comes.
    """
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(worker, "alive", True) is False


def _answer(endpoint: Endpoint, request: flask.Request) -> Response:
    try:
        body = _read_body(endpoint, request)
    except MaasError as error:
        return endpoint.refuse(error)
    # Looked up by name in any case, as a mapping of lower-case names would be, and never copied.
    headers = cast("Mapping[str, str]", request.headers)
    return endpoint.handle(
        Request(method=request.method, path=_raw_path(request), headers=headers, body=body)
    )


def _read_body(endpoint: Endpoint, request: flask.Request) -> bytes:
    """Return the whole body, refused by its declared length or, if chunked, once too long."""
    length = request.environ.get("CONTENT_LENGTH", "")
    if length.isdecimal():
        endpoint.check_size(int(length))
        return _read_exactly(request, int(length))
    # Werkzeug cuts a chunked body at this length without a word: one more byte shows that it did.
    request.max_content_length = endpoint.limits.max_request_bytes + 1
    try:
        body: bytes = request.stream.read()
    except Exception as error:  # each server has its own: broken chunks, a client that went away
        raise WireError(f"the request's body could not be read: {error}") from error
    endpoint.check_size(len(body))
    return body


def _read_exactly(request: flask.Request, nbytes: int) -> bytes:
    """Read a body of declared length from the server itself: Werkzeug would count it again."""
    try:
        body: bytes = request.environ["wsgi.input"].read(nbytes)
    except Exception as error:  # each server has its own: a client that went away
        raise WireError(f"the request's body could not be read: {error}") from error
    if len(body) < nbytes:
        raise WireError(f"the request's body ended after {len(body)} of {nbytes} bytes")
    return body


def _raw_path(request: flask.Request) -> str:
    """Return the undecoded path: decoded, a name with an escaped slash would look like two."""
    target = str(request.environ.get("RAW_URI", "/"))
    if target.startswith("/"):
        return target
    # Absolute form, RFC 9112 3.2.2: http://host/path
    return "/" + target.partition("://")[2].partition("/")[2]


def _send(response: Response) -> flask.Response:
    # A generator counts as streamed, so the framework does not read what is left of a body that was
    # refused for its size.
    return flask.Response(
        response.chunks(),
        status=response.status,
        headers=response.headers,
        direct_passthrough=True,
    )
