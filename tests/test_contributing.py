"""CONTRIBUTING.md is executed: each walk is applied to a copy of the checkout and its
commands run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^## (Add a .+?)$(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
STEP = re.compile(
    r"(?:New file `(?P<new>[^`]+)`:"
    r"|In `(?P<file>[^`]+)`, (?P<side>below|above) the line `(?P<line>[^`]+)`:)?"
    r"\n\n```(?P<language>\w+)\n(?P<text>.*?)```",
    re.DOTALL,
)
WALKS = dict(SECTION.findall((ROOT / "CONTRIBUTING.md").read_text()))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("actial", "conf", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def insert(path: Path, side: str, line: str, text: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    (position,) = [index for index, other in enumerate(lines) if other.strip() == line]
    lines.insert(position + (side == "below"), text)
    path.write_text("".join(lines))


def run(folder: Path, commands: str) -> None:
    for command in commands.strip().splitlines():
        program, *words = command.split()
        assert program == "python"
        done = subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=os.environ
            | {"PYTHONPATH": f"{folder}:{folder / 'tests'}", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_there_is_a_walk_for_each_kind_of_extension() -> None:
    assert list(WALKS) == [
        "Add a benchmark",
        "Add a reward",
        "Add a source of captures",
        "Add a model family",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("walk", WALKS)
def test_walk_works_as_written(walk: str, checkout: Path) -> None:
    for step in STEP.finditer(WALKS[walk]):
        if step["new"]:
            path = checkout / step["new"]
            assert not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step["text"])
        elif step["file"]:
            insert(checkout / step["file"], step["side"], step["line"], step["text"])
        else:
            assert step["language"] == "sh", f"where does this belong? {step['text']}"
            run(checkout, step["text"])
