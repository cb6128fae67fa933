from __future__ import annotations

import os
from pathlib import Path

import pytest

from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.errors import ConfigError, DeadlineError, TransportError


def write(folder: Path, body: str) -> Path:
    """A function folder with one main.py."""
    (folder / "main.py").write_text("import functions_framework\n" + body)
    return folder


ECHO = "@functions_framework.http\ndef predict(request):\n    return request.path\n"


def test_it_answers_and_is_gone_afterwards(tmp_path) -> None:
    """The first answer comes as soon as there is one; after the block no process is left."""
    with FunctionProcess(write(tmp_path, ECHO)) as process:
        assert process.first_answer("/some/path") == (200, b"/some/path")
        pid = process.pid
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


def test_a_function_that_cannot_be_imported_is_told_with_its_words(tmp_path) -> None:
    """The traceback of the child is in the message, and nothing is waited for."""
    with (
        FunctionProcess(write(tmp_path, "raise RuntimeError('no such weights')")) as process,
        pytest.raises(TransportError, match=r"ended with 1 .*\n[^$]*no such weights"),
    ):
        process.first_answer("/")


def test_a_function_that_never_answers_is_given_up(tmp_path) -> None:
    """The bound is kept, and the process is gone although it still works."""
    slow = "import time\ntime.sleep(60)\n"
    with (
        FunctionProcess(write(tmp_path, slow)) as process,
        pytest.raises(DeadlineError, match=r"no answer within 0\.5 s"),
    ):
        process.first_answer("/", timeout_s=0.5)


def test_a_folder_without_main_py_is_refused(tmp_path) -> None:
    """Before any process is started."""
    with pytest.raises(ConfigError, match=r"main\.py"):
        FunctionProcess(tmp_path)


def test_json_lines_of_the_log_come_with_their_time(tmp_path) -> None:
    """What the function logs as JSON is read, the rest is kept as text."""
    body = "import sys\nprint('{\"a\": 1}\\n{broken\\nwords', file=sys.stderr, flush=True)\n" + ECHO
    with FunctionProcess(write(tmp_path, body)) as process:
        process.first_answer("/")
        [(arrived, event)] = process.events()
    assert event == {"a": 1}
    assert arrived > process.spawned_unix_s
    assert "words" in process.log()


def test_the_childs_environment_is_the_clouds(tmp_path, monkeypatch) -> None:
    """Flags for training on fake devices, and switched-off bytecode, stay with the parent."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    body = (
        "import os\n@functions_framework.http\ndef predict(request):\n"
        "    return ' '.join(sorted(os.environ))\n"
    )
    with FunctionProcess(write(tmp_path, body), environment={"EXTRA": "1"}) as process:
        names = process.first_answer("/")[1].decode().split()
    assert "EXTRA" in names
    assert not {"XLA_FLAGS", "PYTHONDONTWRITEBYTECODE"} & set(names)
