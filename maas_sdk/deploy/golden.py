"""A request made of a bundle's golden rows, and its expected answer.

The rule: the speed of wrong answers is never reported. Every timing or check of a deployment
compares the answers with the outputs of the reference model, within the tolerance of the export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from maas_sdk.errors import ModelError, NotFoundError

if TYPE_CHECKING:
    from maas_sdk.bundle.manifest import Verification
    from maas_sdk.tensors import Array

__all__ = ["FirstCall", "golden_call", "golden_rows", "largest_excess"]

# atol and rtol for a bundle that was exported without being verified.
_UNVERIFIED: Final = (1e-5, 1e-4)


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstCall:
    """A request, and its expected answer."""

    path: str
    headers: Mapping[str, str]
    body: tuple[bytes | memoryview, ...]
    # Raises unless the body of the answer is right.
    check: Callable[[bytes], None]
    # Of the inputs, where they have rows.
    rows: int = 0


def golden_call(bundle: Path, program: str | None = None, *, whole: bool = False) -> FirstCall:
    """Return golden inputs of a bundle as a request to one of its programs.

    Args:
        bundle: its folder.
        program: its name; None: "predict", or the first.
        whole: all golden rows; else the first, as the first caller of a function that was scaled to
            zero would send.

    Raises:
        MaasError: the bundle cannot be opened, or has no golden rows for the program.
    """
    from maas_sdk.bundle import open_bundle
    from maas_sdk.wire.frames import CONTENT_TYPE, Call, Failure, decode_results, encode_calls

    manifest = open_bundle(bundle).manifest
    name = program or (
        "predict" if "predict" in manifest.programs else next(iter(manifest.programs))
    )
    inputs, expected, verification = golden_rows(bundle, name, whole=whole)

    def check(body: bytes) -> None:
        [answer] = decode_results(body)
        if isinstance(answer, Failure):
            raise ModelError(f"the first answer was an error: {answer.message}")
        for key, wanted in expected.items():
            excess = largest_excess(answer.outputs[key], wanted, verification)
            if excess > 0:
                raise ModelError(
                    f"the first answer's {key!r} is off the golden one by {excess:.3g} more than "
                    "the tolerance of the export"
                )

    return FirstCall(
        path=f"/v1/models/{manifest.name}:predict",
        headers={"Content-Type": CONTENT_TYPE},
        body=tuple(encode_calls([Call(id="0", inputs=inputs, program=name)])),
        check=check,
        rows=max((len(value) for value in inputs.values() if value.ndim), default=0),
    )


def golden_rows(
    bundle: Path, program: str, *, whole: bool = False
) -> tuple[dict[str, Array], dict[str, Array], Verification | None]:
    """Return golden inputs and outputs of a program by name, and the tolerance of an answer.

    Args:
        bundle: its folder.
        program: its name.
        whole: all rows; else the first, where rows can be taken apart.

    Raises:
        MaasError: the bundle cannot be opened, or has no golden rows for the program.
    """
    from maas_sdk.bundle import open_bundle
    from maas_sdk.bundle.manifest import golden_path

    opened = open_bundle(bundle)
    manifest = opened.manifest
    chosen = manifest.programs[program]
    if golden_path(program) not in manifest.files:
        raise NotFoundError(
            f"{manifest.name} has no golden rows for {program!r}, so no answer can be checked: "
            "export it with examples",
            program=program,
        )
    golden = opened.weights(golden_path(program))
    # Rows that influence each other are right only together.
    rows = slice(0, 1) if chosen.row_independent and not whole else slice(None)

    def part(kind: str) -> dict[str, Array]:
        specs = getattr(chosen.signature, f"{kind}s")
        return {
            # Copied, for the file that they are mapped from is closed below.
            key: np.array(
                golden[f"{kind}/{key}"][rows]
                if spec.shape[:1] == (None,)
                else golden[f"{kind}/{key}"]
            )
            for key, spec in specs.items()
        }

    found = part("input"), part("output"), chosen.verification
    golden.close()
    return found


def largest_excess(found: Array, wanted: Array, verification: Verification | None) -> float:
    """Return by how much |found - wanted| exceeds the export's tolerance; ≤ 0 is within.

    Infinite for another shape or dtype, and for a NaN or infinity in only one of them.
    """
    from maas_sdk.bundle.files.tolerance import Tolerance, compare

    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    atol, rtol = (verification.atol, verification.rtol) if verification else _UNVERIFIED
    allowed = Tolerance(atol=atol, rtol=rtol).allowed(wanted)
    return compare(found, wanted).max_abs_error - allowed
