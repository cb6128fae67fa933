"""Routes: one table; TensorFlow Serving's paths with its regular expressions.

Source of the ``/v1`` patterns: ``http_rest_api_handler.cc``. They ignore case, versions are digits,
names and labels are percent-decoded after they were found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote

from maas_sdk.errors import MethodError, NotFoundError

__all__ = ["Action", "Route", "find_route"]

Action = Literal["predict", "status", "metadata", "live", "ready"]


class Route(NamedTuple):
    """Operation, model and version of a request."""

    action: Action
    # Percent-decoded; None where the path names no model.
    model: str | None = None
    # Digits; None: the latest.
    version: str | None = None
    label: str | None = None
    # Family of paths, which has dialects of its own (``serve.dialects``).
    api: str = "v1"


_PATH: Final = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<rest>:predict|/metadata)?",
    re.IGNORECASE,
)
_READ: Final = ("GET", "HEAD")

# What follows a model's path, in lower case → what each method on it means.
_OF_MODEL: Final[Mapping[str, Mapping[str, Action]]] = {
    ":predict": {"POST": "predict"},
    "": dict.fromkeys(_READ, "status"),
    "/metadata": dict.fromkeys(_READ, "metadata"),
}
# The same for whole paths.
_OF_SERVER: Final[Mapping[str, Mapping[str, Action]]] = {
    "/v2/health/live": dict.fromkeys(_READ, "live"),
    "/v2/health/ready": dict.fromkeys(_READ, "ready"),
}


def find_route(method: str, path: str) -> Route:
    """Return the route of ``method`` on ``path``.

    Raises:
        NotFoundError: no such path.
        MethodError: the path exists, but not with this method; ``evidence["allow"]`` has those
            that it has.
    """
    path = path.partition("?")[0]
    found = _PATH.fullmatch(path)
    names = found.groupdict() if found else {}
    actions = _OF_MODEL[(names.pop("rest") or "").lower()] if found else _OF_SERVER.get(path)
    if actions is None:
        raise NotFoundError(
            f"no path {path[:200]}; there are POST /v1/models/<name>:predict, "
            "GET /v1/models/<name>, GET /v1/models/<name>/metadata, GET /v2/health/live and "
            "GET /v2/health/ready",
            path=path[:200],
        )
    if method not in actions:
        raise MethodError(
            f"{method} is not for {path[:200]}: expected {' or '.join(actions)}",
            allow=tuple(actions),
        )
    return Route(actions[method], **{name: v and unquote(v) for name, v in names.items()})
