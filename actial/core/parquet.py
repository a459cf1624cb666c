"""Read parquet files row by row, however large their row groups are.

SAT's train split has one row group of 5 GB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actial.core.errors import UserError

BATCH = 64  # rows decoded at a time
READ_AHEAD = 1 << 20  # bytes; without it the whole column chunk is read at once


def open_parquet(path: Path) -> Any:
    """Open a parquet file without reading whole row groups ahead.

    Raises UserError for a broken file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_AHEAD)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} cannot be read as parquet ({error}): fetch it again."
        ) from error


def stream(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield rows one by one, with those of `columns` that are there, without holding a row group.

    Raises UserError for a damaged file.
    """
    import pyarrow as pa

    file = open_parquet(path)
    present = None
    if columns:
        present = [column for column in columns if column in file.schema_arrow.names]
    batches = file.iter_batches(BATCH, columns=present)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): fetch it again.") from error
        if batch is None:
            return
        yield from batch.to_pylist()
