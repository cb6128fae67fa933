"""What a deployment is called, where it is and how large its instances are: Terraform's variables.

The rule: what is wrong is said here, before anything is packaged or planned, in the words of the
command line. The stack checks the same again; names of its variables are known in this file alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from maas_sdk.errors import ConfigError

__all__ = [
    "Instance",
    "Settings",
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
_MEMORY: Final = re.compile(r"[1-9][0-9]*(Mi|Gi)")
# Without these a stack is none of ours.
_NEEDED: Final = {"project_id", "region", "name", "source_zip"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One instance of a function, and how many of it.

    Attributes:
        cpu: processors.
        memory: with Mi or Gi; the files of the function count, once they are read or written.
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
        if not _MEMORY.fullmatch(self.memory):
            raise ConfigError(f"memory {self.memory!r}: expected such as 512Mi or 2Gi")
        if not 0 < self.cpu <= 8:
            raise ConfigError(f"cpu {self.cpu}: expected more than 0 and at most 8")
        if not 1 <= self.concurrency <= 1000:
            raise ConfigError(f"concurrency {self.concurrency}: expected 1 to 1000")
        if self.concurrency > 1 and self.cpu < 1:
            raise ConfigError(
                f"concurrency {self.concurrency} with {self.cpu} CPU: less than one CPU serves one "
                "request at a time"
            )
        if not 0 <= self.min <= self.max or self.max < 1:
            raise ConfigError(
                f"instances {self.min} to {self.max}: expected 0 ≤ min ≤ max, max ≥ 1"
            )
        if not 1 <= self.timeout_s <= 3600:
            raise ConfigError(f"timeout {self.timeout_s} s: expected 1 to 3600")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A deployment.

    Attributes:
        project_id: of Google Cloud, as `gcloud projects list` shows it.
        name: of the function.
        region: where it runs.
        instance: its size.
        public: whether anybody may call; else accounts with the right to.
        environment: variables of the function.
        force_destroy: whether destroying takes the models in the bucket along.
    """

    project_id: str
    name: str
    region: str = "europe-west1"
    instance: Instance = field(default_factory=Instance)
    public: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
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


def variables(settings: Settings, source_zip: Path, declared: set[str]) -> dict[str, Any]:
    """The content of a stack's ``*.tfvars.json``.

    Args:
        settings: of the deployment.
        source_zip: the packaged function.
        declared: the variables that the stack takes; others are left out.

    Raises:
        ConfigError: the stack does not take what every deployment has to say.
    """
    if missing := sorted(_NEEDED - declared):
        raise ConfigError(
            f"the stack has no variable {', '.join(missing)}: expected one like "
            "terraform/stacks/quickstart"
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
            "cpu": f"{instance.cpu:g}",
            "memory": instance.memory,
            "concurrency": instance.concurrency,
            "min": instance.min,
            "max": instance.max,
            "timeout_s": instance.timeout_s,
        },
        "environment": dict(settings.environment),
        "invokers": {"public": settings.public},
        "force_destroy": settings.force_destroy,
    }
    return {name: value for name, value in found.items() if name in declared}


def settings_document(settings: Settings) -> dict[str, Any]:
    """The settings as JSON has them, for ``settings_from``."""
    from dataclasses import asdict

    return asdict(settings)


def settings_from(document: Mapping[str, Any]) -> Settings:
    """What ``settings_document`` made.

    Raises:
        ConfigError: it is something else.
    """
    try:
        values = dict(document)
        return Settings(**{**values, "instance": Instance(**values["instance"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the deployment's settings cannot be read: {error}") from error


def name_from_model(model: str) -> str:
    """A name for a function, made of its model's."""
    text = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    text = text if text[:1].isalpha() else f"model-{text}"
    return text[:20].strip("-").ljust(2, "x")


def render(values: Mapping[str, Any]) -> str:
    """The text of a ``*.tfvars.json``, the same for the same values."""
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
