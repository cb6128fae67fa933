"""Settings of a deployment: name, place, size and access, as Terraform's variables.

The rule: wrong settings are refused here, before anything is packaged or planned, with the option's
name. The stack checks the same again; names of its variables are known in this file alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from maas_sdk.deploy.memory import check_processors
from maas_sdk.errors import ConfigError, MaasError

__all__ = [
    "Instance",
    "Settings",
    "environment_from",
    "model_buckets_of",
    "name_from_model",
    "render",
    "settings_document",
    "settings_from",
    "variables",
]

_PROJECT: Final = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_REGION: Final = re.compile(r"[a-z]+-[a-z]+[0-9]+")
# Accounts and buckets are named after it.
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,18}[a-z0-9]")
# Without these a stack is none of ours.
_NEEDED: Final = {"project_id", "region", "name", "source_zip"}

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# https://cloud.google.com/run/docs/container-contract and the functions' own.
_RESERVED: Final = re.compile(
    r"PORT|K_(?:SERVICE|REVISION|CONFIGURATION)|FUNCTION_(?:TARGET|SIGNATURE_TYPE)|X_GOOGLE_.*"
)
_SECRET: Final = re.compile(r"password|secret|token|private_key", re.IGNORECASE)
# All names and values of a function together.
_MAX_ENVIRONMENT_BYTES: Final = 32 * 1024
# https://cloud.google.com/iam/docs/principal-identifiers
_MEMBER: Final = re.compile(
    r"(?:user|group|serviceAccount):[^\s:@]+@[^\s:@]+\.[^\s:@]+|domain:[^\s:@]+\.[^\s:@]+"
    r"|principal(?:Set)?://\S+"
)
# What everybody is called.
_EVERYBODY: Final = ("allUsers", "allAuthenticatedUsers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """Size of one instance of a function, and the number of instances.

    Attributes:
        cpu: processors.
        memory: with Mi or Gi, and as much as its processors take (``memory.py``).
        concurrency: requests at once; more than one needs a whole processor.
        min: kept running while nobody calls: paid for, and never cold.
        max: started at most.
        timeout_s: for one request.
    """

    cpu: float = 1
    memory: str = "1Gi"
    concurrency: int = 32
    min: int = 0
    max: int = 10
    timeout_s: int = 60

    def __post_init__(self) -> None:
        check_processors(self.cpu, self.memory)
        if not 1 <= self.concurrency <= 1000:
            raise ConfigError(f"concurrency {self.concurrency}: expected 1 to 1000")
        if self.concurrency > 1 and self.cpu < 1:
            raise ConfigError(
                f"concurrency {self.concurrency} with {self.cpu:g} CPU: less than one CPU serves "
                "one request at a time: say --concurrency 1, or --cpu 1"
            )
        if not 0 <= self.min <= self.max or self.max < 1:
            raise ConfigError(
                f"instances {self.min} to {self.max}: expected 0 ≤ min ≤ max, max ≥ 1"
            )
        if not 1 <= self.timeout_s <= 3600:
            raise ConfigError(f"timeout {self.timeout_s} s: expected 1 to 3600")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of a deployment.

    Attributes:
        project_id: of Google Cloud, as `gcloud projects list` shows it.
        name: of the function.
        region: where it runs.
        instance: its size.
        public: whether anybody may call; else accounts with the right to.
        invokers: who is given that right, as ``user:you@example.com``.
        environment: variables of the function; none of them secret.
        model_buckets: which it reads at start, where its bundle is fetched.
        force_destroy: whether destroying takes the models in the bucket along.
    """

    project_id: str
    name: str
    region: str = "europe-west1"
    instance: Instance = field(default_factory=Instance)
    public: bool = False
    invokers: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    model_buckets: tuple[str, ...] = ()
    force_destroy: bool = False

    def __post_init__(self) -> None:
        if not _PROJECT.fullmatch(self.project_id):
            raise ConfigError(
                f"project {self.project_id!r}: expected a project's id, 6 to 30 of a-z, 0-9 and -, "
                "as the first column of `gcloud projects list` has it; not its name or number"
            )
        if not _REGION.fullmatch(self.region):
            raise ConfigError(
                f"region {self.region!r}: expected a region such as europe-west1, not a zone"
            )
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"name {self.name!r}: expected 2 to 20 of a-z, 0-9 and -, beginning with a letter "
                "and not ending with -"
            )
        for member in self.invokers:
            _check_member(member)
        for name in self.environment:
            _check_variable(name)
        size = sum(len(f"{name}{value}".encode()) for name, value in self.environment.items())
        if size > _MAX_ENVIRONMENT_BYTES:
            raise ConfigError(
                f"--set-env: names and values have {size:,} bytes, a function takes at most "
                f"{_MAX_ENVIRONMENT_BYTES:,}: put what is long into the bundle's assets"
            )


def variables(settings: Settings, source_zip: Path, declared: set[str]) -> dict[str, Any]:
    """Return the content of a stack's ``*.tfvars.json``.

    Args:
        settings: of the deployment.
        source_zip: the packaged function.
        declared: the variables that the stack takes; others are left out.

    Raises:
        ConfigError: the stack does not take what every deployment has to say, or what this one
            says of its callers and its environment.
    """
    if missing := sorted(_NEEDED - declared):
        raise ConfigError(
            f"the stack has no variable {', '.join(missing)}: expected one like "
            "terraform/stacks/quickstart"
        )
    said = {
        "environment": ("--set-env", settings.environment),
        "invokers": ("--invoker and --public", settings.public or settings.invokers),
    }
    # A default that the stack does not take is no loss; what somebody typed is.
    for name, (option, value) in said.items():
        if value and name not in declared:
            raise ConfigError(
                f"the stack has no variable {name}, so what {option} says would be lost: leave it "
                "out, or give the stack one like that of terraform/stacks/quickstart"
            )
    instance = settings.instance
    found = {
        "project_id": settings.project_id,
        "region": settings.region,
        "name": settings.name,
        "source_zip": str(source_zip.resolve()),
        # Bytecode is for one version of Python.
        "runtime": f"python{sys.version_info[0]}{sys.version_info[1]}",
        "instance": {
            # Text, as the provider takes it: "1" and not 1.0.
            "cpu": f"{instance.cpu:g}",
            "memory": instance.memory,
            "concurrency": instance.concurrency,
            "min": instance.min,
            "max": instance.max,
            "timeout_s": instance.timeout_s,
        },
        "environment": dict(settings.environment),
        "model_buckets": list(settings.model_buckets),
        # By the member itself: taking one away does not touch the others.
        "invokers": {
            "public": settings.public,
            "members": {member: member for member in settings.invokers},
        },
        "force_destroy": settings.force_destroy,
    }
    return {name: value for name, value in found.items() if name in declared}


def settings_document(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON values, for ``settings_from``."""
    from dataclasses import asdict

    return asdict(settings)


def settings_from(document: Mapping[str, Any]) -> Settings:
    """Read settings from the values of ``settings_document``.

    Raises:
        ConfigError: it is something else.
    """
    try:
        values = {**document, "instance": Instance(**document["instance"])}
        # JSON has no tuples, and a release of an earlier version fewer fields.
        tuples = {name: tuple(values.get(name, ())) for name in ("invokers", "model_buckets")}
        return Settings(**{**values, **tuples})
    # ConfigError is a ValueError as well, and says already what is wrong.
    except MaasError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the deployment's settings cannot be read: {error}") from error


def environment_from(assignments: Iterable[str]) -> dict[str, str]:
    """Return the variables in ``NAME=VALUE`` words.

    Raises:
        ConfigError: one has no ``=``, or two are of one name.
    """
    found: dict[str, str] = {}
    for word in assignments:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--set-env {word!r}: expected NAME=VALUE")
        if name in found:
            raise ConfigError(f"--set-env {name}: is said twice, expected one value for it")
        if "\0" in value:
            raise ConfigError(f"--set-env {name}: the value has a null, expected text without")
        found[name] = value
    return found


def model_buckets_of(bundle_from: str | None) -> tuple[str, ...]:
    """Return the bucket that a bundle is fetched from, if any: ``gs://bucket/store/model@3``."""
    if bundle_from is None or not bundle_from.startswith("gs://"):
        return ()
    return (bundle_from.removeprefix("gs://").partition("/")[0],)


def name_from_model(model: str) -> str:
    """Return a name for a function, derived from its model's."""
    text = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    text = text if text[:1].isalpha() else f"model-{text}"
    # A name has 2 to 20 characters, see _NAME.
    return text[:20].strip("-").ljust(2, "x")


def render(values: Mapping[str, Any]) -> str:
    """Return the text of a ``*.tfvars.json``, the same for the same values."""
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _check_variable(name: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise ConfigError(
            f"--set-env {name!r}: expected a name of letters, digits and _, not beginning with a "
            "digit"
        )
    if _RESERVED.fullmatch(name):
        raise ConfigError(f"--set-env {name}: the platform sets it itself: leave it out")
    if name == "MAAS_BUNDLE":
        raise ConfigError(
            "--set-env MAAS_BUNDLE: the function would lack what opens a store: say --bundle-from "
            "<store>/<model>@<version>"
        )
    if _SECRET.search(name):
        raise ConfigError(
            f"--set-env {name}: what is secret would be readable in the plan, the state and the "
            "console: put it into Secret Manager, and give the function a reference, as `secrets` "
            "of terraform/modules/model-function does"
        )


def _check_member(member: str) -> None:
    if member in _EVERYBODY:
        raise ConfigError(f"--invoker {member}: to let everybody call, say --public")
    if not _MEMBER.fullmatch(member):
        address = "@" in member and ":" not in member
        hint = f": did you mean user:{member}?" if address else ""
        raise ConfigError(
            f"--invoker {member!r}: expected a member, as user:you@example.com, "
            "group:team@example.com, serviceAccount:name@project.iam.gserviceaccount.com or "
            f"domain:example.com{hint}"
        )
