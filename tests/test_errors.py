"""The family of errors: complete, told apart by code, and the same on both sides of the wire."""

from __future__ import annotations

import inspect
import re

import pytest

from maas_sdk import errors
from maas_sdk.errors import (
    TRAITS,
    ConfigError,
    CredentialsError,
    DependencyError,
    FrameError,
    MaasError,
    MachineError,
    NotFoundError,
    OverloadedError,
    StorageError,
    TooLargeError,
    error_from_code,
    traits,
)

CLASSES = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MaasError)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_has_a_row(kind: type[MaasError]) -> None:
    """No class is without a row of traits, a sentence and a place in ``__all__``."""
    assert kind in TRAITS
    assert kind.__doc__
    assert kind.__name__ in errors.__all__


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """The tree that the module opens with has each class, under its parent."""
    assert errors.__doc__ is not None
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"    ([│├└─ ]*)([A-Z]\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            parents[found[2]] = path[depth - 1] if depth else "Exception"
    assert parents == {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES}


def test_codes_are_unique() -> None:
    """A code stands for one class, so it can be turned back."""
    codes = [row.code for row in TRAITS.values()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_there_and_back(kind: type[MaasError]) -> None:
    """An error's code brings back its class, message, wait and evidence."""
    error = error_from_code(traits(kind("m")).code, "m", retry_after_s=1.5, place=3)
    assert type(error) is kind
    assert (str(error), error.message, error.retry_after_s) == ("m", "m", 1.5)
    assert error.evidence == {"place": 3}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_copy_says_the_same_and_nothing_of_who_raised_it(kind: type[MaasError]) -> None:
    """A copy keeps class, message, wait and evidence, and none of the original's traceback."""
    original = kind("m", retry_after_s=1.5, place=3)
    with pytest.raises(kind):
        raise original
    copy = original.copy()
    assert type(copy) is kind
    assert copy is not original
    assert (str(copy), copy.message, copy.retry_after_s) == ("m", "m", 1.5)
    assert copy.evidence == {"place": 3}
    assert copy.evidence is not original.evidence
    assert original.__traceback__ is not None
    assert copy.__traceback__ is None


def test_a_code_of_a_newer_release() -> None:
    """An unknown code becomes the base class and is kept."""
    error = error_from_code("from_the_future", "m")
    assert type(error) is MaasError
    assert error.evidence == {"code": "from_the_future"}


def test_statuses_are_sane() -> None:
    """Statuses and gRPC numbers are in their ranges; what may be retried is no caller's fault."""
    for kind, row in TRAITS.items():
        assert 400 <= row.http_status < 600, kind
        assert 1 <= row.grpc_code <= 16, kind
        assert not row.retryable or row.http_status in (429, 502, 503), kind


def test_foreign_errors_are_internal() -> None:
    """An error of anyone else is an internal one; a subclass has its parent's row."""

    class Special(OverloadedError):
        pass

    assert traits(KeyError("x")).code == "internal"
    assert traits(Special("x")).code == "overloaded"
    assert traits(FrameError("x")).http_status == 400
    assert traits(TooLargeError("x")).http_status == 413


def test_all_is_sorted_and_whole() -> None:
    """``__all__`` names what is public, in order."""
    public = {
        name
        for name, value in vars(errors).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == errors.__name__
    }
    assert public | {"TRAITS"} == set(errors.__all__)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ConfigError, ValueError),
        (NotFoundError, LookupError),
        (MachineError, RuntimeError),
        (DependencyError, ImportError),
        (StorageError, OSError),
        (CredentialsError, PermissionError),
    ],
)
def test_an_error_is_also_the_built_in_that_people_catch(
    kind: type[MaasError], builtin: type[Exception]
) -> None:
    """Callers that know nothing of ours catch it, and read the same sentence."""
    with pytest.raises(builtin) as caught:
        raise kind("no room on /data", path="/data")
    assert str(caught.value) == "no room on /data"
    assert isinstance(caught.value, MaasError)
    assert caught.value.evidence == {"path": "/data"}


def test_mend_my_call_and_mend_my_machine_are_told_apart() -> None:
    """No error of the machine counts as a wrong call, nor the other way round."""
    machine = {kind for kind in CLASSES if issubclass(kind, MachineError)}
    assert machine == {MachineError, DependencyError, StorageError, CredentialsError}
    assert not any(issubclass(kind, ConfigError) for kind in machine)
    assert not issubclass(ConfigError, MachineError)
