from __future__ import annotations

import numpy as np
import pytest

from maas_sdk import runtime
from maas_sdk.bundle.manifest import Manifest, Program, Target, stablehlo_path
from maas_sdk.errors import IncompatibleError
from maas_sdk.export import default_targets
from maas_sdk.runtime import xla
from maas_sdk.runtime.cache import CompileCache
from maas_sdk.runtime.tiers import Choice, Host, choose, obstacle
from maas_sdk.tensors import Signature, TensorSpec

BUILD = "0.10.2+990e6a0b"
HOST = Host(
    platform="cpu", arch="x86_64", jaxlib=BUILD, cpu_features=frozenset({"avx", "avx2", "fma"})
)
FITS = Target(platform="cpu", arch="x86_64", jaxlib=BUILD, cpu_features=("avx", "avx2"))
X = np.ones((2, 4), np.float32)
Y = X @ np.arange(12, dtype=np.float32).reshape(4, 3)


def manifest(**targets):
    spec = TensorSpec(dtype="float32", shape=(None,))
    program = Program(
        signature=Signature(inputs={"x": spec}, outputs={"y": spec}),
        weights=(),
        buckets=(1,),
        row_independent=True,
    )
    return Manifest(name="m", programs={"predict": program}, targets=targets)


OBSTACLES = [
    (
        FITS._replace(arch="aarch64"),
        "made for cpu aarch64, this machine is cpu x86_64",
    ),
    (
        FITS._replace(platform="cuda"),
        "made for cuda x86_64, this machine is cpu x86_64",
    ),
    (
        FITS._replace(jaxlib="0.10.1+aaaaaaaa"),
        f"compiled by jaxlib 0.10.1+aaaaaaaa, here is {BUILD}",
    ),
    (
        FITS._replace(jaxlib="0.10.2+aaaaaaaa"),
        f"compiled by jaxlib 0.10.2+aaaaaaaa, here is {BUILD}",
    ),
    (
        FITS._replace(cpu_features=("avx2", "avx512f", "avx512bw")),
        "this processor lacks avx512bw, avx512f",
    ),
]


@pytest.mark.parametrize(("target", "why"), OBSTACLES)
def test_what_keeps_an_executable_from_running(target, why):
    """Platform, jaxlib's build or a feature: the first that differs is said, with both sides."""
    assert obstacle(target, HOST) == why
    assert obstacle(FITS, HOST) is None
    choice = choose(manifest(one=target), HOST)
    assert (choice.tier, choice.target) == ("program", None)
    assert choice.reason.startswith("compiled here: one")
    assert why in choice.reason
    with pytest.raises(IncompatibleError) as caught:
        choose(manifest(one=target), HOST, wanted="executable")
    message = str(caught.value)
    assert message.startswith("bundle 'm': no executable fits this machine: one")
    assert why in message
    assert f"Export it on this machine (jaxlib {BUILD}), or load it without tier=" in message


def test_the_executable_for_the_most_features_is_taken():
    """Of the levels of one architecture the higher one has all features of the lower, and more."""
    sse = FITS._replace(cpu_features=())
    more = FITS._replace(cpu_features=("avx", "avx2", "fma"))
    too_much = FITS._replace(cpu_features=("avx", "avx2", "avx512f", "fma"))
    choice = choose(manifest(a=more, b=FITS, c=sse, d=too_much), HOST)
    assert choice == Choice(tier="executable", target="a", reason="target a fits this machine")
    assert choose(manifest(b=FITS, c=sse, d=too_much), HOST).target == "b"
    assert choose(manifest(c=sse, d=too_much), HOST, wanted="executable").target == "c"
    assert choose(manifest(a=FITS, b=FITS), HOST).target == "b"


def test_without_executables():
    """A bundle of programs alone is compiled here, and says so."""
    choice = choose(manifest(), HOST)
    assert choice.reason == "compiled here: the bundle holds no executables"
    with pytest.raises(IncompatibleError, match="the bundle holds no executables"):
        choose(manifest(), HOST, wanted="executable")


def test_the_program_tier_can_be_asked_for():
    """Even where an executable fits."""
    choice = choose(manifest(a=FITS), HOST, wanted="program")
    assert choice.reason == "compiled here: tier='program' was asked for"


def test_all_obstacles_are_named():
    """One reason per target, by name."""
    choice = choose(manifest(a=OBSTACLES[0][0], b=OBSTACLES[-1][0]), HOST)
    assert choice.reason == (
        "compiled here: a is made for cpu aarch64, this machine is cpu x86_64; "
        "b: this processor lacks avx512bw, avx512f"
    )


# ---- the same through load(), on a real bundle ----


@pytest.fixture
def deserialized(monkeypatch):
    """Sizes of what was handed to XLA as executable code, at the seam."""
    seen = []
    load = xla.XlaClient.load

    def spy(self, serialized):
        seen.append(len(serialized))
        return load(self, serialized)

    monkeypatch.setattr(xla.XlaClient, "load", spy)
    return seen


@pytest.mark.skipif(not default_targets(), reason="nothing can be compiled ahead of time here")
def test_an_executable_is_opened_where_it_fits(tiny_bundle, deserialized):
    """Tier 1: the best target of this machine, and no compiler."""
    with runtime.load(tiny_bundle, tier="executable") as engine:
        assert engine.report.tier == "executable"
        assert engine.report.target == default_targets()[0]
        assert engine.report.reason == f"target {default_targets()[0]} fits this machine"
        np.testing.assert_allclose(engine.predict(X), Y)
    assert deserialized


def set_all(field, value):
    def change(document):
        for target in document["targets"].values():
            target[field] = value

    return change


@pytest.mark.skipif(not default_targets(), reason="nothing can be compiled ahead of time here")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (set_all("jaxlib", "0.9.0+12345678"), "is compiled by jaxlib 0.9.0+12345678, here is"),
        (set_all("platform", "tpu"), "is made for tpu "),
        (set_all("arch", "riscv64"), "is made for cpu riscv64, this machine is cpu "),
        (set_all("cpu_features", ["avx9000"]), "this processor lacks avx9000"),
    ],
)
def test_an_executable_that_does_not_fit_is_never_deserialized(
    change, why, changed_bundle, deserialized, tmp_path
):
    """Tier 2 answers instead and says why; insisting on tier 1 is refused. XLA sees no byte."""
    bundle = changed_bundle(change)
    with runtime.load(bundle, cache_dir=tmp_path / "cache") as engine:
        assert engine.report.tier == "program"
        assert why in engine.report.reason
        np.testing.assert_allclose(engine.predict(X), Y)
    with pytest.raises(IncompatibleError, match="no executable fits this machine") as caught:
        runtime.load(bundle, tier="executable", cache_dir=tmp_path / "cache")
    assert why in str(caught.value)
    assert deserialized == []


def test_programs_compiled_here_are_kept(tiny_bundle, deserialized, tmp_path):
    """The second load of tier 2 takes them from the cache; unreadable ones are compiled."""
    cache = tmp_path / "cache"
    for expected in (0, 4):
        with runtime.load(tiny_bundle, tier="program", cache_dir=cache) as engine:
            np.testing.assert_allclose(engine.predict(X[:1]), Y[:1])
        assert len(deserialized) == expected
    for entry in cache.iterdir():
        entry.write_bytes(entry.read_bytes()[:-1])
    for expected in (4, 8):
        with runtime.load(tiny_bundle, tier="program", cache_dir=cache) as engine:
            np.testing.assert_allclose(engine.predict(X[:1]), Y[:1])
        assert len(deserialized) == expected
    for entry in cache.iterdir():
        CompileCache(cache).put(entry.stem, b"whole, but nothing that XLA can read")
    with runtime.load(tiny_bundle, tier="program", cache_dir=cache) as engine:
        np.testing.assert_allclose(engine.predict(X[:1]), Y[:1])
    assert len(deserialized) == 12


def test_a_program_that_xla_cannot_read(changed_bundle, tmp_path):
    """Tier 3: with right hashes and wrong content, the refusal is XLA's first sentence."""
    import hashlib

    junk = b"no StableHLO at all"
    path = stablehlo_path("predict", 1)

    def change(document):
        document["files"][path] = {
            "size_bytes": len(junk),
            "sha256": hashlib.sha256(junk).hexdigest(),
        }

    bundle = changed_bundle(change)
    (bundle / path).write_bytes(junk)
    with pytest.raises(IncompatibleError, match=r"XLA cannot compile the program: .*jaxlib here"):
        runtime.load(bundle, tier="program", cache_dir=tmp_path / "cache")
