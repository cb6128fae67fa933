"""From a bundle to an answer: packaged, zipped, applied by Terraform, called, destroyed.

The buckets are an emulator's and the function is functions-framework's, on this machine; the zip,
the modules, Terraform and the client are the real ones.
"""

from __future__ import annotations

import http.client
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]  # its types are a package of their own
import pyarrow.parquet  # type: ignore[import-untyped]  # it has no types
import pytest

from maas_sdk.client import Client
from maas_sdk.deploy.package import package
from maas_sdk.store.gcs import GcsObjects
from tests.kit.gcs import Gcs, gcs
from tests.terraform.cloud import PROJECT, providers
from tests.terraform.local import LocalCloud, local_cloud
from tests.terraform.serving import attached
from tests.terraform.workspace import Workspace, changes, copied, needs_terraform

SOURCES, MODELS = f"{PROJECT}-tiny-sources", f"{PROJECT}-tiny-models"


@pytest.fixture
def storage() -> Iterator[Gcs]:
    with gcs() as server:
        yield server


@pytest.fixture
def cloud(storage: Gcs, tmp_path: Path) -> Iterator[LocalCloud]:
    (tmp_path / "functions").mkdir()
    with local_cloud(storage.url, tmp_path / "functions") as cloud:
        yield cloud


@pytest.fixture
def workspace(cloud: LocalCloud, tmp_path: Path) -> Iterator[Workspace]:
    with attached(*providers(cloud.hooks)) as reattach:
        folder = copied(tmp_path, root="stacks/quickstart")
        yield Workspace(folder=folder, reattach=reattach)


def zipped(folder: Path, archive: Path) -> Path:
    """The folder's content as a zip, as Cloud Functions takes it."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    return archive


@needs_terraform
@pytest.mark.slow
def test_a_bundle_becomes_an_endpoint(
    tiny_bundle: Path, storage: Gcs, cloud: LocalCloud, workspace: Workspace, tmp_path: Path
) -> None:
    """Applied, it answers our client; new settings answer at the same address; all goes."""
    archive = zipped(package(tiny_bundle, tmp_path / "out"), tmp_path / "tiny.zip")
    settings = {"project_id": PROJECT, "name": "tiny", "source_zip": str(archive)}
    workspace.variables(**settings, environment={"MAAS_READY_WAIT_S": "30"})
    workspace.run("init", "-no-color")
    workspace.apply()
    outputs = workspace.outputs()
    assert sorted(storage.storage.buckets) == [MODELS, SOURCES]
    bucket, _, name = outputs["source"].removeprefix("gs://").partition("/")
    assert (bucket, storage.names(bucket)) == (SOURCES, [name])

    x = np.random.default_rng(1).random((5, 4), np.float32)
    expected = x @ np.arange(12, dtype=np.float32).reshape(4, 3)
    with Client(outputs["url"], model="tiny") as client:
        np.testing.assert_allclose(client.predict(x), expected, rtol=1e-5)
    process = psutil.Process(cloud.running["tiny"].pid)
    found = process.environ()
    assert (found["THREADS"], found["MAAS_READY_WAIT_S"]) == ("32", "30")
    assert found["CLOUD_RUN_TIMEOUT_SECONDS"] == "60"
    assert (found["K_SERVICE"], found["FUNCTION_TARGET"]) == ("tiny", "predict")
    assert changes(workspace.plan()) == {}, "a second plan is empty"

    # Other settings: another process at the same address.
    workspace.variables(**settings, instance={"concurrency": 4, "timeout_s": 30})
    workspace.apply()
    assert not process.is_running()
    found = psutil.Process(cloud.running["tiny"].pid).environ()
    assert (found["THREADS"], found["CLOUD_RUN_TIMEOUT_SECONDS"]) == ("4", "30")
    assert "MAAS_READY_WAIT_S" not in found
    assert workspace.outputs()["url"] == outputs["url"]
    with Client(outputs["url"], model="tiny") as client:
        np.testing.assert_allclose(client.predict(x), expected, rtol=1e-5)

    # A source that cannot start: the apply says so, and what was there still answers.
    (tmp_path / "out" / "main.py").write_text("raise ValueError('not today')\n")
    zipped(tmp_path / "out", archive)
    refused = workspace.run("apply", "-auto-approve", "-no-color", code=1)
    assert refused.says("the container failed to start and listen on the port"), refused.output
    assert refused.says("not today")
    with Client(outputs["url"], model="tiny") as client:
        np.testing.assert_allclose(client.predict(x), expected, rtol=1e-5)

    process = psutil.Process(cloud.running["tiny"].pid)
    workspace.run("destroy", "-auto-approve", "-no-color")
    assert not process.is_running()
    assert cloud.running == {}
    assert sorted(storage.storage.buckets) == []


EVENT = {
    "ce-id": "1",
    "ce-source": "//storage.googleapis.com/projects/_/buckets/maas-test-inputs",
    "ce-specversion": "1.0",
    "ce-type": "google.cloud.storage.object.v1.finalized",
    "Content-Type": "application/json",
}
BUCKET = """
resource "google_storage_bucket" "%s" {
  name     = "maas-test-%s"
  location = "EU"
}
"""


@needs_terraform
def test_a_trigger_s_function_answers_an_object(
    tiny_bundle: Path,
    storage: Gcs,
    cloud: LocalCloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our batch function, packaged and applied by the module: an object arrives, its event comes
    twice, its rows are answered once.
    """
    folder = copied(tmp_path, providers=True)
    zipped(package(tiny_bundle, tmp_path / "out", function="batch"), folder / "function.zip")
    page = (folder / "modules" / "batch-function" / "README.md").read_text(encoding="utf-8")
    main = page.partition("```hcl\n")[2].partition("```")[0]
    # The example names buckets that are made elsewhere; here that is beside it.
    for name in ("sources", "inputs", "results"):
        main = main.replace(f'= "maas-test-{name}"', f"= google_storage_bucket.{name}.name")
        main += BUCKET % (name, name)
    (folder / "main.tf").write_text(main, encoding="utf-8")
    x = np.random.default_rng(2).random((5, 4), np.float32)
    file = io.BytesIO()
    np.save(file, x)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
    inputs, results = GcsObjects("maas-test-inputs"), GcsObjects("maas-test-results")
    with attached(*providers(cloud.hooks)) as reattach:
        workspace = Workspace(folder=folder, reattach=reattach)
        workspace.run("init", "-backend=false", "-no-color")
        workspace.apply()
        (process,) = cloud.running.values()
        port = int(psutil.Process(process.pid).environ()["PORT"])
        arrived = inputs.write("day/1.npy", file.getvalue(), generation=0)
        assert arrived is not None
        about = {"bucket": "maas-test-inputs", "name": arrived.name}
        body = json.dumps({**about, "generation": str(arrived.generation)})
        seen = []
        for _ in range(2):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/", body, EVENT)
            assert connection.getresponse().status == 200
            connection.close()
            seen.append({info.name: info.generation for info in results.find("")})
        place = f"digits/day/1.npy/{arrived.generation}"
        (part,) = (name for name in seen[0] if name.startswith(f"{place}/part-"))
        assert f"{place}/done.json" in seen[0]
        assert seen[0] == seen[1]
        found = results.read(part)
        assert found is not None
        table = pyarrow.parquet.read_table(io.BytesIO(found[0]))
        assert table["row"].to_pylist() == list(range(5))
        expected = x @ np.arange(12, dtype=np.float32).reshape(4, 3)
        np.testing.assert_allclose(table["y"].to_pylist(), expected, rtol=1e-5)
        for objects in (inputs, results):
            assert all(objects.delete(info) for info in objects.find(""))
        workspace.run("destroy", "-auto-approve", "-no-color")
    assert cloud.running == {}
