"""``maas quantize``: a smaller model out of a module or a bundle, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_sdk import runtime
from maas_sdk.bundle.folder import open_bundle
from maas_sdk.cli.inputs.float_model import find_source
from maas_sdk.cli.inputs.model_words import source_metadata
from maas_sdk.cli.inputs.rows import calibration_of, evaluation_of, example_of
from maas_sdk.compress import RECIPES, SUMMARIES, find_recipe
from maas_sdk.errors import MaasError
from maas_sdk.store.opening import open_store
from tests.kit.command_line import document, maas

# A network whose labels are its own answers: float32 is always right.
MODEL = """
import numpy as np
from flax import nnx

rows = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)


def net():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(16, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 16, rngs=rngs))


weights = {"hidden": net().layers[0].kernel[...], "head": net().layers[2].kernel[...]}


def apply(weights, inputs):
    hidden = nnx.relu(inputs["x"] @ weights["hidden"])
    return {"y": hidden @ weights["head"]}


def named():
    return {"x": rows}


def closeness(predict):
    reference = apply(weights, {"x": rows})["y"]
    return -float(np.mean((predict({"x": rows})["y"] - reference) ** 2))


def test():
    return rows, np.asarray(net()(rows)).argmax(axis=1)


def quantized():
    from maas_sdk.compress import quantize

    return quantize(net(), "int8w", example_inputs=rows[:2])


def broken():
    raise RuntimeError("no weights")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user works: a module with a model, and files of rows."""
    found = tmp_path_factory.mktemp("quantize")
    (found / "tiny_net.py").write_text(MODEL)
    rows = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    np.save(found / "rows.npy", rows)
    holed = rows.copy()
    holed[3, 2] = np.nan
    np.save(found / "holed.npy", holed)
    np.save(found / "constant.npy", np.ones_like(rows))
    np.save(found / "narrow.npy", rows[:, :5])
    np.savez(found / "unlabelled.npz", inputs=rows)
    return found


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("MAAS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Path:
    """A float bundle, made by ``maas export`` in that folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = maas(
            *("export", "tiny_net:net", "--example", "rows.npy", "--buckets", "1"),
            *("--out", "tiny.maas", "--name", "tiny"),
        )
    assert result.exit_code == 0, result.output
    return folder / "tiny.maas"


@pytest.fixture(scope="module")
def small(tiny: Path) -> tuple[Path, Any]:
    """Its int8 bundle, made of the float one, and what ``--json`` said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tiny.parent)
        result = maas(
            *("quantize", "tiny.maas", "--evaluate", "tiny_net:test", "--report", "report.json"),
            "--json",
        )
    return tiny.parent / "tiny-int8.maas", document(result)


def test_a_bundle_is_quantized_by_its_model(small: tuple[Path, Any], folder: Path) -> None:
    """The model is imported again; the new bundle is smaller and answers as the float one does."""
    path, said = small
    assert Path(said["path"]).resolve() == path
    assert said["metric"] == "accuracy"
    assert said["before"] == 1.0
    assert said["after"] > 0.95
    assert said["bytes_stored"] < 0.4 * said["bytes_before"]
    assert json.loads((folder / "report.json").read_text())["layers"] == said["layers"]
    rows = np.load(folder / "rows.npy")[:4]
    with runtime.load(folder / "tiny.maas") as before, runtime.load(path) as after:
        reference = np.asarray(before.predict(rows))
        answers = np.asarray(after.predict(rows))
    assert np.abs(answers - reference).max() < 0.05 * np.abs(reference).max()


def test_the_new_bundle_keeps_name_buckets_and_source(small: tuple[Path, Any]) -> None:
    """It takes the place of the float one, and knows where both came from, without a path."""
    manifest = open_bundle(small[0]).manifest
    assert manifest.name == "tiny"
    assert manifest.programs["predict"].buckets == (1,)
    assert manifest.metadata == {"source": "tiny_net:net", "source_example": "rows.npy"}


def test_inspect_shows_what_compression_did(small: tuple[Path, Any]) -> None:
    """Recipe, bytes, metric, formats, and how weights are stored."""
    shown = maas("inspect", small[0]).output
    assert "compression: int8" in shown
    assert "accuracy: 1.0000 →" in shown
    assert "2 × int8/channel" in shown
    assert "2 × scaled, decoded by the program" in shown


def test_an_apply_function_decoded_at_opening(folder: Path, tmp_path: Path) -> None:
    """Weights and rows by name, a metric of one's own, bits chosen, entropy-coded."""
    out = tmp_path / "apply.maas"
    result = maas(
        *("quantize", "tiny_net:apply", "--weights", "tiny_net:weights"),
        *("--example", "tiny_net:named", "--evaluate", "tiny_net:closeness"),
        *("--max-drop", "0.01", "--decode", "open", "--entropy", "zlib", "--buckets", "1"),
        *("--out", out, "--name", "mine", "--report", tmp_path / "report.html"),
    )
    assert result.exit_code == 0, result.output
    assert "closeness: " in result.output
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    manifest = open_bundle(out).manifest
    assert manifest.name == "mine"
    assert manifest.compression is not None
    assert manifest.compression.after is not None
    assert -0.01 <= manifest.compression.after < 0
    assert "decoded while it opens" in maas("inspect", out).output


def test_the_list_has_every_recipe() -> None:
    """One line each, and each name can be asked for."""
    result = maas("quantize", "--list")
    assert [line.split()[0] for line in result.output.splitlines()] == list(SUMMARIES)
    assert set(RECIPES) <= set(SUMMARIES)
    assert [entry["name"] for entry in document(maas("quantize", "--list", "--json"))] == [
        find_recipe(name).name for name in SUMMARIES
    ]


def test_sensitivity_shows_the_dearest_weight_first(folder: Path) -> None:
    """Per weight what it alone costs; no bundle is written."""
    given = ("quantize", "tiny_net:net", "--evaluate", "tiny_net:test", "--recipe", "kmeans2")
    found = document(maas(*given, "--sensitivity", "--json"))
    assert {one["name"] for one in found} == {"layers/0/kernel", "layers/2/kernel"}
    assert found[0]["drop"] >= found[1]["drop"]
    assert all(one["output_error"] > 0 for one in found)
    assert "drop alone" in maas(*given, "--sensitivity").output
    assert not (folder / "net-kmeans2.maas").exists()


CALIBRATED = ("--recipe", "int8-static", "--calibration")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--include", "layer/.*"), "no weight matches 'layer/.*'; nearest are layers/"),
        (("--exclude", "heads"), "exclude: no layer and no weight matches 'heads'"),
        ((*CALIBRATED, "holed.npy"), "row 3 of 'input' holds NaN or infinity"),
        ((*CALIBRATED, "constant.npy"), "all 64 rows of 'input' hold the single value 1.0"),
        ((*CALIBRATED, "narrow.npy"), "float32[B, 16]; got input: float32[B, 5]"),
        ((*CALIBRATED, "none.npy"), "--calibration none.npy: not a readable file"),
        (("--recipe", "gptq"), "recipe gptq looks at what goes into the layers"),
        (("--recipe", "fp8", "--target", "tpu-v5e"), "tpu-v5e multiplies no float8"),
        (("--target", "mainframe"), "expected a name such as cpu-x86_64-avx2"),
        (("--bits", "3"), "integer has 2, 4, 8 bits, got 3"),
        (("--recipe", "int9"), "unknown recipe 'int9'; known are int8,"),
        (("--recipe", "Q3.9"), "1 + m + n bits must be one of 2, 4, 8, got 13"),
        (("--group", "many"), "--group: expected channel, tensor or a number"),
        (("--decode", "never"), "--decode: expected program or open"),
        (("--entropy", "lzma"), "--entropy: expected zstd or zlib"),
        (("--report", "report.pdf"), "ends in .html or .json"),
        (("--max-drop", "0.01"), "evaluate= to measure it with"),
        (("--sensitivity",), "expected --evaluate"),
        (("--evaluate", "rows.npy"), "one array has no labels"),
        (("--evaluate", "unlabelled.npz"), "expected an array 'labels' beside the inputs"),
        (("--evaluate", "tiny_net:broken"), "tiny_net:broken raised RuntimeError: no weights"),
        (("--latency", "one"), "--latency: expected sizes such as"),
        (("--out", "rows.npy"), "is there already: --overwrite replaces it"),
    ],
)
def test_what_cannot_be_is_refused(options: tuple[str, ...], words: str) -> None:
    """Exit code 1 and one sentence: what was expected, what came, what to do."""
    result = maas("quantize", "tiny_net:net", "--example", "rows.npy", *options, "--json")
    assert result.exit_code == 1, result.output
    assert words in json.loads(result.stdout)["error"]


def test_a_model_is_quantized_once(small: tuple[Path, Any]) -> None:
    """Neither an object that is quantized nor a bundle of one is quantized again."""
    twice = maas("quantize", "tiny_net:quantized", "--example", "rows.npy", "--json")
    again = maas("quantize", small[0], "--json")
    for result in (twice, again):
        assert result.exit_code == 1
        assert "is quantized already" in json.loads(result.stdout)["error"]


def test_a_bundle_in_a_store_says_what_it_was_made_of(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its folder would; files are called as the model is, not as a folder of the cache."""
    monkeypatch.setenv("MAAS_BUNDLE_CACHE", str(tmp_path / "bundles"))
    url = f"memory://{tmp_path}/store"
    open_store(url).publish(tiny, "net", label="stable")
    found = find_source(f"{url}/net@stable", None, None, None)
    assert found.bundle == f"{url}/net@stable"
    assert replace(found, bundle=str(tiny)) == find_source(str(tiny), None, None, None)
    # A module whose file is in a folder with an @ is no model in a store.
    assert find_source("me@home/net.py:make", None, None, None).bundle is None


def test_a_bundle_without_its_model(tiny: Path, tmp_path: Path) -> None:
    """The message says what the bundle was made of, or that it does not say, and the way out."""
    gone = shutil.copytree(tiny, tmp_path / "gone.maas")
    for source, words in (
        ("no_such_net:net", "was made of no_such_net:net, which is not found from here"),
        (None, "its manifest does not say which model it was made of"),
    ):
        manifest = json.loads((tiny / "manifest.json").read_text())
        manifest["metadata"] = {} if source is None else {"source": source}
        (gone / "manifest.json").write_text(json.dumps(manifest))
        result = maas("quantize", gone, "--json")
        assert result.exit_code == 1
        found = json.loads(result.stdout)["error"]
        assert words in found
        assert "maas quantize MODULE:OBJECT" in found


def test_a_bundle_whose_model_needs_a_package(tiny: Path, tmp_path: Path) -> None:
    """Another folder or another name would not help: the machine lacks the package."""
    (tmp_path / "needy_net.py").write_text("import surely_not_installed\n")
    needy = shutil.copytree(tiny, tmp_path / "needy.maas")
    manifest = json.loads((tiny / "manifest.json").read_text())
    manifest["metadata"] = {"source": f"{tmp_path / 'needy_net.py'}:net"}
    (needy / "manifest.json").write_text(json.dumps(manifest))
    result = maas("quantize", needy, "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["code"] == "dependency_missing"
    assert "imports surely_not_installed, which is not installed" in said["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "maas quantize --list shows the recipes"),
        (("nowhere.maas",), "no bundle at nowhere.maas"),
        (("tiny_net:net",), "--example: expected a few rows"),
        (("tiny_net:modle", "--example", "rows.npy"), "no 'modle' in tiny_net"),
    ],
)
def test_what_is_not_named_is_asked_for(arguments: tuple[str, ...], words: str) -> None:
    """A model, and rows that it takes."""
    result = maas("quantize", *arguments)
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())


def test_a_manifest_gets_no_absolute_path(folder: Path) -> None:
    """Words as typed; a path below the current folder becomes relative, another is left out."""
    assert source_metadata(f"{folder}/tiny_net.py:net", f"{folder}/rows.npy", None) == {
        "source": "tiny_net.py:net",
        "source_example": "rows.npy",
    }
    assert source_metadata("tiny_net:net", "/elsewhere/rows.npy", "tiny_net:weights") == {
        "source": "tiny_net:net",
        "source_weights": "tiny_net:weights",
    }
    assert source_metadata("/elsewhere/net.py:net", "rows.npy", None) == {}


def test_rows_of_a_file_go_in_as_the_model_takes_them(tmp_path: Path) -> None:
    """A lone array has no name, unless the model gives its input one; labels are no input."""
    rows, labels = np.ones((3, 2), np.float32), np.zeros(3, int)
    lone, two, bare = (tmp_path / f"{name}.npz" for name in ("lone", "two", "bare"))
    np.savez(lone, inputs=rows, labels=labels)
    np.savez(two, a=rows, b=rows, labels=labels)
    np.savez(bare, labels=labels)
    found = evaluation_of(str(lone), None)
    np.testing.assert_array_equal(found[0], rows)
    np.testing.assert_array_equal(found[1], labels)
    assert evaluation_of(str(lone), {"x": rows})[0].keys() == {"x"}
    assert calibration_of(str(two), None).keys() == {"a", "b"}
    with pytest.raises(MaasError, match="expected an array of inputs"):
        calibration_of(str(bare), None)


def test_example_rows_come_from_what_has_some() -> None:
    """Of labelled rows, of batches, of a dict: a few rows, without labels."""
    rows, labels = np.ones((100, 2)), np.zeros(100)
    assert example_of(None, (rows, labels)).shape == (64, 2)
    assert example_of([(rows[:8], labels[:8])]).shape == (8, 2)
    assert example_of({"x": rows}, rows)["x"].shape == (64, 2)
    with pytest.raises(MaasError, match="--example: expected a few rows"):
        example_of(None, max)
