"""What fake engines share: calls are checked as the runtime checks them, then handed to ``run``."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from maas_sdk.bundle import Manifest
from maas_sdk.errors import MaasError
from maas_sdk.runtime import CheckedCall
from maas_sdk.tensors import Array

__all__ = ["CheckingEngine"]


class CheckingEngine:
    """A ``ServedEngine`` whose subclass has a manifest, and answers by ``run``."""

    manifest: Manifest
    report: Any
    fault: MaasError | None = None

    def check(self, program: str, inputs: Mapping[str, Array]) -> CheckedCall:
        found = self.manifest.programs[program]
        loaded = cast("Any", SimpleNamespace(name=program, program=found))
        return CheckedCall(loaded, inputs, found.signature.check(inputs))

    def run_checked(self, call: CheckedCall) -> dict[str, Array]:
        return self.run(call.inputs, program=call.program.name)

    def run(self, inputs: Mapping[str, Array], *, program: str) -> dict[str, Array]:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to free."""
