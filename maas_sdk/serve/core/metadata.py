"""A model's state and metadata, in TensorFlow Serving's documents."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from maas_sdk.errors import MaasError, NotFoundError
from maas_sdk.serve.core.calls import find_program
from maas_sdk.wire.tfserving_metadata import metadata_body, status_body

if TYPE_CHECKING:
    from maas_sdk.serve.core.served import ServedEngine, ServedModel

__all__ = ["metadata_document", "status_document"]

# A state's value → TensorFlow Serving's word for it.
_TFS_STATES: Final = {
    "loading": "LOADING",
    "ready": "AVAILABLE",
    "failed": "END",
    "draining": "UNLOADING",
}


def status_document(model: ServedModel) -> dict[str, Any]:
    """Body of the answer to ``GET /v1/models/<name>``."""
    state = model.state.value
    code, message = "OK", ""
    if state == "failed":
        try:
            model.check()
        except MaasError as error:
            code, message = "INTERNAL", error.message
    return status_body({model.version: (_TFS_STATES[state], code, message)})


def metadata_document(model: ServedModel, engine: ServedEngine, *, began_s: float) -> Any:
    """Body of the answer to ``GET /v1/models/<name>/metadata``.

    Args:
        model: the model.
        engine: of the model.
        began_s: when this process began, on the clock of ``time.monotonic``.
    """
    manifest, report = engine.manifest, engine.report
    try:
        default = find_program(manifest, None)
    except NotFoundError:
        default = None
    signatures = {name: program.signature for name, program in manifest.programs.items()}
    document = metadata_body(
        model.name or manifest.name, model.version, signatures, default_program=default
    )
    # Ours, beside TensorFlow Serving's: which tier serves, and why.
    document["maas"] = {
        "tier": report.tier,
        "target": report.target,
        "reason": report.reason,
        "timings_s": dict(report.timings_s),
        # So that a caller can tell a cold start from a call that met a running process.
        "age_s": round(time.monotonic() - began_s, 3),
        "metadata": dict(manifest.metadata),
    }
    return document
