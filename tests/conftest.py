"""Settings that every test shares.

JAX reads its environment when it is first imported, so the eight fake CPU devices are asked for
here, before any test module loads.
"""

from __future__ import annotations

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # XLA's start-up notes are no warnings
