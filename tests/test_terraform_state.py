"""The state of stack production in a bucket: written there, read from there, and locked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.gcs import Gcs, gcs
from tests.terraform.cloud import providers
from tests.terraform.serving import attached
from tests.terraform.workspace import (
    Ran,
    Workspace,
    backend_environment,
    changes,
    copied,
    needs_terraform,
)

BUCKET = "maas-test-state"
STATE, LOCK = "digits/default.tfstate", "digits/default.tflock"


@pytest.fixture
def storage() -> Iterator[Gcs]:
    with gcs(BUCKET) as server:
        yield server


def production(tmp_path: Path, storage: Gcs, reattach: str) -> Workspace:
    """A copy of the stack as its page sets it, with its own ``backend "gcs" {}``."""
    tmp_path.mkdir(exist_ok=True)
    folder = copied(tmp_path, root="stacks/production")
    page = (folder / "README.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"^```hcl\n(.*?)^```$", page, re.M | re.S)
    text = settings.replace("/path/to/function.zip", str(folder / "function.zip"))
    (folder / "terraform.tfvars").write_text(text, encoding="utf-8")
    workspace = Workspace(
        folder=folder,
        reattach=reattach,
        environment=backend_environment(storage.url),
    )
    (arguments,) = re.findall(r"^terraform init (-backend-config=.*)$", page, re.M)
    workspace.run("init", "-no-color", *arguments.split())
    return workspace


@needs_terraform
@pytest.mark.slow
def test_the_state_is_in_the_bucket_and_locked(storage: Gcs, tmp_path: Path) -> None:
    """While one applies another is told so; afterwards the other sees what the one has made."""
    told: list[Ran] = []

    def meanwhile(prior: object, new: object) -> None:
        assert LOCK in storage.names(BUCKET)
        told.append(other.run("plan", "-no-color", code=1))

    with (
        attached(*providers()) as aside,
        attached(*(standins := providers({"google_monitoring_dashboard": meanwhile}))) as reattach,
    ):
        other = production(tmp_path / "other", storage, aside)
        one = production(tmp_path / "one", storage, reattach)
        one.apply()
        (refused,) = told
        assert refused.says("Error acquiring the state lock"), refused.output
        assert storage.names(BUCKET) == [STATE]
        assert not (one.folder / "terraform.tfstate").exists()
        state = json.loads(storage.storage.get_file(BUCKET, STATE))
        assert state["serial"] > 0
        assert len(state["resources"]) > 30

        # The other's folder, the same cloud: nothing to do.
        second = Workspace(folder=other.folder, reattach=reattach, environment=other.environment)
        assert changes(second.plan()) == {}
        assert storage.names(BUCKET) == [STATE]
        assert standins[0].cloud
