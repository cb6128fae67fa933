"""A bucket of Google Cloud Storage as a place for answers; the one file here that knows its client.

The rule it keeps: an object is made only where none is (generation 0), so of two that write the
same part one wins, and the other goes on; what was made is never replaced. Nothing but the client's
own retries is retried here: who calls is called again by the platform.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maas_sdk.errors import ConfigError, NotFoundError, TransportError

__all__ = ["Bucket", "Prefix"]


class Bucket:
    """One bucket, by the credentials of the environment.

    Args:
        name: of the bucket.

    Raises:
        ConfigError: google-cloud-storage is not installed, or there are no credentials.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._storage = _storage()
        try:
            self._bucket: Any = self._storage.Client().bucket(name)
        # google-auth says it in a class of its own, DefaultCredentialsError.
        except Exception as error:
            raise ConfigError(
                f"gs://{name}: no credentials for Google Cloud ({str(error)[:200]}): "
                "gcloud auth application-default login"
            ) from error

    def download(self, name: str, generation: int | None, path: Path) -> None:
        """Write one generation of an object to a file; its checksum is verified on the way.

        Raises:
            NotFoundError: it is not there any more, or was never.
        """
        with self._errors(name):
            self._bucket.blob(name, generation=generation).download_to_filename(str(path))

    def names(self, prefix: str) -> set[str]:
        """Names of the objects under a prefix, without it."""
        with self._errors(prefix):
            found = list(self._bucket.list_blobs(prefix=prefix))
        return {blob.name.removeprefix(prefix) for blob in found}

    def read(self, name: str) -> bytes:
        """An object's bytes."""
        with self._errors(name):
            data: bytes = self._bucket.blob(name).download_as_bytes()
        return data

    def create(self, name: str, path: Path) -> bool:
        """Make an object of a file's bytes, as a whole; False if there is one of that name."""
        from google.api_core.exceptions import PreconditionFailed

        with self._errors(name):
            try:
                self._bucket.blob(name).upload_from_filename(
                    str(path), if_generation_match=0, checksum="crc32c"
                )
            except PreconditionFailed:
                return False
        return True

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Whatever the client raises, as an error of ours."""
        from google.api_core import exceptions

        where = f"gs://{self.name}/{name}"
        try:
            yield
        except (exceptions.NotFound, exceptions.PreconditionFailed) as error:
            raise NotFoundError(f"{where} is not there, or not any more in that form") from error
        except (exceptions.Forbidden, exceptions.Unauthorized) as error:
            raise ConfigError(
                f"{where}: access is denied: the service account needs roles/storage.objectUser "
                f"on the bucket: {str(error)[:200]}"
            ) from error
        except (exceptions.GoogleAPIError, OSError) as error:
            raise TransportError(f"{where}: {str(error)[:200]}") from error


class Prefix:
    """Objects under a prefix of a bucket: a ``Place`` of a job."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix.rstrip("/") + "/"

    def names(self) -> set[str]:
        """As ``Place.names``."""
        return self._bucket.names(self._prefix)

    def read(self, name: str) -> bytes:
        """As ``Place.read``."""
        return self._bucket.read(self._prefix + name)

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """As ``Place.put``; one that is there, by whoever does the same job, stays."""
        with tempfile.TemporaryDirectory(prefix="maas-batch-") as folder:
            path = Path(folder) / name
            write(path)
            self._bucket.create(self._prefix + name, path)


def _storage() -> Any:
    try:
        from google.cloud import storage
    except ImportError as error:
        raise ConfigError(
            "buckets need the package google-cloud-storage: pip install 'maas-sdk[gcp]'"
        ) from error
    return storage
