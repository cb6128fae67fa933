"""All errors of the package, in one family, and their meaning to a caller.

    MaasError
    ├── InputError               the inputs do not fit the program's signature
    ├── WireError                bytes that are not what the protocol says they are
    │   ├── FrameError           not a frame of the msgpack dialect, or not a whole one
    │   ├── TooLargeError        over a limit on size, depth or count
    │   └── MediaTypeError       a content type that no dialect of the endpoint reads
    ├── NotFoundError            no such model, version, label, program or path
    ├── MethodError              the path exists, the HTTP method on it does not
    ├── OverloadedError          load that the server sheds; come back later
    ├── NotReadyError            the server is loading or draining
    ├── DeadlineError            the caller's time was up before an answer was there
    ├── ModelError               the model itself failed while it ran or loaded
    ├── BundleError              a bundle cannot be used
    │   ├── ManifestError        manifest.json breaks the schema, or is of another one
    │   ├── CorruptError         a file's bytes are not the bytes that were sealed
    │   ├── SealError            no trusted signature, or what was encrypted does not decrypt
    │   └── IncompatibleError    no tier of this bundle can run on this host
    ├── ExportError              a model cannot be made into a bundle
    ├── ConfigError              options that are wrong or contradict each other: mend the call
    ├── MachineError             the machine lacks what is needed: mend the machine
    │   ├── DependencyError      a package or a program that is not installed, or of another version
    │   ├── StorageError         a disk, folder or bucket that cannot be read or written
    │   └── CredentialsError     no credentials, or no right to what was asked for
    └── TransportError           no answer arrived: refused, reset, cut or garbled

Some are built-in errors, too, for callers that catch those: a ``ConfigError`` is a ``ValueError``,
a ``NotFoundError`` a ``LookupError``, a ``MachineError`` a ``RuntimeError``, a ``DependencyError``
an ``ImportError``, a ``StorageError`` an ``OSError``, a ``CredentialsError`` a ``PermissionError``.

What a caller may do about an error is a property of its class, not of the place that raised it:
``TRAITS`` has one row per class. The serving side turns an error into a status with it, the
client turns a status back into the error and decides whether to try again.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self

__all__ = [
    "TRAITS",
    "BundleError",
    "ConfigError",
    "CorruptError",
    "CredentialsError",
    "DeadlineError",
    "DependencyError",
    "ExportError",
    "FrameError",
    "IncompatibleError",
    "InputError",
    "MaasError",
    "MachineError",
    "ManifestError",
    "MediaTypeError",
    "MethodError",
    "ModelError",
    "NotFoundError",
    "NotReadyError",
    "OverloadedError",
    "SealError",
    "StorageError",
    "TooLargeError",
    "Traits",
    "TransportError",
    "WireError",
    "error_from_code",
    "traits",
]


class MaasError(Exception):
    """Base of every error that the package raises on purpose.

    Attributes:
        message: one or two sentences: where, what was expected, what came, what to do.
        retry_after_s: seconds after which a retry makes sense, when the raiser knows.
        evidence: the values behind the message, by name, for programs to read.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, **evidence: object
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.evidence = evidence

    def copy(self) -> Self:
        """Return a new error that says the same, to raise again.

        One that many callers raised would collect the frames of all of them.
        """
        return type(self)(self.message, retry_after_s=self.retry_after_s, **self.evidence)


class InputError(MaasError):
    """Inputs that do not fit the program's signature: name, dtype, rank, dimension or batch."""


class WireError(MaasError):
    """Bytes that break the protocol."""


class FrameError(WireError):
    """Bytes that are not a whole frame of the msgpack dialect."""


class TooLargeError(WireError):
    """A size, depth or count over its limit, found before memory was taken for it."""


class MediaTypeError(WireError):
    """A content type, or encoding, that no dialect of the endpoint reads."""


class NotFoundError(MaasError, LookupError):
    """No such model, version, label, program or path."""


class MethodError(MaasError):
    """A path that exists, but not with this HTTP method."""


class OverloadedError(MaasError):
    """A call refused by a server under load, to keep its promises to the calls it has taken."""


class NotReadyError(MaasError):
    """A server that is loading its model, or draining before it stops."""


class DeadlineError(MaasError):
    """A caller's deadline that passed before an answer; work may not have been started."""


class ModelError(MaasError):
    """A failure of the model itself, while it was loaded or while it ran."""


class BundleError(MaasError):
    """A bundle that cannot be used."""


class ManifestError(BundleError):
    """A ``manifest.json`` that breaks the schema, or is written in a newer one."""


class CorruptError(BundleError):
    """A file of the bundle that is missing, added, cut or changed since it was sealed."""


class SealError(BundleError):
    """A broken seal: no trusted signature, or files that do not decrypt with the key."""


class IncompatibleError(BundleError):
    """A bundle with no tier that can run here: another jaxlib, platform or processor."""


class ExportError(MaasError):
    """A model that cannot be made into a bundle as asked."""


class ConfigError(MaasError, ValueError):
    """Options that are wrong or contradict each other; another call can succeed."""


class MachineError(MaasError, RuntimeError):
    """A machine or environment that lacks what is needed; the same call can work elsewhere."""


class DependencyError(MachineError, ImportError):
    """A package or program that is not installed here, or not in a version that works."""


class StorageError(MachineError, OSError):
    """A disk, folder or bucket that cannot be read or written, or is full."""


class CredentialsError(MachineError, PermissionError):
    """Missing credentials or keys, or a missing right to what was asked for."""


class TransportError(MaasError):
    """A missing answer: the connection was refused, reset, cut or carried no HTTP."""


class Traits(NamedTuple):
    """Traits of a class of errors outside the process that raised it."""

    # Machine-readable reason, stable across releases; travels in frames and JSON bodies.
    code: str
    # HTTP status of a reply that carries it.
    http_status: int
    # google.rpc.Code number, for gRPC.
    grpc_code: int
    # Whether the very same call can succeed when it is sent again.
    retryable: bool


def _row(code: str, http_status: int, grpc_code: int, retryable: bool = False) -> Traits:
    return Traits(code=code, http_status=http_status, grpc_code=grpc_code, retryable=retryable)


# gRPC numbers: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
# 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 5 NOT_FOUND, 8 RESOURCE_EXHAUSTED,
# 9 FAILED_PRECONDITION, 12 UNIMPLEMENTED, 13 INTERNAL, 14 UNAVAILABLE, 15 DATA_LOSS.
TRAITS: Final[dict[type[MaasError], Traits]] = {
    MaasError: _row("internal", 500, 13),
    InputError: _row("invalid_input", 422, 3),
    WireError: _row("malformed", 400, 3),
    FrameError: _row("malformed_frame", 400, 3),
    TooLargeError: _row("too_large", 413, 8),
    MediaTypeError: _row("unsupported_media_type", 415, 3),
    NotFoundError: _row("not_found", 404, 5),
    MethodError: _row("method_not_allowed", 405, 12),
    OverloadedError: _row("overloaded", 429, 8, retryable=True),
    NotReadyError: _row("not_ready", 503, 14, retryable=True),
    DeadlineError: _row("deadline_exceeded", 504, 4),
    ModelError: _row("model_failed", 500, 13),
    BundleError: _row("bundle_unusable", 500, 9),
    ManifestError: _row("manifest_invalid", 500, 9),
    CorruptError: _row("bundle_corrupt", 500, 15),
    SealError: _row("bundle_untrusted", 500, 9),
    IncompatibleError: _row("bundle_incompatible", 500, 9),
    ExportError: _row("export_failed", 500, 9),
    ConfigError: _row("config_invalid", 500, 9),
    MachineError: _row("machine_unfit", 500, 9),
    DependencyError: _row("dependency_missing", 500, 9),
    StorageError: _row("storage_failed", 500, 9),
    CredentialsError: _row("credentials_refused", 500, 9),
    TransportError: _row("no_answer", 502, 14, retryable=True),
}

_BY_CODE: Final = {row.code: kind for kind, row in TRAITS.items()}


def traits(error: BaseException) -> Traits:
    """Return the row of ``TRAITS`` for an error; anything foreign counts as internal."""
    for kind in type(error).__mro__:
        if kind in TRAITS:
            return TRAITS[kind]
    return TRAITS[MaasError]


def error_from_code(
    code: str, message: str, *, retry_after_s: float | None = None, **evidence: object
) -> MaasError:
    """Return the error that a ``code`` received from the other side stands for.

    A code of a newer release, unknown here, becomes a plain ``MaasError`` that keeps the code in
    its evidence.
    """
    kind = _BY_CODE.get(code)
    if kind is None:
        return MaasError(message, retry_after_s=retry_after_s, code=code, **evidence)
    return kind(message, retry_after_s=retry_after_s, **evidence)
