"""Files that carry a checksum of their own content, so that damage is noticed when they are read.

JSON files have it under "content_sha256", lines of a log as their last key "crc32",
folders in SHA256SUMS (as `sha256sum -c` reads it). Files of earlier versions have none
and are read.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from actial.core.atomic_io import file_sha256, well_formed, write_json, write_text
from actial.core.errors import UserError
from actial.core.json_lines import parse_json

CHECKSUM = "content_sha256"
CHECKSUMS = "SHA256SUMS"
LINE_SEAL = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\n?$')


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum, as a whole."""
    content = {key: value[key] for key in value if key != CHECKSUM}
    write_json(path, {**content, CHECKSUM: _digest(content)})


def read_sealed_json(path: Path, remedy: str) -> dict[str, Any]:
    """Return the object that `write_sealed_json` wrote, without the checksum.

    Raises UserError, which ends with `remedy`, for a file that is not what was written.
    """
    try:
        content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        written = content.pop(CHECKSUM, None)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}.") from error
    if written is not None and written != _digest(content):
        raise UserError(f"{path} is damaged (its checksum is another): {remedy}.")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    """Return the hash of an object as it is read back: keys are text, tuples are lists."""
    written = well_formed(json.dumps(content, ensure_ascii=False))
    text = json.dumps(json.loads(written), sort_keys=True)
    return sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- lines of a log


def sealed_line(record: Mapping[str, Any]) -> bytes:
    """Return a record that is not empty as one line of JSON with the CRC-32 of its content."""
    body = json.dumps(record).encode().removesuffix(b"}")
    return body + b', "crc32": "%08x"}\n' % zlib.crc32(body)


def read_line(line: bytes) -> dict[str, Any]:
    """Return the record of a line without its checksum; raises ValueError for a damaged line."""
    if seal := LINE_SEAL.search(line):
        body = line[: seal.start()]
        if int(seal[1], 16) != zlib.crc32(body):
            raise ValueError("its checksum is another")
        line = body + b"}"
    record: dict[str, Any] = parse_json(line)
    return record


# ---------------------------------------------------------------- folders


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of all other files of a folder."""
    files = [path for path in sorted(folder.iterdir()) if path.name != CHECKSUMS]
    lines = [f"{file_sha256(path)}  {path.name}\n" for path in files]
    write_text(folder / CHECKSUMS, "".join(lines))


def changed_file(folder: Path) -> str | None:
    """Return the first file of a folder that is missing or not what SHA256SUMS says, else None.

    A folder without SHA256SUMS is of an earlier version: nothing is known of it.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        file = folder / Path(name).name
        if not name or not file.is_file() or file_sha256(file) != digest:
            return name or CHECKSUMS
    return None


def refuse_changed_model(folder: Path) -> None:
    """Raise UserError for a model folder whose files are not what its SHA256SUMS says."""
    if (changed := changed_file(folder)) is not None:
        raise UserError(
            f"model.path={folder} is damaged or was changed: {changed} differs from its checksum. "
            f"Put the file back, or remove {CHECKSUMS} there to use the folder as it is."
        )
