"""Fast start of a worker; imported before anything that imports numpy.

Everything here makes a cold start shorter and changes nothing that is served. Measured on two
cores, with what functions-framework imports anyway already in:

* numpy's BLAS starts a thread per core while it is loaded, and each spins for a while, waiting for
  work. Serving never calls it, yet importing numpy takes 37 ms without those threads and up to 75
  with them. So it is told to start none. The setting is taken back afterwards: scipy has a BLAS of
  its own, which programs with linear algebra do use.
* numpy writes the docstrings of its compiled functions when it is imported, which takes 5 ms. The
  two modules that do only this are stood in for by empty ones.
* Python's garbage collector goes through all modules again and again while more are imported, for
  8 ms in all. It pauses until the model is loaded, and then leaves alone what is there.
* The linker takes 15 ms for jaxlib's library, and Python's own import waits for it with the
  interpreter locked. Called through ctypes, it works beside Python, while the rest of us and of
  gunicorn is imported. It has a lock of its own, though, for which other modules with compiled
  code would wait: those come first.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Final

__all__ = ["finish", "pause_collector", "resume_collector"]

_BLAS_THREADS: Final = "OPENBLAS_NUM_THREADS"
_DOCSTRINGS: Final = ("numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars")
_LIBRARY: Final = os.path.join("jaxlib", "libjax_common.so")


def pause_collector() -> None:
    """Stop garbage collection until ``resume_collector``."""
    gc.disable()


def resume_collector() -> None:
    """Resume garbage collection, excluding objects that exist by now.

    A fork copies fewer pages for it, too.
    """
    gc.freeze()
    gc.enable()


def _import_numpy() -> None:
    if "numpy" in sys.modules:
        return
    threads = os.environ.get(_BLAS_THREADS)
    os.environ[_BLAS_THREADS] = "1"
    sys.modules.update({name: ModuleType(name) for name in _DOCSTRINGS})
    try:
        import numpy  # noqa: F401
    finally:
        for name in _DOCSTRINGS:
            del sys.modules[name]
        if threads is None:
            del os.environ[_BLAS_THREADS]
        else:
            os.environ[_BLAS_THREADS] = threads


# XLA announces its devices on stderr at level INFO; the library reads this when it is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
pause_collector()
_import_numpy()

# With compiled code, and needed for the first answer, by us, by jaxlib or by gunicorn.
import _posixsubprocess  # noqa: E402, F401
import fcntl  # noqa: E402, F401
import grp  # noqa: E402, F401
import mmap  # noqa: E402, F401

import ml_dtypes  # noqa: E402, F401
import msgpack  # noqa: E402, F401


def _begin_to_load_library() -> Callable[[], None]:
    """Load jaxlib's library in a thread; return a function that waits for its end.

    What fails here is met again, and told, by the import of the runtime.
    """
    for folder in sys.path:
        path = os.path.join(folder, _LIBRARY)
        if os.path.exists(path):
            break
    else:
        return lambda: None
    dlopen = ctypes.CDLL(None).dlopen
    # A local name scope, as Python's own import has it: its symbols must not meet numpy's.
    thread = threading.Thread(
        target=dlopen, args=(os.fsencode(path), os.RTLD_NOW | os.RTLD_LOCAL), name="maas-library"
    )
    thread.start()
    return thread.join


_library_loaded = _begin_to_load_library()


def finish() -> None:
    """Import the runtime, before a fork: its pages are shared, and no thread is left.

    No XLA client comes to be by this.
    """
    _library_loaded()
    # Whatever is wrong here, loading meets it again and tells those who call.
    with contextlib.suppress(Exception):
        import maas_sdk.runtime  # noqa: F401
