"""numpy without its BLAS threads; imported before anything that imports numpy.

The BLAS library inside numpy starts a thread per core while it is loaded, and each spins for a
while, waiting for work. Serving never calls it, yet on two cores that is half the machine during
the very time that a cold start takes: measured, importing numpy took 37 ms with one thread, and
with two 37 to 75 ms, by what else was running. So it is told to start none. The setting is taken
back afterwards: scipy has a BLAS of its own, which programs with linear algebra do use.
"""

from __future__ import annotations

import os
from typing import Final

__all__: list[str] = []

_THREADS: Final = "OPENBLAS_NUM_THREADS"

if _THREADS not in os.environ:
    os.environ[_THREADS] = "1"
    import numpy  # noqa: F401

    del os.environ[_THREADS]
