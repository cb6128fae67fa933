"""Answer every object that arrives: functions-framework --source main.py --target batch.

The signature type is cloudevent; MAAS_OUTPUT=gs://bucket/prefix says where the answers go.
"""

import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
if (_HERE / "maas_sdk").is_dir():
    # Packed together with the bundle by `maas package`: it goes before an installed one.
    sys.path.insert(0, str(_HERE))

from maas_sdk.batch import on_event  # noqa: E402

# In the master process modules are imported; the model is loaded when an event comes.
batch = on_event(os.environ.get("MAAS_BUNDLE") or _HERE / "model.maas")
