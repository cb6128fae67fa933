"""requirements.lock installs the same bytes everywhere, from wherever pip is told to look."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
# name==version ; marker \ hash \ hash …
ENTRY = re.compile(
    r"^([a-z0-9-]+)==([^\s;]+)(?: ; [^\\]+?)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$"
)


def entries() -> list[re.Match[str]]:
    parts = re.split(r"\n(?=[^ ])", LOCK.rstrip("\n"))
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
    locked: dict[str, set[str]] = {}
    for match in entries():
        locked.setdefault(match[1], set()).add(match[2])
    assert names - {"maas-sdk"} <= locked.keys(), "run make lock"
    for pin in pyproject["tool"]["uv"]["constraint-dependencies"]:
        package, version = pin.split("==")
        assert locked[package] == {version}, "run make lock"
