"""Errors of Google's libraries, translated into ours.

The rule: one table, by package and name of the class, so that nothing is imported for it. An error
that is not in the table, nor a base of it, passes as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from maas_sdk.errors import (
    ConfigError,
    CredentialsError,
    DependencyError,
    NotFoundError,
    OverloadedError,
    TransportError,
)

__all__ = ["translated"]


@contextmanager
def translated(url: str, bucket: str) -> Iterator[None]:
    """Translate the libraries' errors raised inside into ours.

    Args:
        url: of the objects, for messages.
        bucket: its name.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{url} needs the package google-cloud-storage: pip install 'maas-sdk[gcp]'",
            package="google-cloud-storage",
        ) from error
    except Exception as error:
        # A call that was tried again until its time was up says what it failed with each time.
        cause = getattr(error, "cause", None)
        for kind in (*type(cause).__mro__[:-1], *type(error).__mro__):
            found = _TABLE.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}")
            if found is not None:
                make, text = found
                raise make(text.format(url=url, bucket=bucket, error=_first_line(error))) from error
        raise


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# Package and class of a foreign error → ours, and what to say. A class is looked up with its bases,
# the nearest first.
_TABLE: Final[dict[str, tuple[Callable[[str], Exception], str]]] = {
    "google.DefaultCredentialsError": (
        CredentialsError,
        "{url}: no Google credentials here: run gcloud auth application-default login, or name a "
        "key file in GOOGLE_APPLICATION_CREDENTIALS; on Google Cloud, give the service an account",
    ),
    "google.RefreshError": (
        CredentialsError,
        "{url}: the Google credentials are not accepted ({error}): log in again with gcloud auth "
        "application-default login",
    ),
    "google.GoogleAuthError": (TransportError, "{url}: no Google credentials came: {error}"),
    "google.Unauthorized": (
        CredentialsError,
        "{url}: the Google credentials are not accepted ({error}): log in again with gcloud auth "
        "application-default login",
    ),
    "google.Forbidden": (
        CredentialsError,
        "{url}: not allowed ({error}): grant this account roles/storage.objectViewer on the bucket "
        "to read, roles/storage.objectUser to publish",
    ),
    "google.NotFound": (
        NotFoundError,
        "{url}: there is no bucket {bucket!r}: check the name, or make it with gcloud storage "
        "buckets create gs://{bucket}",
    ),
    "google.TooManyRequests": (
        OverloadedError,
        "{url}: over a quota ({error}); nothing was lost: try again later, or raise the quota",
    ),
    "google.BadRequest": (
        ConfigError,
        "{url}: not a request that it takes ({error}): check the bucket's name",
    ),
    "google.RetryError": (TransportError, "{url}: no answer, also after retries: {error}"),
    "google.GoogleAPICallError": (TransportError, "{url}: failed, also after retries: {error}"),
    "google.DataCorruption": (TransportError, "{url}: garbled on its way: {error}; try again"),
    "google.InvalidResponse": (TransportError, "{url}: no answer that it could give: {error}"),
    "requests.RequestException": (TransportError, "{url}: no answer: {error}; try again"),
    "urllib3.HTTPError": (TransportError, "{url}: the answer was cut: {error}; try again"),
}
