"""Serve the bundle beside this file: functions-framework --source main.py --target predict."""

import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
if (_HERE / "maas_sdk").is_dir():
    # Packed together with the bundle by `maas package`: it goes before an installed one.
    sys.path.insert(0, str(_HERE))

from maas_sdk.serve import serve  # noqa: E402

# In the master process the bundle is opened; each worker loads the model right after its fork.
predict = serve(os.environ.get("MAAS_BUNDLE") or _HERE / "model.maas")
