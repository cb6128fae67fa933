"""The columns of a file that each named array is made of.

Nothing is guessed from values. A file that lacks a column is refused as a whole, with the columns
that it has and the option that names others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import TensorSpec

__all__ = ["NAMELESS", "ROW", "ColumnMap", "Field", "ReadOptions", "columns_of"]

# Name of the column of row numbers.
ROW: Final = "row"
# Name of the only column of a file whose values have no name.
NAMELESS: Final = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """Choices about the columns and values of a file."""

    # Column whose values tell one row from another; None: the number of the row, from 0.
    key: str | None = None
    # Input → columns that it is made of. An input that is not named takes the column of its name;
    # an only input otherwise takes all columns but the key.
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Columns that are left out when an input takes all.
    ignore: tuple[str, ...] = ()
    # Rows with NaN or infinity are bad.
    finite: bool = False
    # Images are scaled to the size of the input; False: images of other sizes are bad rows.
    resize: bool = False
    # Images: dark is high, as in ink on paper.
    invert: bool = False

    # Hints in messages: how other columns are named, and how images are scaled.
    naming: ClassVar[str] = "inputs= and labels= name the columns"
    scaling: ClassVar[str] = "size= scales all to one"

    def __post_init__(self) -> None:
        for name, columns in self.columns.items():
            if not columns or len(set(columns)) != len(columns):
                raise ConfigError(
                    f"columns: input {name!r}: expected one column or more, each once, got "
                    f"{list(columns)}"
                )


@dataclass(frozen=True, slots=True)
class Field:
    """An input, and its columns."""

    name: str
    # [None, …], a row of it being everything behind the first dimension.
    spec: TensorSpec
    # One column, of numbers or of lists, or as many as a row has numbers.
    columns: tuple[str, ...] = (NAMELESS,)

    @property
    def size(self) -> int:
        """Count F of numbers in a row."""
        return math.prod(size or 0 for size in self.spec.shape[1:])

    def at(self, element: int = -1) -> str:
        """Return the column or input that number ``element`` of a row comes from, for messages."""
        if len(self.columns) > 1 and element >= 0:
            return f"column {self.columns[element]!r}"
        known = len(self.columns) > 1 or self.columns[0] in (self.name, NAMELESS)
        return f"input {self.name!r}" if known else f"column {self.columns[0]!r}"


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """The inputs with their columns, and the column of keys."""

    fields: tuple[Field, ...]
    key: str | None

    @property
    def names(self) -> list[str]:
        """Names of all columns that are read, each once."""
        found = [column for item in self.fields for column in item.columns]
        return list(dict.fromkeys([*found, *([self.key] if self.key is not None else [])]))


def columns_of(
    path: Path, names: Sequence[str], specs: Mapping[str, TensorSpec], options: ReadOptions
) -> ColumnMap:
    """Return the column map of a file with the columns ``names``.

    Raises:
        InputError: a column is missing, is there twice, or an input gets the wrong number of them.
        ConfigError: an option names an input that is not in ``specs``.
    """
    if unknown := sorted(set(options.columns) - specs.keys()):
        raise ConfigError(f"columns: no input {unknown[0]!r}; the program has {', '.join(specs)}")
    fields = []
    for name, spec in specs.items():
        if name in options.columns:
            chosen = tuple(options.columns[name])
        elif name in names or len(specs) > 1:
            chosen = (name,)
        else:
            left_out = {options.key, *options.ignore}
            chosen = tuple(column for column in names if column not in left_out)
        fields.append(Field(name, spec, chosen))
    found = ColumnMap(tuple(fields), options.key)
    missing = [name for name in found.names if name not in names]
    double = sorted({name for name in found.names if list(names).count(name) > 1})
    if missing or double:
        raise InputError(
            f"{path}: expected columns {_few(found.names)}, found {_few(names)}"
            + (f"; missing: {_few(missing)}" if missing else "")
            + (f"; twice: {double}" if double else "")
            + f"; {options.naming}",
            path=str(path),
            missing=missing,
        )
    for item in fields:
        if len(item.columns) not in (1, item.size):
            raise InputError(
                f"{path}: input {item.name!r} is {item.spec}, {item.size} numbers in a row, but "
                f"gets {len(item.columns)} columns, {_few(item.columns)}: leave some out with "
                "--ignore, or name those that it takes with --columns",
                path=str(path),
            )
    return found


def _few(names: Sequence[str]) -> str:
    """List names in a message: the first of many."""
    text = ", ".join(map(repr, names[:8]))
    return f"[{text}{f', … {len(names)} in all' if len(names) > 8 else ''}]"
