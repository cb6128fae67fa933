"""Local folder of a deployment: its releases, its variables, its Terraform state.

    <workspace>/<project>/<region>/<name>/
      releases.json             all releases, and the number of the one that runs
      sources/<sha256>.zip      each release's source, for going back
      deployment.tfvars.json    Terraform's variables
      backend_override.tf       the state's bucket, if one was named: copied into the stack
      terraform/                the stack and its modules, and the state unless it lies elsewhere

The rule: ``releases.json`` is written whole or not at all, and records an apply before it begins.
So after a kill the next command knows of the unfinished apply; applying again completes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from maas_sdk.bundle.files.staging import disk_errors
from maas_sdk.deploy.backend import BACKEND
from maas_sdk.deploy.settings import Settings, render, settings_document, settings_from
from maas_sdk.errors import ConfigError, CorruptError

__all__ = ["Release", "Releases", "Workspace"]

_RELEASES: Final = "releases.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A release, deployed or attempted.

    Attributes:
        number: from 1 on.
        model: name of the bundle.
        source: sha256 of the zip.
        made_unix_s: when, in seconds since 1970.
        settings: of the deployment, as JSON has them.
    """

    number: int
    model: str
    source: str
    made_unix_s: float
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Releases:
    """All releases of a deployment.

    Attributes:
        made: in order.
        current: number of the one that runs; None: none does.
        begun: number of one whose apply was begun and not seen to end.
    """

    made: tuple[Release, ...] = ()
    current: int | None = None
    begun: int | None = None

    def find(self, number: int) -> Release:
        """Return the release of a number. Raises ``ConfigError`` that lists the numbers."""
        for release in self.made:
            if release.number == number:
                return release
        there = ", ".join(str(release.number) for release in self.made) or "none"
        raise ConfigError(f"no release {number}: there are {there}")

    def before_current(self) -> Release:
        """Return the release to roll back to. Raises ``ConfigError`` where there is none."""
        if self.current is None:
            raise ConfigError("nothing is deployed, so there is nothing to go back from")
        earlier = [release for release in self.made if release.number < self.current]
        if not earlier:
            raise ConfigError(
                f"release {self.current} is the first one: there is nothing to go back to"
            )
        return earlier[-1]


class Workspace:
    """Folder of one deployment."""

    def __init__(self, root: Path, project_id: str, region: str, name: str) -> None:
        # Terraform runs in another folder (-chdir), where a relative path would mean something
        # else.
        self.folder = root.absolute() / project_id / region / name
        self.variables_file = self.folder / "deployment.tfvars.json"
        self.backend_file = self.folder / BACKEND

    def releases(self) -> Releases:
        """Return the releases; none where the folder does not exist.

        Raises:
            CorruptError: the file is not what was written.
        """
        path = self.folder / _RELEASES
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            made = tuple(Release(**entry) for entry in document["made"])
            return Releases(made=made, current=document["current"], begun=document["begun"])
        except FileNotFoundError:
            return Releases()
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(
                f"{path}: expected what `maas deploy` writes, found {error}; take it from a "
                "backup, or remove it: the state of what is deployed lies beside it in terraform/"
            ) from error

    def settings_of(self, release: Release) -> Settings:
        """Return the settings that a release was deployed with. Raises ``ConfigError``."""
        return settings_from(release.settings)

    def add_source(self, archive: Path) -> tuple[str, Path]:
        """Keep a zip; return its sha256 and its path."""
        # Read whole: a source has 100 MB at most (size.py).
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        kept = self.source(digest)
        # Named by its digest: a zip that several releases share is kept once.
        if not kept.exists():
            with disk_errors(kept):
                kept.parent.mkdir(parents=True, exist_ok=True)
                temporary = kept.with_suffix(".tmp")
                shutil.copyfile(archive, temporary)
                os.replace(temporary, kept)
        return digest, kept

    def source(self, digest: str) -> Path:
        """Return the path of the zip with a digest, which need not exist."""
        return self.folder / "sources" / f"{digest}.zip"

    def add(self, settings: Settings, model: str, digest: str, now_unix_s: float) -> Release:
        """Return a release with the next number; nothing is written before ``begin``."""
        releases = self.releases()
        return Release(
            number=max((r.number for r in releases.made), default=0) + 1,
            model=model,
            source=digest,
            made_unix_s=now_unix_s,
            settings=settings_document(settings),
        )

    def begin(self, release: Release) -> None:
        """Record that a release is about to be applied."""
        releases = self.releases()
        # The number is there already when a rollback, or a repeat after a cut, applies it again.
        made = tuple(r for r in releases.made if r.number != release.number)
        made = tuple(sorted((*made, release), key=lambda r: r.number))
        self._write(replace(releases, made=made, begun=release.number))

    def end(self, release: Release) -> None:
        """Record that a release runs."""
        self._write(replace(self.releases(), current=release.number, begun=None))

    def gone(self) -> None:
        """Record that nothing runs any more; the releases stay, to be deployed again."""
        self._write(replace(self.releases(), current=None, begun=None))

    def write_variables(self, values: Mapping[str, Any]) -> Path:
        """Write Terraform's variables."""
        self._replace(self.variables_file, render(values))
        return self.variables_file

    def write_backend(self, block: str) -> Path:
        """Write the backend that keeps the state."""
        self._replace(self.backend_file, block)
        return self.backend_file

    def _write(self, releases: Releases) -> None:
        document = {**asdict(releases), "made": [asdict(release) for release in releases.made]}
        self._replace(self.folder / _RELEASES, json.dumps(document, indent=1) + "\n")

    def _replace(self, path: Path, text: str) -> None:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
