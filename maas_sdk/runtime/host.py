"""This machine: its architecture and what its processor can do, in LLVM's words.

XLA records in a CPU executable the features that the compiler was free to use, and at load only
logs those that the host lacks; the first missing instruction then ends the process with SIGILL.
So the features are compared here, before anything is deserialised.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Final

__all__ = ["cpu_features", "features_of_executable", "machine"]

# LLVM's name → the Linux kernel's, where they differ beyond '_' and '-' (x86: arch/x86/include/
# asm/cpufeatures.h; LLVM: X86.td). What is not listed is the same word.
_KERNEL_NAMES: Final = {
    "64bit": "lm",
    "avx512bitalg": "avx512_bitalg",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avxvnni": "avx_vnni",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "pclmul": "pclmulqdq",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    # aarch64
    "fullfp16": "asimdhp",
    "neon": "asimd",
    "dotprod": "asimddp",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "crc": "crc32",
    "rcpc": "lrcpc",
    "fp-armv8": "fp",
}

# Features of which no instruction is ever chosen by XLA's code generator: system, cache, crypto and
# transaction instructions, that come only from intrinsics which tensor programs have none of. An
# executable for AVX2 that was compiled on a server with SGX-age extras runs where these are absent.
# avx10.1 is left out as well: it is another name for the AVX-512 features listed beside it. AMX is
# reached only through libraries that look for it at run time.
_NEVER_GENERATED: Final = frozenset(
    {
        *("64bit", "cx8", "fxsr", "mmx", "sahf", "xsave", "xsavec", "xsaveopt", "xsaves"),
        *("adx", "aes", "crc32", "kl", "pclmul", "rdrnd", "rdseed", "sha", "sha512", "sm3", "sm4"),
        *("vaes", "vpclmulqdq", "widekl"),
        *("cldemote", "clflushopt", "clwb", "clzero", "movdir64b", "movdiri", "prefetchi"),
        *("prfchw", "wbnoinvd"),
        *("enqcmd", "fsgsbase", "hreset", "invpcid", "mwaitx", "pconfig", "pku", "ptwrite"),
        *("rdpid", "rdpru", "rtm", "serialize", "sgx", "shstk", "tbm", "tsxldtrk", "uintr"),
        *("waitpkg", "usermsr"),
        *("amx-bf16", "amx-fp16", "amx-int8", "amx-tile"),
        *("avx10.1", "avx10.1-256", "avx10.1-512"),
    }
)

# "+64bit,+adx,…,-xop": the target machine's features as XLA serialises them.
_FEATURE_LIST: Final = re.compile(rb"[+-][a-z0-9][a-z0-9.\-]*(?:,[+-][a-z0-9][a-z0-9.\-]*){3,}")


def machine() -> str:
    """The architecture, as ``platform.machine()`` says it: "x86_64", "aarch64"."""
    # What the module ``platform`` asks on Linux and macOS; importing that module is slow.
    return os.uname().machine


@lru_cache(maxsize=1)
def cpu_features() -> frozenset[str]:
    """LLVM names of what this processor can do; empty where the kernel does not tell."""
    return _features_of_cpuinfo(_read_cpuinfo())


def _read_cpuinfo() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _features_of_cpuinfo(text: str) -> frozenset[str]:
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    kernel = set(found[1].split()) if found else set()
    llvm = {name for name, theirs in _KERNEL_NAMES.items() if theirs in kernel}
    # Words that are a different feature in the other vocabulary do not exist on x86 or Arm.
    return frozenset(llvm | kernel)


def features_of_executable(data: bytes) -> tuple[str, ...]:
    """Features that a serialized CPU executable may use, as LLVM names, sorted.

    Those of which XLA never emits an instruction are left out. Empty if the executable records
    none, as those of other platforms do not.
    """
    found: set[str] = set()
    for match in _FEATURE_LIST.finditer(data):
        for word in match[0].decode("ascii").split(","):
            # "prefer-…" and "fast-…" tune the compiler; they are no instructions.
            if word.startswith("+") and not word.startswith(("+prefer-", "+fast-", "+tuning")):
                found.add(word[1:])
    return tuple(sorted(found - _NEVER_GENERATED))
