"""``maas plan``: memory, collectives and time of a step on a TPU slice, without a TPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from maas_sdk.cli.options import Debug, Json, Page
from maas_sdk.cli.output import Output, extra, reporting
from maas_sdk.cli.panels import add_command
from maas_sdk.cli.report_file import check_report_file, write_report_file
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
# What training calls them: int8 is for products alone, the rest of the step stays bfloat16.
_PRECISIONS: Final = {"bf16": "bf16", "int8": "int8,bf16"}

# A group of options in the help.
_STEP: Final = "Model and step"


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
            metavar="MODEL",
            help="A decoder by name, such as llama3-8b, or FILE.py:FUNCTION that makes an nnx "
            "module.",
        ),
    ],
    slice_: Annotated[
        str,
        typer.Option(
            "--slice",
            metavar="SLICE",
            help="TPU slice: v5e:4x4, v6e:2x4, v5p:2x2x2, ….",
        ),
    ],
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STRATEGY",
            show_default="compare several",
            help="Sharding strategy: data, fsdp, tensor or fsdp+tensor. Repeat it to compare "
            "several.",
        ),
    ] = None,
    mesh: Annotated[
        str | None,
        typer.Option(
            metavar="AXIS=SIZE,…",
            show_default="by the strategy",
            help="Sizes of the mesh axes, such as fsdp=8,tensor=2.",
        ),
    ] = None,
    step: Annotated[
        str,
        typer.Option(metavar="train|serve", help="Step to compile.", rich_help_panel=_STEP),
    ] = "train",
    phase: Annotated[
        str,
        typer.Option(
            metavar="prefill|decode",
            help="Phase of a decoder's serving step.",
            rich_help_panel=_STEP,
        ),
    ] = "prefill",
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="ROWS",
            show_default="one per chip",
            help="Rows per step, over all chips.",
            rich_help_panel=_STEP,
        ),
    ] = None,
    sequence_length: Annotated[
        int, typer.Option(metavar="TOKENS", help="Tokens per row.", rich_help_panel=_STEP)
    ] = 2048,
    precision: Annotated[
        str,
        typer.Option(metavar="bf16|int8", help="Precision of the products.", rich_help_panel=_STEP),
    ] = "bf16",
    remat: Annotated[
        str,
        typer.Option(
            metavar="all|dots|none",
            help="Recomputation in a decoder's backward pass: everything, everything but matrix "
            "products (dots), or nothing.",
            rich_help_panel=_STEP,
        ),
    ] = "all",
    layers: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            show_default="the model's",
            help="Number of layers of a decoder.",
            rich_help_panel=_STEP,
        ),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:OBJECT",
            show_default="tokens",
            help="Example inputs of a model of your own.",
            rich_help_panel=_STEP,
        ),
    ] = None,
    out: Page = None,
    hlo: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            show_default="not written",
            help="Write the HLO text of the compiled programs into this folder.",
        ),
    ] = None,
    timeout_s: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Longest time that one compilation may take."),
    ] = 900.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Plan a training or serving step on a TPU slice with the real TPU compiler, without a TPU.

    Compiles the step from shapes alone, once per layout. Shows whether it fits, the memory of a
    chip by kind, and the collectives with their bytes, as the compiler reports them; and an
    estimate of the step's time, from a roofline calibrated on published runs. Of several layouts it
    recommends one.

    Needs maas-sdk[train] and the TPU compiler, libtpu, in the folder that MAAS_LIBTPU names. See
    docs/plan.md.
    """
    with reporting(as_json, debug) as output:
        with extra("train"):
            from maas_sdk.plan.planner import plan as make
        # Before compiling, which takes minutes.
        check_report_file("--out", out, ".html", ".htm")
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

            write_report_file(out, html_page(title, made))
            output.note(f"[dim]written:[/dim] {out}")
        _show(output, title, made)
        # A layout that cannot be compiled is a result; a plan without any is a failure.
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
    """Make a compile job per layout from the options of the command.

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
    # A strategy that was said twice is compiled once.
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
                # Absolute: each compilation is a process of its own.
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
    # In the order of the mesh, whatever the order that was typed.
    return {name: found[name] for name in AXES if name in found}


def _strategy_of(axes: dict[str, int]) -> str:
    """Return the strategy that shards weights over the axes of a mesh."""
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
