"""The first fifth of a second of a worker; imported before anything that imports numpy.

Everything here makes a cold start shorter and changes nothing else. Measured on two cores, with
what functions-framework imports anyway already in:

* numpy's BLAS starts a thread per core while it is loaded, and each spins for a while, waiting for
  work. Serving never calls it, yet importing numpy takes 37 ms without those threads and up to 75
  with them. So it is told to start none. The setting is taken back afterwards: scipy has a BLAS of
  its own, which programs with linear algebra do use.
* Python's garbage collector goes through all modules again and again while more are imported.
  What is there already is set aside (``gc.freeze``); a fork copies fewer pages for it, too.
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
from typing import Final

__all__ = ["finish"]

_BLAS_THREADS: Final = "OPENBLAS_NUM_THREADS"
_LIBRARY: Final = os.path.join("jaxlib", "libjax_common.so")

# XLA announces its devices on stderr at level INFO; the library reads this when it is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
gc.freeze()
if _BLAS_THREADS not in os.environ:
    os.environ[_BLAS_THREADS] = "1"
    import numpy  # noqa: F401

    del os.environ[_BLAS_THREADS]

# With compiled code, and needed for the first answer, by us, by jaxlib or by gunicorn.
import _posixsubprocess  # noqa: E402, F401
import fcntl  # noqa: E402, F401
import grp  # noqa: E402, F401
import mmap  # noqa: E402, F401

import ml_dtypes  # noqa: E402, F401
import msgpack  # noqa: E402, F401


def _begin_to_load_library() -> Callable[[], None]:
    """Load jaxlib's library in a thread; returns what waits for its end.

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
    gc.freeze()
