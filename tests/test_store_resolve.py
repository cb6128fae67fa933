"""Where a bundle is: what commands and services are told, folder or model in a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from maas_sdk.bundle import open_bundle
from maas_sdk.errors import ConfigError, NotFoundError
from maas_sdk.store.opening import open_store
from maas_sdk.store.resolve import find_bundle, find_version, in_store
from tests.kit.stores import make_bundle


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAAS_BUNDLE_CACHE", str(tmp_path / "cache"))
    return make_bundle(tmp_path / "b.maas")


def test_a_bundle_is_found_by_path_or_url(tmp_path: Path, bundle: Path) -> None:
    """A folder as it is, and a model in any kind of store, with the number of its version."""
    assert find_version(bundle) == (bundle, None)
    for url in (f"file://{tmp_path}/v", f"memory://{tmp_path.name}"):
        store = open_store(url)
        assert store.publish(bundle, "m") == "1"
        assert store.publish(bundle, "m", 3) == "3"
        store.promote("m", 1)
        for which, number in (("", "3"), ("@1", "1"), ("@stable", "1")):
            folder, version = find_version(f"{url}/m{which}")
            open_bundle(folder).check()
            assert version == number
        with pytest.raises(NotFoundError, match=r"no version 2 of model 'm'.*it has 1, 3"):
            find_bundle(f"{url}/m@2")
    assert find_bundle(f"file://{tmp_path}/v/m@1") == tmp_path / "v" / "m" / "1"


def test_a_store_may_be_named_by_its_path(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an @; a folder that has one in its name stays a folder."""
    monkeypatch.chdir(tmp_path)
    open_store("store").publish(bundle, "m", label="stable")
    assert find_version("store/m@stable") == (Path("store/m/1"), "1")
    with pytest.raises(NotFoundError, match="no version 2 of model 'm' in store; it has 1"):
        find_bundle("store/m@2")
    bundle.rename("store/m@2")
    assert find_version("store/m@2") == (Path("store/m@2"), None)
    for place in ("store/m", "me@home.maas", "digits.maas", "/no/such.maas", "up@/digits.maas"):
        assert not in_store(place)
        assert find_version(place) == (Path(place), None)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("gs://bucket", "expected a store and a model"),
        ("ftp://host/m@1", "no store for ftp://"),
        ("gs://bucket/models/m@-1", "expected a version such as 3 or a label such as stable"),
        ("gs://Bucket/models/m", "is no bucket's name"),
    ],
)
def test_what_names_no_model(place: str, message: str) -> None:
    """The form that is expected is said, before anybody is asked."""
    with pytest.raises(ConfigError, match=message):
        find_bundle(place)
