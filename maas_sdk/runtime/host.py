"""The machine's architecture and its processor's features, as LLVM names.

At load XLA only logs which features of an executable the host lacks; the first missing instruction
then ends the process with SIGILL. So they are compared with this list before anything is
deserialised.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Final

__all__ = ["cpu_features", "machine"]

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
    "avxifma": "avx_ifma",
    "avxneconvert": "avx_ne_convert",
    "avxvnni": "avx_vnni",
    "avxvnniint16": "avx_vnni_int16",
    "avxvnniint8": "avx_vnni_int8",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "pclmul": "pclmulqdq",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    # aarch64: arch/arm64/include/uapi/asm/hwcap.h; LLVM: AArch64Features.td
    "complxnum": "fcma",
    "crc": "crc32",
    "dotprod": "asimddp",
    "fp-armv8": "fp",
    "fp16fml": "asimdfhm",
    "fullfp16": "asimdhp",
    "jsconv": "jscvt",
    "lse": "atomics",
    "neon": "asimd",
    "rand": "rng",
    "rcpc": "lrcpc",
    "rdm": "asimdrdm",
    "sve-aes": "sveaes",
    "sve-sha3": "svesha3",
    "sve-sm4": "svesm4",
}


def machine() -> str:
    """Return the architecture, as ``platform.machine()`` does: "x86_64", "aarch64"."""
    # What the module ``platform`` asks on Linux and macOS; importing that module is slow.
    return os.uname().machine


@lru_cache(maxsize=1)
def cpu_features() -> frozenset[str]:
    """Return LLVM names of the processor's features; empty where the kernel hides them."""
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
