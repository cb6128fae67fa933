"""Processor features that a compiled CPU executable needs, as LLVM names.

XLA writes into an executable the features that its compiler was *free* to use: all that the
compiling machine has, capped by ``--xla_cpu_max_isa``, and the cap knows only the large families.
An executable capped at AVX2 on a recent server is so marked for GFNI and AVX-VNNI, which no AMD
processor before Zen 5 and no Intel server before 2023 has both of. So what matters is what the
compiler *did* use. The rule: a feature is dropped only where its absence is certain, either because
no code generator of XLA's emits it, or because none of its encodings is anywhere in the machine
code. A chance match among other bytes keeps the feature: the price is a slower tier, never SIGILL.

Used when an executable is made; a host that serves compares the manifest's list.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["features_of_executable"]

# Features of which no instruction is ever chosen by XLA's code generator: system, cache, crypto and
# transaction instructions, that come only from intrinsics which tensor programs have none of.
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


def _bytes_with(mask: int, value: int) -> bytes:
    """Return a character class of the bytes whose bits under ``mask`` are ``value``."""
    return b"[" + b"".join(b"\\x%02x" % byte for byte in range(256) if byte & mask == value) + b"]"


# The field pp of VEX and EVEX: the prefix that the opcode goes with.
_NONE, _66, _F3, _F2 = 0, 1, 2, 3


def _vex(opcode_map: int, pp: int, opcodes: bytes) -> bytes:
    """Match a VEX prefix: C4, RXB.mmmmm, W.vvvv.L.pp, opcode (Intel SDM volume 2, 2.3)."""
    return b"\\xc4" + _bytes_with(0x1F, opcode_map) + _bytes_with(0x03, pp) + b"[" + opcodes + b"]"


def _evex(opcode_map: int, pp: int | None, opcodes: bytes) -> bytes:
    """Match EVEX: 62, RXBR'.0mmm, W.vvvv.1.pp, any third byte, opcode (Intel SDM volume 2, 2.7)."""
    prefix = _bytes_with(0x04, 0x04) if pp is None else _bytes_with(0x07, 0x04 | pp)
    return b"\\x62" + _bytes_with(0x0F, opcode_map) + prefix + b".[" + opcodes + b"]"


# Every encoding of the features that processors of one family differ in; map 2 is 0F 38, map 3 is
# 0F 3A (Intel SDM volume 2, the pages of the instructions whose CPUID flag it is).
_ENCODINGS: Final = {
    # EXTRQ, INSERTQ, of which LLVM makes shuffles, and MOVNTSS, MOVNTSD, with or without REX; of
    # AMD alone (AMD64 Architecture Programmer's Manual volume 4, the pages of the instructions).
    "sse4a": [rb"[\x66\xf2][\x40-\x4f]?\x0f[\x78\x79]|[\xf2\xf3][\x40-\x4f]?\x0f\x2b"],
    # VPDPBUSD and its three sisters; in EVEX they belong to avx512vnni.
    "avxvnni": [_vex(2, _66, rb"\x50-\x53")],
    # GF2P8MULB, GF2P8AFFINEQB, GF2P8AFFINEINVQB: legacy, VEX, EVEX.
    "gfni": [
        rb"\x0f\x38\xcf|\x0f\x3a[\xce\xcf]",
        *(_vex(2, _66, rb"\xcf"), _vex(3, _66, rb"\xce\xcf")),
        *(_evex(2, _66, rb"\xcf"), _evex(3, _66, rb"\xce\xcf")),
    ],
    # VPOPCNTB/W, VPSHUFBITQMB.
    "avx512bitalg": [_evex(2, _66, rb"\x54\x8f")],
    # VPOPCNTD/Q.
    "avx512vpopcntdq": [_evex(2, _66, rb"\x55")],
    # VPMADD52LUQ, VPMADD52HUQ.
    "avx512ifma": [_evex(2, _66, rb"\xb4\xb5")],
    # VPERMI2B, VPERMT2B, VPMULTISHIFTQB, VPERMB. (Those for words, with W, are avx512bw's.)
    "avx512vbmi": [_evex(2, _66, rb"\x75\x7d\x83\x8d")],
    # VPEXPANDB/W, VPCOMPRESSB/W; VPSHLD and VPSHRD with their variable forms.
    "avx512vbmi2": [_evex(2, _66, rb"\x62\x63\x70-\x73"), _evex(3, _66, rb"\x70-\x73")],
    # VP2INTERSECTD/Q: Tiger Lake and Zen 5 have them, what is between them has not.
    "avx512vp2intersect": [_evex(2, _F2, rb"\x68")],
    # Maps 5 and 6 are its own; in map 3 the forms without 66 are.
    "avx512fp16": [
        _evex(5, None, rb"\x10\x11\x1d\x2a\x2c-\x2f\x51\x58-\x5f\x6e\x78-\x7e"),
        _evex(
            6, None, rb"\x13\x2c\x2d\x42\x43\x4c-\x4f\x56\x57\x96-\x9f\xa6-\xaf\xb6-\xbf\xd6\xd7"
        ),
        *(_evex(3, pp, rb"\x08\x0a\x26\x27\x56\x57\x66\x67\xc2") for pp in (_NONE, _F3)),
    ],
}

# An x86-64 object file: magic, 64 bits, little-endian; its machine, 62, in bytes 18 and 19.
_OBJECT_FILE: Final = re.compile(rb"\x7fELF\x02\x01.{12}\x3e\x00", re.DOTALL)

# "+64bit,+adx,…,-xop": the target machine's features as XLA serialises them.
_FEATURE_LIST: Final = re.compile(rb"[+-][a-z0-9][a-z0-9.\-]*(?:,[+-][a-z0-9][a-z0-9.\-]*){3,}")


def features_of_executable(data: bytes) -> tuple[str, ...]:
    """Return LLVM names of features that a serialized CPU executable needs, sorted.

    Of those that XLA recorded, the ones are left out of which the executable certainly has no
    instruction. Empty if it records none, as those of other platforms do not.
    """
    found: set[str] = set()
    for match in _FEATURE_LIST.finditer(data):
        for word in match[0].decode("ascii").split(","):
            # "prefer-…" and "fast-…" tune the compiler; they are no instructions.
            if word.startswith("+") and not word.startswith(("+prefer-", "+fast-", "+tuning")):
                found.add(word[1:])
    # Without an object file in plain sight, the machine code may be stored in some other form.
    if _OBJECT_FILE.search(data):
        found -= {
            name
            for name, encodings in _ENCODINGS.items()
            if not re.search(b"|".join(encodings), data, re.DOTALL)
        }
    return tuple(sorted(found - _NEVER_GENERATED))
