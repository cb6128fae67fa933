"""``maas deploy`` with the real stack: its plan, its zip and its function, on this machine.

The providers are the stand-ins of tests/terraform, the buckets an emulator's, the function
functions-framework's; the command, the modules, Terraform and the client are the real ones.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from maas_sdk.client import Client
from maas_sdk.deploy.settings import Settings, variables
from maas_sdk.deploy.terraform import declared_variables, find_stack
from tests.kit.command_line import maas
from tests.kit.gcs import Gcs, gcs
from tests.kit.toy import toy_bundle
from tests.terraform.cloud import PROJECT, providers
from tests.terraform.local import local_cloud
from tests.terraform.serving import attached
from tests.terraform.workspace import backend_environment, needs_terraform

HERE = ("--project", PROJECT, "--name", "toy")
# That the page has made with gcloud.
BUCKETS = ("my-project-states", "my-project-store")
PAGE = Path(__file__).parent.parent / "docs" / "deploy.md"
X = np.arange(6, dtype=np.float32).reshape(3, 2)


def exported(folder: Path, name: str) -> Path:
    return toy_bundle(folder, np.eye(2, dtype=np.float32) * 2, name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("model"), "toy")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gcs]:
    """A cloud of this machine, which ``terraform`` of this process's environment finds."""
    (tmp_path / "functions").mkdir()
    settings = tmp_path / "terraform.rc"
    settings.write_text("disable_checkpoint = true\n")
    with (
        gcs(*BUCKETS) as storage,
        local_cloud(storage.url, tmp_path / "functions") as found,
        attached(*providers(found.hooks)) as reattach,
    ):
        monkeypatch.setenv("TF_CLI_CONFIG_FILE", str(settings))
        monkeypatch.setenv("TF_REATTACH_PROVIDERS", reattach)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
        for name, value in backend_environment(storage.url).items():
            monkeypatch.setenv(name, value)
        yield storage


def test_the_stack_takes_what_is_written(tmp_path: Path) -> None:
    """Every variable that a deployment writes is declared, but for the version of Python."""
    declared = declared_variables(find_stack())
    settings = Settings(project_id=PROJECT, name="toy")
    written = variables(settings, tmp_path / "x.zip", declared | {"runtime"})
    assert written.keys() - declared <= {"runtime"}
    assert {"project_id", "region", "name", "source_zip", "instance", "invokers"} <= declared
    assert {"environment", "model_buckets"} <= declared


@needs_terraform
@pytest.mark.slow
def test_from_a_bundle_to_an_answer_and_back(bundle: Path, cloud: Gcs, tmp_path: Path) -> None:
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


@needs_terraform
@pytest.mark.slow
def test_callers_and_variables_reach_the_function(bundle: Path, cloud: Gcs, tmp_path: Path) -> None:
    """What --invoker, --set-env and --memory say is planned, and taken back when it is left out."""
    work = ("--workspace", tmp_path / "deployments", "--yes")
    said = (
        *("--invoker", "user:you@example.com", "--invoker", "group:team@example.com"),
        *("--set-env", "MAAS_READY_WAIT_S=7", "--set-env", "WORDS=a=b c"),
        *("--memory", "6Gi"),
    )
    first = maas("deploy", bundle, "--project", PROJECT, *said, *work)
    assert first.exit_code == 0, first.output
    plan = re.sub(r"\s+", " ", first.stderr)
    assert "an instance has 2 CPU and 6Gi of memory" in plan
    for member in ("user:you@example.com", "group:team@example.com"):
        assert f'module.function.google_cloud_run_v2_service_iam_member.invoker["{member}"]' in plan
    assert '"MAAS_READY_WAIT_S" = "7"' in plan
    assert '"WORDS" = "a=b c"' in plan
    assert "allUsers" not in plan
    second = maas(
        "deploy", bundle, "--project", PROJECT, "--invoker", "user:you@example.com", *work
    )
    assert second.exit_code == 0, second.output
    assert 'invoker["group:team@example.com"] will be destroyed' in second.stderr
    assert 'invoker["user:you@example.com"] will be' not in second.stderr
    back = maas("rollback", *HERE, "--workspace", tmp_path / "deployments", "--yes")
    assert '+ "WORDS"' in back.stderr, back.output


def shell_blocks() -> list[tuple[str | None, list[str]]]:
    """Of the page: why it is not run, and the lines."""
    found = re.findall(
        r"^(?:<!-- not run: ([^\n]+?) -->\n+)?```sh\n(.*?)^```$",
        PAGE.read_text(encoding="utf-8"),
        re.M | re.S,
    )
    return [(reason or None, code.replace("\\\n", " ").splitlines()) for reason, code in found]


def test_only_what_needs_an_account_is_left_out() -> None:
    """A block of the page that is not run says why, and has nothing in it that could be run."""
    assert len(shell_blocks()) == PAGE.read_text(encoding="utf-8").count("```sh\n")
    for reason, lines in shell_blocks():
        commands = {line.split()[0] for line in lines}
        if reason:
            assert commands <= {"gcloud"} or "deployed function" in reason, lines
        else:
            assert commands <= {"maas", "make"}, lines


@needs_terraform
@pytest.mark.slow
def test_the_page_is_followed(cloud: Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/deploy.md, top to bottom, as it stands there: every answer is right on the way.

    Only ``make demo`` is stood in for, by a bundle of its name, and ``--check`` by another test.
    """
    monkeypatch.chdir(tmp_path)
    # Where the function that fetches has its cache.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "demo-out").mkdir()
    answered = 0
    for reason, lines in shell_blocks():
        for line in [] if reason else lines:
            words = [word for word in shlex.split(line, comments=True) if word != "--check"]
            if words == ["make", "demo"]:
                exported(tmp_path / "demo-out", "digits")
                continue
            result = maas(*words[1:], answer="y\n")
            assert result.exit_code == 0, f"{line}\n{result.output}"
            url = re.search(r"^(http\S+)/v1/models/digits:predict$", result.stdout, re.M)
            if words[1] in ("deploy", "rollback") and "--dry-run" not in words:
                assert url, f"{line}\n{result.output}"
                with Client(url[1], "digits") as client:
                    np.testing.assert_allclose(client.predict(X), X * 2, rtol=1e-6)
                answered += 1
    assert answered >= 8
    [state] = cloud.names("my-project-states")
    assert state == "maas/my-project/europe-west1/digits/default.tfstate"
    assert list((tmp_path / "home").rglob("manifest.json")), "the last one was fetched"
