"""A bundle → a build folder for a container image, for Cloud Run, GKE or a TPU VM.

    out/
      Dockerfile          slim, no root user, bytecode compiled, the bundle's layer last
      .dockerignore
      requirements.txt    exact versions and hashes, those of the variant included
      maas_sdk/           the part of this package that serves, and its command line
      maas                the command, ``python maas serve model.maas``
      model.maas/         the bundle, every hash checked while it was copied
      service.yaml        Cloud Run: startup probe over HTTP, boost, concurrency; not for TPUs

The rule: every step is relative to the working folder and needs no more than Python and pip, so
that it can be run step by step where there is no Docker engine; a test does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from maas_sdk.bundle.files.staging import Staging
from maas_sdk.bundle.folder import copy_bundle, open_bundle
from maas_sdk.deploy.package import BUNDLE, SERVING, copy_sources
from maas_sdk.deploy.requirements import requirements
from maas_sdk.errors import ConfigError

__all__ = ["VARIANTS", "ImageVariant", "container", "dockerfile"]

# What `maas serve` imports, and the commands that look at a bundle; the heavy imports of other
# families are inside their commands.
_SOURCES: Final = (*SERVING, "charts", "cli")

_COMMAND: Final = '''"""``maas``, for a container that has the package as a folder."""

from maas_sdk.cli import main

main()
'''


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageVariant:
    """Differences between the images of the accelerators.

    Attributes:
        words: for the Dockerfile's first line.
        lock: a further lock to install; None for none.
        environment: variables of the image.
        service: what fills in service.yaml; None: the accelerator is not on Cloud Run.
    """

    words: str = ""
    lock: str | None = None
    environment: Mapping[str, str]
    service: Mapping[str, str] | None


_CPU: Final = {
    "cpu": "1",
    "memory": "1Gi",
    "concurrency": "16",
    "max_instances": "10",
    "annotations": "",
    "selector": "",
    "limits": "",
}

VARIANTS: Final[Mapping[str, ImageVariant]] = {
    "cpu": ImageVariant(environment={}, service=_CPU),
    # An L4 asks for at least 4 CPUs and 16 GiB, and for no throttling between requests.
    # https://cloud.google.com/run/docs/configuring/services/gpu
    "gpu": ImageVariant(
        words=", on an NVIDIA L4",
        lock="cuda",
        environment={
            "MAAS_PLATFORM": "cuda",
            # NVIDIA's container runtime mounts the driver only where these are set; its own base
            # images set them, Python's does not.
            "NVIDIA_VISIBLE_DEVICES": "all",
            "NVIDIA_DRIVER_CAPABILITIES": "compute",
        },
        service={
            **_CPU,
            "cpu": "4",
            "memory": "16Gi",
            "max_instances": "1",
            "annotations": (
                '\n        run.googleapis.com/cpu-throttling: "false"'
                '\n        run.googleapis.com/gpu-zonal-redundancy-disabled: "true"'
            ),
            "selector": (
                "\n      nodeSelector:\n        run.googleapis.com/accelerator: nvidia-l4"
            ),
            "limits": '\n              nvidia.com/gpu: "1"',
        },
    ),
    # The chips are reached through devices of the host: on a TPU VM the container runs with
    # --privileged --network host, on GKE with google.com/tpu among its limits.
    "tpu": ImageVariant(
        words=", on a TPU VM (docker run --privileged --network host) or a TPU node of GKE",
        lock="tpu",
        # Level 2 keeps libtpu's errors and drops its notes and warnings.
        environment={"MAAS_PLATFORM": "tpu", "TPU_MIN_LOG_LEVEL": "2"},
        service=None,
    ),
}


def container(
    bundle_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    variant: str = "cpu",
    overwrite: bool = False,
    base: str | None = None,
) -> Path:
    """Write an image's build folder; it appears whole or not at all.

    Args:
        bundle_path: the bundle's folder.
        out_dir: the folder to write; its parent exists.
        variant: a key of ``VARIANTS``.
        overwrite: replace ``out_dir`` if it is there.
        base: image to start from; None: Python's slim one, of this interpreter's version. Give one
            by its digest to have the same image from the same folder for ever.

    Raises:
        ConfigError: no such variant; ``out_dir`` is there and ``overwrite`` is off; the bundle's
            executables were compiled by several versions of jaxlib.
        BundleError: the bundle cannot be used; ``CorruptError`` names the file.
    """
    chosen = _variant(variant)
    bundle = open_bundle(bundle_path)
    locks = ["cli", *([chosen.lock] if chosen.lock else [])]
    # Signatures are checked where keys are trusted, so what checks them has to be there.
    if bundle.signature is not None:
        locks.append("seal")
    listed = requirements(bundle.manifest, locks)
    name = bundle.manifest.name
    files = {
        "Dockerfile": dockerfile(name, variant, hashed=listed.hashed, base=base),
        # It configures the service that runs the image; the image does not need it.
        ".dockerignore": "service.yaml\n",
        "requirements.txt": listed.text,
        "maas": _COMMAND,
    }
    if chosen.service is not None:
        files["service.yaml"] = _template("service.yaml").format(
            name=_service_name(name), **chosen.service
        )
    with Staging(out_dir, overwrite=overwrite) as staging:
        root = staging.path
        copy_bundle(bundle, root / BUNDLE)
        copy_sources(root / "maas_sdk", _SOURCES)
        for file, text in files.items():
            (root / file).write_text(text, encoding="utf-8")
        staging.commit()
    return staging.target


def dockerfile(
    name: str, variant: str = "cpu", *, hashed: bool = True, base: str | None = None
) -> str:
    """Return the text of a Dockerfile.

    Args:
        name: of the model.
        variant: a key of ``VARIANTS``.
        hashed: whether requirements.txt has hashes, which are then insisted on.
        base: image to start from.

    Raises:
        ConfigError: no such variant.
    """
    chosen = _variant(variant)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return _template("Dockerfile").format(
        name=name,
        accelerator=chosen.words,
        base=base or f"python:{version}-slim",
        environment="".join(f" {key}={value}" for key, value in chosen.environment.items()),
        hashes=" --require-hashes" if hashed else "",
    )


def _variant(name: str) -> ImageVariant:
    if name not in VARIANTS:
        raise ConfigError(f"no variant {name!r}: expected one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _service_name(name: str) -> str:
    """Return a name Cloud Run takes: lower case, digits and dashes, at most 49."""
    text = "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower()).strip("-")
    # Cloud Run's names begin with a letter.
    return (text if text[:1].isalpha() else f"model-{text}")[:49].rstrip("-")


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.txt").read_text(encoding="utf-8")
