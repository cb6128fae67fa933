"""Terraform's state in a bucket: named, moved there, shared, and never put over another one.

The terraform and its gcs backend are the real ones; the bucket is an emulator's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.deploy.backend import BACKEND, StateBucket
from maas_sdk.deploy.deployment import Deployment
from maas_sdk.deploy.settings import Settings
from maas_sdk.deploy.terraform import TerraformBinary
from maas_sdk.deploy.workspace import Workspace
from maas_sdk.errors import ConfigError, MachineError
from tests.kit.gcs import Gcs, gcs
from tests.terraform.workspace import backend_environment, needs_terraform

BUCKET = "my-states"
STATE = "maas/my-project/europe-west1/digits/default.tfstate"
SETTINGS = Settings(project_id="my-project", name="digits")
STACK = """
variable "project_id" { type = string }
variable "region" { type = string }
variable "name" { type = string }
variable "source_zip" { type = string }
resource "terraform_data" "this" { input = filesha256(var.source_zip) }
output "zip" { value = terraform_data.this.output }
"""


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gcs]:
    with gcs(BUCKET, "other-states") as server:
        for name, value in backend_environment(server.url).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    folder = tmp_path / "terraform" / "stacks" / "small"
    folder.mkdir(parents=True)
    (folder / "main.tf").write_text(STACK)
    return folder


def deployment(stack: Path, work: Path, bucket: str | None = None) -> Deployment:
    where = ("my-project", "europe-west1", "digits")
    state = None if bucket is None else StateBucket.of(bucket, *where)
    return Deployment(Workspace(work, *where), stack, TerraformBinary, state)


def deployed(made: Deployment, tmp_path: Path, content: bytes) -> str:
    """Deploy a zip of this content; what the state says of it."""
    archive = tmp_path / "function.zip"
    archive.write_bytes(content)
    outputs = made.apply(made.prepare(SETTINGS, archive, "digits"), lambda: True).outputs
    return str(outputs["zip"])


def local_state(made: Deployment) -> bool:
    """Whether anything is in a state beside the stack."""
    assert made.stack
    file = made.stack / "terraform.tfstate"
    return file.is_file() and bool(file.read_text()) and bool(json.loads(file.read_text()))


@pytest.mark.parametrize("name", ["my-states", "a1b", "states_2", "states.example.com"])
def test_a_bucket_has_a_name(name: str) -> None:
    """The state's place is made of it and of what is deployed."""
    place = StateBucket.of(name, "my-project", "europe-west1", "digits")
    assert place.url == f"gs://{name}/maas/my-project/europe-west1/digits"
    assert f'bucket = "{name}"' in place.block


@pytest.mark.parametrize(
    "name",
    [
        *("gs://my-states", "my-states/folder", "My-States", "ab", "-states", "states-", ""),
        *("google-states", "a..b", "x" * 64, 'a"b', "a${b}c", "states\n"),
    ],
)
def test_what_is_no_bucket_is_refused(name: str) -> None:
    """Before Terraform reads it as something else."""
    with pytest.raises(ConfigError, match="expected the name of a bucket"):
        StateBucket.of(name, "my-project", "europe-west1", "digits")


@given(name=st.text(max_size=70))
def test_no_name_leaves_its_quotes(name: str) -> None:
    """Whatever is typed: refused, or nothing but a name in the file that Terraform reads."""
    try:
        block = StateBucket.of(name, "my-project", "europe-west1", "digits").block
    except ConfigError:
        return
    assert block.count('"') == 6
    assert len(block.splitlines()) == 7


@needs_terraform
def test_a_state_in_a_bucket(storage: Gcs, stack: Path, tmp_path: Path) -> None:
    """Named once, it is there for every command after; another person's deploys meet it."""
    first = deployed(deployment(stack, tmp_path / "mine", BUCKET), tmp_path, b"one")
    assert storage.names(BUCKET) == [STATE]
    mine = deployment(stack, tmp_path / "mine")
    assert mine.status()[1] == {"zip": first}
    assert not local_state(mine)

    theirs = deployment(stack, tmp_path / "theirs", BUCKET)
    assert deployed(theirs, tmp_path, b"two") != first
    assert mine.status()[1] == theirs.status()[1] != {"zip": first}
    assert mine.destroy(lambda: True).changed
    assert json.loads(storage.storage.get_file(BUCKET, STATE))["resources"] == []


@needs_terraform
def test_a_state_moves_into_a_bucket(storage: Gcs, stack: Path, tmp_path: Path) -> None:
    """What was deployed before is known there: the same zip is no change."""
    mine = deployment(stack, tmp_path / "work")
    first = deployed(mine, tmp_path, b"one")
    assert local_state(mine)
    moved = deployment(stack, tmp_path / "work", BUCKET)
    release = moved.prepare(SETTINGS, tmp_path / "function.zip", "digits")
    found = moved.apply(release, lambda: pytest.fail("nothing has to be asked"))
    assert (found.changed, found.outputs) == (False, {"zip": first})
    assert json.loads(storage.storage.get_file(BUCKET, STATE))["resources"]
    assert not local_state(moved)

    # And on, into another bucket.
    further = deployment(stack, tmp_path / "work", "other-states")
    again = further.prepare(SETTINGS, tmp_path / "function.zip", "digits")
    assert not further.apply(again, lambda: pytest.fail("nothing has to be asked")).changed
    assert storage.names("other-states") == [STATE]


@needs_terraform
def test_no_state_replaces_another(storage: Gcs, stack: Path, tmp_path: Path) -> None:
    """Two that know of something: it is said, and both are as they were."""
    theirs = deployed(deployment(stack, tmp_path / "theirs", BUCKET), tmp_path, b"theirs")
    before = storage.storage.get_file(BUCKET, STATE)
    mine = deployed(deployment(stack, tmp_path / "mine"), tmp_path, b"mine")
    made = deployment(stack, tmp_path / "mine", BUCKET)
    with pytest.raises(ConfigError, match=r"gs://my-states/.* holds the state of something"):
        deployed(made, tmp_path, b"mine")
    assert storage.storage.get_file(BUCKET, STATE) == before
    assert deployment(stack, tmp_path / "mine").status()[1] == {"zip": mine}
    assert theirs != mine


@needs_terraform
def test_a_bucket_that_is_not_there(storage: Gcs, stack: Path, tmp_path: Path) -> None:
    """How to make it is said; what was deployed stays known where it was."""
    first = deployed(deployment(stack, tmp_path / "work"), tmp_path, b"one")
    made = deployment(stack, tmp_path / "work", "no-such-states")
    with pytest.raises(MachineError, match="gcloud storage buckets create gs://BUCKET"):
        deployed(made, tmp_path, b"two")
    assert made.stack
    assert not (made.stack / BACKEND).exists()
    assert deployment(stack, tmp_path / "work").status()[1] == {"zip": first}

    # Nothing was deployed: what was named in vain is not kept either.
    made = deployment(stack, tmp_path / "new", "no-such-states")
    with pytest.raises(MachineError, match="gcloud storage buckets create gs://BUCKET"):
        deployed(made, tmp_path, b"two")
    deployed(plain := deployment(stack, tmp_path / "new"), tmp_path, b"two")
    assert local_state(plain)


@needs_terraform
def test_a_stack_that_wants_a_bucket_is_given_it(storage: Gcs, stack: Path, tmp_path: Path) -> None:
    """``backend "gcs" {}`` of its own is filled in; without a name, it is asked for."""
    (stack / "backend.tf").write_text('terraform {\n  backend "gcs" {}\n}\n')
    with pytest.raises(MachineError, match=r"or none was named: make one: .*and say it with"):
        deployed(deployment(stack, tmp_path / "work"), tmp_path, b"one")
    assert deployed(deployment(stack, tmp_path / "work", BUCKET), tmp_path, b"one")
    assert storage.names(BUCKET) == [STATE]


def test_a_dry_run_moves_nothing(stack: Path, tmp_path: Path) -> None:
    """The file is written where it is looked at, not where Terraform reads it."""
    made = deployment(stack, tmp_path / "work", BUCKET)
    (tmp_path / "function.zip").write_bytes(b"one")
    made.prepare(SETTINGS, tmp_path / "function.zip", "digits")
    assert made.workspace.backend_file.read_text() == made.state.block
    assert not (made.stack / BACKEND).exists()
