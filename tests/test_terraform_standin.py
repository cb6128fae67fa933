"""What the stand-in notices, by which a mistake in a module is found; and that it is a provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.terraform.cloud import SCHEMAS, SECRET, providers
from tests.terraform.serving import attached
from tests.terraform.standin import Knowledge, StandIn
from tests.terraform.workspace import Workspace, changes, copied, needs_terraform

BUCKET = 'resource "google_storage_bucket" "b" {\n  name     = "b"\n  location = "EU"\n'
REDIS = 'resource "google_redis_instance" "r" {\n  name           = "r"\n  memory_size_gb = 1\n}\n'
MISTAKES = {
    "attribute": (BUCKET + "  locatoin = 1\n}", 'An argument named "locatoin" is not expected'),
    "block": (BUCKET + "  versoning {}\n}", 'Blocks of type "versoning" are not expected'),
    "missing": (
        'resource "google_storage_bucket" "b" {\n  name = "b"\n}',
        'The argument "location" is required',
    ),
    "missing block": (
        'resource "google_secret_manager_secret" "s" {\n  secret_id = "s"\n}',
        'At least 1 "replication" blocks are required',
    ),
    "two blocks": (
        BUCKET + "  versioning {\n    enabled = true\n  }\n" * 2 + "}",
        'No more than 1 "versioning" blocks are allowed',
    ),
    "type": (BUCKET + '  force_destroy = "maybe"\n}', "a bool is required"),
    "computed": (BUCKET + '  url = "gs://b"\n}', "url: the provider decides it"),
    "choice": (
        BUCKET + "  }\n".replace("  ", "") + REDIS.replace('"r"\n  m', '"r"\n  tier = "BIG"\n  m'),
        "expected tier to be one of ['BASIC', 'STANDARD_HA'], got BIG",
    ),
    "reference": (
        BUCKET + '}\noutput "o" {\n  value = google_storage_bucket.b.adress\n}',
        'This object has no argument, nested block, or exported attribute named "adress"',
    ),
    "unknown type": ('resource "google_strage_bucket" "b" {}', "does not support resource type"),
    "only in beta": (
        'resource "google_tpu_v2_vm" "t" {\n  name = "t"\n  runtime_version = "v"\n}',
        "does not support resource type",
    ),
    "secret output": (
        REDIS + 'output "o" {\n  value = google_redis_instance.r.auth_string\n}',
        "Output refers to sensitive values",
    ),
}


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with attached(*providers()) as reattach:
        yield Workspace(folder=copied(tmp_path, providers=True), reattach=reattach)


@needs_terraform
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str, workspace: Workspace) -> None:
    """Terraform, with the stand-in's schema, refuses it, and says what it is."""
    code, words = MISTAKES[mistake]
    (workspace.folder / "main.tf").write_text(code, encoding="utf-8")
    workspace.run("init", "-backend=false", "-no-color")
    ran = workspace.run("plan", "-no-color", code=1)
    assert ran.says(words), ran.output


@needs_terraform
def test_terraform_reads_back_the_schema(workspace: Workspace) -> None:
    """``terraform providers schema -json`` prints the fixture's attributes and blocks, each one."""

    def facts(block: object, path: str = "") -> Iterator[tuple[str, object]]:
        assert isinstance(block, dict)
        for name, attribute in block.get("attributes", {}).items():
            flags = {f: attribute.get(f, False) for f in ("required", "optional", "computed")}
            yield f"{path}.{name}", (json.dumps(attribute["type"]), *flags.values())
        for name, nested in block.get("block_types", {}).items():
            limits = (nested.get("min_items", 0), nested.get("max_items", 0))
            yield f"{path}.{name}", (nested["nesting_mode"], *limits)
            yield from facts(nested["block"], f"{path}.{name}")

    (workspace.folder / "main.tf").write_text("", encoding="utf-8")
    workspace.run("init", "-backend=false", "-no-color")
    printed = json.loads(workspace.run("providers", "schema", "-json").output)
    count = 0
    for file in sorted(SCHEMAS.glob("*.json")):
        for source, held in json.loads(file.read_text("utf-8"))["provider_schemas"].items():
            read = printed["provider_schemas"][source]
            for group in ("resource_schemas", "data_source_schemas"):
                for kind, schema in held[group].items():
                    expected = dict(facts(schema["block"]))
                    assert dict(facts(read[group][kind]["block"])) == expected, kind
                    count += len(expected)
    assert count > 800


@needs_terraform
def test_what_is_changed_elsewhere_is_seen(tmp_path: Path) -> None:
    """A resource that vanished is planned again; one that was altered is put right."""
    google, beta = providers()
    with attached(google, beta) as reattach:
        workspace = Workspace(folder=copied(tmp_path, providers=True), reattach=reattach)
        (workspace.folder / "main.tf").write_text(BUCKET + "}\n" + REDIS, encoding="utf-8")
        workspace.run("init", "-backend=false", "-no-color")
        workspace.apply()
        assert google.cloud["google_redis_instance", _redis(google)]["auth_string"] == SECRET
        google.cloud["google_redis_instance", _redis(google)]["memory_size_gb"] = 5
        del google.cloud["google_storage_bucket", "b"]
        assert changes(workspace.plan()) == {
            "google_redis_instance.r": ["update"],
            "google_storage_bucket.b": ["create"],
        }


def _redis(google: StandIn) -> str:
    (found,) = [id for kind, id in google.cloud if kind == "google_redis_instance"]
    return found


@needs_terraform
def test_a_hook_that_fails_fails_the_apply(tmp_path: Path) -> None:
    """Its words are Terraform's, and what it was called for is not in the state."""

    def taken(prior: object, new: object) -> None:
        raise RuntimeError("the name is taken")

    google, beta = providers({"google_storage_bucket": taken})
    with attached(google, beta) as reattach:
        workspace = Workspace(folder=copied(tmp_path, providers=True), reattach=reattach)
        (workspace.folder / "main.tf").write_text(BUCKET + "}\n", encoding="utf-8")
        workspace.run("init", "-backend=false", "-no-color")
        ran = workspace.run("apply", "-auto-approve", "-no-color", code=1)
        assert ran.says("google_storage_bucket: the name is taken")
        assert workspace.run("state", "list", code=None).output.strip() == ""
    assert google.cloud == {}


def test_every_path_of_the_knowledge_is_in_the_schema() -> None:
    """Nothing is known about an attribute that is not there."""
    from tests.terraform import cloud

    known = {
        path
        for file in SCHEMAS.glob("*.json")
        for held in json.loads(file.read_text("utf-8"))["provider_schemas"].values()
        for prefix, group in (("", "resource_schemas"), ("data.", "data_source_schemas"))
        for kind, schema in held[group].items()
        for path in _paths(schema["block"], f"{prefix}{kind}")
    }
    knowledge: Knowledge = cloud._KNOWLEDGE
    named = {*knowledge.sensitive, *(p for p in knowledge.computed if not p.startswith("*."))}
    named |= {f"{k}.{a}" for k, names in knowledge.replaced_by.items() if k != "*" for a in names}
    named |= {f"{kind}.deletion_protection" for kind in knowledge.protected}
    assert named <= known, named - known


def _paths(block: dict[str, dict[str, dict[str, object]]], path: str) -> Iterator[str]:
    yield from (f"{path}.{name}" for name in block.get("attributes", {}))
    for name, nested in block.get("block_types", {}).items():
        yield from _paths(nested["block"], f"{path}.{name}")  # type: ignore[arg-type]
