"""Both stacks live, with the settings of their pages; and say no where they should."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.terraform.cloud import PROJECT, SECRET, providers
from tests.terraform.serving import attached
from tests.terraform.standin import StandIn
from tests.terraform.workspace import TERRAFORM, Workspace, changes, copied, needs_terraform

ZIP = "/path/to/function.zip"
LOCAL = 'terraform {\n  backend "local" {}\n}\n'
SERVICE = 'module.service["{}"].google_cloud_run_v2_service.this'


@pytest.fixture
def standins() -> tuple[StandIn, StandIn]:
    return providers()


@pytest.fixture
def reattach(standins: tuple[StandIn, StandIn]) -> Iterator[str]:
    with attached(*standins) as address:
        yield address


def stack(name: str, reattach: str, tmp_path: Path, **values: Any) -> Workspace:
    """A copy of a stack with the settings of its page, and others over them; initialised."""
    folder = copied(tmp_path, root=f"stacks/{name}")
    page = (folder / "README.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"^```hcl\n(.*?)^```$", page, re.M | re.S)
    assert ZIP in settings
    text = settings.replace(ZIP, str(folder / "function.zip"))
    (folder / "terraform.tfvars").write_text(text, encoding="utf-8")
    if name == "production":
        # The bucket of its state has a test of its own.
        (folder / "backend_override.tf").write_text(LOCAL, encoding="utf-8")
    workspace = Workspace(folder=folder, reattach=reattach)
    workspace.variables(**values)
    workspace.run("init", "-no-color")
    return workspace


def roles(standin: StandIn) -> set[tuple[str, str]]:
    """(account's short name, role) of all grants to accounts of the project."""
    return {
        (state["member"].partition(":")[2].partition("@")[0], state["role"])
        for (kind, _), state in standin.cloud.items()
        if "_iam_member" in kind
    }


@needs_terraform
def test_quickstart_lives(standins: tuple[StandIn, StandIn], reattach: str, tmp_path: Path) -> None:
    """A project id and a zip make a store and a function; another zip deploys anew; all goes."""
    google, _ = standins
    workspace = stack("quickstart", reattach, tmp_path)
    workspace.run("validate", "-no-color")
    workspace.apply()
    assert changes(workspace.plan()) == {}
    outputs = workspace.outputs()
    assert outputs["store"] == f"gs://{PROJECT}-digits-models"
    assert outputs["url"].startswith("https://")
    assert roles(google) == {
        ("digits-run", "roles/storage.objectViewer"),
        ("digits-build", "roles/artifactregistry.writer"),
        ("digits-build", "roles/logging.logWriter"),
        ("digits-build", "roles/storage.objectViewer"),
        ("you", "roles/run.invoker"),
    }

    # The same zip elsewhere, as on a colleague's machine, is the same deployment.
    moved = tmp_path / "moved.zip"
    moved.write_bytes((workspace.folder / "function.zip").read_bytes())
    workspace.variables(source_zip=str(moved))
    assert changes(workspace.plan()) == {}
    moved.write_bytes(b"another one")
    source = "module.function.google_storage_bucket_object.source"
    assert changes(workspace.plan()) == {
        source: ["create", "delete"],
        "module.function.google_cloudfunctions2_function.this": ["update"],
    }
    google.calls.clear()
    workspace.apply()
    order = [(what, kind.removeprefix("google_")) for what, kind, _ in google.calls]
    assert order == [
        ("create", "storage_bucket_object"),
        ("update", "cloudfunctions2_function"),
        # The source before it goes last: had the deployment failed, it would still be there.
        ("delete", "storage_bucket_object"),
    ]
    assert outputs["source"] != workspace.outputs()["source"]
    (uploaded,) = [s for (kind, _), s in google.cloud.items() if kind.endswith("_object")]
    assert uploaded["source"] == str(moved)
    workspace.run("destroy", "-auto-approve", "-no-color")
    assert google.cloud == {}


@needs_terraform
def test_quickstart_reads_another_bucket_before_it_starts(tmp_path: Path) -> None:
    """The right to fetch its bundle is there before the function is, and goes after it."""
    other, own, order = "other-models", f"{PROJECT}-digits-models", []

    def granted(prior: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        time.sleep(0.5)  # What does not wait for it is earlier.
        order.append((prior or new or {})["bucket"])

    hooks = {
        "google_storage_bucket_iam_member": granted,
        "google_cloudfunctions2_function": lambda prior, new: order.append("function"),
    }
    with attached(*(standins := providers(hooks))) as reattach:
        workspace = stack("quickstart", reattach, tmp_path, model_buckets=[other, own])
        workspace.apply()
        assert sorted(order) == ["function", own, other], "one grant each"
        assert order.index(other) < order.index("function")
        assert changes(workspace.plan()) == {}
        order.clear()
        workspace.run("destroy", "-auto-approve", "-no-color")
        assert order.index("function") < order.index(other)
        assert standins[0].cloud == {}


@needs_terraform
@pytest.mark.slow
def test_production_makes_a_redis_only_where_it_is_asked_for(
    standins: tuple[StandIn, StandIn], reattach: str, tmp_path: Path
) -> None:
    """None by default; ``limits`` adds it and tells its users, and null takes it away again."""
    google, _ = standins
    workspace = stack("production", reattach, tmp_path)
    workspace.apply()

    def redis() -> list[dict[str, Any]]:
        return [s for (kind, _), s in google.cloud.items() if kind == "google_redis_instance"]

    def readers() -> list[str]:
        """Names of functions and services that have the address as a secret."""
        return [
            state["name"]
            for (kind, _), state in google.cloud.items()
            if kind.endswith(("functions2_function", "_v2_service"))
            and "MAAS_LIMITS_URL" in json.dumps(state)
        ]

    def apis() -> set[str]:
        return {s["service"] for (k, _), s in google.cloud.items() if k.endswith("project_service")}

    assert (redis(), readers()) == ([], [])
    assert "redis.googleapis.com" not in apis()
    state = workspace.folder / "terraform.tfstate"
    assert SECRET not in state.read_text(encoding="utf-8")
    workspace.variables(limits={})
    applied = workspace.apply()
    plan = workspace.plan()
    assert changes(plan) == {}
    # The password is in the state, where its pages say so, and nowhere else.
    assert SECRET in state.read_text(encoding="utf-8")
    assert SECRET not in json.dumps(workspace.outputs()) + applied.output
    assert not any(output["sensitive"] for output in plan["planned_values"]["outputs"].values())
    assert [one["tier"] for one in redis()] == ["STANDARD_HA"] * 2
    assert sorted(readers()) == ["digits", "digits", "digits-fn", "digits-fn"]
    assert "redis.googleapis.com" in apis()
    workspace.variables(limits=None)
    workspace.apply()
    assert (redis(), readers()) == ([], [])


@needs_terraform
@pytest.mark.slow
def test_production_lives(standins: tuple[StandIn, StandIn], reattach: str, tmp_path: Path) -> None:
    """Two regions, the canary raised and taken back, protected from destroy until told."""
    google, beta = standins
    workspace = stack("production", reattach, tmp_path)
    workspace.run("validate", "-no-color")
    workspace.apply()
    plan = workspace.plan()
    assert changes(plan) == {}
    outputs = workspace.outputs()
    assert outputs["traffic"] == {"v1": 90, "v2": 10}
    assert set(outputs["services"]) == set(outputs["functions"]) == {"europe-west1", "us-central1"}
    (tpu,) = beta.cloud.values()
    assert (tpu["zone"], tpu["service_account"][0]["email"]) == (
        "us-central1-a",
        f"digits-tpu@{PROJECT}.iam.gserviceaccount.com",
    )
    settings = {
        state["name"]: state["service_config"][0]["environment_variables"]
        for (kind, _), state in google.cloud.items()
        if kind == "google_cloudfunctions2_function"
    }
    key = f"gcp-secret:projects/{PROJECT}/secrets/digits-bundle-key/versions/latest"
    assert {name: found["MAAS_DECRYPTION_KEY"] for name, found in settings.items()} == {
        "digits-fn": key,
        "digits-batch": key,
    }
    assert settings["digits-batch"]["MAAS_OUTPUT"] == f"gs://{PROJECT}-digits-results/digits"
    assert not any(output["sensitive"] for output in plan["planned_values"]["outputs"].values())
    assert {role for account, role in roles(google) if account == "digits-run"} == {
        "roles/storage.objectViewer",
        "roles/secretmanager.secretAccessor",
    }

    both = {SERVICE.format(region): ["update"] for region in outputs["services"]}
    for percent in (100, 0):
        release = {"revision": "v2", "stable": "v1", "canary_percent": percent}
        workspace.variables(release=release)
        assert changes(workspace.plan()) == both
    refused = workspace.run("destroy", "-auto-approve", "-no-color", code=1)
    assert refused.says("cannot destroy it without setting deletion_protection=false")
    workspace.variables(deletion_protection=False)
    workspace.apply()
    workspace.run("destroy", "-auto-approve", "-no-color")
    assert (google.cloud, beta.cloud) == ({}, {})


REFUSED = {
    "number": ({"project_id": "123456789012"}, "not the project's number or title"),
    "zone": ({"region": "europe-west1-b"}, "expected a region like europe-west1, not a zone"),
    "zip": ({"source_zip": "/nowhere/f.zip"}, "there is no such file. Package the bundle first"),
    "type": ({"instance": {"max": "many"}}, "a number is required"),
    "missing": ({"project_id": None}, "project_id"),
    "instances": ({"instance": {"min": 5, "max": 2}}, "max at least 1 and at least min"),
    "memory": ({"instance": {"memory": "2 GB"}}, "a whole number with Mi, Gi, M or G"),
    "processors": ({"instance": {"memory": "8Gi"}}, "more than 4Gi 2, more than 8Gi 4"),
    "fraction": (
        {"instance": {"cpu": "0.3", "concurrency": 1}},
        "more than 512Mi of memory needs at least 0.5 CPUs",
    ),
    "least": ({"instance": {"cpu": "4"}}, "4 CPUs need at least 2Gi of memory"),
    "three": ({"instance": {"cpu": "3"}}, "instance.cpu: 1, 2, 4, 6 or 8, or a fraction"),
    "most": ({"instance": {"cpu": "8", "memory": "33Gi"}}, "instance.memory: 128Mi to 32Gi"),
    "concurrency": (
        {"instance": {"cpu": "0.5"}},
        "more than one request at once needs at least one CPU",
    ),
    "secret": (
        {"environment": {"DB_PASSWORD": "x"}},
        "what is secret belongs into secrets",
    ),
    "reserved": ({"environment": {"K_SERVICE": "x"}}, "are set by the platform"),
    "name": ({"environment": {"A-B": "x"}}, "a name has letters, digits and _"),
    "kind": ({"invokers": {"members": {"web": "you@example.com"}}}, "a member is written user:…"),
    "bucket": ({"model_buckets": ["gs://b/store"]}, "without gs:// and without a folder"),
    "public": ({"invokers": {"members": {"web": "allUsers"}}}, "allUsers is said with public"),
    "publisher": ({"publishers": {"all": "allUsers"}}, "models are not for allUsers"),
}


@needs_terraform
@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_setting_is_refused(
    case: str, standins: tuple[StandIn, StandIn], reattach: str, tmp_path: Path
) -> None:
    """Before anything is made, with a sentence that says what was expected."""
    values, words = REFUSED[case]
    workspace = stack("quickstart", reattach, tmp_path, **values)
    ran = workspace.run("plan", "-no-color", code=1)
    assert ran.says(words), ran.output
    assert standins[0].cloud == {}


def test_no_output_is_made_of_a_secret() -> None:
    """No outputs.tf names an attribute that holds one, or takes the mark off a value."""
    for file in TERRAFORM.rglob("outputs.tf"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"auth_string|secret_data|nonsensitive|sensitive\s*=", text), file
