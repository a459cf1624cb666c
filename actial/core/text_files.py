"""Text files that a setting names, and texts of tables."""

from __future__ import annotations

from pathlib import Path

from actial.core.errors import UserError


def read_utf8(path: Path, setting: str) -> str:
    """Return the text of a file, without a byte order mark.

    Raises UserError for text in another encoding. `setting` stands in it, as "identifiers=a.txt".
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{setting} is no text in UTF-8 (byte {error.start} is "
            f"{error.object[error.start]:#04x}): save it as UTF-8."
        ) from error
    if "\0" in text:
        raise UserError(
            f"{setting} is no text in UTF-8 (it holds null bytes): save it as UTF-8."
        )
    return text


def is_number(text: str) -> bool:
    """Return whether programs that read tables take a text for a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
