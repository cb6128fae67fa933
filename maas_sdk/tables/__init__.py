"""Tables, images and lines of JSON as rows, chunk by chunk, with a reason for each bad row.

Batch prediction and training read files through this package alone, so that the same file gives
both the same rows and the same error messages.

    table = open_table(path, {"x": spec}, ReadOptions(), chunk_rows=64)
    for chunk in table.read(0): ...
"""

from maas_sdk.tables.chunk import BadRow, Chunk
from maas_sdk.tables.columns import ReadOptions
from maas_sdk.tables.open_table import SUFFIXES, RowSource, open_table

__all__ = ["SUFFIXES", "BadRow", "Chunk", "ReadOptions", "RowSource", "open_table"]
