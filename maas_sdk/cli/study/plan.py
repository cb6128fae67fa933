"""``maas plan``: what a training or serving step would do on a TPU slice, without a TPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from maas_sdk.cli.output import Debug, Json, Output, add_command, extra, reporting
from maas_sdk.errors import ConfigError

if TYPE_CHECKING:
    from maas_sdk.plan.planner import Comparison, StepPlan
    from maas_sdk.tpu.compiler import CompileJob

__all__ = ["make_jobs", "plan", "register"]

# Compared when the user names none, by step.
_STRATEGIES: Final = {
    "train": ("data", "fsdp", "tensor", "fsdp+tensor"),
    "serve": ("data", "tensor", "fsdp+tensor"),
}
_STEPS: Final = ("train", "serve")
_PRECISIONS: Final = {"bf16": "bf16", "int8": "int8,bf16"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        plan,
        "maas plan llama3-8b --slice v5e:4x4",
        "maas plan llama3-8b --slice v5e:4x4 --mesh fsdp=8,tensor=2 --batch-size 32",
        "maas plan llama3-8b --slice v5e:2x4 --step serve --phase decode --precision int8",
        "maas plan my_model.py:make_model --example my_model.py:rows --slice v6e:2x4",
    )


def plan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A decoder by name, or FILE.py:FUNCTION that makes a module."
        ),
    ],
    slice_: Annotated[
        str, typer.Option("--slice", help="Chips, such as v5e:4x4, v6e:2x4 or v5p:2x2x2.")
    ],
    step: Annotated[str, typer.Option(help="train or serve.")] = "train",
    phase: Annotated[
        str, typer.Option(help="Of a decoder's serving step: prefill or decode.")
    ] = "prefill",
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="data, fsdp, tensor or fsdp+tensor; repeat it. Else several."),
    ] = None,
    mesh: Annotated[
        str | None, typer.Option(help="Sizes of mesh axes, such as fsdp=8,tensor=2.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows over all chips; else one per chip.")
    ] = None,
    sequence_length: Annotated[int, typer.Option(help="Tokens of a row.")] = 2048,
    precision: Annotated[str, typer.Option(help="bf16 or int8.")] = "bf16",
    remat: Annotated[
        str, typer.Option(help="What a decoder's blocks compute again: all, dots or none.")
    ] = "all",
    layers: Annotated[int | None, typer.Option(help="Change a decoder's depth.")] = None,
    example: Annotated[
        str | None,
        typer.Option(help="Inputs of a model of your own: FILE.py:OBJECT. Else tokens."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write an HTML page.")] = None,
    hlo: Annotated[
        Path | None, typer.Option(help="Write the compiled programs' text into this folder.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Seconds that one compile may take.")] = 900.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask the real TPU compiler what a step needs and does on a slice, without a TPU.

    It compiles the step from shapes alone, once per layout, and shows whether it fits, the memory
    of a chip by kind, and the collectives, all as the compiler has them; and an estimate of the
    step's time from a roofline that is calibrated on published runs. Of several layouts it
    recommends one. The compiler is libtpu, found in the folder that MAAS_LIBTPU names.
    """
    with reporting(as_json, debug) as output:
        with extra("train"):
            from maas_sdk.plan.planner import plan as make
        jobs = make_jobs(
            model,
            slice_=slice_,
            step=step,
            phase=phase,
            strategies=tuple(strategy or ()),
            mesh=mesh,
            rows=batch_size,
            length=sequence_length,
            precision=precision,
            remat=remat,
            layers=layers,
            example=example,
            hlo=hlo,
        )
        if hlo is not None:
            hlo.mkdir(parents=True, exist_ok=True)
        made = make(jobs, timeout_s=timeout_s, on_plan=lambda one: _progress(output, one))
        title = f"{model} on {slice_}: {step} in {precision}"
        if out is not None:
            from maas_sdk.plan.page import html_page

            out.write_text(html_page(title, made), encoding="utf-8")
            output.note(f"[dim]written:[/dim] {out}")
        _show(output, title, made)
        if all(one.error for one in made.plans):
            raise ConfigError(made.plans[0].error or "nothing could be planned")


def make_jobs(
    model: str,
    *,
    slice_: str,
    step: str = "train",
    phase: str = "prefill",
    strategies: tuple[str, ...] = (),
    mesh: str | None = None,
    rows: int | None = None,
    length: int = 2048,
    precision: str = "bf16",
    remat: str = "all",
    layers: int | None = None,
    example: str | None = None,
    hlo: Path | None = None,
) -> tuple[CompileJob, ...]:
    """A job per layout, as the options of the command say.

    Raises:
        ConfigError: options that contradict each other.
    """
    from maas_sdk.plan.planner import axes_for
    from maas_sdk.sharding.strategies import strategy_by_name
    from maas_sdk.tpu.compiler import CompileJob
    from maas_sdk.tpu.slices import parse_slice

    _among("--step", step, _STEPS)
    _among("--phase", phase, ("prefill", "decode"))
    _among("--precision", precision, tuple(_PRECISIONS))
    _among("--remat", remat, ("all", "dots", "none"))
    target = parse_slice(slice_)
    sizes = None if mesh is None else _axes(mesh)
    chosen = strategies or (_STRATEGIES[step] if sizes is None else (_strategy_of(sizes),))
    count = target.chips if rows is None else rows
    options: dict[str, Any] = {"model": model, "rows": count, "length": length}
    options["changes"] = {} if layers is None else {"layers": layers}
    options["example"] = example
    if step == "train":
        options["remat"] = {"all": True, "dots": "dots", "none": False}[remat]
        options["precision"] = _PRECISIONS[precision]
    else:
        options["phase"] = phase
        options["precision"] = precision
    jobs = []
    for name in dict.fromkeys(chosen):
        kept = strategy_by_name(name).name
        axes = sizes if sizes is not None else axes_for(kept, target.chips)
        jobs.append(
            CompileJob(
                label=name,
                recipe=f"maas_sdk.plan.recipes:{step}",
                options={**options, "strategy": kept},
                slice=target.name,
                axes=axes,
                hlo_file=None if hlo is None else str(hlo.absolute() / f"{name}.hlo.txt"),
            )
        )
    return tuple(jobs)


def _among(option: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ConfigError(f"{option}: expected {' or '.join(known)}, got {given!r}")


def _axes(text: str) -> dict[str, int]:
    from maas_sdk.sharding.mesh import ALIASES, AXES

    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = (piece.strip() for piece in part.partition("="))
        name = ALIASES.get(name, name)
        if name not in AXES or not size.isdecimal() or int(size) < 1 or name in found:
            raise ConfigError(
                f"--mesh: expected AXIS=SIZE,…, such as fsdp=8,tensor=2, got {text!r}; axes are "
                f"{', '.join(AXES)}"
            )
        found[name] = int(size)
    return {name: found[name] for name in AXES if name in found}


def _strategy_of(axes: dict[str, int]) -> str:
    """The strategy that cuts weights over the axes that a mesh has."""
    cut = [name for name in ("fsdp", "tensor") if axes.get(name, 1) > 1]
    return "+".join(cut) or "data"


def _progress(output: Output, one: StepPlan) -> None:
    from rich.markup import escape

    from maas_sdk.charts.quantities import data_size, duration

    if one.error:
        output.note(f"[yellow]note:[/yellow] {escape(one.error)}")
        return
    word = "fits" if one.fits else "does not fit"
    output.note(
        f"[dim]compiled[/dim] {one.label} in {duration(one.compile_s)}, "
        f"{data_size(one.peak_rss_bytes)} of this machine's memory: {word}"
    )


def _show(output: Output, title: str, made: Comparison) -> None:
    from rich.text import Text

    from maas_sdk.charts.quantities import data_size
    from maas_sdk.plan.page import COLUMNS, collective_rows, rows, text_table

    def table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> None:
        # Wider than some screens; what stands in a file or a pipe must not wrap.
        if not output.as_json:
            output.console.print(Text(text_table(heads, body)), soft_wrap=True)
            output.console.print()

    best = made.recommended
    output.show(f"[bold]{title}[/bold]\n")
    table(COLUMNS, rows(made))
    output.show(f"{made.reason}\n")
    shown = best or next((one for one in made.plans if one.nbytes), None)
    if shown is not None:
        kinds = [(name, data_size(size)) for name, size in shown.nbytes.items() if size]
        output.show(f"[bold]{shown.label}[/bold], one chip of {shown.slice.name}\n")
        table(("memory", "bytes"), kinds)
    if best is not None and best.collectives:
        heads = ("collective", "along", "devices", "times per step", "sent per chip")
        table(heads, collective_rows(best))
    output.document(made.to_dict())
