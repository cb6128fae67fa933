"""Export: a model → a verified bundle.

    from maas_sdk.export import export

    bundle = export(model, example_inputs, path="digits.maas")

``events`` names what it reports, ``targets`` what can be compiled for.
"""

from __future__ import annotations

from maas_sdk.export.events import Event
from maas_sdk.export.inputs import DEFAULT_BUCKETS, ProgramSpec
from maas_sdk.export.package import export
from maas_sdk.export.reweight import reweight
from maas_sdk.export.targets.names import TARGETS, default_targets
from maas_sdk.export.verification.answers import verify
from maas_sdk.export.verification.checks import Check, VerificationReport

__all__ = [
    "DEFAULT_BUCKETS",
    "TARGETS",
    "Check",
    "Event",
    "ProgramSpec",
    "VerificationReport",
    "default_targets",
    "export",
    "reweight",
    "verify",
]
