"""``maas inspect`` and ``maas verify``: the contents of a bundle, and the proof that it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from maas_sdk.cli.build.seal import seal_of, show_seal
from maas_sdk.cli.options import BundlePlace, Debug, Json, TrustedKey
from maas_sdk.cli.output import Output, extra, reporting
from maas_sdk.cli.panels import add_command

if TYPE_CHECKING:
    from maas_sdk.bundle.manifest import Manifest, Program

__all__ = ["inspect", "register", "verify"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    stored = "gs://my-bucket/models/digits@stable"
    add_command(
        app,
        inspect,
        "maas inspect digits.maas",
        "maas inspect digits.maas --json",
        f"maas inspect {stored}",
    )
    add_command(
        app,
        verify,
        "maas verify digits.maas",
        "maas verify digits.maas --tier program",
        f"maas verify {stored}",
    )


def inspect(bundle: BundlePlace, as_json: Json = False, debug: Debug = False) -> None:
    """Show a bundle's contents: programs, inputs and outputs, batch sizes, targets, files.

    For a quantized bundle it shows the loss in quality, the bytes saved and how the weights are
    stored; for a model in a store, its version. It says which tier this machine would open (a
    compiled executable, or the portable program), and why. It checks no hash and loads no program;
    `maas verify` does.

    See docs/bundle.md.
    """
    with reporting(as_json, debug) as output:
        import json

        from maas_sdk.bundle.folder import open_bundle
        from maas_sdk.store import find_version

        folder, version = find_version(bundle)
        opened = open_bundle(folder)
        manifest = opened.manifest
        tier, target, reason = _tier(manifest)
        output.document(
            {
                # By way of the file's text: scripts get the names and values of the documented
                # format.
                "manifest": json.loads(manifest.to_json()),
                "here": {"tier": tier, "target": target, "reason": reason},
                "version": version,
            }
        )
        if not as_json:
            tree = _tree(manifest, tier, target, reason)
            if version is not None:
                tree.add(f"version {version} in its store")
            if opened.signature is not None:
                tree.add("signed; maas verify says by whom")
            if manifest.encryption is not None:
                tree.add(f"encrypted, the key is at {escape(manifest.encryption.key)}")
            output.show(tree)


def _tier(manifest: Manifest) -> tuple[str, str | None, str]:
    """Return the tier, the target and the reason of the choice on this machine."""
    from maas_sdk.errors import ConfigError, IncompatibleError, MachineError

    try:
        with extra("serve"):
            from maas_sdk.runtime.load import local_host
            from maas_sdk.runtime.tiers import choose
        choice = choose(manifest, local_host())
    # An answer, not a failure: what the bundle holds is shown all the same.
    except IncompatibleError as error:
        return "refuse", None, error.message
    # Without maas-sdk[serve] no tier is known, and the rest can be shown.
    except (ConfigError, MachineError) as error:
        return "unknown", None, error.message
    return choice.tier, choice.target, choice.reason


def _tree(manifest: Manifest, tier: str, target: str | None, reason: str) -> Any:
    from rich.tree import Tree

    from maas_sdk.charts.quantities import data_size

    total = sum(entry.size_bytes for entry in manifest.files.values())
    tree = Tree(f"[bold]{escape(manifest.name)}[/bold]  {data_size(total)}, {manifest.created}")
    colour = {"executable": "green", "program": "yellow"}.get(tier, "red")
    here = tree.add(f"here: [{colour}]{tier}[/{colour}]{f' {target}' if target else ''}")
    here.add(escape(reason))
    programs = tree.add("programs")
    for name, program in manifest.programs.items():
        _add_program(programs.add(f"[bold]{escape(name)}[/bold]"), program)
    targets = tree.add("targets")
    for name, made_for in manifest.targets.items():
        targets.add(
            f"{escape(name)}  {made_for.platform} {made_for.arch}, jaxlib {made_for.jaxlib}, "
            f"{len(made_for.cpu_features)} processor features"
        )
    if not manifest.targets:
        targets.add("none: compiled where it is opened")
    _add_stored(tree, manifest)
    files = tree.add(f"{len(manifest.files)} files")
    for folder, (count, size) in sorted(_by_folder(manifest).items()):
        files.add(f"{escape(folder)}  {count} × , {data_size(size)}".replace(" × ,", "×,"))
    for title, values in (("metadata", manifest.metadata), ("producer", manifest.producer)):
        if values:
            branch = tree.add(title)
            for key, value in values.items():
                branch.add(f"{escape(key)}: {escape(value)}")
    return tree


def _add_program(branch: Any, program: Program) -> None:
    for word, specs in (("in ", program.signature.inputs), ("out", program.signature.outputs)):
        for name, spec in specs.items():
            branch.add(escape(f"{word} {name}: {spec}"))
    rows = "padded up, split above" if program.row_independent else "exact sizes only"
    branch.add(f"batches {', '.join(map(str, program.buckets))} ({rows})")
    branch.add(f"{len(program.weights)} weight tensors")
    if program.custom_calls:
        branch.add(f"custom calls {escape(', '.join(program.custom_calls))}")
    if program.verification is None:
        branch.add("[yellow]not verified at export[/yellow]")
    elif not program.verification.rows:
        branch.add("verified at export with other weights; these answered the golden inputs")
    else:
        worst = max(program.verification.max_abs_error.values(), default=0.0)
        branch.add(f"verified on {program.verification.rows} rows, largest difference {worst:.2g}")


def _add_stored(tree: Any, manifest: Manifest) -> None:
    from maas_sdk.cli.stored_weights import compression_lines, encoding_lines

    if manifest.compression is not None:
        branch = tree.add(f"compression: [bold]{escape(manifest.compression.recipe)}[/bold]")
        for line in compression_lines(manifest.compression):
            branch.add(escape(line))
    if manifest.encodings:
        branch = tree.add("encoded weights")
        for line in encoding_lines(manifest):
            branch.add(escape(line))


def _by_folder(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Count and size of files by folder; files at the top stand under their own names."""
    found: dict[str, tuple[int, int]] = {}
    for path, entry in manifest.files.items():
        folder = path.rpartition("/")[0] + "/" if "/" in path else path
        count, size = found.get(folder, (0, 0))
        found[folder] = (count + 1, size + entry.size_bytes)
    return found


def verify(
    bundle: BundlePlace,
    tier: Annotated[
        str | None,
        typer.Option(
            metavar="executable|program",
            show_default="the best one that this machine can open",
            help="Tier to run: the compiled executable, or the portable program.",
        ),
    ] = None,
    trusted_key: TrustedKey = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check signature and hashes, open the bundle here and run its golden inputs.

    Shows the signer. Exits with 1 if a byte differs from what was sealed, if trusted keys are given
    and none of them has signed, if no tier can open the bundle, or if an answer differs from the
    stored one by more than the tolerance of the export.

    Needs maas-sdk[serve], and maas-sdk[seal] for a signed or encrypted bundle. See docs/bundle.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.bundle.folder import open_bundle
        from maas_sdk.errors import ConfigError
        from maas_sdk.store import find_bundle

        if tier not in (None, "executable", "program"):
            raise ConfigError(f"--tier: expected executable or program, got {tier!r}")
        folder = find_bundle(bundle)
        opened = open_bundle(folder, trusted_keys=trusted_key or None)
        # Before the engine loads anything: an executable that was changed must not run.
        opened.check()
        seal = seal_of(opened)
        with extra("serve"):
            from maas_sdk.runtime import load
        engine = load(folder, tier=tier, trusted_keys=trusted_key or None)  # type: ignore[arg-type]
        try:
            # Raises where an answer is off by more than the export's tolerance.
            engine.prime()
            report = engine.report
        finally:
            engine.close()
        show_seal(output, opened)
        _show_verified(output, opened.manifest, seal, report.tier, report.target, report.reason)


def _show_verified(
    output: Output,
    manifest: Manifest,
    seal: dict[str, object],
    tier: str,
    target: str | None,
    reason: str,
) -> None:
    from maas_sdk.charts.quantities import data_size

    total = sum(entry.size_bytes for entry in manifest.files.values())
    output.show(f"[green]✓[/green] {len(manifest.files)} files, {data_size(total)}: hashes agree")
    output.show(f"[green]✓[/green] opens as {tier}{f' {target}' if target else ''}: {reason}")
    output.show(f"[green]✓[/green] golden answers of {', '.join(manifest.programs)} agree")
    output.document(
        {
            "name": manifest.name,
            "files": len(manifest.files),
            "nbytes": total,
            **seal,
            "tier": tier,
            "target": target,
            "reason": reason,
            "programs": list(manifest.programs),
        }
    )
