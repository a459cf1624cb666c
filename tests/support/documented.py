"""The command lines in the shell blocks of a page."""

from __future__ import annotations

import re
from pathlib import Path


def commands(page: Path) -> list[str]:
    """`python -m actial...` lines in the page's order, continued lines joined."""
    lines = []
    for block in re.findall(r"```(?:sh|console|bash)\n(.*?)```", page.read_text(), re.DOTALL):
        text = block.replace("\\\n", " ")
        lines += re.findall(r"^python -m actial\.[^\n]+", text, re.MULTILINE)
    return lines
