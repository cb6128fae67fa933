"""Int8 on a TPU, compiled by the real TPU compiler and read back; no TPU is needed.

A quantized model is lowered from shapes, compiled for one chip in a process of its own
(``maas_sdk.plan``), and the compiled program is read. The rule it keeps: what is said
about int8 is what the compiled program does. ``faults`` names each weight that does not hold

    product      every product with it is s8 × s8 → s32
    float copy   no float copy of it lies in main memory
    copy         nor any other copy, such as one in another layout
    reads        it is read once for each product, at one byte or less per number

Times are those of the plan's roofline (``plan/roofline.py``), whose int8 peak counts where
the compiled product takes integers. The compiler's own estimate does not know that int8 is faster
and is not used.

Dimension letters: O output channels, I inputs, M rows that a product is taken with.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.errors import ConfigError
from maas_sdk.hlo.module import array_shapes, parse_module
from maas_sdk.hlo.weight_traces import WeightTrace, trace_weights
from maas_sdk.model.adapt import Model
from maas_sdk.plan.calibration import CONSTANTS
from maas_sdk.plan.roofline import Estimate, estimate
from maas_sdk.tpu import exported
from maas_sdk.tpu.chips import Chip
from maas_sdk.tpu.compiler import CompileJob, compile_jobs
from maas_sdk.tpu.libtpu import Libtpu
from maas_sdk.tpu.slices import parse_slice

__all__ = ["Compiled", "Fault", "Request", "compile_for_tpu", "faults", "products_s"]

_FLOATS: Final = ("f", "bf")
# Bytes that a roofline counts for each number that a product puts out: bfloat16.
_OUTPUT_BYTES: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A program to compile for one chip."""

    label: str
    # A quantized model; or a float one (``model.adapt.adapt``), to compare with.
    model: QuantizedModel | Model
    # What it is called with, by name ("input" for one array without a name): arrays, or
    # ``jax.ShapeDtypeStruct``; shapes and dtypes count.
    inputs: Mapping[str, Any]
    # One chip, such as "v5e:1x1".
    slice: str = "v5e:1x1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A promise that a compiled program does not keep for one weight."""

    # Name of the weight, such as "mlp/up/kernel".
    weight: str
    # "product", "float copy", "copy" or "reads".
    kind: str
    # What was expected, and what is there.
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """A compiled program, read."""

    request: Request
    # By name of the weight: of a quantized model those that are quantized, of a float one all
    # that have two dimensions or more.
    traces: Mapping[str, WeightTrace]
    # The plan's roofline of the whole program.
    estimate: Estimate
    # Bytes of main memory that one call reads and writes.
    hbm_bytes: int
    compile_s: float

    @property
    def chip(self) -> Chip:
        """Chip that it was compiled for."""
        return parse_slice(self.request.slice).chip


def compile_for_tpu(
    requests: Sequence[Request], *, timeout_s: float = 900.0, libtpu: Libtpu | None = None
) -> tuple[Compiled, ...]:
    """Compile programs, one after the other in one process, and read them.

    Args:
        requests: the programs.
        timeout_s: seconds that each may take.
        libtpu: the compiler; None looks for it.

    Raises:
        ConfigError: there is no TPU compiler, or the wrong one; a slice of several chips; a
            program that does not fit.
        MaasError: the compiler failed.
    """
    with tempfile.TemporaryDirectory(prefix="maas-int8-") as folder:
        jobs = [_job(one, Path(folder, str(at))) for at, one in enumerate(requests)]
        answers = compile_jobs(jobs, timeout_s=timeout_s, libtpu=libtpu)
        found = []
        for request, job, answer in zip(requests, jobs, answers, strict=True):
            if answer.error is not None:
                raise answer.error
            assert answer.result is not None
            if not answer.result["fits"]:
                raise ConfigError(
                    f"{request.label}: needs {answer.result['needs_bytes']} bytes, a chip of "
                    f"{request.slice} has {answer.result['limit_bytes']}; take fewer rows"
                )
            assert job.hlo_file is not None
            found.append(_read(request, answer.result, Path(job.hlo_file).read_text()))
    return tuple(found)


def faults(traces: Mapping[str, WeightTrace]) -> tuple[Fault, ...]:
    """Return the faults of a compiled program with its quantized weights; best is none."""
    found = []
    for name, trace in traces.items():
        wrong = [p for p in trace.products if (p.left, p.right, p.result) != ("s8", "s8", "s32")]
        said = [
            (
                "product",
                f"expected s8 × s8 → s32, {p.name} is {p.left} × {p.right} → {p.result}",
            )
            for p in wrong
        ]
        for copy in trace.copies:
            if copy.place == "memory":
                kind = "float copy" if copy.dtype.startswith(_FLOATS) else "copy"
                said.append(
                    (
                        kind,
                        f"expected none in main memory, {copy.name} writes {copy.nbytes} bytes of "
                        f"{copy.dtype}",
                    )
                )
        if not trace.products and not trace.lookups:
            # Of one row the compiler multiplies and adds element by element.
            said.append(("product", "expected s8 × s8 → s32, no product of matrices takes it"))
        most = max(1, len(trace.products)) * trace.nbytes
        if trace.read_bytes > most:
            said.append(
                (
                    "reads",
                    f"expected at most {most} bytes read, its own for each product; read are "
                    f"{trace.read_bytes}",
                )
            )
        found += [Fault(weight=name, kind=kind, text=text) for kind, text in said]
    return tuple(found)


def products_s(quantized: QuantizedModel, compiled: Compiled) -> float:
    """Seconds of the products with weights alone, at the vendor's peaks; to be checked by hand.

        Σ  max(2·M·O·I / peak, (M·I·a + O·I·w + M·O·2) / bandwidth)

    with a and w the bytes of what the compiled product takes, and the int8 peak where both are s8.

    Args:
        quantized: says which axes of each weight are O and I.
        compiled: its program, or that of the float model it was made of.
    """
    chip = compiled.chip
    total = []
    for name, weight in quantized.weights.items():
        layout = weight.plan.layout
        for product in compiled.traces[name].products:
            sides = [array_shapes(f"{side}[8]")[0] for side in (product.left, product.right)]
            activation, stored = (side.nbytes / 8 for side in sides)
            integer = product.left == product.right == "s8"
            rows = product.flops / (2 * layout.channels * layout.inputs)
            nbytes = (
                rows * layout.inputs * activation
                + layout.channels * layout.inputs * stored
                + rows * layout.channels * _OUTPUT_BYTES
            )
            peak = chip.int8_ops if integer else chip.bf16_flops
            total.append(product.times * max(product.flops / peak, nbytes / chip.hbm_bandwidth))
    return math.fsum(total)


def _job(request: Request, place: Path) -> CompileJob:
    if parse_slice(request.slice).chips != 1:
        raise ConfigError(
            f"{request.label}: expected a slice of one chip, such as v5e:1x1, got {request.slice}"
        )
    file = place.with_suffix(".stablehlo")
    model, bare = _model(request)
    run = model.bind(None)
    struct: Any = jax.ShapeDtypeStruct
    leaves = [struct(np.shape(leaf.value), leaf.dtype) for leaf in model.leaves]
    given = {name: struct(np.shape(x), x.dtype) for name, x in request.inputs.items()}
    exported.write(file, lambda leaves, given: run(leaves, given, bare), leaves, given)
    return CompileJob(
        label=request.label,
        recipe=exported.RECIPE,
        options={"file": str(file), "kinds": ["weights", "batch"]},
        slice=request.slice,
        axes={"chip": 1},
        hlo_file=str(place.with_suffix(".hlo")),
    )


def _model(request: Request) -> tuple[Model, bool]:
    if isinstance(request.model, QuantizedModel):
        return request.model.as_model(), request.model.bare
    return request.model, list(request.inputs) == ["input"]


def _read(request: Request, result: Mapping[str, Any], text: str) -> Compiled:
    model, _ = _model(request)
    numbers = {leaf.name: number for number, leaf in enumerate(model.leaves)}
    parameters, elements = {}, {}
    if isinstance(request.model, QuantizedModel):
        for name, weight in request.model.weights.items():
            elements[name] = weight.plan.layout.channels * weight.plan.layout.inputs
            for tensor in weight.plan.tensors:
                # Codes, of whatever format, are what takes a byte or less; scales do not.
                if weight.stored.tensors[tensor].dtype.itemsize == 1:
                    parameters[numbers[tensor]] = name
    else:
        for name, number in numbers.items():
            shape = np.shape(model.leaves[number].value)
            if len(shape) > 1:
                parameters[number], elements[name] = name, math.prod(shape)
    work = result["work"]
    chip = parse_slice(request.slice).chip
    return Compiled(
        request=request,
        traces=trace_weights(parse_module(text), parameters, elements),
        estimate=estimate(
            work=work,
            collectives=[],
            model_flops=0.0,
            chip=chip,
            chips=1,
            constants=CONSTANTS,
        ),
        hbm_bytes=sum(times * nbytes for times, _, _, nbytes, _ in work),
        compile_s=result["seconds"]["compile"],
    )
