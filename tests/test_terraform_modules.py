"""The example of each module's page lives: planned, applied, changed and destroyed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.terraform.cloud import SECRET, providers
from tests.terraform.serving import attached
from tests.terraform.standin import StandIn
from tests.terraform.workspace import TERRAFORM, Workspace, changes, copied, needs_terraform

MODULES = sorted(folder.name for folder in (TERRAFORM / "modules").iterdir())


@dataclass(frozen=True)
class Change:
    """An edit of the example, and what Terraform must do about it: address → actions."""

    old: str
    new: str
    expected: dict[str, list[str]]


FUNCTION = "google_cloudfunctions2_function.this"
CHANGES = {
    "access": Change(
        '"roles/logging.logWriter", ',
        "",
        {'google_project_iam_member.this["build-roles/logging.logWriter"]': ["delete"]},
    ),
    "batch-function": Change(
        'name       = "digits-batch"',
        'name       = "digits-batch"\n  retry      = false',
        {FUNCTION: ["update"]},
    ),
    "limits-store": Change(
        'tier = "BASIC"',
        'tier = "STANDARD_HA"',
        {
            "google_redis_instance.this": ["delete", "create"],
            # Another instance has another address and password.
            "google_secret_manager_secret_version.url": ["delete", "create"],
        },
    ),
    "model-function": Change("max         = 5", "max         = 6", {FUNCTION: ["update"]}),
    "model-service": Change(
        "canary_percent = 10",
        "canary_percent = 50",
        {"google_cloud_run_v2_service.this": ["update"]},
    ),
    "model-store": Change(
        '"maas-test-models"',
        '"maas-test-models-2"',
        {
            "google_storage_bucket.this": ["delete", "create"],
            'google_storage_bucket_iam_member.this["reader-serving"]': ["delete", "create"],
            'google_storage_bucket_iam_member.this["writer-team"]': ["delete", "create"],
        },
    ),
    "observability": Change(
        "p99_ms = 500",
        "p99_ms = 250",
        {"google_monitoring_alert_policy.latency": ["update"]},
    ),
    "tpu-node": Change(
        'type = "v5litepod-1"',
        'type = "v5litepod-4"',
        {"google_tpu_v2_vm.this[0]": ["delete", "create"]},
    ),
}


def example(module: str) -> str:
    """The block of HCL on a module's page."""
    text = (TERRAFORM / "modules" / module / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```hcl\n(.*?)^```$", text, re.M | re.S)
    return str(block)


@pytest.fixture
def standins() -> tuple[StandIn, StandIn]:
    return providers()


@pytest.fixture
def workspace(standins: tuple[StandIn, StandIn], tmp_path: Path) -> Iterator[Workspace]:
    with attached(*standins) as reattach:
        yield Workspace(folder=copied(tmp_path, providers=True), reattach=reattach)


@needs_terraform
@pytest.mark.parametrize("module", MODULES)
def test_the_example_lives(
    module: str, workspace: Workspace, standins: tuple[StandIn, StandIn]
) -> None:
    """Init, validate, apply, a second plan that is empty, a change, destroy; nothing is left."""
    change, main = CHANGES[module], workspace.folder / "main.tf"
    main.write_text(example(module), encoding="utf-8")
    workspace.run("init", "-backend=false", "-no-color")
    workspace.run("validate", "-no-color")
    workspace.apply()
    made = {key for standin in standins for key in standin.cloud}
    assert made
    assert changes(workspace.plan()) == {}, "a second plan is empty"
    state = (workspace.folder / "terraform.tfstate").read_text(encoding="utf-8")
    assert json.loads(state)["resources"]

    assert example(module).count(change.old) == 1, "the edit is of one place"
    main.write_text(example(module).replace(change.old, change.new), encoding="utf-8")
    planned = changes(workspace.plan())
    expected = {re.sub(r"^module\.\w+\.", "", address): a for address, a in planned.items()}
    assert expected == change.expected
    workspace.apply()
    assert changes(workspace.plan()) == {}
    assert SECRET not in workspace.run("output", "-json").output

    workspace.run("destroy", "-auto-approve", "-no-color")
    assert [standin.cloud for standin in standins] == [{}, {}]


def test_every_module_has_a_change() -> None:
    """The table above names all modules that there are."""
    assert sorted(CHANGES) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_the_page_names_every_variable_and_output(module: str) -> None:
    """The tables of a page are what variables.tf and outputs.tf say, in their order."""
    folder = TERRAFORM / "modules" / module
    page = (folder / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`(?: \(required\))? \| (.+) \|$", page, re.M)
    said = [
        found
        for name in ("variables.tf", "outputs.tf")
        for found in re.findall(
            r'^(?:variable|output) "(\w+)" \{\n  description = "((?:[^"\\]|\\.)*)"$',
            (folder / name).read_text(encoding="utf-8"),
            re.M,
        )
    ]
    assert rows == said
