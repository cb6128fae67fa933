"""The lean runtime: load a bundle and answer, with numpy and jaxlib but without jax.

from maas_sdk.runtime import load

engine = load("digits.maas")
logits = engine.predict(images)
"""

from maas_sdk.runtime.engine import CheckedCall, Engine, LoadReport
from maas_sdk.runtime.load import Prepared, load

__all__ = ["CheckedCall", "Engine", "LoadReport", "Prepared", "load"]
