"""Accelerators of this machine, and the library that drives each.

XLA drives a TPU or a GPU through a PJRT plugin, a shared library that comes as a package of its
own. The rule: it is found as a file, by the name of its package, and never imported, since those
packages import all of jax.

Finding starts nothing and may happen before a fork; a client is made behind it (``xla.XlaClient``).
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from maas_sdk.errors import ConfigError, IncompatibleError

__all__ = ["PLATFORM", "PLUGIN", "Plugin", "find_plugin", "has_device", "wanted_platform"]

# Environment variables: which platform to run on, and the library of a platform that has none here.
PLATFORM: Final = "MAAS_PLATFORM"
PLUGIN: Final = "MAAS_PJRT_PLUGIN"

# By platform: the library inside a folder of packages, the newest first, and what installs it.
_LIBRARIES: Final = {
    "tpu": ("libtpu/libtpu.so",),
    "cuda": (
        "jax_plugins/xla_cuda13/xla_cuda_plugin.so",
        "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
    ),
}
_INSTALL: Final = {
    "tpu": "pip install 'maas-sdk[tpu]'",
    "cuda": "pip install 'maas-sdk[cuda]'",
}
# What the kernel shows of a device that a process may open.
_DEVICES: Final = {
    "tpu": ("/dev/accel*", "/dev/vfio/[0-9]*"),
    "cuda": ("/dev/nvidia[0-9]*", "/dev/dxg"),
}
# Where packages lie that are not installed in this environment: `pip install --target`.
_FOLDERS: Final = {"tpu": "MAAS_LIBTPU"}

# NVIDIA's libraries, which the plugin looks up by name alone, in the order of their needs: folder
# below the package ``nvidia``, and file. Of CUDA 13 all lie in one folder.
_NVIDIA: Final = (
    ("cuda_runtime", "libcudart.so.*"),
    ("cuda_nvrtc", "libnvrtc.so.*"),
    ("nvjitlink", "libnvJitLink.so.*"),
    ("cublas", "libcublasLt.so.*"),
    ("cublas", "libcublas.so.*"),
    ("nccl", "libnccl.so.*"),
    ("cuda_cupti", "libcupti.so.*"),
    ("cusparse", "libcusparse.so.*"),
    ("cusolver", "libcusolver.so.*"),
    ("cufft", "libcufft.so.*"),
    ("nvshmem", "libnvshmem_host.so.*"),
    ("cudnn", "libcudnn.so.*"),
)


class Plugin(NamedTuple):
    """A PJRT plugin, found and not loaded."""

    # PJRT platform: "tpu", "cuda".
    platform: str
    # The shared library.
    path: str
    # What the library needs loaded before it, in this order.
    before: tuple[str, ...] = ()
    # For the client that it makes.
    options: Mapping[str, str | bool] = {}
    # Where CUDA's compiler keeps its tools; "" where nothing is compiled by them.
    cuda_data_dir: str = ""


def has_device(platform: str) -> bool:
    """Return True when the kernel shows a device of a platform to this process."""
    return any(glob.glob(pattern) for pattern in _DEVICES.get(platform, ()))


def wanted_platform(
    platform: str | None,
    offered: Iterable[str],
    environment: Mapping[str, str] = os.environ,
) -> str:
    """Return the platform to run on.

    Args:
        platform: the caller's word; None: ``MAAS_PLATFORM``; without either, a platform that the
            bundle has executables for and this machine a device and a plugin; else the processor.
        offered: platforms of the bundle's targets.
        environment: where variables are looked up.
    """
    named = platform or environment.get(PLATFORM)
    if named:
        return named
    for candidate in sorted(set(offered) - {"cpu"}):
        if has_device(candidate) and _library(candidate, environment) is not None:
            return candidate
    return "cpu"


def find_plugin(platform: str, environment: Mapping[str, str] = os.environ) -> Plugin:
    """Return the plugin of a platform other than "cpu".

    Raises:
        ConfigError: ``MAAS_PJRT_PLUGIN`` names no file, or no plugin is known by that name.
        IncompatibleError: this machine has no device of the platform, or the plugin is not
            installed.
    """
    library = _library(platform, environment)
    # Asked of the kernel: libtpu without a TPU looks for minutes before it gives up.
    if PLUGIN not in environment and platform in _DEVICES and not has_device(platform):
        raise IncompatibleError(
            f"no {_called(platform)} on this machine ({' or '.join(_DEVICES[platform])} is not "
            "there): load the bundle with platform='cpu', or on a machine that has one",
            platform=platform,
        )
    if library is None:
        if platform not in _LIBRARIES:
            raise ConfigError(
                f"no platform {platform!r}: expected cpu, {', '.join(_LIBRARIES)}, or another with "
                f"{PLUGIN} naming its PJRT plugin (a shared library)",
                platform=platform,
            )
        raise IncompatibleError(
            f"the plugin that drives a {_called(platform)} is not installed: "
            f"{_INSTALL[platform]} (Linux), or load the bundle with platform='cpu'",
            platform=platform,
        )
    if platform != "cuda":
        return Plugin(platform, library)
    nvidia = [folder / "nvidia" for folder in _package_folders()]
    return Plugin(
        platform,
        library,
        before=_nvidia_libraries(nvidia),
        options=_gpu_options(environment),
        cuda_data_dir=_cuda_data_dir(nvidia, environment),
    )


def _called(platform: str) -> str:
    return {"tpu": "TPU", "cuda": "GPU"}[platform]


def _library(platform: str, environment: Mapping[str, str]) -> str | None:
    named = environment.get(PLUGIN)
    if named:
        if not os.path.isfile(named):
            raise ConfigError(
                f"{PLUGIN}={named}: no such file; expected the shared library of a PJRT plugin"
            )
        return named
    known = _LIBRARIES.get(platform, ())
    folder = environment.get(_FOLDERS.get(platform, ""))
    folders = [Path(folder)] if folder else _package_folders()
    found = (str(place / name) for name in known for place in folders if (place / name).is_file())
    return next(found, None)


def _package_folders() -> list[Path]:
    return [Path(entry) for entry in sys.path if entry and os.path.isdir(entry)]


def _nvidia_libraries(nvidia: Iterable[Path]) -> tuple[str, ...]:
    """Return files of NVIDIA's installed packages; the system's loader finds the others."""
    found = []
    for folder in nvidia:
        for package, name in _NVIDIA:
            for part in (package, "cu13"):
                found += sorted(glob.glob(f"{folder}/{part}/lib/{name}"))
    return tuple(found)


def _gpu_options(environment: Mapping[str, str]) -> dict[str, str | bool]:
    # A server takes what it needs of the GPU's memory, not three quarters of it beforehand.
    reserve = environment.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false").lower()
    return {
        "platform_name": "cuda",
        "allocator": environment.get("XLA_PYTHON_CLIENT_ALLOCATOR", "default").lower(),
        "preallocate": reserve not in ("false", "0", ""),
    }


def _cuda_data_dir(nvidia: Iterable[Path], environment: Mapping[str, str]) -> str:
    known = [environment.get("CUDA_ROOT", ""), environment.get("CUDA_HOME", "")]
    known += [str(folder / part) for folder in nvidia for part in ("cuda_nvcc", "cu13")]
    return next((path for path in known if path and os.path.isdir(path)), "")
