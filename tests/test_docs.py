"""What the pages say is so: their Python runs, their commands exist, their links lead somewhere.

A block of Python that cannot run here has a comment in front of it that says why::

    <!-- not run: needs an account -->
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main

from maas_sdk.cli.app import app
from maas_sdk.training import TrainConfig

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]
BLOCK = re.compile(r"^(?:<!-- not run: (.+?) -->\n+)?```(\w*)\n(.*?)^```$", re.M | re.S)
SHELL = ("sh", "bash")
MAAS = [sys.executable, "-c", "from maas_sdk.cli import main; main()"]
# Pages whose code trains models, or compiles many: over ten seconds each.
TRAIN = {
    *("checkpoints", "data", "evaluation", "export", "models", "multi-host", "online", "pipeline"),
    *("precision", "quantization", "sharding", "training"),
}
# A newcomer's machine: none of the tests' own settings for XLA.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
DIGITS = """
import numpy as np
from maas_sdk.export import export

def digits(weights, inputs):
    return {"logits": inputs["image"].reshape(-1, 64) @ weights}

example = {"image": np.ones((2, 8, 8, 1), np.float32)}
export(digits, example, weights=np.ones((64, 10), np.float32), path="digits.maas", name="digits")
"""


@dataclass(frozen=True)
class Block:
    """Code between fences, and the line of the page that its first line is."""

    language: str
    code: str
    line: int
    not_run: str | None


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        reason, language, code = match.groups()
        if language in languages:
            line = text.count("\n", 0, match.start(3)) + 1
            found.append(Block(language, code, line, reason))
    return found


def program(parts: list[Block]) -> str:
    """The blocks as one program whose line numbers, in a traceback, are the page's."""
    lines: list[str] = []
    for block in parts:
        lines.extend([""] * (block.line - 1 - len(lines)))
        lines.extend(block.code.splitlines())
    return "\n".join(lines) + "\n"


def run(page: Path, parts: list[Block], folder: Path, **environment: str) -> str:
    """Run blocks of a page in a process of its own, in ``folder``; give what they print."""
    script = folder / f"{page.stem}.md.py"
    script.write_text(program(parts), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{name(page)}\n{done.stderr}"
    return done.stdout


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """The address of ``maas serve BUNDLE``."""
    with subprocess.Popen(
        [*MAAS, "serve", str(bundle), "--port", "0", "--json"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        document = ""
        for line in server.stdout:
            document += line
            try:
                found = json.loads(document)
            except ValueError:
                continue
            break
        try:
            yield found["url"]
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the signature of the demo's, made once."""
    folder = tmp_path_factory.mktemp("digits")
    subprocess.run(
        [sys.executable, "-c", DIGITS], cwd=folder, env=ENVIRONMENT, check=True, timeout=240
    )
    return folder / "digits.maas"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name(page), marks=[pytest.mark.slow] * (page.stem in TRAIN))
        for page in DOCS
        if blocks(page, "python")
    ],
)
def test_python_runs(page: Path, digits: Path, tmp_path: Path) -> None:
    """Every Python block of the page, top to bottom, in one namespace, beside digits.maas."""
    parts = blocks(page, "python")
    assert len(parts) == page.read_text(encoding="utf-8").count("```python"), "an unclosed block"
    for block in parts:
        if block.not_run:
            print(f"{name(page)}:{block.line} is not run: {block.not_run}")
    parts = [block for block in parts if not block.not_run]
    shutil.copytree(digits, tmp_path / "digits.maas")
    if "MAAS_URL" not in program(parts):
        run(page, parts, tmp_path)
        return
    with serving(digits) as url:
        run(page, parts, tmp_path, MAAS_URL=url)


def test_the_readme_serves_a_model_of_ones_own(tmp_path: Path) -> None:
    """The three steps as they stand there: export it, `maas serve` it, call it in two ways."""
    exporting, calling = blocks(README, "python")
    assert len(exporting.code.splitlines()) <= 10
    shown = "".join(block.code for block in blocks(README, *SHELL))
    assert "maas serve iris.maas\n" in shown
    run(README, [exporting], tmp_path)
    [data] = re.findall(r"curl \S*/v1/models/iris:predict -d '(.*)'", shown)
    with serving(tmp_path / "iris.maas") as url:
        code = calling.code.replace("http://127.0.0.1:8080", url)
        assert code != calling.code
        printed = run(README, [Block("python", code, calling.line, None)], tmp_path)
        assert re.fullmatch(r"\[[012]\]\n", printed), printed
        answer = httpx.post(f"{url}/v1/models/iris:predict", content=data)
        assert len(answer.json()["predictions"][0]) == 3, answer.text


VARIABLE = re.compile(r"\bMAAS_[A-Z0-9_]*[A-Z0-9]\b")
SETTING = [
    page
    for page in (*PAGES, *sorted(ROOT.glob("terraform/**/*")))
    if page.suffix in (".md", ".tf")
    and ".terraform" not in page.parts
    and VARIABLE.search(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", [pytest.param(page, id=name(page)) for page in SETTING])
def test_variables_are_read_by_somebody(page: Path) -> None:
    """A variable that is named or set is one that our code reads, or it is said that none does."""
    code = (p for top in ("maas_sdk", "functions") for p in (ROOT / top).rglob("*.py"))
    read = {found for file in code for found in VARIABLE.findall(file.read_text(encoding="utf-8"))}
    text = page.read_text(encoding="utf-8")
    # Those that the page's own code reads are its reader's to set.
    read |= set(re.findall(r'environ\["(\w+)"\]', text))
    about = text if page.suffix == ".md" else (page.parent / "README.md").read_text("utf-8")
    told = "nothing in maas_sdk reads it yet" in " ".join(about.split()).lower()
    unread = set(VARIABLE.findall(text)) - read
    assert not unread or (told and unread <= set(VARIABLE.findall(about))), unread


def shell_lines(page: Path) -> Iterator[str]:
    for block in blocks(page, *SHELL):
        yield from block.code.replace("\\\n", " ").splitlines()


def parse(words: list[str]) -> None:
    """Parse arguments of ``maas`` as it would, without running anything."""
    group: Any = typer.main.get_command(app)
    name = words.pop(0)
    while hasattr(group.commands[name], "commands"):
        group, name = group.commands[name], words.pop(0)
    group.commands[name].make_context(name, words)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path) -> None:
    """`maas` with its options, `make` with its targets, scripts by their paths."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for line in shell_lines(page):
        words = shlex.split(line, comments=True)
        if words[:1] == ["maas"]:
            parse(words[1:])
        elif words[:1] == ["make"]:
            assert set(words[1:]) <= targets, line
        elif words[:1] == ["python"] and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), line
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    for path in re.findall(
        r"`(?:python )?((?:bench|examples|tests|functions|maas_sdk)/\S+?)`", text
    ):
        assert list(ROOT.glob(path)), f"{name(page)}: there is no {path}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_extras_exist(page: Path) -> None:
    """`pip install 'maas-sdk[…]'` names what pyproject.toml has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for extras in re.findall(r"(?:maas-sdk|'\.)\[([\w,-]+)\]", page.read_text(encoding="utf-8")):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), extras


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files, pictures and headings of our own."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"\s]+)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, f"{name(page)}: {target}"


def test_the_two_commands_are_all_that_a_newcomer_needs() -> None:
    """One block of the README is the demo and the tests, and they work in a fresh clone."""
    shown = [
        [line.split("#")[0].strip() for line in block.code.splitlines()]
        for block in blocks(README, *SHELL)
    ]
    assert ["make demo", "make test"] in shown
    assert "make --no-print-directory test" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_setting_of_a_run_is_named() -> None:
    """The page of the trainer lists the fields of its configuration, and no other."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    [table] = re.findall(r"^## Configuration\n.*?\n((?:\|[^\n]*\n)+)", page, re.M | re.S)
    named = re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in table.splitlines()))
    assert sorted(named) == sorted(field.name for field in fields(TrainConfig))


def test_a_target_that_is_missed_is_said() -> None:
    """The trainer's overhead stands beside its target, and whether it is met."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    result = json.loads((ROOT / "bench" / "results" / "train.json").read_text("utf-8"))
    overhead = result["figures"]["trainer_overhead"]
    said = "misses its target, which is at most 3 %" in page
    assert f"{100 * overhead:.1f} % more time than the step by hand" in page
    assert said == (overhead > 0.03)
