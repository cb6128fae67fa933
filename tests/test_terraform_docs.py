"""The commands and examples of docs/terraform.md are run; the workflow names what is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.gcs import gcs
from tests.terraform.cloud import providers
from tests.terraform.serving import attached
from tests.terraform.workspace import (
    TERRAFORM,
    Workspace,
    backend_environment,
    copied,
    needs_terraform,
)

ROOT = TERRAFORM.parent
PAGE = (ROOT / "docs" / "terraform.md").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "terraform.yml").read_text(encoding="utf-8")


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)


@pytest.fixture
def reattach() -> Iterator[str]:
    with attached(*providers()) as address:
        yield address


@needs_terraform
def test_the_commands_run(reattach: str, tmp_path: Path) -> None:
    """From packaged folder to destroyed function, in the order of the page, from the root."""
    copied(tmp_path)
    (tmp_path / "function.zip").write_bytes(b"stands for a packaged function")
    workspace = Workspace(folder=tmp_path, reattach=reattach)
    ran = []
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line.replace("$PWD", str(tmp_path)))
        if words[0] != "terraform":
            continue
        # Nobody is there to be asked.
        asked = words[2] in ("apply", "destroy")
        done = workspace.run(*words[1:], *(["-auto-approve"] if asked else []))
        ran.append(words[2])
        if words[2] == "output":
            assert re.fullmatch(r"https://digits-\S+", done.output.strip())
    assert ran == ["init", "apply", "output", "destroy"]


@needs_terraform
def test_the_example_plans(reattach: str, tmp_path: Path) -> None:
    """The module of the page's last part, in a stack of one's own."""
    folder = copied(tmp_path, providers=True)
    (example,) = blocks("hcl")
    (folder / "main.tf").write_text(example, encoding="utf-8")
    workspace = Workspace(folder=folder, reattach=reattach)
    workspace.run("init", "-backend=false", "-no-color")
    plan = workspace.plan()
    assert len(plan["resource_changes"]) == 2


@needs_terraform
def test_the_state_s_block_is_taken(reattach: str, tmp_path: Path) -> None:
    """What the map says for several people keeps quickstart's state in a bucket."""
    folder = copied(tmp_path, root="stacks/quickstart")
    (block,) = blocks("hcl", (TERRAFORM / "README.md").read_text(encoding="utf-8"))
    (folder / "backend.tf").write_text(block, encoding="utf-8")
    with gcs("states") as storage:
        workspace = Workspace(
            folder=folder, reattach=reattach, environment=backend_environment(storage.url)
        )
        workspace.run("init", "-no-color", "-backend-config=bucket=states")
        workspace.variables(project_id="maas-test", source_zip=str(folder / "function.zip"))
        workspace.apply()
        assert storage.names("states") == ["default.tfstate"]
    assert not (folder / "terraform.tfstate").exists()


def test_links_lead_somewhere() -> None:
    """Files and headings that the pages under terraform/ name."""
    for page in TERRAFORM.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]*)", text):
            assert (page.parent / target).exists(), f"{page}: {target}"
        for anchor in re.findall(r"\]\([^)#\s]*README\.md#([\w-]+)\)", text):
            title = anchor.replace("-", " ")
            readme = (TERRAFORM / "README.md").read_text(encoding="utf-8")
            assert f"## {title}" in readme.lower(), f"{page}: {anchor}"


def test_the_map_and_the_workflow_name_all() -> None:
    """Every module and stack is in the map's tables, and in the workflow's matrix."""
    roots = sorted(
        f"{group}/{folder.name}"
        for group in ("modules", "stacks")
        for folder in (TERRAFORM / group).iterdir()
    )
    assert sorted(re.findall(r"^ +- ((?:modules|stacks)/\S+)$", WORKFLOW, re.M)) == roots
    page = (TERRAFORM / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[[\w-]+\]\(((?:modules|stacks)/[\w-]+)/README\.md\)", page, re.M)
    assert sorted(linked) == roots
