"""Folders and zips: whole or absent, and nothing believed that the manifest does not say."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maas_sdk.bundle import Bundle, BundleWriter, open_bundle, open_weights, write_weights
from maas_sdk.bundle.archive import unzip_bundle, zip_bundle
from maas_sdk.bundle.files.staging import Staging
from maas_sdk.bundle.manifest import MANIFEST, WEIGHTS, Manifest, Program
from maas_sdk.errors import (
    BundleError,
    ConfigError,
    CorruptError,
    ManifestError,
    NotFoundError,
)
from maas_sdk.tensors import Signature, TensorSpec
from tests.kit.damage import flip

SPEC = TensorSpec(dtype="float32", shape=(None, 4))
BLANK = Manifest(
    name="tiny",
    programs={
        "predict": Program(
            signature=Signature(inputs={"x": SPEC}, outputs={"y": SPEC}),
            weights=("w",),
            buckets=(1,),
            row_independent=True,
        )
    },
    targets={},
)
PROGRAM = "programs/predict-b1.stablehlo"


def write(path: Path, *, fill: float = 1.0, overwrite: bool = False) -> Bundle:
    """A small bundle with weights, one program and one asset."""
    with BundleWriter(path, overwrite=overwrite) as writer:
        write_weights(writer.path / WEIGHTS, {"w": np.full(64, fill, np.float32)})
        writer.add(PROGRAM, b"program " * 10)
        writer.add("assets/labels.txt", b"a\nb\n")
        return writer.seal(BLANK)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write(tmp_path / "tiny.maas")
    return tmp_path / "tiny.maas"


def test_what_is_sealed_is_opened(bundle: Path) -> None:
    """A sealed bundle opens with its manifest, and every file passes its hash."""
    found = open_bundle(bundle)
    assert found.manifest.name == "tiny"
    assert found.manifest.files.keys() == {WEIGHTS, PROGRAM, "assets/labels.txt"}
    assert found.path == bundle
    found.check()
    found.check([PROGRAM])
    assert found.read("assets/labels.txt") == b"a\nb\n"
    assert open_weights(found.path / WEIGHTS)["w"].sum() == 64
    assert os.listdir(bundle.parent) == ["tiny.maas"]


def test_a_file_that_is_not_listed_cannot_be_read(bundle: Path) -> None:
    """The manifest's list is the only way in; the message has the list."""
    for name in ("nothing", "../secret", MANIFEST):
        with pytest.raises(NotFoundError, match=r"has no file .* it has .*labels\.txt"):
            open_bundle(bundle).read(name)
    with pytest.raises(NotFoundError):
        open_bundle(bundle).check(["nothing"])


def test_leaving_without_seal_leaves_nothing(tmp_path: Path) -> None:
    """An exception, or no ``seal``, removes the temporary folder."""
    with BundleWriter(tmp_path / "b") as writer:
        writer.add("a", b"1")
    writer = BundleWriter(tmp_path / "b")
    with pytest.raises(ZeroDivisionError), writer:
        writer.add("a", bytes(1 // 0))
    assert os.listdir(tmp_path) == []


def test_an_existing_target_is_kept_unless_overwritten(bundle: Path) -> None:
    """Replacing is asked for; a failed replacement leaves the old bundle."""
    with pytest.raises(ConfigError, match=r"exists already: .* overwrite=True"):
        write(bundle)
    with pytest.raises(RuntimeError), BundleWriter(bundle, overwrite=True):
        raise RuntimeError
    assert open_weights(open_bundle(bundle).path / WEIGHTS)["w"][0] == 1
    write(bundle, fill=2, overwrite=True)
    open_bundle(bundle).check()
    assert open_weights(bundle / WEIGHTS)["w"][0] == 2
    assert os.listdir(bundle.parent) == ["tiny.maas"]


def test_weights_of_a_replaced_bundle_stay_mapped(bundle: Path) -> None:
    """Who has mapped the old weights keeps them when the bundle is replaced."""
    old = open_weights(bundle / WEIGHTS)["w"]
    write(bundle, fill=2, overwrite=True)
    assert old.sum() == 64


def test_a_target_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Of two who write the same new bundle, the later one is told."""
    with BundleWriter(tmp_path / "b") as one:
        one.add("a", b"1")
        write(tmp_path / "b")
        with pytest.raises(ConfigError, match="exists already"):
            one.seal(BLANK)
    assert PROGRAM in open_bundle(tmp_path / "b").manifest.files


def test_files_and_links_are_no_targets(tmp_path: Path) -> None:
    """A file or a link in the place of the folder is left alone."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(ConfigError, match="is not a folder"):
            BundleWriter(tmp_path / name, overwrite=True)


@pytest.mark.parametrize("name", ["../a", "/a", "a/../b", MANIFEST, ""])
def test_paths_outside_the_bundle_are_refused(tmp_path: Path, name: str) -> None:
    """``add`` writes inside the bundle only, and not over the manifest."""
    with BundleWriter(tmp_path / "b") as writer, pytest.raises(ManifestError, match="not a path"):
        writer.add(name, b"")


def test_links_are_not_sealed(tmp_path: Path) -> None:
    """A link among the written files is refused by name."""
    with BundleWriter(tmp_path / "b") as writer:
        (writer.path / "l").symlink_to("/etc/hostname")
        with pytest.raises(CorruptError, match="l: expected a plain file, found a symbolic link"):
            writer.seal(BLANK)


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda b: os.truncate(b / WEIGHTS, 100),
        r"weights\.safetensors: expected \d+ bytes, found 100",
    ),
    (
        lambda b: flip(b / WEIGHTS),
        r"weights\.safetensors: expected sha256 [0-9a-f]{64}, found [0-9a-f]",
    ),
    (lambda b: flip(b / PROGRAM), r"programs/predict-b1\.stablehlo: expected sha256"),
    (
        lambda b: (b / PROGRAM).unlink(),
        r"missing programs/predict-b1\.stablehlo; expected the 3 .* 2",
    ),
    (lambda b: (b / "more").write_bytes(b""), "found more, expected only the 3 files"),
    (
        lambda b: (b / PROGRAM).rename(b / "programs/other"),
        r"missing programs/predict-b1\.stablehlo; .* unlisted: programs/other",
    ),
    (
        lambda b: ((b / PROGRAM).unlink(), (b / PROGRAM).symlink_to(b / WEIGHTS)),
        r"programs/predict-b1\.stablehlo: expected a plain file, found a symbolic link",
    ),
    (
        lambda b: ((b / "programs").rename(b.parent / "p"), (b / "programs").symlink_to("../p")),
        "programs: expected a plain file, found a symbolic link",
    ),
    (
        lambda b: ((b / PROGRAM).unlink(), os.mkfifo(b / PROGRAM)),
        r"programs/predict-b1\.stablehlo: expected a plain file, found a special file",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_named(bundle: Path, damage: Callable[[Path], object], message: str) -> None:
    """Cut, flipped, missing, added, renamed or linked: the file, both values and the remedy."""
    damage(bundle)
    with pytest.raises(CorruptError, match=message) as caught:
        open_bundle(bundle).check()
    assert "export or copy the bundle again" in caught.value.message


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: flip(b / PROGRAM), "expected sha256"),
        (lambda b: os.truncate(b / PROGRAM, 3), "expected 80 bytes, found 3"),
        (lambda b: os.truncate(b / PROGRAM, 300), "expected 80 bytes, found 81"),
        (lambda b: (b / PROGRAM).unlink(), "expected a plain file, found No such file"),
        (
            lambda b: ((b / PROGRAM).unlink(), (b / PROGRAM).symlink_to(b / WEIGHTS)),
            "expected a plain file, found Too many levels of symbolic links",
        ),
    ],
)
def test_damage_after_opening_is_found_by_read(
    bundle: Path, damage: Callable[[Path], object], message: str
) -> None:
    """``read`` checks the very bytes that it returns, whenever they were changed."""
    opened = open_bundle(bundle)
    damage(bundle)
    with pytest.raises(CorruptError, match=message):
        opened.read(PROGRAM)


def test_what_is_no_bundle_says_what_it_is(tmp_path: Path, bundle: Path) -> None:
    """No path, a file, a zip and a plain folder each get their own sentence."""
    zip_bundle(bundle, tmp_path / "b.zip")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    for name, kind, message in [
        ("none", NotFoundError, "no bundle at .*none: nothing is there"),
        ("b.zip", BundleError, "is a zip file: unpack it first, with .*unzip_bundle"),
        ("file", BundleError, "is a file, not a bundle's folder"),
        ("empty", BundleError, "is no bundle: it has no manifest.json"),
    ]:
        with pytest.raises(kind, match=message):
            open_bundle(tmp_path / name)


# ---- kill -9 and a full disk, in processes of their own ----

WRITER = """
import sys
import numpy as np
from pathlib import Path
from maas_sdk.bundle import BundleWriter, Manifest, write_weights
manifest = Manifest.from_json(Path(sys.argv[2]).read_bytes())
print("go", flush=True)
fill = 0
while True:
    fill += 1
    with BundleWriter(sys.argv[1], overwrite=True) as writer:
        for part in range(4):
            write_weights(writer.path / f"{part}.safetensors", {"w": np.full(999, fill)})
        writer.seal(manifest)
"""


def test_kill_9_leaves_a_whole_bundle_or_none(tmp_path: Path) -> None:
    """Killed anywhere, a writer leaves no part of a bundle, and the next one sweeps its remains.

    The writer replaces the same bundle again and again; this process opens it all the while.
    """
    target = tmp_path / "store" / "b"
    target.parent.mkdir()
    (tmp_path / "m.json").write_bytes(BLANK.to_json())
    chance = random.Random(0)
    leftovers = 0
    # One of each pair starts from nothing, the other replaces what the one before it left.
    for turn in range(16):
        if turn % 4 == 0 and target.exists():
            target.rename(tmp_path / f"away{turn}")
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target), str(tmp_path / "m.json")],
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"
        end = time.monotonic() + chance.uniform(0, 0.08)
        while time.monotonic() < end:
            if target.exists():
                open_bundle(target)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if target.exists():
            found = open_bundle(target)
            found.check()
            fills = {open_weights(target / name)["w"][0] for name in found.manifest.files}
            assert len(fills) == 1
        others = [name for name in os.listdir(target.parent) if name != "b"]
        assert all(name.startswith(".b.") for name in others), others
        leftovers += any(f".{child.pid}-" in name for name in others)
    write(target, overwrite=True)
    assert os.listdir(target.parent) == ["b"]
    assert leftovers, "no writer was caught in the middle: the test proves too little"


def test_a_living_writer_is_not_swept(tmp_path: Path) -> None:
    """Two who write the same bundle at once do not remove each other's folder."""
    with BundleWriter(tmp_path / "b", overwrite=True) as one:
        one.add("a", b"1")
        write(tmp_path / "b")
        assert (one.path / "a").read_bytes() == b"1"
        one.seal(BLANK)
    assert open_bundle(tmp_path / "b").manifest.files.keys() == {"a"}


def test_foreign_hidden_files_are_not_swept(tmp_path: Path) -> None:
    """Only names of the exact form are taken for remains."""
    for name in (".b.tmp", ".b.1.tmp", ".b.x-12345678.tmp", ".other.1-12345678.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / ".b.1-12345678.tmp").mkdir()
    write(tmp_path / "b")
    assert len(os.listdir(tmp_path)) == 5
    assert not (tmp_path / ".b.1-12345678.tmp").exists()


FULL_DISK = """
import resource, signal, sys
from maas_sdk.bundle import BundleWriter, Manifest
from maas_sdk.bundle.archive import unzip_bundle, zip_bundle
from maas_sdk.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
def add():
    with BundleWriter(sys.argv[1], overwrite=True) as writer:
        writer.add("big", bytes(1000))
def seal():
    with BundleWriter(sys.argv[1], overwrite=True) as writer:
        writer.add("small", bytes(10))
        writer.seal(Manifest.from_json(open(sys.argv[1] + "/manifest.json", "rb").read()))
for write in (add, seal, lambda: zip_bundle(sys.argv[1], sys.argv[1] + ".zip")):
    try:
        write()
    except StorageError as error:
        print(error)
"""


def test_a_full_disk_leaves_the_old_bundle(bundle: Path) -> None:
    """When no more can be written, the old bundle stays, nothing else does, and it is said.

    The limit on a file's size (EFBIG) stands in for the full disk (ENOSPC): same call, same path.
    """
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(bundle)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done
    for line in lines:
        assert "no room to write it (File too large); nothing was kept: free space" in line
    open_bundle(bundle).check()
    assert os.listdir(bundle.parent) == ["tiny.maas"]


# ---- zip ----


def test_zip_and_back(bundle: Path, tmp_path: Path) -> None:
    """A bundle survives the way through a zip, which is the same bytes each time."""
    zip_bundle(bundle, tmp_path / "1.zip")
    zip_bundle(bundle, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    unzip_bundle(tmp_path / "1.zip", tmp_path / "back").check()
    assert open_bundle(tmp_path / "back").manifest == open_bundle(bundle).manifest
    with pytest.raises(ConfigError, match="exists already"):
        unzip_bundle(tmp_path / "1.zip", tmp_path / "back")
    unzip_bundle(tmp_path / "1.zip", tmp_path / "back", overwrite=True).check()
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.getinfo(WEIGHTS).compress_type == zipfile.ZIP_STORED


def test_a_corrupt_bundle_is_not_zipped(bundle: Path, tmp_path: Path) -> None:
    """What would not open is not passed on."""
    flip(bundle / PROGRAM)
    with pytest.raises(CorruptError, match="expected sha256"):
        zip_bundle(bundle, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()


def test_a_zip_by_another_tool_is_read(bundle: Path, tmp_path: Path) -> None:
    """Folder entries and deflated weights, as ``zip -r`` makes them, are fine."""
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(bundle.rglob("*")):
            archive.write(path, path.relative_to(bundle))
        assert "programs/" in archive.namelist()
    unzip_bundle(tmp_path / "b.zip", tmp_path / "back").check()


def rezip(bundle: Path, target: Path, *, without: str = "", **more: bytes) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(bundle.rglob("*")):
            name = str(path.relative_to(bundle))
            if path.is_file() and name != without:
                archive.write(path, name)
        for name, data in more.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("without", "more", "message"),
    [
        ("", {"../out": b"x"}, r"unlisted \['../out'\]"),
        ("", {"/out": b"x"}, r"unlisted \['/out'\]"),
        ("", {"more": b"x"}, r"unlisted \['more'\]"),
        (PROGRAM, {}, r"missing \['programs/predict-b1.stablehlo'\]"),
        (PROGRAM, {PROGRAM: bytes(10**6)}, "expected 80 bytes, found 1000000 declared"),
        (PROGRAM, {PROGRAM: bytes(80)}, "predict-b1.stablehlo: expected sha256"),
        (MANIFEST, {}, "is no zipped bundle: it has no manifest.json at its top"),
        (MANIFEST, {MANIFEST: b"{"}, "manifest.json is not JSON"),
        (MANIFEST, {MANIFEST: b" " * (64 * 2**20 + 1)}, "manifest.json is over"),
    ],
)
def test_a_zip_that_is_not_its_manifest_is_refused(
    bundle: Path, tmp_path: Path, without: str, more: dict[str, bytes], message: str
) -> None:
    """Nothing is unpacked but what the manifest lists, nothing outside, nothing larger."""
    rezip(bundle, tmp_path / "b.zip", without=without, **more)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=message):
        unzip_bundle(tmp_path / "b.zip", tmp_path / "deep" / "back")
    assert [p for p in sorted(tmp_path.rglob("*")) if p.name != "deep"] == before


def test_a_name_twice_in_a_zip_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Two entries of one name could show each reader another one."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        rezip(bundle, tmp_path / "b.zip", **{PROGRAM: b"other"})
    with pytest.raises(CorruptError, match=r"stablehlo' is in it twice"):
        unzip_bundle(tmp_path / "b.zip", tmp_path / "back")


def test_a_zip_that_lies_about_sizes_is_stopped(bundle: Path, tmp_path: Path) -> None:
    """An entry that declares the right size and unpacks to more is stopped there."""
    rezip(bundle, tmp_path / "b.zip", without=PROGRAM, **{PROGRAM: bytes(10**6)})
    data = (tmp_path / "b.zip").read_bytes()
    lied = data.replace((10**6).to_bytes(4, "little"), (80).to_bytes(4, "little"))
    assert lied != data
    (tmp_path / "b.zip").write_bytes(lied)
    with pytest.raises(CorruptError):
        unzip_bundle(tmp_path / "b.zip", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_rare_compressions_are_refused(bundle: Path, tmp_path: Path) -> None:
    """Stored and deflated is all that the format has, and all that is unpacked."""
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(bundle / MANIFEST, MANIFEST)
    with pytest.raises(CorruptError, match=r"manifest\.json: expected stored or deflated, found"):
        unzip_bundle(tmp_path / "b.zip", tmp_path / "back")


def test_a_cut_zip_is_refused(bundle: Path, tmp_path: Path) -> None:
    """No prefix of a zip passes for one, and a missing one is not found."""
    zip_bundle(bundle, tmp_path / "b.zip")
    data = (tmp_path / "b.zip").read_bytes()
    for end in range(0, len(data), 37):
        (tmp_path / "cut.zip").write_bytes(data[:end])
        with pytest.raises(CorruptError, match=r"cut\.zip is not a whole zip file"):
            unzip_bundle(tmp_path / "cut.zip", tmp_path / "back")
    with pytest.raises(NotFoundError, match="no zip file at"):
        unzip_bundle(tmp_path / "none.zip", tmp_path / "back")


def test_a_flipped_bit_in_a_zip_is_refused_or_without_effect(bundle: Path, tmp_path: Path) -> None:
    """Whatever bit is wrong, what is unpacked is what was sealed, or nothing."""
    zip_bundle(bundle, tmp_path / "b.zip")
    data = (tmp_path / "b.zip").read_bytes()
    chance = random.Random(0)
    for turn in range(60):
        wrong = bytearray(data)
        wrong[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (tmp_path / "w.zip").write_bytes(wrong)
        try:
            unzip_bundle(tmp_path / "w.zip", tmp_path / f"back{turn}").check()
        except BundleError:
            assert not (tmp_path / f"back{turn}").exists()


def test_opening_imports_nothing_heavy(bundle: Path) -> None:
    """A server that opens a bundle loads no zip, no ctypes, no shutil for it."""
    code = (
        # pathlib, which functions-framework loads anyway, brings urllib.parse up to Python 3.12
        "import sys, numpy, pathlib; before = set(sys.modules)\n"
        "from maas_sdk.bundle import open_bundle, open_weights\n"
        "open_bundle(sys.argv[1]).check()\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"zipfile", "shutil", "asyncio", "subprocess", "ml_dtypes", "urllib"}


def test_staging_says_where_it_is(tmp_path: Path) -> None:
    """The temporary folder lies beside its target, hidden, with the writer's pid in its name."""
    with Staging(tmp_path / "new" / "b") as staging:
        assert staging.path.parent == tmp_path / "new"
        assert staging.path.name.startswith(f".b.{os.getpid()}-")
