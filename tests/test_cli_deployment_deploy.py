"""``maas package``, ``deploy`` and their kin as a person, or a program, types them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_sdk.deploy import size
from maas_sdk.deploy.process import FunctionProcess
from tests.kit.command_line import document, maas
from tests.kit.toy import toy_bundle

STACK = """
variable "project_id" { type = string }
variable "region" { type = string }
variable "name" { type = string }
variable "source_zip" { type = string }
variable "instance" {
  type = any
  default = {}
}
variable "environment" {
  type = map(string)
  default = {}
}
variable "invokers" {
  type = any
  default = {}
}
resource "terraform_data" "this" { input = filesha256(var.source_zip) }
output "url" { value = "https://${var.name}.example" }
"""
HERE = ("--project", "my-project", "--name", "toy")
needs_terraform = pytest.mark.skipif(
    shutil.which("terraform") is None, reason="terraform is not installed"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("model"), np.eye(2, dtype=np.float32))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a checkout: with a stack, where nothing is deployed yet."""
    monkeypatch.chdir(tmp_path)
    stack = tmp_path / "terraform" / "stacks" / "quickstart"
    stack.mkdir(parents=True)
    (stack / "main.tf").write_text(STACK)
    return tmp_path


@pytest.mark.slow
def test_the_page_leads_to_the_account(bundle: Path, here: Path) -> None:
    """docs/deploy.md: every `maas` line before an account is needed, as it stands there."""
    page = (Path(__file__).parent.parent / "docs" / "deploy.md").read_text(encoding="utf-8")
    before, found, _ = page.partition("## 3. Log in, once")
    assert found
    lines = re.findall(r"^maas (.*)$", before, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["package", "deploy"]
    (here / "demo-out").mkdir()
    shutil.copytree(bundle, here / "demo-out" / "digits.maas")
    for line in lines:
        result = maas(*shlex.split(line))
        assert result.exit_code == 0, result.output
    assert list((here / "deployments").rglob("deployment.tfvars.json"))


def test_package_tells_sizes_and_checks(bundle: Path, tmp_path: Path) -> None:
    """Parts add up to the whole; a check says where it ran and what was asked."""
    found = document(maas("package", bundle, tmp_path / "f.zip", "--json"))
    assert sum(part["nbytes"] for part in found["parts"]) == found["nbytes"]
    assert found["zipped_nbytes"] == (tmp_path / "f.zip").stat().st_size
    shown = maas("package", bundle, tmp_path / "folder")
    assert "executables" in shown.output
    assert (tmp_path / "folder" / "main.py").is_file()


@pytest.mark.slow
def test_package_checks_what_it_made(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is checked as the zip that it becomes; without an index, in this interpreter."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    found = document(maas("package", bundle, tmp_path / "folder", "--check", "--json"))
    assert found["check"]["programs"] == {"predict": 2}
    assert found["check"]["environment"] == "this"
    assert "requirements.txt could not be installed: " in found["check"]["why"]
    assert (tmp_path / "folder" / "main.py").is_file()


def test_package_makes_a_container(bundle: Path, tmp_path: Path) -> None:
    """The Dockerfile's folder; what contradicts it is refused before anything is made."""
    found = document(
        maas("package", bundle, tmp_path / "image", "--container", "--variant", "gpu", "--json")
    )
    assert found["variant"] == "gpu"
    assert (tmp_path / "image" / "Dockerfile").is_file()
    refused = maas("package", bundle, tmp_path / "image.zip", "--container")
    assert refused.exit_code == 1
    assert "--container makes a folder" in refused.stderr
    assert not (tmp_path / "image.zip").exists()


def test_what_is_too_large_is_not_made(
    bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as a zip nor as a folder, nor deployed; the two ways out are named."""
    monkeypatch.setattr(size, "MAX_ZIPPED_BYTES", 1000)
    for words in (
        ("package", bundle, here / "out.zip"),
        ("package", bundle, here / "out"),
        ("deploy", bundle, "--project", "my-project", "--dry-run"),
    ):
        result = maas(*words)
        assert result.exit_code == 1
        said = " ".join(result.stderr.split())
        assert "--bundle-from gs://BUCKET/STORE/MODEL@VERSION" in said
        assert "--container" in said
    assert [path.name for path in here.iterdir()] == ["terraform"]


def test_a_dry_run_deploys_nothing(
    bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No terraform on the PATH, no account: the variables and the commands are shown."""
    monkeypatch.setenv("PATH", "/nowhere")
    result = maas("deploy", bundle, "--project", "my-project", "--dry-run")
    assert result.exit_code == 0, result.output
    assert '"project_id": "my-project"' in result.stdout
    assert "terraform -chdir=" in result.stdout
    found = document(maas("deploy", bundle, "--project", "my-project", "--dry-run", "--json"))
    assert Path(found["source"]).is_file()
    assert json.loads(Path(found["variables"]).read_text())["name"] == "toy"
    status = maas("status", *HERE)
    assert "nothing is deployed" in status.stdout


@needs_terraform
def test_deploy_asks_shows_and_goes_back(bundle: Path, here: Path) -> None:
    """A no changes nothing; then deployed, shown, rolled back, destroyed, each after its yes."""
    no = maas("deploy", bundle, "--project", "my-project", answer="n\n")
    assert no.exit_code == 1
    assert "terraform_data.this will be created" in no.stderr
    assert "nothing changed" in no.stderr
    yes = maas("deploy", bundle, "--project", "my-project", answer="y\n")
    assert yes.exit_code == 0, yes.output
    assert "https://toy.example/v1/models/toy:predict\n" in yes.stdout
    again = ("deploy", bundle, "--project", "my-project", "--bundle-from", "file:///m/toy@2")
    assert document(maas(*again, "--yes", "--json"))["release"]["number"] == 2
    assert document(maas("status", *HERE, "--json"))["current"] == 2
    back = maas("rollback", *HERE, answer="y\n")
    assert "release 1 runs" in back.stdout
    shown = maas("status", *HERE)
    assert "https://toy.example" in shown.stdout
    assert maas("destroy", *HERE, answer="n\n").exit_code == 1
    assert document(maas("status", *HERE, "--json"))["current"] == 1
    assert "destroyed" in maas("destroy", *HERE, "--yes").stdout
    assert document(maas("status", *HERE, "--json"))["current"] is None


def test_a_large_bundle_goes_through_a_store(
    bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size decides: small goes inside, large is published; a dry run publishes nothing."""
    store = f"file://{here}/store"
    words = ("deploy", bundle, "--project", "my-project", "--store", store)

    def main() -> str:
        source = document(maas(*words, "--dry-run", "--json"))["source"]
        with zipfile.ZipFile(source) as archive:
            return archive.read("main.py").decode()

    assert "model.maas" in main()
    monkeypatch.setattr(size, "MAX_UNPACKED_BYTES", 3_000_000)
    monkeypatch.setattr(size, "MAX_ZIPPED_BYTES", 10)
    monkeypatch.setattr(size, "fits", lambda found: True)
    assert f'"{store}/toy@next"' in main()
    assert not (here / "store").exists()
    if shutil.which("terraform"):
        assert document(maas(*words, "--yes", "--json"))["changed"]
        assert (here / "store" / "toy" / "1" / "manifest.json").is_file()


def test_machines_are_not_asked(bundle: Path, here: Path) -> None:
    """With --json a question would hang."""
    result = maas("deploy", bundle, "--project", "my-project", "--json")
    assert result.exit_code == 1
    assert "say --yes" in json.loads(result.stdout)["error"]


def test_a_wrong_project_is_said_at_once(bundle: Path, here: Path) -> None:
    """Before anything is packaged."""
    result = maas("deploy", bundle, "--project", "My Project", "--dry-run")
    assert "expected a project's id" in result.stderr
    assert not (here / "deployments").exists()


def told(here: Path) -> Any:
    """What Terraform is told of the only deployment."""
    [file] = (here / "deployments").rglob("deployment.tfvars.json")
    return json.loads(file.read_text())


def test_memory_is_chosen_and_said(bundle: Path, here: Path) -> None:
    """From the bundle's size, with processors to go with it; what is said is taken."""
    words = ("deploy", bundle, "--project", "my-project", "--dry-run")
    result = maas(*words)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "an instance has 1 CPU and 1Gi of memory: 0 kB of weights and about 200 MB" in said
    assert told(here)["instance"] == {
        "cpu": "1",
        "memory": "1Gi",
        "concurrency": 32,
        "min": 0,
        "max": 10,
        "timeout_s": 60,
    }
    assert "2 CPU and 6Gi" in " ".join(maas(*words, "--memory", "6Gi").stderr.split())
    assert (told(here)["instance"]["cpu"], told(here)["instance"]["memory"]) == ("2", "6Gi")
    assert "an instance has" not in maas(*words, "--memory", "2Gi").stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--memory", "6Gi", "--cpu", "1"], "memory 6Gi with 1 CPU: expected at least 2 CPU"),
        (["--memory", "33Gi"], "memory 33Gi: expected 128Mi to 32Gi"),
        (["--memory", "128Mi"], "needs 200 MB .* --memory 128Mi is 134 MB: say --memory 1Gi"),
        (["--cpu", "0.5"], "concurrency 32 with 0.5 CPU: .* say --concurrency 1, or --cpu 1"),
        (["--cpu", "3"], "cpu 3: expected 1, 2, 4, 6 or 8"),
        (["--set-env", "A"], "--set-env 'A': expected NAME=VALUE"),
        (["--set-env", "K_SERVICE=x"], "--set-env K_SERVICE: the platform sets it itself"),
        (["--set-env", "DB_PASSWORD=x"], "put it into Secret Manager"),
        (["--invoker", "you@example.com"], "did you mean user:you@example.com"),
        (["--invoker", "allUsers"], "say --public"),
        (["--state-bucket", "gs://states"], "expected the name of a bucket"),
    ],
)
def test_a_bad_setting_leaves_nothing(
    bundle: Path, here: Path, words: list[str], error: str
) -> None:
    """It is refused before anything is packaged, published or written."""
    store = f"file://{here}/store"
    result = maas("deploy", bundle, "--project", "my-project", "--store", store, "--yes", *words)
    assert result.exit_code == 1, result.output
    assert re.search(error, " ".join(result.stderr.split())), result.stderr
    assert sorted(path.name for path in here.iterdir()) == ["terraform"]


def test_what_the_stack_would_lose_leaves_nothing(
    bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack without the variable is told of before the bundle is published."""
    monkeypatch.setattr(size, "MAX_UNPACKED_BYTES", 10)
    main = here / "terraform" / "stacks" / "quickstart" / "main.tf"
    main.write_text(STACK.replace('variable "environment"', 'variable "other"'))
    words = ("deploy", bundle, "--project", "my-project", "--store", f"file://{here}/store")
    result = maas(*words, "--set-env", "A=1", "--yes")
    assert result.exit_code == 1
    assert "the stack has no variable environment" in " ".join(result.stderr.split())
    assert sorted(path.name for path in here.iterdir()) == ["terraform"]


def test_weights_that_do_not_fit_are_not_published(
    bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is looked at before the store is."""
    monkeypatch.setattr(size, "MAX_UNPACKED_BYTES", 10)
    store = f"file://{here}/store"
    words = ("deploy", bundle, "--project", "my-project", "--store", store, "--memory", "128Mi")
    result = maas(*words, "--json", "--yes")
    assert result.exit_code == 1
    assert re.search(
        r"the bundle needs 200 MB of memory \(\d kB of weights, \d+ kB of fetched files and about",
        json.loads(result.stdout)["error"],
    ), result.stdout
    assert not (here / "store").exists()


def test_callers_variables_and_the_state_are_written(bundle: Path, here: Path) -> None:
    """With --dry-run, so without an account; once each, however often they are said."""
    result = maas(
        *("deploy", bundle, "--project", "my-project", "--dry-run"),
        *("--set-env", "A=1", "--set-env", "B=x=y"),
        *("--invoker", "user:you@example.com", "--invoker", "user:you@example.com"),
        *("--state-bucket", "my-states"),
    )
    assert result.exit_code == 0, result.output
    found = told(here)
    assert found["environment"] == {"A": "1", "B": "x=y"}
    assert found["invokers"] == {
        "public": False,
        "members": {"user:you@example.com": "user:you@example.com"},
    }
    place = "gs://my-states/maas/my-project/europe-west1/toy"
    assert f"state: {place}\n" in result.stdout
    [file] = (here / "deployments").rglob("backend_override.tf")
    assert f"cp {file} " in result.stdout
    plain = maas("deploy", bundle, "--project", "my-project", "--dry-run", "--json")
    assert document(plain)["state"] is None
    assert told(here)["environment"] == {}
    assert told(here)["invokers"] == {"public": False, "members": {}}


def test_a_real_function_is_measured_over_its_url(bundle: Path, tmp_path: Path) -> None:
    """``bench cold --url`` on a function that runs: its first call was cold, the next is not."""
    assert maas("package", bundle, tmp_path / "function").exit_code == 0
    with FunctionProcess(tmp_path / "function") as process:
        process.first_answer("/v1/models/toy:predict", [b'{"inputs": [[1, 2]]}'])
        url = f"{process.url}/v1/models/toy"
        measured = ("--runs", 2, "--idle", 0, "--json")
        found = document(maas("bench", "cold", "--url", url, *measured))
        assert len(found["cold_s"]) + len(found["met_warm_s"]) == 2
        assert found["checked"] is False
        checked = document(maas("bench", "cold", bundle, "--url", process.url, *measured))
        assert checked["checked"] is True
        assert len(checked["warm_s"]) == 10
    nothing = maas("bench", "cold")
    assert nothing.exit_code == 1
    assert "Give a bundle's folder, or --url" in nothing.stderr
