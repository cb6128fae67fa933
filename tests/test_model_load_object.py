from __future__ import annotations

from pathlib import Path

import pytest

from maas_sdk.errors import MaasError
from maas_sdk.model.load_object import load_object


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "some_model.py").write_text("class Box:\n    model = 7\nmodel = 5\n")
    (tmp_path / "broken_model.py").write_text("raise RuntimeError('no data')\n")
    (tmp_path / "needy_model.py").write_text("import surely_not_installed\n")


@pytest.mark.parametrize(
    ("spec", "found"),
    [("some_model:model", 5), ("some_model.py:model", 5), ("some_model:Box.model", 7)],
)
def test_objects_are_found_by_module_or_path(spec: str, found: int) -> None:
    """By a module's name from the current folder, by a file, and inside objects."""
    assert load_object(spec) == found


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("some_model", "expected MODULE:OBJECT"),
        (":model", "expected MODULE:OBJECT"),
        ("none.py:model", "no file none.py"),
        ("no_such_module:model", "no module no_such_module"),
        ("some_model:modle", "no 'modle' in some_model; it has Box, model"),
        ("broken_model:model", "raised RuntimeError while it was imported: no data"),
        ("needy_model:model", "imports surely_not_installed, which is not installed"),
    ],
)
def test_what_cannot_be_found_is_explained(spec: str, words: str) -> None:
    """The message says which part of the name is wrong."""
    with pytest.raises(MaasError) as caught:
        load_object(spec)
    assert words in caught.value.message
