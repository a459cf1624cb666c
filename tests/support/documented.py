"""The command lines of a page, in shell blocks and within its text, and how a test runs one."""

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
# names that a reader fills in
FILLED_IN = {
    "benchmark=NAME": "benchmark=blink",
    "model=NAME": "model=qwen2_5_vl_7b",
    "source.name=NAME": "source.name=llava",
}
# What brings a build, and a training, to tiny inputs and one CPU.
IMAGES = ("image.multiple=16", "image.max_pixels=4096", "image.format=png", "workers=1")
TINY_TRAINING = (
    "trainer=cpu",
    "sampler=hf",  # engines have tests of their own
    "logger=none",
    "data.workers=0",
    "sft.steps=2",
    "sft.batch_size=4",
    "sft.optim.warmup_steps=0",
    "grpo.steps=1",
    "grpo.batch_size=2",
    "grpo.group_size=2",
    "grpo.num_mini_batches=1",
    "grpo.max_tokens=8",
    "benchmark.limit=2",
    "benchmark.max_tokens=4",
)
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
    for part in re.split(r"^```", page, flags=re.MULTILINE):
        if re.match(r"(sh|console|bash)\n", part):
            text = part.replace("\\\n", " ")
            lines += re.findall(r"^python -m actial\.[^\n]+", text, re.MULTILINE)
        else:  # a module alone is no command
            lines += re.findall(r"`(python -m actial\.[\w.]+\s[^`]+)`", part)
    return [" ".join(re.sub(r"\s#\s.*", "", line).split()) for line in lines]
