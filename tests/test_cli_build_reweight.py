from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from maas_sdk.bundle import open_weights, write_weights
from maas_sdk.runtime import load
from maas_sdk.store.opening import LocalStore
from tests.kit.command_line import maas


def test_the_next_version_from_a_file_of_weights(tiny_bundle: Path, tmp_path: Path) -> None:
    """In a store without a word more; elsewhere with --out; the answers are the new weights'."""
    store = LocalStore(tmp_path / "store")
    store.publish(tiny_bundle, "tiny")
    new = tmp_path / "new.safetensors"
    weight = np.full((4, 3), 2, np.float32)
    write_weights(new, {"w": weight, "of no program": np.ones(2, np.float32)})
    result = maas("reweight", tmp_path / "store" / "tiny" / "1", new, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["path"] == str(tmp_path / "store" / "tiny" / "2")
    with load(store.resolve("tiny")) as engine:
        np.testing.assert_array_equal(engine.predict(np.ones((1, 4), np.float32)), [[8, 8, 8]])
    result = maas("reweight", tiny_bundle, new, "--out", tmp_path / "out.maas")
    assert result.exit_code == 0, result.output
    assert "out.maas" in result.stdout.replace("\n", "")
    np.testing.assert_array_equal(
        open_weights(tmp_path / "out.maas" / "weights.safetensors")["w"], weight
    )


def test_inspect_tells_what_was_verified(tiny_bundle: Path, tmp_path: Path) -> None:
    """The export compared other weights, which is not passed off as a comparison of these."""
    write_weights(tmp_path / "new", {"w": np.ones((4, 3), np.float32)})
    out = tmp_path / "out.maas"
    assert maas("reweight", tiny_bundle, tmp_path / "new", "--out", out).exit_code == 0
    shown = maas("inspect", out).stdout
    assert "verified at export with other weights" in shown
    assert "reweighted_from:" in shown
    assert maas("verify", out).exit_code == 0


def test_what_does_not_fit_is_one_sentence(tiny_bundle: Path, tmp_path: Path) -> None:
    """A file that is not there, a tensor of another shape: exit code 1, nothing written."""
    out = tmp_path / "out.maas"
    missing = maas("reweight", tiny_bundle, tmp_path / "none", "--out", out, "--json")
    assert missing.exit_code == 1
    assert json.loads(missing.stdout)["code"] == "not_found"
    write_weights(tmp_path / "other", {"w": np.ones((4, 4), np.float32)})
    wrong = maas("reweight", tiny_bundle, tmp_path / "other", "--out", out, "--json")
    assert wrong.exit_code == 1
    assert "'w': expected float32[4, 3], got float32[4, 4]" in json.loads(wrong.stdout)["error"]
    assert not out.exists()
