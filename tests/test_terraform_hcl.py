"""The ``.tftest.hcl`` files of modules and stacks, which run unchanged with the real provider.

They mock the provider, so nothing is made and no account is needed; only the schema is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.terraform.cloud import providers
from tests.terraform.serving import attached
from tests.terraform.workspace import TERRAFORM, Workspace, copied, needs_terraform

ROOTS = sorted(
    str(folder.relative_to(TERRAFORM))
    for group in ("modules", "stacks")
    for folder in (TERRAFORM / group).iterdir()
)


@pytest.fixture(scope="module")
def reattach() -> Iterator[str]:
    with attached(*providers()) as address:
        yield address


@needs_terraform
@pytest.mark.parametrize("root", ROOTS)
def test_terraform_test(root: str, reattach: str, tmp_path: Path) -> None:
    """Every run of the file passes, and there is a run that refuses something."""
    workspace = Workspace(folder=copied(tmp_path, root=root), reattach=reattach)
    workspace.run("init", "-backend=false", "-no-color")
    ran = workspace.run("test", "-no-color")
    (file,) = (workspace.folder / "tests").glob("*.tftest.hcl")
    text = file.read_text(encoding="utf-8")
    assert ran.says(f"Success! {len(re.findall('^run ', text, re.M))} passed, 0 failed.")
    assert "expect_failures" in text
    assert re.findall(r"^(?:mock_)?provider ", text, re.M) == ["mock_provider "] * text.count(
        "mock_provider "
    ), "a run without mocks would need an account"


@needs_terraform
def test_the_format_is_terraform_s_own(tmp_path: Path) -> None:
    """``terraform fmt`` would change no file."""
    workspace = Workspace(folder=copied(tmp_path), reattach="{}")
    assert workspace.run("fmt", "-check", "-diff", "-recursive").output == ""


def test_one_version_of_the_provider() -> None:
    """Everywhere the release whose schema the stand-ins have, and no other provider."""
    for file in TERRAFORM.rglob("versions.tf"):
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r'source += "(.+)"', text)) <= {
            "hashicorp/google",
            "hashicorp/google-beta",
        }, file
        assert set(re.findall(r'^ +version += "(.+)"', text, re.M)) == {"~> 6.50"}, file
        assert 'required_version = ">= 1.9"' in text, file


@needs_terraform
@pytest.mark.parametrize(("release", "code"), [("6.50.0", 0), ("6.51.2", 0), ("7.0.0", 1)])
def test_init_takes_releases_of_this_major_alone(release: str, code: int, tmp_path: Path) -> None:
    """Without stand-ins, ``init`` compares what a mirror has with what versions.tf asks for."""
    mirror, names = tmp_path / "mirror", ("google", "google-beta")
    machine = json.loads(Workspace(folder=tmp_path, reattach="").run("version", "-json").output)[
        "platform"
    ]
    for name in names:
        place = mirror / "registry.terraform.io" / "hashicorp" / name / release / machine
        place.mkdir(parents=True)
        # It is not started by init.
        (place / f"terraform-provider-{name}_v{release}").write_text("")
    workspace = Workspace(
        folder=copied(tmp_path, root="stacks/production"),
        reattach="",
        settings=f"""provider_installation {{
  filesystem_mirror {{
    path = "{mirror}"
  }}
}}
""",
    )
    ran = workspace.run("init", "-backend=false", "-no-color", code=code)
    if code:
        assert ran.says("no available releases match the given constraints ~> 6.50"), ran.output


def test_no_lock_is_committed() -> None:
    """A lock that was made against a stand-in, or a mirror, would keep out the real provider."""
    assert list(TERRAFORM.rglob(".terraform.lock.hcl")) == []


def test_exceptions_of_checkov_have_reasons() -> None:
    """Each ``#checkov:skip=`` names a check and says why."""
    for file in TERRAFORM.rglob("*.tf"):
        for line in re.findall(r"checkov:skip.*", file.read_text(encoding="utf-8")):
            assert re.fullmatch(r"checkov:skip=CKV2?_GCP_\d+: \S.{20,}", line), f"{file}: {line}"
