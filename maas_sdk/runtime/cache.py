"""Programs compiled on this machine, kept for the next start.

The key names everything that decides whether an executable may be used: the program's hash,
jaxlib's build, the architecture, the processor's features and XLA's flags. A cache is a
convenience: an entry that cannot be read or written counts as absent. Its entries are code, so the
folder is the owner's alone, one that others may write to is not used, and an entry's own hash is
checked before it is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

__all__ = ["CompileCache", "default_cache_dir"]


def default_cache_dir() -> Path:
    """Return ``MAAS_CACHE_DIR``, or maas-sdk below the user's cache folder."""
    named = os.environ.get("MAAS_CACHE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "maas-sdk" / "programs"


class CompileCache:
    """Executables by key, a file each.

    Attributes:
        folder: where they lie.
        disabled: keeps nothing and has nothing, for programs that must not lie on a disk in clear.
    """

    def __init__(self, folder: Path, *, disabled: bool = False) -> None:
        self.folder = folder
        self.disabled = disabled

    @staticmethod
    def key(program_sha256: str, *, jaxlib: str, arch: str, cpu_features: Iterable[str]) -> str:
        """Return the hash of everything that an executable depends on."""
        flags = os.environ.get("XLA_FLAGS", "")
        parts = [program_sha256, jaxlib, arch, ",".join(sorted(cpu_features)), flags]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def get(self, key: str) -> bytes | None:
        """Return the executable, or None if there is none that can be trusted."""
        if self.disabled:
            return None
        try:
            if not self._is_private():
                return None
            data = (self.folder / f"{key}.xla").read_bytes()
        except OSError:
            return None
        digest, executable = data[:32], data[32:]
        return executable if hashlib.sha256(executable).digest() == digest else None

    def put(self, key: str, executable: bytes) -> None:
        """Keep an executable, whole or not at all."""
        if self.disabled:
            return
        # A read-only or full disk must not keep a model from being served.
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_private():
                return
            scratch = self.folder / f".{key}.{os.getpid()}.{threading.get_ident()}.tmp"
            try:
                scratch.write_bytes(hashlib.sha256(executable).digest() + executable)
                scratch.replace(self.folder / f"{key}.xla")
            finally:
                scratch.unlink(missing_ok=True)

    def _is_private(self) -> bool:
        found = self.folder.stat()
        writable_by_others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return found.st_uid == os.geteuid() and not writable_by_others
