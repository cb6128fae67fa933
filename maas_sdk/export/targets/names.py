"""Compile targets by name, and the compiler settings of each.

The rule: a target's processor level is capped by an XLA flag in the environment of the compiling
process; XLA reads it once, and compile options do not change it. So every target is compiled in a
process of its own. A level can be lowered below this machine's, never raised above it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from maas_sdk.errors import ConfigError, ExportError, MaasError, MachineError
from maas_sdk.export.targets.devices import accelerator
from maas_sdk.runtime import host
from maas_sdk.runtime.plugins import find_plugin
from maas_sdk.tpu.chips import CHIPS
from maas_sdk.tpu.libtpu import find_libtpu

__all__ = ["TARGETS", "TargetSpec", "default_targets", "find_targets"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """One compile target."""

    name: str
    # Machine architecture as ``platform.machine()`` says it; of a TPU its generation, of a GPU its
    # compute capability.
    arch: str
    # PJRT platform: "cpu", "cuda" or "tpu".
    platform: str = "cpu"
    # Platform that jax lowers programs for.
    lowering: str = "cpu"
    # Flags for XLA_FLAGS of the compiling process.
    xla_flags: str = ""
    # LLVM names of features without which the level is not there.
    needs: frozenset[str] = frozenset()


TARGETS: Final[dict[str, TargetSpec]] = {
    spec.name: spec
    for spec in (
        TargetSpec(
            name="cpu-x86_64-avx512",
            arch="x86_64",
            xla_flags="--xla_cpu_max_isa=AVX512",
            needs=frozenset({"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512cd"}),
        ),
        TargetSpec(
            name="cpu-x86_64-avx2",
            arch="x86_64",
            xla_flags="--xla_cpu_max_isa=AVX2",
            needs=frozenset({"avx2", "fma"}),
        ),
        TargetSpec(name="cpu-x86_64-sse4", arch="x86_64", xla_flags="--xla_cpu_max_isa=SSE4_2"),
        TargetSpec(name="cpu-aarch64", arch="aarch64"),
        # One chip each; the TPU compiler needs none.
        *(
            TargetSpec(name=f"tpu-{chip}-1", arch=chip, platform="tpu", lowering="tpu")
            for chip in CHIPS
        ),
        # The CUDA compiler tries its kernels out on the GPU: they are compiled where there is one.
        *(
            TargetSpec(name=f"cuda-{arch}", arch=arch, platform="cuda", lowering="cuda")
            for arch in ("sm75", "sm80", "sm86", "sm89", "sm90", "sm100", "sm120")
        ),
    )
}

# What a fleet is made of: AVX-512 and AVX2 machines. SSE4 and accelerators are for who asks.
_ON_REQUEST: Final = frozenset(
    {"cpu-x86_64-sse4", *(name for name, spec in TARGETS.items() if spec.platform != "cpu")}
)


def default_targets() -> tuple[str, ...]:
    """Return the targets that this machine can compile for, best level first."""
    return tuple(
        name
        for name, spec in TARGETS.items()
        if name not in _ON_REQUEST and _obstacle(spec) is None
    )


def find_targets(names: Iterable[str] | None) -> tuple[TargetSpec, ...]:
    """Return the named targets, or this machine's own for None; "cuda" is the GPU that is here.

    Raises:
        ExportError: a name is unknown, or this machine cannot compile for it.
    """
    if isinstance(names, str):
        names = (names,)
    found = []
    for name in default_targets() if names is None else dict.fromkeys(names):
        spec = TARGETS.get(_gpu_here() if name == "cuda" else name)
        if spec is None:
            raise ExportError(
                f"unknown target {name!r}; known are {', '.join(TARGETS)}", target=name
            )
        obstacle = _obstacle(spec)
        if obstacle and spec.platform != "cpu":
            raise ExportError(f"target {name}: {obstacle}", target=name)
        if obstacle:
            raise ExportError(
                f"target {name}: {obstacle}. Targets of this machine: "
                f"{', '.join(default_targets()) or 'none'}; export on a machine that has the "
                "level, or leave the target out (the StableHLO programs run everywhere)",
                target=name,
            )
        found.append(spec)
    return tuple(found)


def _gpu_here() -> str:
    """Return the target of this machine's first GPU."""
    found = accelerator("cuda")
    if isinstance(found, str):
        raise ExportError(f"target cuda: {found}", target="cuda")
    return f"cuda-{found.arch}"


def _obstacle(spec: TargetSpec) -> str | None:
    if spec.platform == "tpu":
        try:
            find_libtpu()
        except (ConfigError, MachineError) as error:
            return error.message
        return None
    if spec.platform != "cpu":
        try:
            find_plugin(spec.platform)
        except MaasError as error:
            return error.message
        return None
    if spec.arch != host.machine():
        return f"it is for {spec.arch}, this machine is {host.machine()}"
    missing = spec.needs - host.cpu_features()
    if missing:
        return f"this machine's processor lacks {', '.join(sorted(missing))}"
    return None
