"""README.md's table of what works where and its limits are held to the code, word by word.

A sentence or a cell without a check fails, and so does a check whose sentence is gone.
"""

from __future__ import annotations

import ast
import json
import re
import threading
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_sdk.errors import InputError
from maas_sdk.export import DEFAULT_BUCKETS, TARGETS
from maas_sdk.runtime import CheckedCall, Engine, load
from maas_sdk.runtime.load import local_host
from maas_sdk.runtime.tiers import choose
from maas_sdk.serve import Endpoint, ModelHost, Request, Response
from maas_sdk.tensors import TensorSpec
from maas_sdk.wire.frames import CONTENT_TYPE, Call, encode_calls

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
# Is given a bundle that nobody may change.
Check = Callable[[Path], None]
Test = ast.FunctionDef | ast.AsyncFunctionDef


def section(title: str) -> str:
    """The text of README.md under a heading of second order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [found] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return found


def sentences(text: str) -> list[str]:
    """Sentences of paragraphs and list items; a dot in a number or a name ends none."""
    parts = (" ".join(part.split()) for part in re.split(r"\n\n|^- ", text, flags=re.M))
    return [s for part in parts if part for s in re.split(r"(?<=[.])\s+(?=[A-Z*\[])", part)]


@cache
def suite() -> dict[str, Test]:
    """Every test of the suite by name."""
    return {
        node.name: node
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, Test) and node.name.startswith("test_")
    }


def marks(test: Test) -> set[str]:
    """What may leave a test out of `make test` and `make test-slow`."""
    written = " ".join(ast.unparse(mark) for mark in test.decorator_list)
    return set(re.findall(r"(?:NEEDS|needs)_\w+|skipif|mark\.heavy|mark\.reference", written))


# ---- what works where ----


def held_by(*names: str, needs: frozenset[str] = frozenset()) -> Check:
    """There are these tests, and nothing leaves them out but what they are said to need."""

    def check(_: Path) -> None:
        for name in names:
            assert marks(suite()[name]) == needs, name

    return check


def compiled(*names: str) -> Check:
    """There are these tests, and the TPU compiler is all that they need."""
    return held_by(*names, needs=frozenset({"NEEDS_LIBTPU"}))


def never_ran(platform: str, *code: str) -> Check:
    """The code is there; no test needs such a device, and no figure is of one."""

    def check(_: Path) -> None:
        assert any(spec.platform == platform for spec in TARGETS.values())
        for path in code:
            assert (ROOT / path).exists(), path
        word = {"cuda": "GPU", "tpu": "TPU"}[platform]
        assert not [name for name, test in suite().items() if f"NEEDS_{word}" in marks(test)]
        # The scripts of bench/ that need a device say so in these words.
        words = re.compile(rf"Without a {word} there is\s+nothing to measure")
        measured = {
            file.stem
            for file in (ROOT / "bench").glob("*.py")
            if words.search(file.read_text("utf-8")) and (RESULTS / f"{file.stem}.json").exists()
        }
        assert measured == MEASURED[word]

    return check


# What was measured on an accelerator: products in int8 and float8 by jit, on a GPU, once. None of
# it trained, exported or served.
MEASURED = {"GPU": {"quantize_gpu"}, "TPU": set()}
# The files that are the way to an accelerator; which tests drive it by a stand-in is said below.
DOOR = ("maas_sdk/runtime/plugins.py", "maas_sdk/export/targets/devices.py")
CELLS: dict[tuple[str, str], tuple[str, Check]] = {
    ("CPU (Linux, x86-64)", "train"): (
        "tested",
        held_by("test_digits_are_learned_in_bfloat16_on_eight_devices"),
    ),
    ("CPU (Linux, x86-64)", "export"): (
        "tested",
        held_by("test_an_nnx_model_with_two_programs_and_all_targets"),
    ),
    ("CPU (Linux, x86-64)", "serve"): (
        "tested",
        held_by("test_many_threads_one_process", "test_folder_runs_as_it_is"),
    ),
    ("GPU (NVIDIA)", "train"): ("no", never_ran("cuda", "bench/decoder.py")),
    ("GPU (NVIDIA)", "export"): ("no", never_ran("cuda", *DOOR)),
    ("GPU (NVIDIA)", "serve"): ("no", never_ran("cuda", *DOOR)),
    ("TPU (v5e, v5p, v6e)", "train"): (
        "compiled only",
        compiled("test_three_generations_compile", "test_a_decoders_training_step"),
    ),
    ("TPU (v5e, v5p, v6e)", "export"): (
        "compiled only",
        compiled("test_executables_lie_in_the_bundle"),
    ),
    ("TPU (v5e, v5p, v6e)", "serve"): ("no", never_ran("tpu", *DOOR)),
}


def cells() -> dict[tuple[str, str], str]:
    """The table of the page."""
    lines = [line for line in section("What works where").splitlines() if line.startswith("|")]
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {
        (row, head): cell
        for row, *found in rows
        for head, cell in zip(heads[1:], found, strict=True)
    }


def test_every_cell_has_its_check() -> None:
    """The table says what the checks say, cell by cell, and names the TPUs that there are."""
    assert cells() == {where: said for where, (said, _) in CELLS.items()}
    chips = sorted(spec.arch for spec in TARGETS.values() if spec.platform == "tpu")
    assert f"TPU ({', '.join(chips)})" in {row for row, _ in CELLS}


@pytest.mark.parametrize("where", CELLS, ids=" ".join)
def test_a_cell_is_so(where: tuple[str, str], tmp_path: Path) -> None:
    """Tested by tests that nothing skips, compiled by the TPU compiler, or never run at all."""
    CELLS[where][1](tmp_path)


def words_are_those_of_the_cells(_: Path) -> None:
    assert set(cells().values()) == {"tested", "compiled only", "no"}


a_stand_in_drives_the_path = held_by(
    *("test_executables_run_on_the_device", "test_without_jax", "test_forks"),
    needs=frozenset({"NEEDS_PLUGIN"}),
)


def the_page_has_the_heading(_: Path) -> None:
    page = (ROOT / "docs" / "runtime.md").read_text("utf-8")
    [accelerators] = re.findall(r"^## Accelerators\n(.*?)^## ", page, re.M | re.S)
    assert "No TPU" in accelerators
    assert "quantize_gpu" in accelerators


WHERE: dict[str, Check] = {
    "*Tested*: the test suite does it.": words_are_those_of_the_cells,
    "*Compiled only*: the real TPU compiler compiles it, on a machine without a TPU.": (
        words_are_those_of_the_cells
    ),
    "*No*: it has never run on such hardware, though the code is there.": (
        words_are_those_of_the_cells
    ),
    "Accelerators are driven through their PJRT plugin, and that path is tested with a plugin "
    "that drives a CPU.": a_stand_in_drives_the_path,
    "What was run where is in [docs/runtime.md](docs/runtime.md#accelerators).": (
        the_page_has_the_heading
    ),
}


# ---- limits ----


class CountingEngine:
    """The engine of a bundle; counts its runs, and lets a test wait inside of one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.runs = 0
        self.before_run: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run_checked(self, call: CheckedCall) -> Any:
        self.runs += 1
        self.before_run()
        return self._engine.run_checked(call)


def serving(bundle: Path) -> tuple[Endpoint, CountingEngine]:
    engine = CountingEngine(load(bundle))
    return Endpoint(ModelHost(lambda: engine)), engine


def post(
    endpoint: Endpoint, path: str = "/v1/models/tiny:predict", body: bytes = b"", **headers: str
) -> Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers.setdefault("content-type", "application/json")
    body = body or json.dumps({"instances": [[1.0, 2.0, 3.0, 4.0]]}).encode()
    return endpoint.handle(Request(method="POST", path=path, headers=headers, body=body))


def nothing_is_released(_: Path) -> None:
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert heads == ["[Unreleased]"]


def figures_are_of_one_system(_: Path) -> None:
    files = list(RESULTS.glob("*.json"))
    assert files
    systems = {json.loads(file.read_text("utf-8"))["machine"]["system"] for file in files}
    assert systems == {"Linux x86_64"}


def nothing_logs_in(_: Path) -> None:
    """No workflow and no test has an account, and no figure is of a deployed function."""
    workflows = "".join(f.read_text("utf-8") for f in (ROOT / ".github").rglob("*.yml"))
    assert not re.search(r"google-github-actions|credentials_json|GOOGLE_\w*CREDENTIALS", workflows)
    assert not [f.name for f in RESULTS.glob("*.json") if ".run.app" in f.read_text("utf-8")]


def stand_ins_are_there(_: Path) -> None:
    assert "gcp_storage_emulator" in (ROOT / "tests" / "kit" / "gcs.py").read_text("utf-8")
    assert (ROOT / "tests" / "terraform" / "standin.py").is_file()


def requests_run_apart(bundle: Path) -> None:
    """Two requests of one row are inside the model at once, each with a run of its own."""
    endpoint, engine = serving(bundle)
    both = threading.Barrier(2)
    engine.before_run = lambda: both.wait(20)
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(post(endpoint).status)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses == [200, 200]
    assert engine.runs == 2


def calls_of_a_request_share_a_run(bundle: Path) -> None:
    endpoint, engine = serving(bundle)
    calls = [Call(str(i), {"x": np.ones((1, 4), np.float32)}) for i in range(4)]
    body = b"".join(bytes(part) for part in encode_calls(calls))
    assert post(endpoint, body=body, content_type=CONTENT_TYPE).status == 200
    assert engine.runs == 1


def nothing_is_shed(_: Path) -> None:
    """No code of the service raises the error of a server that sheds load."""
    for file in (ROOT / "maas_sdk" / "serve").rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Call)]
        assert "OverloadedError" not in {ast.unparse(call.func) for call in calls}, file


def anybody_may_call(bundle: Path) -> None:
    endpoint, _ = serving(bundle)
    assert post(endpoint).status == post(endpoint, authorization="Bearer nobody").status == 200


def two_dialects(bundle: Path) -> None:
    endpoint, _ = serving(bundle)
    for unknown in ("application/grpc", "application/octet-stream", "application/x-protobuf"):
        assert post(endpoint, content_type=unknown).status == 415
    assert post(endpoint, "/v2/models/tiny/infer").status == 404
    assert post(endpoint, "/v1/completions").status == 404


def no_grpc(_: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "grpc" not in json.dumps([project["dependencies"], project["optional-dependencies"]])
    for file in (ROOT / "maas_sdk").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) grpc", file.read_text("utf-8"), re.M), file


def one_version_is_served(bundle: Path) -> None:
    endpoint, _ = serving(bundle)
    assert post(endpoint, "/v1/models/tiny/versions/1:predict").status == 200
    assert post(endpoint, "/v1/models/tiny/versions/2:predict").status == 404


def its_own_label(bundle: Path) -> None:
    engine = load(bundle)
    for label, status in ((None, 404), ("canary", 404), ("stable", 200)):
        endpoint = Endpoint(ModelHost(lambda: engine, label=label))
        assert post(endpoint, "/v1/models/tiny/labels/stable:predict").status == status


def buckets_are_one_to_sixty_four(_: Path) -> None:
    assert DEFAULT_BUCKETS == (1, 2, 4, 8, 16, 32, 64)


def other_dimensions_are_fixed(_: Path) -> None:
    TensorSpec(dtype="float32", shape=(None, 4))
    with pytest.raises(InputError, match="only dimension 0 may be open"):
        TensorSpec(dtype="float32", shape=(None, None))


def another_build_compiles(bundle: Path) -> None:
    """The same bundle, the same machine, and a jaxlib of another name."""
    with load(bundle) as engine:
        manifest = engine.manifest
    host = local_host()
    assert choose(manifest, host).tier == "executable"
    other = host._replace(jaxlib="0.0.0+another")
    assert choose(manifest, other).tier == "program"


LIMITS: dict[str, Check] = {
    "No version has been released yet.": nothing_is_released,
    "File formats and import paths may still change before 0.1.0.": nothing_is_released,
    "Every figure was measured on Linux on x86-64.": figures_are_of_one_system,
    "Nothing here has run in Google Cloud.": nothing_logs_in,
    "Buckets are tested with an emulator, and Terraform with a stand-in for Google's provider.": (
        stand_ins_are_there
    ),
    "Requests are not gathered into one batch.": requests_run_apart,
    "Only the calls of one request share a run of the model.": calls_of_a_request_share_a_run,
    "There are no quotas and no rate limits.": nothing_is_shed,
    "Who may call is left to the platform in front.": anybody_may_call,
    "The endpoint speaks HTTP, with msgpack frames or TensorFlow Serving's JSON.": two_dialects,
    "There is no gRPC.": no_grpc,
    "An endpoint serves one version of a model.": one_version_is_served,
    "It answers the path of a label only where that label chose the version.": its_own_label,
    "Batch sizes are fixed at export, 1 to 64 by default.": buckets_are_one_to_sixty_four,
    "Only the batch dimension may vary.": other_dimensions_are_fixed,
    "An executable runs only on the jaxlib build that compiled it.": another_build_compiles,
    "Any other build compiles the program at its first start.": another_build_compiles,
}


def test_every_sentence_has_its_check() -> None:
    """No limit is said that nothing holds, and none is held that is not said."""
    assert sentences(section("Limits")) == list(LIMITS)
    prose = "\n".join(
        line for line in section("What works where").splitlines() if not line.startswith("|")
    )
    assert sentences(prose) == list(WHERE)


@pytest.mark.parametrize("sentence", [*LIMITS, *WHERE])
def test_a_sentence_is_so(sentence: str, tiny_bundle: Path) -> None:
    """Each of them fails when the code comes to do what it denies."""
    {**LIMITS, **WHERE}[sentence](tiny_bundle)
