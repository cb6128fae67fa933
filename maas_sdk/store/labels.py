"""Labels: movable names of versions, with their history.

    {"stable": ["4", "2", "1"]}      stable is 4; a rollback makes it 2

The rule: pure functions; each returns new labels and changes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from maas_sdk.errors import ConfigError, NotFoundError
from maas_sdk.store.reference import check_label, listing

__all__ = ["Labels", "labelled", "moved", "moved_back"]

# By label: its version, then those that it was moved away from, latest first.
Labels = Mapping[str, tuple[str, ...]]

# Steps that can be taken back; versions in here are kept by garbage collection.
_REMEMBERED: Final = 10


def labelled(labels: Labels, label: str, where: str) -> str:
    """Return the version of a label. Raises ``NotFoundError``, which lists the labels."""
    found = labels.get(check_label(label))
    if not found:
        raise NotFoundError(
            f"no label {label!r} at {where}; it has {listing(sorted(labels))}: set it with "
            f"maas promote {where}@<version> --label {label}",
            label=label,
        )
    return found[0]


def moved(labels: Labels, label: str, version: str) -> dict[str, tuple[str, ...]]:
    """Return labels with one of them at ``version``, unchanged if it is there already."""
    before = labels.get(check_label(label), ())
    if before[:1] == (version,):
        return dict(labels)
    return {**labels, label: (version, *before)[: _REMEMBERED + 1]}


def moved_back(
    labels: Labels, label: str, where: str, there: set[str]
) -> dict[str, tuple[str, ...]]:
    """Return labels with one of them at its previous version that still exists.

    Args:
        labels: the labels.
        label: the one to move.
        where: the model, for messages.
        there: versions that are published.

    Raises:
        NotFoundError: no such label.
        ConfigError: it was at no other version before.
    """
    now = labelled(labels, label, where)
    before = [version for version in labels[label][1:] if version in there and version != now]
    if not before:
        raise ConfigError(
            f"{where}: label {label!r} is at version {now} and was at no other before; move it "
            f"with maas promote {where}@<version> --label {label}"
        )
    rest = labels[label][1:]
    return {**labels, label: rest[rest.index(before[0]) :]}
