"""Explanation of a layout: a table per parameter, totals, and warnings.

    print(explain(lay_out(model, mesh, strategy="fsdp")).table())

The rule it keeps: nothing is decided here. Every figure follows from shapes and the layout alone,
so a model that fits no machine can be explained on a laptop (make its shapes with
``nnx.eval_shape``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maas_sdk.charts.columns import columns
from maas_sdk.charts.quantities import data_size, percent
from maas_sdk.sharding.layout import Layout
from maas_sdk.sharding.mesh import MeshAxis, describe_mesh
from maas_sdk.sharding.partition import LeafPlan
from maas_sdk.sharding.rules import axes_of, partition_text

__all__ = ["Explanation", "explain"]

_HEADER = ("parameter", "shape", "dtype", "cut over", "per device", "because")
# Words to the left, figures of bytes to the right.
_LEFT = (0, 1, 2, 3, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """A layout in words and figures."""

    strategy: str
    axes: tuple[MeshAxis, ...]
    # One per parameter, in the tree's order.
    rows: tuple[LeafPlan, ...]
    # What could not be done as asked, each with the remedy.
    warnings: tuple[str, ...]
    # Of all parameters' bytes, the share that every device holds whole.
    replicated_share: float

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters, counted once."""
        return sum(row.nbytes for row in self.rows)

    @property
    def bytes_per_device(self) -> int:
        """Bytes of parameters that one device holds."""
        return sum(row.bytes_per_device for row in self.rows)

    def table(self, *, rows: int | None = None) -> str:
        """Return plain text: the mesh, a line per parameter, totals, warnings.

        Args:
            rows: at most so many parameters, the largest first; None is all, in the tree's order.
        """
        shown = self.rows
        if rows is not None:
            shown = tuple(sorted(self.rows, key=lambda row: -row.nbytes)[:rows])
        lines = [
            f"strategy {self.strategy}, mesh: {', '.join(map(str, self.axes))}",
            "",
            *columns([_HEADER, *(_cells(row) for row in shown)], left=_LEFT),
        ]
        if len(shown) < len(self.rows):
            lines.append(f"… and {len(self.rows) - len(shown)} smaller ones")
        lines += [
            "",
            f"{data_size(self.nbytes)} of parameters, {data_size(self.bytes_per_device)} per "
            f"device; {percent(self.replicated_share)} whole on every device",
            *(f"! {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON-able values."""
        return {
            "strategy": self.strategy,
            "mesh": [
                {"axis": axis.name, "ici": axis.ici, "dcn": axis.dcn, "network": axis.network}
                for axis in self.axes
            ],
            "parameters": [
                {
                    "path": row.path,
                    "shape": list(row.shape),
                    "dtype": str(row.dtype),
                    "source": row.source,
                    "matched": row.matched,
                    "partition": [list(axes_of(entry)) for entry in row.partition],
                    "bytes": row.nbytes,
                    "bytes_per_device": row.bytes_per_device,
                }
                for row in self.rows
            ],
            "bytes": self.nbytes,
            "bytes_per_device": self.bytes_per_device,
            "replicated_share": self.replicated_share,
            "warnings": list(self.warnings),
        }


def explain(layout: Layout) -> Explanation:
    """Explain the sharding of each parameter, the reason, and possible improvements."""
    return Explanation(
        strategy=layout.strategy,
        axes=describe_mesh(layout.mesh),
        rows=layout.rows,
        warnings=layout.warnings,
        replicated_share=layout.replicated_share,
    )


def _cells(row: LeafPlan) -> tuple[str, ...]:
    because = {
        "rule": f"rule {row.matched}",
        "preset": f"preset {row.matched}",
        "annotation": row.matched,
        "automatic": "automatic: largest dimension that divides",
        "follows": row.matched,
        "whole": "nothing cuts it",
    }[row.source]
    return (
        row.path,
        "×".join(map(str, row.shape)) or "scalar",
        str(row.dtype),
        "whole" if row.whole else partition_text(row.partition),
        data_size(row.bytes_per_device),
        because,
    )
