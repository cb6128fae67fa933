"""What makes a cold start short leaves nothing behind, shown in fresh processes.

Forks happen here as gunicorn makes them: import, then ``os.fork``, then a call in the child.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.wire.frames import CONTENT_TYPE, Call, Result, decode_results, encode_calls

BLAS = "OPENBLAS_NUM_THREADS"
DOCSTRINGS = ["numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars"]
X = np.arange(8, dtype=np.float32).reshape(2, 4)
Y = X @ np.arange(12, dtype=np.float32).reshape(4, 3)

TOLD = """
import gc, json, os, sys, threading

def tell(**more):
    tasks = "/proc/self/task"
    threads = len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count()
    print(json.dumps({"collects": gc.isenabled(), "threads": threads, **more}), flush=True)
"""

# An application around the function, called as flask would, with nothing else on the way.
APP = """
import flask

app = flask.Flask("test")

def post(predict, body=b'{"instances": [[0, 1, 2, 3]]}'):
    with app.test_request_context("/v1/models/tiny:predict", method="POST", data=body,
                                  environ_overrides={"RAW_URI": "/v1/models/tiny:predict"}):
        response = predict(flask.request)
    return {"status": response.status_code, "answer": json.loads(b"".join(response.response))}
"""


def in_new_process(code: str, *arguments: object, **environ: str) -> list[dict[str, Any]]:
    """What ``tell`` told in a fresh process that ran ``code``."""
    clean = {name: value for name, value in os.environ.items() if name != BLAS}
    done = subprocess.run(
        [sys.executable, "-c", TOLD + textwrap.dedent(code), *map(str, arguments)],
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [line for line in found if "collects" in line]


def test_importing_leaves_python_as_it_was() -> None:
    """The collector is on, the environment's BLAS setting is back, numpy is whole."""
    code = f"""
    import maas_sdk.serve.shells.function
    import numpy as np
    a = np.eye(3) * 2
    assert np.linalg.inv(a)[0, 0] == 0.5 and np.random.default_rng(0).random() < 1
    assert (a @ a).sum() == 12 and str(np.float32(1.5)) == "1.5"
    stubs = [name for name in {DOCSTRINGS} if name in sys.modules]
    tell(blas=os.environ.get("{BLAS}"), stubs=stubs)
    """
    for environ, blas in [({}, None), ({BLAS: "3"}, "3")]:
        (found,) = in_new_process(code, **environ)
        assert found["collects"]
        assert found["blas"] == blas
        assert found["stubs"] == []


def test_numpys_docstrings_can_still_be_had() -> None:
    """The modules stood in for are numpy's own again: who imports them gets the docstrings."""
    code = f"""
    import maas_sdk.serve.start
    import importlib
    import numpy as np
    for name in {DOCSTRINGS}:
        importlib.import_module(name)
    tell(doc=np.ndarray.sum.__doc__)
    """
    (found,) = in_new_process(code)
    assert "Return the sum of the array elements" in found["doc"]


def test_a_numpy_that_is_there_is_left_alone() -> None:
    """Imported before, by the function's own code: its docstrings stay, nothing is set."""
    code = f"""
    import numpy as np
    import maas_sdk.serve.shells.function
    from numpy._core import _add_newdocs
    tell(doc=np.ndarray.sum.__doc__, blas=os.environ.get("{BLAS}"), file=_add_newdocs.__file__)
    """
    (found,) = in_new_process(code)
    assert "Return the sum of the array elements" in found["doc"]
    assert found["blas"] is None
    assert found["file"]


FORK = """
# Runs after the function's own, since these run in reverse order.
os.register_at_fork(before=lambda: tell(when="before the fork"))
from maas_sdk.serve.shells.function import serve
predict = serve(sys.argv[1])
tell(when="imported")
for _ in range(2):  # two workers of one master
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            tell(when="child", **post(predict), blas=os.environ.get("OPENBLAS_NUM_THREADS"),
                 stubs=[name for name in sys.modules if "_add_newdocs" in name])
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
tell(when="parent", jax="jax" in sys.modules)
"""


def test_no_thread_at_the_fork_and_two_workers_answer(tiny_bundle: Path) -> None:
    """Whatever was begun beside the imports has ended when gunicorn forks; each child answers.

    The collector is paused from ``serve`` to the fork, and is on in children and parent afterwards.
    """
    found = in_new_process(APP + FORK, tiny_bundle)
    when = [line["when"] for line in found]
    assert when == ["imported", *["before the fork", "child"] * 2, "parent"]
    for line in found:
        if line["when"] == "before the fork":
            assert line["threads"] == 1, line
        if line["when"] == "child":
            assert (line["status"], line["answer"]) == (200, {"predictions": [Y[0].tolist()]})
            assert (line["blas"], line["stubs"]) == (None, [])
        if line["when"] in ("child", "parent"):
            assert line["collects"], line
    assert not found[0]["collects"]
    assert not found[-1]["jax"]


def test_a_bundle_broken_before_the_fork_is_told_by_every_worker(tmp_path: Path) -> None:
    """What fails while preparing does not end the master: each worker's callers hear it."""
    found = in_new_process(APP + FORK, tmp_path / "none.maas")
    children = [line for line in found if line["when"] == "child"]
    assert len(children) == 2
    for line in children:
        assert line["status"] == 500
        assert "none.maas: nothing is there" in line["answer"]["error"]


def test_a_file_broken_before_the_fork_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    """An executable's hash is checked in the master; the child does not use what failed there."""
    bundle = tmp_path / "changed.maas"
    subprocess.run(["cp", "-r", str(tiny_bundle), str(bundle)], check=True)
    for file in bundle.glob("**/predict-b1.xla"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    found = [line for line in in_new_process(APP + FORK, bundle) if line["when"] == "child"]
    assert len(found) == 2
    for line in found:
        assert (line["status"], line["answer"]["code"]) == (500, "bundle_corrupt")
        assert "predict-b1.xla: expected sha256" in line["answer"]["error"]


def test_without_a_fork_the_collector_resumes(tiny_bundle: Path) -> None:
    """In the debug server the first request loads, and the collector is on from then."""
    code = """
from maas_sdk.serve.shells.function import serve
predict = serve(sys.argv[1])
tell()
tell(**post(predict))
tell(**post(predict))
"""
    before, *answered = in_new_process(APP + code, tiny_bundle)
    assert not before["collects"]
    for line in answered:
        assert line["collects"]
        assert line["answer"] == {"predictions": [Y[0].tolist()]}


def test_two_workers_share_a_port(tiny_bundle: Path, tmp_path: Path) -> None:
    """``WORKERS=2``: both load the one prepared bundle and answer from their own engine."""
    (tmp_path / "main.py").write_text(
        textwrap.dedent(f"""
        import os
        from maas_sdk.serve.shells.function import serve
        answer = serve({str(tiny_bundle)!r})

        def predict(request):
            response = answer(request)
            # One write per line: print may take two, and the other worker's line come between.
            os.write(1, b'{{"answered_by": %d}}\\n' % os.getpid())
            return response
        """)
    )
    body = encode_calls([Call("a", {"x": X})])
    with FunctionProcess(tmp_path, environment={"WORKERS": "2", "THREADS": "1"}) as process:
        enough = threading.Event()

        def client(_: int) -> None:
            for _ in range(100):
                if enough.is_set():
                    return
                status, answer = process.first_answer(
                    "/v1/models/tiny:predict", body, headers={"Content-Type": CONTENT_TYPE}
                )
                assert status == 200, answer
                (result,) = decode_results(answer)
                assert isinstance(result, Result)
                np.testing.assert_allclose(result.outputs["y"], Y)
                if len({e["answered_by"] for _, e in process.events() if "answered_by" in e}) == 2:
                    enough.set()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(client, range(8)))
        assert enough.is_set(), process.log()
        assert process.stop() == 0, process.log()
        tiers = [event["tier"] for _, event in process.events() if "tier" in event]
    assert len(tiers) == 2


@pytest.mark.parametrize("times", [1, 3])
def test_the_collector_is_paused_and_resumed(times: int) -> None:
    """What is there when it resumes is never looked at again; garbage made later is collected."""
    code = f"""
    from maas_sdk.serve import start
    kept = [{{}} for _ in range(1000)]
    for _ in range({times}):
        start.pause_collector()
        assert not gc.isenabled()
        start.resume_collector()
    frozen = gc.get_freeze_count()
    class Node: pass
    node = Node(); node.itself = node
    del node
    tell(frozen=frozen, collected=gc.collect())
    """
    (found,) = in_new_process(code)
    assert found["collects"]
    assert found["frozen"] > 1000
    assert found["collected"] >= 1
