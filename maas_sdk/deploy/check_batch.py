"""Check of a zipped batch function: started in isolation and given golden rows.

The rule is that of ``check.py``. Answers go to a bucket, and a check needs no account: so the part
of the zip that answers files is given the bundle's golden rows as a file, and the function that
calls it is started and sent an event that asks for nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from maas_sdk.bundle.folder import open_bundle
from maas_sdk.bundle.manifest import golden_path
from maas_sdk.deploy.check import CheckReport, Environment, Unpacked, unpack
from maas_sdk.deploy.golden import golden_rows, largest_excess
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.errors import ModelError, NotFoundError

__all__ = ["check_batch_zip"]

# Run by the environment's interpreter in isolated mode, which looks at no folder by itself: the
# zip's folder goes first, so its maas_sdk answers and not an installed one.
_ANSWER: Final = """
import sys
folder, model, program, rows, answers = sys.argv[1:]
sys.path.insert(0, folder)
from maas_sdk.batch import BatchConfig, predict_files
from maas_sdk.bundle.folder import open_bundle
from maas_sdk.runtime.load import local_host
from maas_sdk.runtime.tiers import choose
predict_files(model, rows, answers, BatchConfig(format="npz", program=program))
print(choose(open_bundle(model).manifest, local_host()).tier)
"""
# Events of deleted objects ask for nothing; that they are read at all takes the whole function.
_EVENT: Final = {
    "ce-id": "1",
    "ce-specversion": "1.0",
    "ce-type": "google.cloud.storage.object.v1.deleted",
    "ce-source": "//storage.googleapis.com/projects/_/buckets/check",
    "Content-Type": "application/json",
}


def check_batch_zip(
    path: Path,
    *,
    bundle: Path | None = None,
    environment: Environment = "auto",
    timeout_s: float = 60.0,
) -> CheckReport:
    """Answer golden rows with a zipped batch function's own code, and start the function.

    Args:
        path: the zip file.
        bundle: for a function that fetches its bundle: that bundle, from disk.
        environment: as for ``check_zip``.
        timeout_s: that either may take.

    Raises:
        ConfigError: the zip has no bundle and none was given.
        MachineError: the requirements cannot be installed and ``environment`` asks for it.
        ModelError: an answer is wrong, or none came.
        MaasError: the function does not start or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="maas-check-") as name:
        scratch = Path(name)
        unpacked = unpack(path, scratch, bundle, environment)
        model = unpacked.model.resolve()
        variables = {"LANG": "C.UTF-8", "PATH": os.defpath, "HOME": str(scratch)}
        programs: dict[str, int] = {}
        first_s, tier = 0.0, "unknown"
        for program in _answerable(model):
            began = time.perf_counter()
            rows, tier = _answered(unpacked, program, scratch, variables, timeout_s)
            programs[program] = rows
            first_s = first_s or time.perf_counter() - began
        variables |= {
            # functions-framework takes a function for one of HTTP unless it is told.
            "FUNCTION_SIGNATURE_TYPE": "cloudevent",
            "MAAS_BUNDLE": str(model),
            # Required when the function starts; never written to, for the event asks for nothing.
            "MAAS_OUTPUT": "gs://check/answers",
        }
        with FunctionProcess(
            unpacked.folder,
            target="batch",
            environment=variables,
            command=unpacked.command,
            inherit=False,
        ) as process:
            status, body = process.first_answer(
                "/", [json.dumps({}).encode()], headers=_EVENT, timeout_s=timeout_s
            )
            if status != 200:
                raise ModelError(
                    f"{path}: an event is answered with status {status}: "
                    f"{body[:500].decode(errors='replace')}"
                )
    return unpacked.report(programs=programs, first_s=first_s, tier=tier)


def _answerable(model: Path) -> list[str]:
    """Return programs with golden rows whose rows can be answered independently."""
    manifest = open_bundle(model).manifest
    found = [
        name
        for name, program in manifest.programs.items()
        if program.row_independent and golden_path(name) in manifest.files
    ]
    if not found:
        raise NotFoundError(
            f"{manifest.name} has no golden rows of a program whose rows are independent: nothing "
            "can be checked"
        )
    return found


def _answered(
    unpacked: Unpacked,
    program: str,
    scratch: Path,
    variables: dict[str, str],
    timeout_s: float,
) -> tuple[int, str]:
    """Return the number of golden rows answered correctly, and the tier that answered."""
    model = unpacked.model.resolve()
    inputs, expected, verification = golden_rows(model, program, whole=True)
    rows, answers = scratch / f"{program}.npz", scratch / f"{program}-answers"
    # npz needs nothing but numpy on either side.
    np.savez(rows, **inputs)  # type: ignore[arg-type]
    done = subprocess.run(
        [
            unpacked.command[0],
            "-I",
            "-c",
            _ANSWER,
            *map(str, (unpacked.folder, model, program, rows, answers)),
        ],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        said = " ".join(done.stderr.strip().splitlines()[-2:])
        raise ModelError(f"program {program!r}: its golden rows get no answers: {said}")
    # Their names begin with a number of six digits, so this is the order of the rows.
    parts = sorted(answers.glob("part-*.npz"))
    if not parts:
        raise NotFoundError(f"program {program!r}: no golden row was answered")
    for name, wanted in expected.items():
        found = np.concatenate([np.load(part)[name] for part in parts])
        excess = largest_excess(found, wanted, verification)
        if excess > 0:
            raise ModelError(
                f"program {program!r}: answers {name!r} are off the golden ones by {excess:.3g} "
                "more than the tolerance of the export"
            )
    return len(wanted), done.stdout.strip()
