"""The command lines in the shell blocks of a page."""

from __future__ import annotations

import re
from pathlib import Path


def commands(page: Path) -> list[str]:
    """`python -m actial...` lines in the page's order, continued lines joined."""
    return _commands(page.read_text())


def commands_before(page: Path, heading: str) -> list[str]:
    """The same above a heading, which the page must have."""
    text, _, rest = page.read_text().partition(f"\n{heading}\n")
    assert rest, f"{page} has no line {heading}"
    return _commands(text)


def _commands(page: str) -> list[str]:
    lines = []
    for block in re.findall(r"```(?:sh|console|bash)\n(.*?)```", page, re.DOTALL):
        text = block.replace("\\\n", " ")
        lines += re.findall(r"^python -m actial\.[^\n]+", text, re.MULTILINE)
    return lines
