"""The indexes of a store's models, as objects that are read and atomically replaced.

    models/<model>.json

The rule: a pointer is replaced only if it still is the one that was read; otherwise it is read
again, and the change is applied to the new one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from maas_sdk.bundle.manifest import is_name
from maas_sdk.errors import NotFoundError, TransportError
from maas_sdk.store.model_index import Pointer
from maas_sdk.store.objects import ObjectInfo, Objects
from maas_sdk.store.reference import check_model, listing

__all__ = ["Pointers"]

_MODELS: Final = "models/"
# Publishers of one model at once; in each round one of them gets through.
_ROUNDS: Final = 100


class Pointers:
    """Pointers by model. Errors of ``Objects`` pass through every method.

    Attributes:
        objects: where they are.
        url: of the store, for messages.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.url = objects.url

    def models(self) -> list[str]:
        """Return names of models that have a pointer, sorted."""
        found = [info.name for info in self.objects.find(_MODELS) if info.name.endswith(".json")]
        names = [name.removeprefix(_MODELS).removesuffix(".json") for name in found]
        return sorted(name for name in names if is_name(name))

    def read(self, model: str) -> tuple[Pointer, ObjectInfo | None]:
        """Return a model's pointer; an empty one and None if it has none.

        Raises:
            ConfigError: no model's name.
            CorruptError: it is there and is no pointer.
        """
        name = f"{_MODELS}{check_model(model)}.json"
        found = self.objects.read(name)
        if found is None:
            return Pointer(), None
        return Pointer.from_json(found[0], f"{self.url}/{name}"), found[1]

    def known(self, model: str) -> Pointer:
        """Return the pointer of a model with versions. Raises ``NotFoundError`` for others."""
        pointer, _ = self.read(model)
        if not pointer.versions:
            raise NotFoundError(
                f"no model {model!r} in {self.url}; it has {listing(self.models())}", model=model
            )
        return pointer

    def swap(self, model: str, change: Callable[[Pointer], Pointer]) -> Pointer:
        """Replace a pointer by ``change(pointer)`` atomically, and return the new one.

        Args:
            model: whose.
            change: may be called several times, each time with what is there then. After an answer
                that was lost it sees its own work: it must know it again.

        Raises:
            TransportError: others were faster every time.
        """
        name = f"{_MODELS}{check_model(model)}.json"
        for _ in range(_ROUNDS):
            pointer, info = self.read(model)
            new = change(pointer)
            generation = info.generation if info else 0
            if new == pointer or self.objects.write(name, new.to_json(), generation=generation):
                return new
        raise TransportError(f"{self.url}/{name} changes faster than it can be replaced; try again")
