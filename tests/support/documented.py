"""The command lines in the shell blocks of a page, and how a test runs one."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from actial.core.paths import CONF

ROOT = CONF.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WALK = ROOT / "docs" / "reproduce.md"
OTHER_WAYS = "## With less"  # the heading of its commands that take the place of others


def commands(page: Path) -> list[str]:
    """`python -m actial...` lines in the page's order, joined where continued, without comment."""
    return _commands(page.read_text())


def commands_before(page: Path, heading: str) -> list[str]:
    """The same above a heading, which the page must have."""
    text, _, rest = page.read_text().partition(f"\n{heading}\n")
    assert rest, f"{page} has no line {heading}"
    return _commands(text)


def all_commands() -> list[str]:
    """The command lines of all pages, each once, in the pages' order."""
    return list(dict.fromkeys(line for page in PAGES for line in commands(page)))


def call(module: str, *words: str) -> None:
    """Run `python -m MODULE WORDS` in this process."""
    folder = module in {"actial.audit", "actial.compare", "actial.import_release"}
    main = importlib.import_module(f"{module}.__main__" if folder else module).main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *words])
        main()


def _commands(page: str) -> list[str]:
    lines = []
    for block in re.findall(r"```(?:sh|console|bash)\n(.*?)```", page, re.DOTALL):
        text = block.replace("\\\n", " ")
        lines += re.findall(r"^python -m actial\.[^\n]+", text, re.MULTILINE)
    return [" ".join(re.sub(r"\s#\s.*", "", line).split()) for line in lines]
