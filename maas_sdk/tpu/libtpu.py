"""The installed TPU compiler: the ``libtpu`` package, of the version that this jax asks for.

The rule it keeps: this process never loads it; once loaded it is slow and noisy in every jax
process. It is looked for as a folder, whose name the compiling child gets.

Another version is refused: with a newer libtpu than jax asks for, v5e compiled and v6e and v5p
ended in the compiler's internal errors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from maas_sdk.errors import DependencyError

__all__ = ["VARIABLE", "Libtpu", "find_libtpu", "wanted_version"]

# Names a folder that holds the package libtpu, as `pip install --target` leaves it.
VARIABLE: Final = "MAAS_LIBTPU"


@dataclass(frozen=True, kw_only=True, slots=True)
class Libtpu:
    """An installed TPU compiler."""

    # The folder to import it from.
    folder: Path
    version: str


def wanted_version() -> str:
    """Return the version that the installed jax asks for; ``""`` when it does not say."""
    try:
        stated = requires("jax") or []
    except PackageNotFoundError:
        return ""
    found = (re.match(r"libtpu\s*==\s*([\w.*]+)\s*;", line) for line in stated)
    return next((match[1] for match in found if match), "")


def find_libtpu(environment: Mapping[str, str] = os.environ) -> Libtpu:
    """Return the compiler that ``MAAS_LIBTPU`` names, else the one installed in this environment.

    Raises:
        DependencyError: there is none, or it is of another version than jax asks for.
    """
    wanted = wanted_version()
    install = (
        f"pip install --no-deps --target FOLDER 'libtpu=={wanted or '0.0.42.*'}' and set "
        f"{VARIABLE}=FOLDER, or, into this environment, pip install 'maas-sdk[tpu-plan]'"
    )
    named = environment.get(VARIABLE)
    if named:
        folder = Path(named).expanduser().absolute()
        if not (folder / "libtpu" / "libtpu.so").is_file():
            raise DependencyError(
                f"{VARIABLE}={named}: no libtpu in that folder; expected {folder}/libtpu/libtpu.so."
                f" Install it: {install} (Linux on x86-64)",
                folder=str(folder),
            )
    else:
        spec = find_spec("libtpu")
        if spec is None or spec.origin is None:
            raise DependencyError(f"the TPU compiler is not installed: {install} (Linux on x86-64)")
        folder = Path(spec.origin).parent.parent
    version = next((d.version for d in distributions(name="libtpu", path=[str(folder)])), "unknown")
    pattern = re.escape(wanted).replace(r"\*", r".*")
    if wanted and version != "unknown" and not re.fullmatch(pattern, version):
        raise DependencyError(
            f"libtpu {version} in {folder}: this jax compiles with libtpu {wanted} and fails with "
            f"others on some chips; {install}",
            version=version,
            wanted=wanted,
        )
    return Libtpu(folder=folder, version=version)
