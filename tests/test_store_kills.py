"""Publishers killed at random moments: what is published is whole, and nothing else is there.

The publishers are processes; the bucket is the emulator in this one, so it survives them.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from maas_sdk.bundle import open_bundle
from maas_sdk.store.gcs import GcsObjects
from maas_sdk.store.remote import RemoteStore
from tests.kit import gcs as cloud
from tests.kit.stores import make_bundle

PART = 50_000
PUBLISH = """
import itertools, sys
from maas_sdk.store.gcs import GcsObjects
from maas_sdk.store.remote import RemoteStore
store = RemoteStore(GcsObjects("bucket", "p", part_bytes=int(sys.argv[1])))
store.models()
print("ready", flush=True)
for bundle in sys.argv[2:]:
    print(store.publish(bundle, "digits", label="stable"), flush=True)
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[cloud.Gcs]:
    with cloud.bucket(monkeypatch) as server:
        yield server


def killed(delay_s: float, *bundles: Path) -> list[str]:
    """Start to publish, kill it ``delay_s`` later; the versions that it said were published."""
    child = subprocess.Popen(
        [sys.executable, "-c", PUBLISH, str(PART), *map(str, bundles)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(delay_s)
    child.send_signal(signal.SIGKILL)
    said, _ = child.communicate()
    return said.split()


@pytest.mark.parametrize(
    "moments",
    [pytest.param(3, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.heavy)],
)
def test_nothing_is_half_published(moments: int, server: cloud.Gcs, tmp_path: Path) -> None:
    """Every version that is listed comes back whole; every one that was told is listed.

    Afterwards a publisher that lives gets the next number, and a collector leaves just what
    the versions need.
    """
    rng = random.Random(moments)
    later = [0.0]
    objects = GcsObjects("bucket", "p", part_bytes=PART)
    store = RemoteStore(objects, clock=lambda: time.time() + later[0])
    told: set[str] = set()
    checked: set[str] = set()
    for moment in range(moments):
        bundles = [make_bundle(tmp_path / f"{moment}-{n}", 100 * moment + n) for n in range(4)]
        told |= set(killed(rng.random() * 0.8, *bundles))
        listed = store.versions("digits") if store.models() else []
        assert told <= set(listed)
        assert listed == [str(n + 1) for n in range(len(listed))]
        if listed:
            # The label moves in the same step as the version appears.
            assert store.labels("digits") == {"stable": listed[-1]}
        for version in set(listed) - checked:
            store.copy("digits", tmp_path / f"v{version}", version)
            open_bundle(tmp_path / f"v{version}").check()
            checked.add(version)
    bundle = make_bundle(tmp_path / "last", 9999)
    last = store.publish(bundle, "digits")
    assert last == str(len(checked) + 1)
    later[0] = 10 * 24 * 3600.0
    store.collect()
    needed = set()
    for version in store.versions("digits"):
        copy = store.copy("digits", tmp_path / f"after{version}", version)
        copy.check()
        needed |= {f"p/objects/{e.sha256[:2]}/{e.sha256}" for e in copy.manifest.files.values()}
    names = set(server.names("bucket"))
    manifests = names - needed - {"p/models/digits.json"}
    assert needed <= names
    assert len(manifests) == len(store.versions("digits"))
    assert all("objects/" in name for name in manifests)
