"""Parquet files row by row, however large their row groups are (SAT's train split has one of 5 GB)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actial.core.errors import UserError

BATCH = 64  # rows decoded at a time
READ_AHEAD = 1 << 20  # bytes; without it the whole column chunk is read at once


def open_parquet(path: Path) -> Any:
    """A parquet file without read-ahead of whole row groups; raises UserError for a broken one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_AHEAD)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet ({error}): fetch it again.") from error


def stream(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows one by one: a row group is never held as a whole."""
    import pyarrow as pa

    file = open_parquet(path)
    batches = file.iter_batches(
        BATCH, columns=[c for c in columns if c in file.schema_arrow.names] if columns else None
    )
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): fetch it again.") from error
        if batch is None:
            return
        yield from batch.to_pylist()
