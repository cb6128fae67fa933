"""Which columns of a file an input of the program is made of.

The rule it keeps: nothing is guessed from values. A file that lacks a column is refused as a whole,
with the columns that it has and the option that names others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from maas_sdk.batch.config import BatchConfig
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tables.values import row_size
from maas_sdk.tensors import Signature, TensorSpec

__all__ = ["ROW", "ColumnMap", "check_signature", "layout_of"]

# Name of the column of row numbers.
ROW: Final = "row"


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnMap:
    """How columns become inputs."""

    # By input of the program.
    specs: dict[str, TensorSpec]
    # By input: one column, of numbers or of lists, or as many as a row has numbers.
    columns: dict[str, tuple[str, ...]]
    # The column of keys.
    key: str | None

    @property
    def names(self) -> list[str]:
        """All columns that are read, each once."""
        found = [column for columns in self.columns.values() for column in columns]
        return list(dict.fromkeys([*found, *([self.key] if self.key is not None else [])]))


def check_signature(program: str, signature: Signature) -> None:
    """Refuse, with ``ConfigError``, a program that does not take and give rows."""
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for name, spec in specs.items():
            if spec.shape[:1] != (None,):
                raise ConfigError(
                    f"program {program!r}: {kind} {name!r} is {spec}, which has no row for each "
                    "row of a file: batch prediction needs programs whose first dimension is open"
                )
    if not signature.inputs:
        raise ConfigError(f"program {program!r} has no inputs: there is nothing to read rows for")


def layout_of(
    path: Path, names: Sequence[str], signature: Signature, config: BatchConfig
) -> ColumnMap:
    """The layout of a file with the columns ``names``.

    Raises:
        InputError: a column is missing, is there twice, or an input gets the wrong number of them.
        ConfigError: an option names an input that the program does not have.
    """
    specs = dict(signature.inputs)
    if unknown := sorted(set(config.columns) - specs.keys()):
        raise ConfigError(f"columns: no input {unknown[0]!r}; the program has {', '.join(specs)}")
    chosen: dict[str, tuple[str, ...]] = {}
    for name in specs:
        if name in config.columns:
            chosen[name] = tuple(config.columns[name])
        elif name in names or len(specs) > 1:
            chosen[name] = (name,)
        else:
            left_out = {config.key, *config.ignore}
            chosen[name] = tuple(column for column in names if column not in left_out)
    layout = ColumnMap(specs=specs, columns=chosen, key=config.key)
    missing = [name for name in layout.names if name not in names]
    double = sorted({name for name in layout.names if list(names).count(name) > 1})
    if missing or double:
        raise InputError(
            f"{path}: expected columns {_few(layout.names)}, found {_few(names)}"
            + (f"; missing: {_few(missing)}" if missing else "")
            + (f"; twice: {double}" if double else "")
            + "; --columns INPUT=COLUMN,… says which columns an input is made of",
            path=str(path),
            missing=missing,
        )
    for name, columns in chosen.items():
        if len(columns) not in (1, row_size(specs[name])):
            raise InputError(
                f"{path}: input {name!r} is {specs[name]}, {row_size(specs[name])} numbers in a "
                f"row, but gets {len(columns)} columns, {_few(columns)}: leave some out with "
                "--ignore, or name those that it takes with --columns",
                path=str(path),
            )
    return layout


def _few(names: Sequence[str]) -> str:
    """Names in a message: the first of many."""
    text = ", ".join(map(repr, names[:8]))
    return f"[{text}{f', … {len(names)} in all' if len(names) > 8 else ''}]"
