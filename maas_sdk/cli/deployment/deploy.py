"""``maas deploy``: a bundle in the cloud.

Plans are shown before anything is changed, and a person is asked, unless ``--yes`` was said.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from maas_sdk.cli.deployment import options
from maas_sdk.cli.deployment.status import ask_first, asker, open_deployment
from maas_sdk.cli.options import BundlePlace, Debug, Json
from maas_sdk.cli.output import Output, reporting
from maas_sdk.cli.panels import add_command

if TYPE_CHECKING:
    from maas_sdk.bundle.manifest import Manifest
    from maas_sdk.deploy.deployment import Deployment, Outcome
    from maas_sdk.deploy.settings import Settings
    from maas_sdk.deploy.workspace import Release

__all__ = ["deploy", "register", "run_again"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(
        app,
        deploy,
        "maas deploy digits.maas --project my-project",
        "maas deploy digits.maas --project my-project --dry-run",
        "maas deploy digits.maas --project my-project --memory 2Gi --min-instances 1 --public",
        "maas deploy digits.maas --project my-project --invoker user:you@example.com",
        "maas deploy digits.maas --project my-project --set-env MAAS_READY_WAIT_S=60",
        "maas deploy digits.maas --project my-project --state-bucket my-project-states",
    )


def deploy(
    bundle: BundlePlace,
    project: options.Project,
    region: options.Region = options.REGION,
    name: options.NewName = None,
    cpu: options.Cpu = None,
    memory: options.Memory = None,
    concurrency: options.Concurrency = 32,
    min_instances: options.MinInstances = 0,
    max_instances: options.MaxInstances = 10,
    public: options.Public = False,
    invoker: options.Invokers = None,
    set_env: options.Environment = None,
    bundle_from: options.BundleFrom = None,
    store: options.StoreUrl = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    state_bucket: options.StateBucket = None,
    stack: options.Stack = None,
    workspace: options.WorkspaceFolder = options.WORKSPACE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a bundle as a function in your Google Cloud project.

    Packages the bundle, writes Terraform variables, shows the plan, asks, and applies. The apply
    uploads the source.

    Needs terraform on the PATH, a checkout of this repository for its modules, and credentials from
    `gcloud auth application-default login`; --dry-run needs only the checkout. See docs/deploy.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.bundle.folder import open_bundle
        from maas_sdk.deploy import settings as of
        from maas_sdk.deploy.size import bundle_fits
        from maas_sdk.store import find_bundle

        # First: a bundle may have to be fetched and packaged before the question comes up.
        ask_first(as_json, yes or dry_run)
        folder = find_bundle(bundle)
        manifest = open_bundle(folder).manifest
        model = manifest.name
        # --store is for what is too large: a bundle inside needs no fetch at a cold start.
        publish_in = None if bundle_from or bundle_fits(manifest) else store
        cpu, memory = _sized(output, manifest, bool(bundle_from or publish_in), cpu, memory)
        settings = of.Settings(
            project_id=project,
            region=region,
            name=name or of.name_from_model(model),
            instance=of.Instance(
                cpu=cpu,
                memory=memory,
                concurrency=concurrency,
                min=min_instances,
                max=max_instances,
            ),
            public=public,
            # A member typed twice is recorded once, in the order typed.
            invokers=tuple(dict.fromkeys(invoker or ())),
            environment=of.environment_from(set_env or ()),
            model_buckets=of.model_buckets_of(bundle_from or publish_in),
        )
        made = open_deployment(
            output, workspace, stack, project, region, settings.name, state_bucket
        )
        # Before anything is published: settings that Terraform would refuse cost no upload.
        made.check(settings)
        if publish_in:
            bundle_from = _published(output, folder, model, publish_in, dry_run)
        release = _release(output, made, settings, folder, model, bundle_from)
        if dry_run:
            _show_dry_run(output, made, release)
            return
        _show(output, made.apply(release, asker("Apply this plan?", yes)), model)


def run_again(
    output: Output,
    project: str,
    name: str,
    region: str,
    to: int | None,
    yes: bool,
    stack: Path | None,
    workspace: Path,
    *,
    as_json: bool,
) -> None:
    """Run an earlier release of a deployment again, for ``maas rollback``."""
    ask_first(as_json, yes)
    made = open_deployment(output, workspace, stack, project, region, name)
    found = made.rollback(asker("Apply this plan?", yes), to)
    _show(output, found, found.release.model if found.release else name)


def _sized(
    output: Output, manifest: Manifest, fetched: bool, cpu: float | None, memory: str | None
) -> tuple[float, str]:
    """Return CPUs and memory of an instance; choose what the options left out, and say it."""
    from maas_sdk.deploy.memory import choose, need_of

    need = need_of(manifest, fetched=fetched)
    cpu, memory, chosen = choose(need, cpu, memory)
    if chosen:
        output.note(f"an instance has {cpu:g} CPU and {memory} of memory: {need}")
    return cpu, memory


def _published(output: Output, bundle: Path, model: str, store: str, dry_run: bool) -> str:
    """Publish a bundle that is too large for the source; return its place in the store."""
    from maas_sdk.store import open_store

    place = f"{store.rstrip('/')}/{model}"
    if dry_run:
        output.note(f"the bundle is too large to go inside: it would be published as {place}@…")
        # The number that publishing would give is only known by publishing.
        return f"{place}@next"
    version = open_store(store).publish(bundle, model)
    output.note(f"the bundle is too large to go inside: published as {place}@{version}")
    return f"{place}@{version}"


def _release(
    output: Output,
    made: Deployment,
    settings: Settings,
    bundle: Path,
    model: str,
    bundle_from: str | None,
) -> Release:
    """Package the bundle and write the release with its Terraform variables.

    Raises:
        ConfigError: the function's source is too large.
    """
    import tempfile

    from maas_sdk.cli.build.package import size_table
    from maas_sdk.deploy.archive import zip_folder
    from maas_sdk.deploy.package import package
    from maas_sdk.deploy.size import check_limits, zip_size

    with tempfile.TemporaryDirectory(prefix="maas-deploy-") as scratch:
        # In a temporary folder: the zip that stays is kept in the workspace, under its hash.
        function = package(bundle, Path(scratch) / "function", bundle_from=bundle_from)
        archive = zip_folder(function, Path(scratch) / "function.zip")
        size = zip_size(archive)
        # Shown before it is refused: the table says which part is the large one.
        output.show(size_table(size))
        check_limits(size)
        return made.prepare(settings, archive, model)


def _show_dry_run(output: Output, made: Deployment, release: Release) -> None:
    from dataclasses import asdict

    source = made.workspace.source(release.source)
    file = made.workspace.variables_file
    # Read back, so that what is shown is what Terraform would read.
    text = file.read_text(encoding="utf-8")
    terraform = f"terraform -chdir={made.stack}"
    state, copy = "", ""
    if made.state is not None:
        state = f"state: {made.state.url}\n"
        copy = f"cp {made.workspace.backend_file} {made.stack}/\n"
    output.lines(
        f"{text}\nsource: {source}\n{state}\nwould run, and ask before the last one:\n"
        f"{copy}{terraform} init\n{terraform} plan -var-file={file} -out=maas.tfplan\n"
        f"{terraform} apply maas.tfplan"
    )
    output.document(
        {
            "release": asdict(release),
            "variables": str(file),
            "source": str(source),
            "state": made.state and made.state.url,
        }
    )


def _show(output: Output, found: Outcome, model: str) -> None:
    from dataclasses import asdict

    url = found.outputs.get("url")
    number = found.release.number if found.release else None
    output.show(f"release {number} runs" + ("" if found.changed else "; nothing had to change"))
    if url:
        output.lines(f"{url}/v1/models/{model}:predict")
    output.document(
        {
            "release": asdict(found.release) if found.release else None,
            "changed": found.changed,
            "url": url,
            "outputs": found.outputs,
        }
    )
