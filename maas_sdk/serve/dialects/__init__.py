"""Dialects of predict requests: one file each, and the table that says which request speaks which.

To add one: a module with the functions of ``interface.Dialect``, a function here that imports it,
and its row. A module is imported when a request first speaks its dialect, so that a first answer
waits for no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from maas_sdk.errors import MediaTypeError

if TYPE_CHECKING:
    from maas_sdk.serve.dialects.interface import Dialect

__all__ = ["find_dialect"]


def _frames() -> Dialect:
    from maas_sdk.serve.dialects import frames

    return frames


def _tensorflow_serving() -> Dialect:
    from maas_sdk.serve.dialects import tfserving

    return tfserving


# Family of paths (``Route.api``) → media type of the body → dialect.
_DIALECTS: Final[Mapping[str, Mapping[str, Callable[[], Dialect]]]] = {
    "v1": {
        "application/x-msgpack": _frames,
        "application/json": _tensorflow_serving,
        "application/msgpack": _frames,
        "application/vnd.msgpack": _frames,
        # TensorFlow Serving does not look at the type: its documentation's `curl -d` sends this.
        "application/x-www-form-urlencoded": _tensorflow_serving,
        "": _tensorflow_serving,
    },
}
# The types of each family that a message names.
_EXPECTED: Final = {"v1": "application/x-msgpack or application/json"}


def find_dialect(api: str, content_type: str) -> Dialect:
    """Return the dialect of a predict request.

    Args:
        api: the family of its path.
        content_type: its ``Content-Type``; empty where it has none.

    Raises:
        MediaTypeError: no dialect of the family has this type.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    found = _DIALECTS[api].get(media_type)
    if found is None:
        raise MediaTypeError(
            f"Content-Type {media_type[:64]!r}: expected {_EXPECTED[api]}", media_type=media_type
        )
    return found()
