"""Memory and processors: what the platform takes, what a bundle needs, what is chosen.

The table of the platform is held against the real terraform with the module's own validations.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # its types are a package of their own
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.bundle.crypto.encryption import Encryption
from maas_sdk.bundle.encoding.spec import Encoding
from maas_sdk.bundle.folder import open_bundle
from maas_sdk.bundle.manifest import WEIGHTS, FileEntry, Manifest
from maas_sdk.deploy.memory import (
    START_NBYTES,
    Need,
    check_processors,
    choose,
    memory_nbytes,
    need_of,
)
from maas_sdk.deploy.package import package
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.errors import ConfigError
from tests.kit.toy import toy_program
from tests.terraform.workspace import TERRAFORM, Workspace, needs_terraform

GIB = 2**30

# Processors, memory, and what is wrong with them.
PAIRS = [
    (1, "4Gi", None),
    (1, "4097Mi", "more than 4Gi 2"),
    (2, "8Gi", None),
    (2, "9Gi", "more than 8Gi 4"),
    (4, "16Gi", None),
    (4, "17Gi", "more than 16Gi 6"),
    (6, "24Gi", None),
    (6, "25Gi", "more than 24Gi 8"),
    (8, "32Gi", None),
    (8, "33Gi", "128Mi to 32Gi"),
    (4, "1Gi", "4 CPUs need at least 2Gi"),
    (8, "3Gi", "6 and 8 at least 4Gi"),
    (0.5, "1Gi", None),
    (0.5, "1025Mi", "more than 1Gi 1"),
    (0.3, "512Mi", None),
    (0.3, "537M", "more than 512Mi of memory needs at least 0.5"),
    (0.3, "536M", None),
    (0.05, "128Mi", "a fraction from 0.08 on"),
    (3, "4Gi", "1, 2, 4, 6 or 8"),
    (1, "127Mi", "128Mi to 32Gi"),
    (1, "4294M", None),
    (1, "4295M", "more than 4Gi 2"),
    (1, "1GB", "a whole number with Mi, Gi, M or G"),
    (1, "0Gi", "a whole number with Mi, Gi, M or G"),
]


@pytest.mark.parametrize(("cpu", "memory", "wrong"), PAIRS)
def test_processors_and_memory_go_together(cpu: float, memory: str, wrong: str | None) -> None:
    """As the platform has it; what is refused comes with what to say."""
    if wrong is None:
        check_processors(cpu, memory)
        return
    with pytest.raises(ConfigError, match="expected"):
        check_processors(cpu, memory)


@needs_terraform
@pytest.mark.parametrize("module", ["model-function", "batch-function", "model-service"])
@pytest.mark.parametrize(("cpu", "memory", "wrong"), PAIRS)
def test_the_modules_say_the_same(
    module: str, cpu: float, memory: str, wrong: str | None, tmp_path: Path
) -> None:
    """The variable of each module whose instances have a memory, asked by the real terraform."""
    if module == "model-service" and cpu < 1:
        wrong = "1, 2, 4, 6 or 8"  # it answers many requests at once
    text = (TERRAFORM / "modules" / module / "variables.tf").read_text(encoding="utf-8")
    [variable] = re.findall(r'^variable "instance" \{.*?^\}', text, re.M | re.S)
    (tmp_path / "main.tf").write_text(variable, encoding="utf-8")
    workspace = Workspace(folder=tmp_path, reattach="{}")
    value = f'-var=instance={{cpu="{cpu:g}", memory="{memory}"}}'
    if module == "model-function":
        value = value.replace("}", ", concurrency=1}")
    ran = workspace.run("plan", "-no-color", value, code=None)
    assert ran.code == (0 if wrong is None else 1), ran.output
    assert wrong is None or ran.says(wrong), ran.output


def test_a_refusal_says_what_to_say() -> None:
    """Either way out, in the words of the command line."""
    with pytest.raises(ConfigError) as refused:
        check_processors(1, "6Gi")
    assert "memory 6Gi with 1 CPU: expected at least 2 CPU for so much" in refused.value.message
    assert "say --cpu 2, or --memory 4Gi" in refused.value.message
    with pytest.raises(ConfigError, match=r"say --cpu 0\.5, or --memory 512Mi"):
        check_processors(0.2, "1Gi")
    with pytest.raises(ConfigError, match="say --memory 4Gi, or fewer with --cpu"):
        check_processors(6, "2Gi")


def need(gib: float) -> Need:
    """Of a bundle that takes so much, its start included."""
    return Need(weights_nbytes=int(gib * GIB) - START_NBYTES)


@pytest.mark.parametrize(
    ("gib", "cpu", "memory", "expected"),
    [
        # Nothing said: room for half as much again, at least 1Gi, processors as it asks.
        (0.3, None, None, (1, "1Gi", True)),
        (1, None, None, (1, "2Gi", True)),
        (2.6, None, None, (1, "4Gi", True)),
        (3, None, None, (2, "8Gi", True)),
        (10, None, None, (4, "16Gi", True)),
        (12, None, None, (6, "24Gi", True)),
        (31, None, None, (8, "32Gi", True)),
        # Processors said: as much as goes with them, if that is enough.
        (3.9, 1, None, (1, "4Gi", True)),
        (0.3, 0.5, None, (0.5, "1Gi", True)),
        (0.3, 0.1, None, (0.1, "512Mi", True)),
        (0.3, 8, None, (8, "4Gi", True)),
        # Memory said: it is taken as it is.
        (0.3, None, "512Mi", (1, "512Mi", False)),
        (0.3, None, "6Gi", (2, "6Gi", True)),
        (3, 2, "3Gi", (2, "3Gi", False)),
    ],
)
def test_what_nobody_said_is_chosen(
    gib: float, cpu: float | None, memory: str | None, expected: tuple[float, str, bool]
) -> None:
    """From what the bundle needs, or from the other of the two."""
    assert choose(need(gib), cpu, memory) == expected


@pytest.mark.parametrize(
    ("gib", "cpu", "memory", "words"),
    [
        (3, None, "2Gi", r"needs 3,221 MB .*; --memory 2Gi is 2,147 MB: say --memory 8Gi --cpu 2,"),
        (0.9, 1, "512Mi", r"--memory 512Mi is 537 MB: say --memory 2Gi, or make .*maas quantize"),
        (5, 1, None, r"with --cpu 1 it has at most 4Gi: say --memory 8Gi --cpu 2"),
        (40, None, None, r"an instance has at most 32Gi: .*maas quantize.*--container"),
        (40, 8, "32Gi", r"an instance has at most 32Gi"),
        (1, 1, "8Gi", r"memory 8Gi with 1 CPU: expected at least 2 CPU"),
        (1, None, "64Gi", r"memory 64Gi: expected 128Mi to 32Gi"),
        (1, None, "much", r"memory 'much': expected a whole number with Mi, Gi"),
    ],
)
def test_what_does_not_fit_is_refused(
    gib: float, cpu: float | None, memory: str | None, words: str
) -> None:
    """With what is needed, what came, and what would do."""
    with pytest.raises(ConfigError, match=words):
        choose(need(gib), cpu, memory)


@given(
    nbytes=st.integers(0, 40 * GIB),
    cpu=st.one_of(st.none(), st.sampled_from([0.08, 0.3, 0.5, 0.999, 1, 2, 4, 6, 8])),
)
def test_what_is_chosen_is_taken(nbytes: int, cpu: float | None) -> None:
    """Whatever the bundle: a pair that the platform has and that holds it, or a refusal."""
    wanted = Need(weights_nbytes=nbytes)
    most = {None: 32, 0.08: 0.5, 0.3: 0.5, 0.5: 1, 0.999: 1, 1: 4, 2: 8, 4: 16, 6: 24, 8: 32}[cpu]
    if wanted.nbytes > most * GIB:
        with pytest.raises(ConfigError, match="the bundle needs") as refused:
            choose(wanted, cpu)
        assert refused.value.evidence == {"needed_nbytes": wanted.nbytes}
        return
    chosen, memory, _ = choose(wanted, cpu)
    check_processors(chosen, memory)
    assert memory_nbytes(memory) >= wanted.nbytes
    assert cpu in (None, chosen)


@given(text=st.text(max_size=12))
def test_any_memory_is_read_or_refused(text: str) -> None:
    """Nothing that is typed is an error of another kind."""
    if re.fullmatch(r"[1-9][0-9]*(Mi|Gi|M|G)", text):
        assert memory_nbytes(text) >= 10**6
    else:
        with pytest.raises(ConfigError, match="expected a whole number"):
            memory_nbytes(text)


def manifest(**more: Any) -> Manifest:
    """A bundle with 100 bytes of weights, and 40 of other files."""
    files = {WEIGHTS: FileEntry(100, "0" * 64), "assets/labels": FileEntry(40, "0" * 64)}
    program = toy_program(weights=("w", "v"))
    return Manifest(name="m", programs={"predict": program}, targets={}, files=files, **more)


def test_a_bundle_s_need_is_in_its_manifest() -> None:
    """Weights as programs take them; fetched, the other files; decrypted, the weights twice."""
    assert need_of(manifest(), fetched=False) == Need(weights_nbytes=100)
    assert need_of(manifest(), fetched=True) == Need(weights_nbytes=100, files_nbytes=40)
    encoded = {
        # Decoded when the bundle is opened: [8, 4] of float32.
        "v": Encoding(scheme="zstd", dtype="float32", shape=(8, 4), parts={"data": "d"}),
        # Describes what a program consumes as it is stored.
        "other": Encoding(scheme="zstd", dtype="float32", shape=(1000,), parts={"data": "e"}),
    }
    assert need_of(manifest(encodings=encoded), fetched=False).weights_nbytes == 100 + 8 * 4 * 4


def test_what_is_encrypted_is_there_twice(tiny_bundle: Path) -> None:
    """Fetched onto a disk that is memory, and decrypted beside it."""
    plain = open_bundle(tiny_bundle).manifest
    weights = plain.files[WEIGHTS].size_bytes
    total = sum(entry.size_bytes for entry in plain.files.values())
    found = need_of(plain, fetched=True)
    assert (found.weights_nbytes, found.files_nbytes) == (weights, total - weights)
    sealed = manifest(encryption=Encryption(id="0" * 32, key="env:KEY", key_id="0" * 32))
    assert need_of(sealed, fetched=True) == Need(weights_nbytes=100, files_nbytes=140)
    assert need_of(sealed, fetched=False) == Need(weights_nbytes=100)


def test_a_bundle_without_weights_needs_what_a_start_does() -> None:
    """Nothing is asked of a file that is not there."""
    empty = Manifest(name="m", programs=manifest().programs, targets={})
    assert need_of(empty, fetched=True).nbytes == START_NBYTES


def test_a_small_function_starts_in_what_is_counted_for_it(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """A real one, after its first answer: both processes, what they share counted once."""
    with FunctionProcess(package(tiny_bundle, tmp_path / "out")) as process:
        body = [b'{"inputs": [[1, 2, 3, 4]]}']
        status, answer = process.first_answer("/v1/models/tiny:predict", body)
        assert status == 200, answer
        master = psutil.Process(process.pid)
        family = [master, *master.children(recursive=True)]
        # Of the first all that it has, of the others what they share with nobody.
        taken = family[0].memory_info().rss
        taken += sum(one.memory_full_info().uss for one in family[1:])
    assert len(family) >= 2
    assert START_NBYTES / 2 < taken < START_NBYTES, f"{taken / 1e6:.0f} MB"
