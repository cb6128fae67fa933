"""The lean runtime: a bundle in, answers out, with numpy and jaxlib and nothing of jax.

from maas_sdk.runtime import load

engine = load("digits.maas")
logits = engine.predict(images)
"""

from maas_sdk.runtime.engine import Engine, LoadReport
from maas_sdk.runtime.load import load

__all__ = ["Engine", "LoadReport", "load"]
