"""requirements.lock installs the same bytes everywhere, from wherever pip is told to look."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
# Environments of their own: the TPU compiler, and the reference implementations of the models.
OTHERS = ("requirements-tpu.lock", "requirements-reference.lock")
# name==version ; marker \ hash \ hash …
ENTRY = re.compile(
    r"^([a-z0-9-]+)==([^\s;]+)(?: ; [^\\]+?)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$"
)


def entries(lock: str = LOCK) -> list[re.Match[str]]:
    parts = re.split(r"\n(?=[^ ])", lock.rstrip("\n"))
    found = [ENTRY.match(part) for part in parts if not part.startswith("#")]
    assert all(found), "an entry is not of the form name==version with hashes: run make lock"
    return [match for match in found if match]


def test_every_requirement_has_an_exact_version_and_hashes() -> None:
    """Nothing but names, versions, markers and hashes: no address, no path, no option."""
    assert len(entries()) > 50
    assert "://" not in LOCK
    assert "--index" not in LOCK


def test_what_the_project_asks_for_is_in_it() -> None:
    """Each dependency, of every extra and group, was locked; jax and jaxlib to one release."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = pyproject["project"]
    wanted = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
        *(line for lines in pyproject["dependency-groups"].values() for line in lines),
    ]
    names = {re.split(r"[\[<>=;~! ]", line)[0].lower().replace("_", "-") for line in wanted}
    # The TPU compiler has a lock, and a folder, of its own; the GPU's plugin one in the package.
    names -= {"maas-sdk", "libtpu", "jax-cuda12-plugin"}
    locked: dict[str, set[str]] = {}
    for match in entries():
        locked.setdefault(match[1], set()).add(match[2])
    assert names <= locked.keys(), "run make lock"
    for pin in pyproject["tool"]["uv"]["constraint-dependencies"]:
        package, version = pin.split("==")
        assert locked[package] == {version}, "run make lock"


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_locks_hold_to_the_same(name: str) -> None:
    """Exact versions, hashes, no address; the TPU compiler is the build that pyproject names."""
    lock = (ROOT / name).read_text(encoding="utf-8")
    found = {match[1]: match[2] for match in entries(lock)}
    assert "://" not in lock
    if name == "requirements-tpu.lock":
        assert set(found) == {"libtpu", "xla-cpu-pjrt"}
        assert found["libtpu"].startswith("0.0.42.")
    else:
        ours = {match[1]: match[2] for match in entries()}
        assert {"torch", "transformers"} <= found.keys()
        assert {found[package] == ours[package] for package in ("jax", "jaxlib", "flax")} == {True}
