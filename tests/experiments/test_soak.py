"""A short soak: kills and damaged files end in the same bytes as no disturbance."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from actial.core.paths import CHECKOUT

SCRIPT = CHECKOUT / "experiments" / "soak" / "run.py"


@pytest.mark.slow
def test_a_run_broken_at_random_ends_as_one_that_was_not(
    tmp_path: Path, tiny_set: Path, untrained_model: Path
) -> None:
    settings = [
        "benchmark=none",
        "stages=[sft]",
        f"model.path={untrained_model}",
        "data.sets={viewpoint:{task:viewpoint,root:'" + str(tiny_set) + "'}}",
        "mix@sft.mix=viewpoint",
    ]
    options = ["--kinds", "hf", "--only", "4", "--results", str(tmp_path)]
    subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "runs"), *options, *settings], check=True
    )
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) >= 4
    assert {line["kind"] for line in lines} == {"hf"}
    assert {(line["ends"], line["half_written"]) for line in lines} == {("identical", "0")}
    assert (
        f"| all |  | {len(lines)} | {len(lines)} | 0 |"
        in (tmp_path / "results.md").read_text()
    )
