"""Files that appear under their name only when complete, locks against other writers, checksums."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from actial.core.errors import UserError

HALF_PAIR = re.compile("[\ud800-\udfff]")  # of UTF-16; JSON can escape one, UTF-8 not hold it


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file beside `path` that is renamed onto it at the end of the block.

    On any failure nothing is left, and the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def well_formed(text: str) -> str:
    """Return text that UTF-8 can hold: U+FFFD stands for every half of a surrogate pair."""
    return HALF_PAIR.sub("\ufffd", text)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole, in UTF-8."""
    with atomic(path) as file:
        file.write(well_formed(text).encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys as a whole."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def lock_file(path: Path, in_use: str, *, shared: bool = False) -> IO[bytes]:
    """Open a file and lock it against other processes until it is closed; it is created if needed.

    Args:
        in_use: the message for the user when another process holds the lock.
        shared: allow other processes that ask for a shared lock too.

    Raises:
        UserError: another process holds the lock.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(in_use) from error
    return file


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces of 1 MiB."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
