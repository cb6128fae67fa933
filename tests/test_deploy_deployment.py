"""Deploying with the real terraform: plan, apply, another release, back, away.

The stack is a small one that needs no provider, so no account and no network; it takes the
variables of terraform/stacks/quickstart. What Terraform would do in a cloud is tested with those
modules.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.deploy.backend import StateBucket
from maas_sdk.deploy.deployment import Deployment
from maas_sdk.deploy.settings import (
    Instance,
    Settings,
    environment_from,
    model_buckets_of,
    name_from_model,
    settings_document,
    settings_from,
    variables,
)
from maas_sdk.deploy.terraform import (
    TerraformBinary,
    copy_stack,
    declared_variables,
    find_stack,
)
from maas_sdk.deploy.workspace import Workspace
from maas_sdk.errors import ConfigError, CorruptError, DependencyError, MachineError
from tests.terraform.workspace import TERRAFORM
from tests.terraform.workspace import Workspace as RealTerraform

needs_terraform = pytest.mark.skipif(
    shutil.which("terraform") is None, reason="terraform is not installed"
)

STACK = """
variable "project_id" { type = string }
variable "region" { type = string }
variable "name" { type = string }
variable "source_zip" {
  type = string
  validation {
    condition     = fileexists(var.source_zip)
    error_message = "source_zip: there is no such file."
  }
}
variable "instance" { type = object({ memory = string, min = number }) }
variable "force_destroy" {
  type    = bool
  default = false
}

module "function" {
  source = "../../modules/echo"
  value  = { zip = filesha256(var.source_zip), memory = var.instance.memory }
}

output "url" { value = "https://${var.name}-${var.region}.example" }
output "deployed" { value = module.function.value }
"""

MODULE = """
variable "value" { type = map(string) }
resource "terraform_data" "this" { input = var.value }
output "value" { value = terraform_data.this.output }
"""

SETTINGS = Settings(project_id="my-project", name="digits")


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A stack beside its module, as in terraform/."""
    folder = tmp_path / "terraform" / "stacks" / "small"
    module = tmp_path / "terraform" / "modules" / "echo"
    for path, text in ((folder, STACK), (module, MODULE)):
        path.mkdir(parents=True)
        (path / "main.tf").write_text(text)
    return folder


def zipped(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "function.zip"
    path.write_bytes(content)
    return path


def deployment(tmp_path: Path, stack: Path, lines: list[str] | None = None) -> Deployment:
    show = (lambda line: None) if lines is None else lines.append
    return Deployment(
        Workspace(tmp_path / "work", "my-project", "europe-west1", "digits"),
        stack,
        lambda folder: TerraformBinary(folder, show),
    )


@needs_terraform
def test_a_life(tmp_path: Path, stack: Path) -> None:
    """Deploy, deploy again, nothing to do, back, forth, destroy: by the real terraform."""
    lines: list[str] = []
    made = deployment(tmp_path, stack, lines)
    first = made.apply(made.prepare(SETTINGS, zipped(tmp_path, b"one"), "digits"), lambda: True)
    assert first.changed
    assert first.outputs["url"] == "https://digits-europe-west1.example"
    assert any("will be created" in line for line in lines), "the plan is shown"
    assert any("Apply complete!" in line for line in lines)

    larger = Settings(project_id="my-project", name="digits", instance=Instance(memory="2Gi"))
    second = made.apply(made.prepare(larger, zipped(tmp_path, b"two"), "digits"), lambda: True)
    assert second.outputs["deployed"]["memory"] == "2Gi"
    assert second.outputs["deployed"]["zip"] == second.release.source
    assert second.release.number == 2

    again = made.apply(second.release, lambda: pytest.fail("nothing has to be asked"))
    assert not again.changed

    back = made.rollback(lambda: True)
    assert back.outputs["deployed"] == first.outputs["deployed"]
    releases, outputs = made.status()
    assert (releases.current, releases.begun) == (1, None)
    assert outputs["url"] == first.outputs["url"]
    with pytest.raises(ConfigError, match="release 1 is the first one"):
        made.rollback(lambda: True)
    assert made.rollback(lambda: True, to=2).outputs["deployed"]["memory"] == "2Gi"
    with pytest.raises(ConfigError, match="no release 7: there are 1, 2"):
        made.rollback(lambda: True, to=7)

    assert made.destroy(lambda: True, with_models=True).changed
    assert made.status() == (made.workspace.releases(), {})
    assert made.workspace.releases().current is None
    with pytest.raises(ConfigError, match="nothing was deployed from"):
        made.destroy(lambda: True)
    state = json.loads((made.stack / "terraform.tfstate").read_text())
    assert state["resources"] == []


@needs_terraform
def test_without_a_yes_nothing_changes(tmp_path: Path, stack: Path) -> None:
    """Neither the cloud nor what is written about it."""
    made = deployment(tmp_path, stack)
    release = made.prepare(SETTINGS, zipped(tmp_path, b"one"), "digits")
    with pytest.raises(ConfigError, match="the plan was not agreed to; nothing changed"):
        made.apply(release, lambda: False)
    assert made.workspace.releases().made == ()
    assert not (made.stack / "terraform.tfstate").exists()
    made.apply(release, lambda: True)
    with pytest.raises(ConfigError, match="nothing was destroyed"):
        made.destroy(lambda: False)
    assert made.workspace.releases().current == 1


@needs_terraform
def test_what_terraform_refuses_is_explained(tmp_path: Path, stack: Path) -> None:
    """Its words come with what to do; a release whose source is gone is said to be."""
    made = deployment(tmp_path, stack)
    release = made.prepare(SETTINGS, zipped(tmp_path, b"one"), "digits")
    main = stack / "main.tf"
    main.write_text(main.read_text().replace("fileexists(", "!fileexists("))
    with pytest.raises(MachineError, match=r"`terraform plan` failed: a setting.*\nIt said:\nErr"):
        made.apply(release, lambda: True)
    (stack.parents[1] / "modules" / "echo" / "main.tf").write_text("nothing {")
    with pytest.raises(MachineError, match="`terraform init` failed"):
        made.apply(release, lambda: True)
    made.workspace.source(release.source).unlink()
    with pytest.raises(ConfigError, match="is gone: package and deploy the bundle of release 1"):
        made.apply(release, lambda: True)


class Dies:
    """Terraform that is killed while it applies."""

    def init(self) -> None:
        pass

    def keep_state(self, place: StateBucket) -> None:
        pass

    def plan(self, variables: Path, *, destroy: bool = False) -> bool:
        return True

    def apply(self) -> None:
        raise KeyboardInterrupt

    def outputs(self) -> dict[str, Any]:
        return {}


def test_an_apply_that_did_not_end_is_known(tmp_path: Path, stack: Path) -> None:
    """What was begun is written before it begins; the next destroy knows what may be there."""
    workspace = Workspace(tmp_path / "work", "my-project", "europe-west1", "digits")
    made = Deployment(workspace, stack, lambda folder: Dies())
    with pytest.raises(KeyboardInterrupt):
        made.apply(made.prepare(SETTINGS, zipped(tmp_path, b"one"), "digits"), lambda: True)
    releases = workspace.releases()
    assert (releases.begun, releases.current) == (1, None)
    with pytest.raises(KeyboardInterrupt):
        made.destroy(lambda: True)


def test_a_dry_run_needs_nothing(tmp_path: Path, stack: Path) -> None:
    """No terraform, no account: the source, the stack and its variables are written."""

    def none(folder: Path) -> TerraformBinary:
        raise AssertionError("terraform was asked for")

    workspace = Workspace(tmp_path / "work", "my-project", "europe-west1", "digits")
    made = Deployment(workspace, stack, none)
    release = made.prepare(SETTINGS, zipped(tmp_path, b"one"), "digits")
    values = json.loads(workspace.variables_file.read_text())
    assert values["source_zip"] == str(workspace.source(release.source))
    assert workspace.source(release.source).read_bytes() == b"one"
    assert set(values) == declared_variables(stack)
    assert (made.stack / "../../modules/echo/main.tf").resolve().is_file()


def test_without_terraform_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With where to get it, and that a dry run needs none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match=r"terraform is not installed: https://.*--dry-run"):
        TerraformBinary(tmp_path)


def test_the_stack_is_found_or_asked_for(
    tmp_path: Path, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one named; to name a folder without Terraform files is the caller's mistake."""
    assert find_stack(stack) == stack
    with pytest.raises(ConfigError, match="or name a stack's folder with --stack"):
        find_stack(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="the stack has no variable project_id, region"):
        variables(SETTINGS, tmp_path, {"name", "source_zip"})


def test_a_new_stack_does_not_touch_the_state(tmp_path: Path, stack: Path) -> None:
    """The copy is brought up to date around it."""
    (stack / "terraform.tfstate").write_text("a state of other people")
    copied = copy_stack(stack, tmp_path / "work")
    assert not (copied / "terraform.tfstate").exists()
    (copied / "terraform.tfstate").write_text("ours")
    (stack / "more.tf").write_text("")
    assert copy_stack(stack, tmp_path / "work") == copied
    assert (copied / "terraform.tfstate").read_text() == "ours"
    assert (copied / "more.tf").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"project_id": "My Project"}, "expected a project's id"),
        ({"project_id": "123456789012"}, "not its name or number"),
        ({"region": "europe-west1-b"}, "not a zone"),
        ({"name": "Digits"}, "beginning with a letter"),
        ({"name": "d" * 21}, "2 to 20"),
        ({"invokers": ("allUsers",)}, "--invoker allUsers: to let everybody call, say --public"),
        ({"invokers": ("you@example.com",)}, "did you mean user:you@example.com"),
        ({"invokers": ("user:you",)}, "expected a member, as user:you@example.com"),
        ({"invokers": ("robot:r@example.com",)}, "expected a member"),
        ({"invokers": ("",)}, "expected a member"),
        ({"environment": {"1A": "x"}}, "not beginning with a digit"),
        ({"environment": {"": "x"}}, "expected a name"),
        ({"environment": {"PORT": "1"}}, "--set-env PORT: the platform sets it itself"),
        ({"environment": {"X_GOOGLE_A": "1"}}, "the platform sets it itself"),
        ({"environment": {"API_TOKEN": "x"}}, "put it into Secret Manager"),
        ({"environment": {"MAAS_BUNDLE": "gs://b/m@1"}}, "say --bundle-from"),
        ({"environment": {"A": "x" * 40_000}}, "40,001 bytes, a function takes at most 32,768"),
    ],
)
def test_settings_are_checked_before_anything_is_made(change: dict[str, str], words: str) -> None:
    """In the words of the command line."""
    with pytest.raises(ConfigError, match=words):
        Settings(**{"project_id": "my-project", "name": "digits", **change})


@pytest.mark.parametrize(
    "change",
    [
        *({"memory": "1GB"}, {"cpu": 0}, {"cpu": 0.5}, {"concurrency": 0}, {"min": 11}),
        *({"max": 0}, {"timeout_s": 0}, {"cpu": 3}, {"memory": "5Gi"}),
        {"cpu": 8, "memory": "33Gi"},
    ],
)
def test_an_instance_is_one_that_the_platform_has(change: dict[str, Any]) -> None:
    """The same limits as the modules have."""
    with pytest.raises(ConfigError, match=r"expected|less than one CPU"):
        Instance(**change)


@needs_terraform
@pytest.mark.parametrize(
    ("variable", "value", "change", "fine"),
    [
        *(
            ("environment", {name: "x"}, {"environment": {name: "x"}}, fine)
            for name, fine in {
                **dict.fromkeys(("MAAS_READY_WAIT_S", "THREADS", "_a1", "PORTS"), True),
                **dict.fromkeys(("1A", "A-B", "Ä", "PORT", "K_REVISION"), False),
                **dict.fromkeys(("FUNCTION_TARGET", "X_GOOGLE_A", "my_Token", "DB_SECRET"), False),
            }.items()
        ),
        *(
            ("invokers", {"members": {"who": member}}, {"invokers": (member,)}, fine)
            for member, fine in {
                **dict.fromkeys(("user:you@example.com", "domain:example.com"), True),
                "principalSet://iam.googleapis.com/projects/1/x": True,
                **dict.fromkeys(("you@example.com", "allUsers", "owner:you@example.com"), False),
            }.items()
        ),
    ],
)
def test_the_module_says_the_same(
    variable: str, value: Any, change: dict[str, Any], fine: bool, tmp_path: Path
) -> None:
    """Of variables and callers: what one of the two refuses, the other does."""
    text = (TERRAFORM / "modules" / "model-function" / "variables.tf").read_text(encoding="utf-8")
    [block] = re.findall(rf'^variable "{variable}" \{{.*?^\}}', text, re.M | re.S)
    (tmp_path / "main.tf").write_text(block, encoding="utf-8")
    (tmp_path / "terraform.tfvars.json").write_text(json.dumps({variable: value}))
    ran = RealTerraform(folder=tmp_path, reattach="{}").run("plan", "-no-color", code=None)
    assert ran.code == (0 if fine else 1), ran.output
    if fine:
        Settings(project_id="my-project", name="digits", **change)
    else:
        with pytest.raises(ConfigError, match=r"--set-env|--invoker"):
            Settings(project_id="my-project", name="digits", **change)


@pytest.mark.parametrize("model", ["digits", "My Model 2", "7b", "x", "ä-ö", "a" * 80, "a-" * 40])
def test_every_model_has_a_name_for_its_function(model: str) -> None:
    """Made of the model's, and always one that is taken."""
    name = name_from_model(model)
    assert Settings(project_id="my-project", name=name).name == name


def test_a_broken_list_of_releases_is_named(tmp_path: Path) -> None:
    """It is never taken for an empty one: something may run."""
    workspace = Workspace(tmp_path, "my-project", "europe-west1", "digits")
    workspace.folder.mkdir(parents=True)
    for text in ("{", "[]", '{"made": [{"number": 1}], "current": 1, "begun": null}'):
        (workspace.folder / "releases.json").write_text(text)
        with pytest.raises(CorruptError, match=r"releases\.json: expected what `maas deploy`"):
            workspace.releases()
    assert os.listdir(workspace.folder) == ["releases.json"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["A=1", "b_2=x=y", "EMPTY="], {"A": "1", "b_2": "x=y", "EMPTY": ""}),
    ],
)
def test_assignments_are_read(words: list[str], expected: dict[str, str]) -> None:
    """A value may hold what it likes, an equals sign as well, or nothing."""
    assert environment_from(words) == expected


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["A"], "--set-env 'A': expected NAME=VALUE"),
        (["A=1", "A=2"], "--set-env A: is said twice"),
        (["A=\0"], "--set-env A: the value has a null"),
    ],
)
def test_what_is_no_assignment_is_refused(words: list[str], error: str) -> None:
    """Nothing is dropped in silence."""
    with pytest.raises(ConfigError, match=error):
        environment_from(words)


@given(words=st.lists(st.text(max_size=20), max_size=4))
def test_any_assignments_are_taken_or_refused(words: list[str]) -> None:
    """What comes through is what was typed."""
    try:
        found = environment_from(words)
    except ConfigError:
        return
    assert [f"{name}={value}" for name, value in found.items()] == words


@pytest.mark.parametrize(
    "member",
    [
        *("user:you@example.com", "group:team@example.com", "domain:example.com"),
        "serviceAccount:web@my-project.iam.gserviceaccount.com",
        "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/subject/s",
    ],
)
def test_members_are_told_to_the_stack(member: str, tmp_path: Path) -> None:
    """Under their own names, beside nobody else."""
    settings = Settings(project_id="my-project", name="digits", invokers=(member,))
    found = variables(settings, tmp_path / "x.zip", declared_variables(find_stack()))
    assert found["invokers"] == {"public": False, "members": {member: member}}


def test_a_function_may_read_the_bucket_that_it_fetches_from() -> None:
    """A store that is no bucket asks for no right."""
    assert model_buckets_of("gs://my-models/store/large@3") == ("my-models",)
    assert model_buckets_of("file:///srv/store/large@3") == model_buckets_of(None) == ()


def test_what_a_stack_does_not_take_is_said(tmp_path: Path) -> None:
    """Callers and variables that would be lost without a word."""
    needed = {"project_id", "region", "name", "source_zip"}
    for change, words in (
        ({"environment": {"A": "1"}}, "no variable environment, so what --set-env says would be"),
        ({"invokers": ("user:you@example.com",)}, "no variable invokers, so what --invoker"),
        ({"public": True}, "no variable invokers, so what --invoker and --public"),
    ):
        settings = Settings(project_id="my-project", name="digits", **change)
        with pytest.raises(ConfigError, match=words):
            variables(settings, tmp_path / "x.zip", needed)
    assert variables(SETTINGS, tmp_path / "x.zip", needed).keys() == needed


def test_settings_come_back_from_a_release() -> None:
    """Through JSON, all of them; those of a release that an earlier version made as well."""
    settings = Settings(
        project_id="my-project",
        name="digits",
        instance=Instance(cpu=2, memory="8Gi"),
        invokers=("user:you@example.com", "domain:example.com"),
        environment={"A": "1"},
        model_buckets=("my-models",),
    )
    document = json.loads(json.dumps(settings_document(settings)))
    assert settings_from(document) == settings
    for later in ("invokers", "model_buckets", "environment"):
        del document[later]
    assert settings_from(document).invokers == ()
