"""What a processor can do, and what an executable asks of it: host.py and instructions.py."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from maas_sdk.export.stablehlo import portable
from maas_sdk.export.targets.instructions import features_of_executable
from maas_sdk.runtime import host, xla
from maas_sdk.runtime.host import _features_of_cpuinfo, cpu_features, machine

# The flags that matter here, as /proc/cpuinfo of these machines has them.
HASWELL = (
    "fpu cx8 cmov mmx fxsr sse sse2 ht syscall nx rdtscp lm pni pclmulqdq ssse3 fma cx16 sse4_1 "
    "sse4_2 movbe popcnt aes xsave avx f16c rdrand lahf_lm abm fsgsbase bmi1 avx2 bmi2 xsaveopt"
)
SKYLAKE_SERVER = f"{HASWELL} 3dnowprefetch rtm mpx avx512f avx512dq avx512cd avx512bw avx512vl clwb"
ZEN_3 = f"{HASWELL} sse4a misalignsse 3dnowprefetch clzero sha_ni vaes vpclmulqdq rdpid"
ZEN_4 = (
    f"{ZEN_3} avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512_bf16 avx512vbmi "
    "avx512_vbmi2 gfni avx512_vnni avx512_bitalg avx512_vpopcntdq"
)
GRAVITON_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp ssbs"
)
LEVELS = {"Haswell": HASWELL, "Skylake": SKYLAKE_SERVER, "Zen 3": ZEN_3, "Zen 4": ZEN_4}

on_x86 = pytest.mark.skipif(machine() != "x86_64", reason="compiles for x86-64 levels")


def features(flags, word="flags"):
    line = f"processor\t: 0\nmodel name\t: some\n{word}\t\t: {flags}\nbugs\t\t: none\n"
    return _features_of_cpuinfo(f"{line}\n{line}")


def test_linux_words_become_llvm_words():
    """Names that the kernel spells otherwise are translated; the rest are the same word."""
    assert features(HASWELL) >= {"64bit", "sse3", "sse4.1", "sse4.2", "bmi", "lzcnt", "avx2", "fma"}
    assert not features(HASWELL) & {"avx512f", "gfni", "avxvnni"}
    assert features(ZEN_4) >= {"avx512bf16", "avx512vbmi2", "avx512vnni", "avx512bitalg", "gfni"}
    assert features("avx_vnni lm") >= {"avxvnni", "64bit"}
    arm = features(GRAVITON_2, "Features")
    assert arm >= {"fp-armv8", "neon", "crc", "lse", "fullfp16", "rdm", "rcpc", "dotprod", "aes"}
    assert "sve" not in arm


@pytest.mark.parametrize("text", ["", "flags\n", "model name : x\n", "\0\xff\n"])
def test_a_kernel_that_does_not_tell(text):
    """No list means no features: executables that need any are refused, programs still run."""
    assert _features_of_cpuinfo(text) == frozenset()


def test_without_proc(monkeypatch):
    """A machine without /proc/cpuinfo is no error."""
    monkeypatch.setattr("builtins.open", lambda *_, **__: (_ for _ in ()).throw(OSError()))
    assert host._read_cpuinfo() == ""


def test_the_feature_list_of_an_executable():
    """Minus and tuning words are no needs, nor is what XLA never emits; junk has none."""
    listed = b"\0\x12\x40+64bit,+aes,+avx2,+avxvnni,+fma,+gfni,+prefer-256-bit,-avx512f,-sse4a\0"
    assert features_of_executable(listed) == ("avx2", "avxvnni", "fma", "gfni")
    assert features_of_executable(b"") == ()
    assert features_of_executable(bytes(range(256)) * 8) == ()


# One instruction each, as GNU as writes it.
INSTRUCTIONS = {
    "extrq $0x10,$0x28,%xmm2": ("660f78c22810", "sse4a"),
    "insertq %xmm10,%xmm1": ("f2410f79ca", "sse4a"),
    "movntss %xmm3,(%rdi)": ("f30f2b1f", "sse4a"),
    "vpdpbusd %ymm2,%ymm1,%ymm0": ("c4e27550c2", "avxvnni"),
    "{vex} vpdpwssds %xmm9,%xmm1,%xmm8": ("c4427153c1", "avxvnni"),
    "gf2p8mulb %xmm1,%xmm0": ("660f38cfc1", "gfni"),
    "vgf2p8affineqb $0,%ymm0,%ymm1,%ymm1": ("c4e3f5cec800", "gfni"),
    "vgf2p8affineinvqb $8,%zmm2,%zmm1,%zmm0": ("62f3f548cfc208", "gfni"),
    "vpopcntb %zmm1,%zmm0": ("62f27d4854c1", "avx512bitalg"),
    "vpopcntq %zmm1,%zmm0": ("62f2fd4855c1", "avx512vpopcntdq"),
    "vpmadd52luq %zmm2,%zmm1,%zmm0": ("62f2f548b4c2", "avx512ifma"),
    "vpermb %zmm2,%zmm1,%zmm0": ("62f275488dc2", "avx512vbmi"),
    "vpshldd $3,%zmm2,%zmm1,%zmm0": ("62f3754871c203", "avx512vbmi2"),
    "vaddph %zmm2,%zmm1,%zmm0": ("62f5744858c2", "avx512fp16"),
    "vfmadd213ph %zmm2,%zmm1,%zmm0": ("62f67548a8c2", "avx512fp16"),
    "vcmpph $1,%zmm2,%zmm1,%k1": ("62f37448c2ca01", "avx512fp16"),
}
# Neighbours of the above that every AVX2 or AVX-512 processor has.
PLAIN = ("c4e27d1837", "c5fc1009", "c4e271b8c2", "62f1744858c2", "62f2754898c2", "62f37d4825c2ff")


@pytest.mark.parametrize("text", INSTRUCTIONS)
def test_what_is_used_is_needed(text):
    """A feature that the compiler was free to use counts only if an encoding of it is there."""
    code, feature = INSTRUCTIONS[text]
    extras = sorted({name for _, name in INSTRUCTIONS.values()})
    listed = ",".join(f"+{name}" for name in ["avx2", *extras]).encode()
    object_file = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x01\0\x3e\0"
    plain = bytes.fromhex("".join(PLAIN))
    assert features_of_executable(listed + b"\0" + object_file + plain) == ("avx2",)
    data = listed + b"\0" + object_file + plain + bytes.fromhex(code) + plain
    assert features_of_executable(data) == tuple(sorted(("avx2", feature)))
    # Without machine code in plain sight nothing is dropped.
    assert set(features_of_executable(listed + plain)) == {"avx2", *extras}


def compiled(tmp_path, fn, *examples, max_isa):
    """Features of a program compiled at a level, in a process of its own."""
    lowered = jax.jit(fn).lower(*examples)
    (tmp_path / "p").write_bytes(portable(lowered.compiler_ir("stablehlo"), where="test").data)
    code = (
        "import sys\nfrom maas_sdk.runtime import xla\n"
        "from maas_sdk.export.targets.instructions import features_of_executable as f\n"
        "print(*f(xla.XlaClient().compile(open(sys.argv[1], 'rb').read()).serialize()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p")],
        env={**os.environ, "XLA_FLAGS": f"--xla_cpu_max_isa={max_isa}"},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return frozenset(done.stdout.split())


def network(x, w):
    h = jax.nn.gelu(x @ w)
    return jax.nn.softmax(h), h.argmax(axis=1)


@on_x86
@pytest.mark.skipif("avx2" not in cpu_features(), reason="this processor has no AVX2")
def test_an_avx2_executable_runs_on_every_avx2_machine(tmp_path):
    """Whatever machine made it: what a float network needs, Haswell has."""
    x, w = np.ones((4, 64), np.float32), np.ones((64, 64), np.float32)
    needs = compiled(tmp_path, network, x, w, max_isa="AVX2")
    assert {"avx2", "fma"} <= needs <= cpu_features()
    for name, flags in LEVELS.items():
        assert needs <= features(flags), name


@on_x86
@pytest.mark.skipif("avx512vl" not in cpu_features(), reason="this processor has no AVX-512")
def test_an_avx512_executable_needs_avx512(tmp_path):
    """Skylake's AVX-512 is enough for a float network, AVX2 is not."""
    x, w = np.ones((4, 64), np.float32), np.ones((64, 64), np.float32)
    needs = compiled(tmp_path, network, x, w, max_isa="AVX512")
    assert "avx512f" in needs
    assert needs <= features(SKYLAKE_SERVER)
    assert needs <= features(ZEN_4)
    assert not needs <= features(ZEN_3)


@on_x86
@pytest.mark.skipif("gfni" not in cpu_features(), reason="this processor has no GFNI")
def test_an_executable_that_uses_gfni_needs_it(tmp_path):
    """Rotations of bytes are compiled to GFNI where it is there: then Haswell and Zen 3 lack it."""
    needs = compiled(
        tmp_path, lambda x: (x << 3) | (x >> 5), np.ones((4, 4096), np.uint8), max_isa="AVX2"
    )
    assert needs - features(HASWELL) == {"gfni"}
    assert needs - features(ZEN_3) == {"gfni"}


@on_x86
@pytest.mark.skipif("avx512fp16" not in cpu_features(), reason="this processor has no AVX512-FP16")
def test_an_executable_that_uses_half_precision_needs_it(tmp_path):
    """float16 arithmetic is compiled to AVX512-FP16 where it is there."""
    needs = compiled(
        tmp_path, lambda x: x * x + x, np.ones((4, 4096), np.float16), max_isa="AVX512"
    )
    assert needs - features(SKYLAKE_SERVER) == {"avx512fp16"}


def test_this_machine():
    """The processor here can run what is compiled here."""
    if machine() == "x86_64":
        assert cpu_features() >= {"64bit", "sse2"}
    client = xla.XlaClient()
    lowered = jax.jit(lambda x: x + 1).lower(np.ones(3, np.float32))
    data = portable(lowered.compiler_ir("stablehlo"), where="test").data
    assert set(features_of_executable(client.compile(data).serialize())) <= cpu_features()
