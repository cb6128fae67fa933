"""The process that loads the TPU compiler, makes programs from recipes and compiles them.

Run by ``compiler`` as a module, never imported by anything else. A job that fails is answered and
the next one tried.
"""

from __future__ import annotations

import math
import os
import re
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import mesh_utils, topologies
from jax.sharding import AxisType, Mesh

from maas_sdk.children.job_loop import Say, run_job_loop
from maas_sdk.errors import ConfigError, MaasError, ModelError
from maas_sdk.hlo.chip_work import chip_work
from maas_sdk.hlo.collectives import Collective, collectives_of
from maas_sdk.hlo.module import parse_module
from maas_sdk.tpu.flops import jaxpr_flops
from maas_sdk.tpu.libtpu import VARIABLE
from maas_sdk.tpu.memory import bytes_by_kind, out_of_memory
from maas_sdk.tpu.program import PlannedProgram
from maas_sdk.tpu.slices import Slice, parse_slice

__all__ = ["compile_job", "load_recipe", "slice_mesh"]

_KIB: Final = 1024


def slice_mesh(target: Slice, axes: Mapping[str, int]) -> Mesh:
    """Make a mesh over a slice that is not attached, its axes laid along the slice's wires.

    Raises:
        ConfigError: the axes do not multiply to the slice's chips, or the compiler does not know
            such a slice.
    """
    if math.prod(axes.values()) != target.chips:
        wanted = " × ".join(f"{name}={size}" for name, size in axes.items())
        raise ConfigError(
            f"mesh {wanted} has {math.prod(axes.values())} devices, {target.name} has "
            f"{target.chips} chips; choose sizes that multiply to {target.chips}"
        )
    # A single chip is less than a host has.
    bounds = {} if target.chips > 1 else {"chips_per_host_bounds": [1] * 3}
    try:
        topology = topologies.get_topology_desc(topology_name=target.name, platform="tpu", **bounds)
    except Exception as error:
        raise ConfigError(f"the TPU compiler does not know {target.name}: {error}") from error
    shape = tuple(axes.values())
    devices: Any = topology.devices
    try:
        placed = mesh_utils.create_device_mesh(
            shape, devices=devices, allow_split_physical_axes=True
        )
    except (NotImplementedError, ValueError, AssertionError):
        placed = np.array(devices).reshape(shape)
    return Mesh(placed, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def load_recipe(reference: str) -> Any:
    """Load the function that ``module:function`` or ``file.py:function`` names.

    Raises:
        ConfigError: not of this form, or nothing there.
    """
    place, _, name = reference.rpartition(":")
    if place.endswith(".py"):
        file = Path(place).absolute()
        sys.path.insert(0, str(file.parent))
        place = file.stem
    try:
        return resolve_name(f"{place}:{name}")
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"recipe {reference!r}: {error}") from error


def compile_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Compile one job and return its result as JSON values.

    Keys: ``fits``; ``needs_bytes`` and ``limit_bytes`` where it does not; ``arguments`` (bytes per
    chip by kind), ``memory`` (the compiler's own figures), ``model_flops``, ``program_flops``,
    ``items``, ``item_name``, ``collectives``, ``work``, ``seconds``, ``peak_rss_bytes``.
    """
    target = parse_slice(job["slice"])
    mesh = slice_mesh(target, dict(job["axes"]))
    program = _made(job, mesh)
    began = time.perf_counter()
    jitted = jax.jit(
        program.fn,
        donate_argnums=program.donate,
        **({} if program.out_shardings is None else {"out_shardings": program.out_shardings}),
    )
    traced = jitted.trace(*program.arguments)
    program_flops = jaxpr_flops(traced.jaxpr)
    lowered = traced.lower()
    lowered_s = time.perf_counter() - began
    result: dict[str, Any] = {
        "arguments": bytes_by_kind(program),
        "program_flops": program_flops,
        "model_flops": program_flops if program.model_flops is None else program.model_flops,
        "items": program.items,
        "item_name": program.item_name,
    }
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        shortage = out_of_memory(str(error))
        if shortage is None:
            raise
        needs, limit = shortage
        result |= {"fits": False, "needs_bytes": needs, "limit_bytes": limit}
    else:
        text = compiled.as_text() or ""
        if job.get("hlo_file"):
            Path(job["hlo_file"]).write_text(text)
        if job.get("executable_file"):
            Path(job["executable_file"]).write_bytes(compiled.runtime_executable().serialize())
        result |= {"fits": True, "memory": _memory(compiled), **_inside(text, mesh, target)}
    compiled_s = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    return result | {
        "seconds": {"lower": lowered_s, "compile": compiled_s},
        "peak_rss_bytes": peak,
    }


def _made(job: Mapping[str, Any], mesh: Mesh) -> PlannedProgram:
    recipe = load_recipe(job["recipe"])
    try:
        program = recipe(mesh, **job["options"])
    except MaasError:
        raise
    except Exception as error:
        raise ModelError(
            f"recipe {job['recipe']} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(program, PlannedProgram):
        raise ConfigError(f"recipe {job['recipe']}: expected a PlannedProgram, got {type(program)}")
    return program


def _memory(compiled: Any) -> dict[str, int]:
    """Return ``memory_analysis()``, bytes of one chip."""
    stats = compiled.memory_analysis()
    fields = ("argument", "output", "alias", "temp", "generated_code")
    return {name: int(getattr(stats, f"{name}_size_in_bytes")) for name in fields}


def _inside(text: str, mesh: Mesh, target: Slice) -> dict[str, Any]:
    """Return the collectives, by kind, axes and links, and the work of one chip."""
    module = parse_module(text)
    gathered: Counter[tuple[Any, ...]] = Counter()
    nbytes: Counter[tuple[Any, ...]] = Counter()
    moved: defaultdict[tuple[Any, ...], float] = defaultdict(float)
    for one in collectives_of(module, mesh.shape):
        key = (one.kind, one.axes, one.group_size, _ways(one, mesh, target))
        gathered[key] += one.times
        nbytes[key] += one.times * one.nbytes
        moved[key] += one.times * one.moved_bytes
    found = [
        {
            "kind": kind,
            "axes": list(axes) if axes is not None else None,
            "group_size": size,
            "ways": ways,
            "times": times,
            "nbytes": nbytes[kind, axes, size, ways],
            "moved_bytes": moved[kind, axes, size, ways],
        }
        for (kind, axes, size, ways), times in gathered.items()
    ]
    work = [[w.times, w.flops, w.int8_ops, w.nbytes, w.beside] for w in chip_work(module)]
    return {"collectives": found, "work": work}


def _ways(one: Collective, mesh: Mesh, target: Slice) -> int:
    """Return the number of one-way links that a chip uses at once for a collective."""
    if one.kind == "collective-permute":
        # The compiler sends around a ring in both directions.
        return 2 if one.group_size > 2 else 1
    devices: Any = mesh.devices.reshape(-1)
    places = [devices[i].coords for i in one.groups[0] if i < devices.size]
    extents = [len(set(along)) for along in zip(*places, strict=True)]
    # A group that fills no block of the grid shares its wires with others: one link is certain.
    return target.ways(extents) if math.prod(extents) == len(places) else 1


def _work(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Answer a job; a compiler's error is an answer too, and the next job is tried."""
    try:
        return compile_job(job)
    except MaasError:
        raise
    except Exception as error:
        text = re.sub(r"\s+", " ", str(error))[:1500]
        raise MaasError(
            f"{type(error).__name__} while compiling for {job['slice']}: {text}"
        ) from error
    finally:
        jax.clear_caches()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    # Behind what is installed, so that only libtpu comes from there.
    sys.path.append(os.environ[VARIABLE])
    run_job_loop(_work)
