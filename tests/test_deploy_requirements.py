"""What a deployment installs: exact versions, by hash, the same as those all tests run with."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.bundle.encoding.spec import Encoding
from maas_sdk.deploy.requirements import (
    LOCKS,
    Requirement,
    join,
    needs,
    parse_lock,
    read_lock,
    requirements,
)
from maas_sdk.errors import ConfigError
from tests.kit.toy import toy_manifest

DIGEST = "0" * 63


def names(text: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", text, re.M))


def test_every_line_has_hashes() -> None:
    """Pip takes no file that was not known when the lock was written."""
    found = requirements(toy_manifest("0.10.2+990e6a0b"))
    assert found.hashed
    entries = parse_lock(found.text)
    assert len(entries) == len(names(found.text)) + 2  # numpy and scipy: one for old Pythons
    assert all(entry.hashes for entry in entries)
    assert "://" not in found.text


def test_a_function_is_lean() -> None:
    """No jax, no flax, no HTTP client, no store's client: what serving needs and no more."""
    found = names(requirements(toy_manifest()).text)
    assert {"jaxlib", "numpy", "scipy", "msgpack", "ml-dtypes", "functions-framework"} <= found
    assert not {"jax", "flax", "orbax-checkpoint", "optax", "httpx", "typer"} & found
    assert not {"google-cloud-storage", "cryptography", "zstandard"} & found
    assert len(found) < 30


def test_parts_that_only_some_need() -> None:
    """What a bundle, or an option, asks for comes beside the rest, each distribution once."""
    zipped = Encoding(scheme="zstd", dtype="float32", shape=(2,), parts={"data": "w.zstd"})
    compressed = toy_manifest(encodings={"w": zipped})
    assert needs(compressed) == {"zstd"}
    assert "zstandard" in names(requirements(compressed).text)
    everything = requirements(toy_manifest(), LOCKS).text
    lines = re.findall(r"^([a-z0-9-]+==\S+)", everything, re.M)
    assert len(lines) == len(set(lines))
    assert {"google-cloud-storage", "cryptography", "libtpu", "jax-cuda12-pjrt"} <= names(
        everything
    )


def test_another_jaxlib_has_no_hashes_and_says_so() -> None:
    """Executables run on the build that compiled them, so it is pinned; pip gets no half list."""
    found = requirements(toy_manifest("0.9.1+abc", "0.9.1+abc"))
    assert not found.hashed
    assert "--hash" not in found.text
    assert "\njaxlib==0.9.1\n" in found.text
    words = " ".join(found.text.replace("\n# ", " ").split())
    assert "compiled by jaxlib 0.9.1, whose files are not in the lock" in words
    assert "Export again with jaxlib 0.10.2" in words


@pytest.mark.parametrize("name", LOCKS)
def test_locks_agree_with_what_is_tested(name: str) -> None:
    """A version in a lock of ours is the one in requirements.lock, where that has it."""
    root = Path(__file__).parent.parent
    tested: dict[str, set[str]] = {}
    for file in ("requirements.lock", "requirements-tpu.lock"):
        for entry in parse_lock((root / file).read_text(encoding="utf-8"), file):
            tested.setdefault(entry.name, set()).add(entry.version)
    for entry in read_lock(name):
        assert entry.version in tested.get(entry.name, {entry.version}), "run make lock"


def test_plugins_are_those_of_the_runtime() -> None:
    """A plugin and the jaxlib that opens it are of one release."""
    [jaxlib] = [entry.version for entry in read_lock("serve") if entry.name == "jaxlib"]
    plugins = {e.name: e.version for e in read_lock("cuda") if e.name.startswith("jax-")}
    assert plugins == {"jax-cuda12-pjrt": jaxlib, "jax-cuda12-plugin": jaxlib}


def test_a_lock_that_does_not_exist_is_refused() -> None:
    """The message names those that do."""
    with pytest.raises(ConfigError, match=r"no lock 'redis': expected one of serve, cli"):
        requirements(toy_manifest(), ["redis"])


digests = st.text("0123456789abcdef", min_size=64, max_size=64)
entries = st.builds(
    Requirement,
    name=st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True),
    version=st.from_regex(r"[0-9]\.[0-9]{1,3}", fullmatch=True),
    marker=st.sampled_from(["", "python_full_version < '3.12'", "sys_platform == 'linux'"]),
    hashes=st.lists(digests, min_size=1, max_size=3, unique=True).map(lambda h: tuple(sorted(h))),
)


@given(lock=st.lists(entries, max_size=6))
def test_a_lock_is_read_as_it_was_written(lock: list[Requirement]) -> None:
    """Lines and their parser are each other's inverse."""
    text = "# a comment\n" + "".join(entry.line(hashed=True) + "\n" for entry in lock)
    assert parse_lock(text) == lock


@given(junk=st.text(max_size=80), after=st.booleans())
def test_junk_is_no_lock(junk: str, after: bool) -> None:
    """Whatever stands there, it is read or refused with a sentence."""
    good = f"a==1 \\\n    --hash=sha256:0{DIGEST}\n"
    text = good + junk if after else junk + good
    with contextlib.suppress(ConfigError):
        found = parse_lock(text)
        assert found
        assert all(entry.hashes for entry in found)
        return
    with pytest.raises(ConfigError, match="make lock"):
        parse_lock(text)


def test_locks_that_contradict_each_other_are_refused() -> None:
    """Two versions in one place cannot be installed."""
    one, two = (Requirement(name="a", version=v, hashes=("0" * 64,)) for v in "12")
    assert join([[one], [one]]) == [one]
    with pytest.raises(ConfigError, match=r"ask for a 1, 2"):
        join([[one], [two]])
