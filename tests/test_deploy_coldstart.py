from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.bundle import BundleWriter, write_weights
from maas_sdk.bundle.manifest import Manifest, Verification, golden_path
from maas_sdk.deploy.coldstart import measure, split_stages
from maas_sdk.deploy.golden import FirstCall, golden_call, largest_excess
from maas_sdk.errors import ModelError
from maas_sdk.wire.frames import Call, Failure, Result, decode_calls, encode_results
from tests.kit.toy import toy_program

VERIFICATION = Verification(
    rows=8, atol=1e-6, rtol=1e-4, max_abs_error={"output": 0.0}, targets_run=()
)
X = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
# A stand-in for the predict function: it logs what the service logs, and answers what it is told.
FUNCTION = """
import json, os, sys, time
import functions_framework

def load():
    line = {"severity": "INFO", "seconds": 0.02, "tier": "executable",
            "timings_s": {"bundle": 0.005, "weights": 0.001, "executable": 0.014}}
    print("a line that is no JSON", file=sys.stderr)
    print(json.dumps(line), file=sys.stderr, flush=True)

os.register_at_fork(after_in_child=load)

@functions_framework.http
def predict(request):
    return request.get_data()[::-1]
"""


def test_a_cold_start_is_measured_stage_by_stage(tmp_path) -> None:
    """A real framework process: every stage is named, in order, and they add up to something."""
    folder = tmp_path / "function"
    folder.mkdir()
    (folder / "main.py").write_text(FUNCTION)
    seen: list[bytes] = []
    turns: list[int] = []
    call = FirstCall(path="/x", headers={}, body=(b"abc", memoryview(b"def")), check=seen.append)
    found = measure(folder, call, scratch=tmp_path, runs=1, progress=turns.append)
    assert [stage.name for stage in found.function] == [
        *("interpreter", "imports", "bundle opened", "weights", "executable", "first answer")
    ]
    assert [stage.name for stage in found.empty][:2] == ["interpreter", "imports"]
    assert found.empty[-1].name == "first answer"
    assert found.tier == "executable"
    assert found.function_s > 0.02
    assert found.ratio == found.function_s / found.empty_s
    assert seen == [b"fedcba", b"fedcba"]
    assert turns == [1, 2]


def test_a_wrong_first_answer_stops_the_measurement(tmp_path) -> None:
    """Speed of wrong answers is not reported."""
    (tmp_path / "main.py").write_text(FUNCTION.replace("return request", "return b'', 500 #"))
    call = FirstCall(path="/x", headers={}, body=(), check=lambda body: None)
    with pytest.raises(ModelError, match="status 500"):
        measure(tmp_path, call, scratch=tmp_path, runs=1)


seconds = st.floats(0, 10)


@given(
    total_s=seconds,
    interpreter_s=seconds,
    loaded_at_s=seconds,
    loading_s=seconds,
    timings_s=st.dictionaries(st.sampled_from(["bundle", "weights", "client"]), seconds),
)
def test_stages_add_up_to_the_whole(total_s: float, **measured) -> None:
    """Whatever the clocks say, no stage is negative and none is counted twice."""
    stages = split_stages(total_s=total_s, **measured)
    assert all(value >= 0 for value in stages.values())
    assert sum(stages.values()) == pytest.approx(total_s, abs=1e-6)
    assert next(iter(stages)) == "interpreter"
    assert list(stages)[-1] == "first answer"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with golden rows; nothing in it is ever run."""
    program = toy_program(verification=VERIFICATION)
    golden = {"input/x": X, "output/y": 2 * X}
    with BundleWriter(tmp_path / "twice.maas") as writer:
        (writer.path / "golden").mkdir()
        write_weights(writer.path / golden_path("predict"), golden)
        writer.seal(Manifest(name="twice", programs={"predict": program}, targets={}))
    return tmp_path / "twice.maas"


def test_the_golden_call_is_one_row(bundle: Path) -> None:
    """The first golden row goes to the first program, and its golden answer is right."""
    call = golden_call(bundle)
    assert call.path == "/v1/models/twice:predict"
    [sent] = decode_calls(b"".join(call.body))
    assert isinstance(sent, Call)
    np.testing.assert_array_equal(sent.inputs["x"], X[:1], strict=True)
    call.check(b"".join(encode_results([Result(id="0", outputs={"y": 2 * X[:1]})])))


@pytest.mark.parametrize(
    "answer",
    [
        Result(id="0", outputs={"y": 3 * X[:1]}),
        Result(id="0", outputs={"y": 2 * X}),
        Failure(id="0", code="model_failed", message="it is broken"),
    ],
)
def test_the_golden_call_refuses_other_answers(bundle: Path, answer: Result | Failure) -> None:
    """A wrong number, other rows, or an error is no correct first answer."""
    with pytest.raises(ModelError, match=r"first answer('s| was)"):
        golden_call(bundle).check(b"".join(encode_results([answer])))


def test_parts_that_ran_side_by_side_share_their_time() -> None:
    """Two parts of 30 ms within a loading of 30 ms are shown as 15 ms each."""
    stages = split_stages(
        total_s=0.3,
        interpreter_s=0.02,
        loaded_at_s=0.28,
        loading_s=0.03,
        timings_s={"weights": 0.03, "executable": 0.03},
    )
    assert stages == pytest.approx(
        {
            "interpreter": 0.02,
            "imports": 0.23,
            "weights": 0.015,
            "executable": 0.015,
            "first answer": 0.02,
        }
    )


@pytest.mark.parametrize(
    ("found", "over"),
    [
        ([1.0, 2.0], False),
        ([1.0, 2.0001], False),
        ([1.0, 2.001], True),
        ([1.0, np.nan], True),
        ([1.0, np.inf], True),
        ([[1.0, 2.0]], True),
    ],
)
def test_answers_are_held_against_the_tolerance_of_the_export(found, over: bool) -> None:
    """Close is right; off, NaN, infinite or of another shape is wrong."""
    wanted = np.array([1.0, 2.0], np.float32)
    assert (largest_excess(np.array(found, np.float32), wanted, VERIFICATION) > 0) is over


def test_nan_where_nan_was_wanted_is_right() -> None:
    """A model that gives NaN gives it wherever it runs."""
    wanted = np.array([np.nan, np.inf, 1.0], np.float32)
    assert largest_excess(wanted.copy(), wanted, VERIFICATION) <= 0
    assert largest_excess(-wanted, wanted, VERIFICATION) > 0
