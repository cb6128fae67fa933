"""Signatures as nanobind writes them, compared with our calls."""

from types import SimpleNamespace

import pytest

from maas_sdk.runtime.probe import arguments, misfits


def bound(*signatures):
    """A function as nanobind binds it: its overloads beside it, as text."""
    return SimpleNamespace(__nb_signature__=tuple((text, None, None) for text in signatures))


SIGNATURES = [
    ("def (aval: object, committed: bool) -> jaxlib._jax.ResultHandler", [["aval", "committed"]]),
    # Types with commas, defaults by number, no blank name.
    (
        "def f(a: Mapping[str, str | int] = \\0, b: Callable[..., Any] | None = \\1) -> None",
        [["a?", "b?"]],
    ),
    ("def f(self, serialized: bytes, options: x.Options = ...) -> y", [["serialized", "options?"]]),
    ("def f(arg: str, /) -> None", [[]]),
    ("def f(arg0: str, arg1: int, /) -> None", [[]]),
    ("def f() -> jaxlib._hlo.HloSharding", [[]]),
    ("def f(a: int, *, b: int = 3) -> None", [["a", "b?"]]),
]


@pytest.mark.parametrize(("signature", "expected"), SIGNATURES)
def test_arguments_are_read(signature, expected):
    """Names in order, and which may be left out ("?")."""
    found = [
        [name if must else name + "?" for name, must in overload.items()]
        for overload in arguments(bound(signature))
    ]
    assert found == expected


def test_what_has_no_signature_has_no_overloads():
    """Classes and Python functions: nothing is known, nothing is claimed."""
    assert arguments(int) == []
    assert arguments(lambda x: x) == []


def test_one_overload_that_takes_the_call_is_enough():
    """As nanobind itself chooses."""
    module = SimpleNamespace(f=bound("def f(a: int) -> int", "def f(a: int, b: str) -> int"))
    assert misfits(module, {"f": ("a",)}) == []
    assert misfits(module, {"f": ("a", "b")}) == []
    assert misfits(module, {"f": ("b",)}) == ["f(b)"]


def test_an_argument_that_went_and_one_that_became_necessary():
    """Either makes the call impossible, and the call is written out."""
    module = SimpleNamespace(
        gone=bound("def gone(aval: object) -> x"),
        grown=bound("def grown(aval: object, mesh: object) -> x"),
        optional=bound("def optional(aval: object, mesh: object | None = \\0) -> x"),
    )
    calls = {"gone": ("aval", "_skip_checks"), "grown": ("aval",), "optional": ("aval",)}
    assert misfits(module, calls) == ["gone(aval, _skip_checks)", "grown(aval)"]


def test_dotted_names_are_looked_up():
    """A method of a class, a function of a submodule; the first part that is missing ends it."""
    module = SimpleNamespace(Client=SimpleNamespace(load=bound("def load(self, data: bytes) -> x")))
    calls = {"Client.load": ("data",), "Client.drop": (), "Server.load": ("data",)}
    assert misfits(module, calls) == ["Client.drop", "Server.load"]
