"""A real PJRT plugin for tests: it drives this processor as another drives an accelerator."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maas_sdk.tpu.libtpu import VARIABLE

# `make test` installs it beside the TPU compiler.
LIBRARY = Path(os.environ.get(VARIABLE, "absent")) / "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so"

NEEDS_PLUGIN = pytest.mark.skipif(
    not LIBRARY.is_file(),
    reason=f"no PJRT plugin in {VARIABLE}; make test installs one (Linux on x86-64)",
)
# The platform's name is free; what the plugin calls its device is not.
PLATFORM, ARCH = "plugin", "cpu"
