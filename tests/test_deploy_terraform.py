"""``maas deploy`` with the real stack: its plan, its zip and its function, on this machine.

The providers are the stand-ins of tests/terraform, the buckets an emulator's, the function
functions-framework's; the command, the modules, Terraform and the client are the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from maas_sdk.cli.app import app
from maas_sdk.client import Client
from maas_sdk.deploy.settings import Settings, variables
from maas_sdk.deploy.terraform import declared_variables, find_stack
from maas_sdk.export import default_targets, export
from tests.gcs import gcs
from tests.terraform.cloud import PROJECT, providers
from tests.terraform.local import local_cloud
from tests.terraform.serving import attached
from tests.terraform.workspace import needs_terraform

HERE = ("--project", PROJECT, "--name", "toy")
X = np.arange(6, dtype=np.float32).reshape(3, 2)


def maas(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(
        lambda weights, inputs: {"y": inputs["x"] @ weights["w"]},
        {"x": X},
        path=tmp_path_factory.mktemp("model") / "toy.maas",
        name="toy",
        weights={"w": np.eye(2, dtype=np.float32) * 2},
        targets=default_targets()[:1],
    ).path


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cloud of this machine, which ``terraform`` of this process's environment finds."""
    (tmp_path / "functions").mkdir()
    settings = tmp_path / "terraform.rc"
    settings.write_text("disable_checkpoint = true\n")
    with (
        gcs() as storage,
        local_cloud(storage.url, tmp_path / "functions") as found,
        attached(*providers(found.hooks)) as reattach,
    ):
        monkeypatch.setenv("TF_CLI_CONFIG_FILE", str(settings))
        monkeypatch.setenv("TF_REATTACH_PROVIDERS", reattach)
        yield


def test_the_stack_takes_what_is_written(tmp_path: Path) -> None:
    """Every variable that a deployment writes is declared, but for the version of Python."""
    declared = declared_variables(find_stack())
    settings = Settings(project_id=PROJECT, name="toy")
    written = variables(settings, tmp_path / "x.zip", declared | {"runtime"})
    assert written.keys() - declared <= {"runtime"}
    assert {"project_id", "region", "name", "source_zip", "instance", "invokers"} <= declared


@needs_terraform
@pytest.mark.slow
def test_from_a_bundle_to_an_answer_and_back(bundle: Path, cloud: None, tmp_path: Path) -> None:
    """Deployed, called, deployed larger, rolled back, destroyed: each by its command."""
    work = ("--workspace", tmp_path / "deployments", "--json")
    first = maas("deploy", bundle, "--project", PROJECT, "--yes", *work)
    assert first.exit_code == 0, first.output
    url = json.loads(first.stdout)["url"]
    with Client(url, "toy") as client:
        np.testing.assert_allclose(client.predict(X), X * 2, rtol=1e-6)
    same = maas("deploy", bundle, "--project", PROJECT, "--yes", *work)
    assert json.loads(same.stdout)["changed"] is False, "the same bytes are no change"
    larger = maas("deploy", bundle, "--project", PROJECT, "--memory", "2Gi", "--yes", *work)
    assert json.loads(larger.stdout)["changed"] is True, larger.output
    back = maas("rollback", *HERE, "--yes", *work)
    assert json.loads(back.stdout)["release"]["settings"]["instance"]["memory"] == "1Gi"
    with Client(url, "toy") as client:
        np.testing.assert_allclose(client.predict(X), X * 2, rtol=1e-6)
    assert json.loads(maas("status", *HERE, *work).stdout)["outputs"]["url"] == url
    gone = maas("destroy", *HERE, "--with-models", "--yes", *work)
    assert json.loads(gone.stdout) == {"destroyed": True}, gone.output
