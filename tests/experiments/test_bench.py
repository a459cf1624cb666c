"""The side-by-side benchmark runs, and both systems agree on loss and gradient norm; without TRL it is skipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "experiments" / "bench" / "run.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two systems start in turn, twice
def test_both_systems_take_the_same_steps(tmp_path):
    pytest.importorskip("trl")
    command = [
        sys.executable,
        str(RUN),
        str(tmp_path / "models"),
        str(tmp_path / "out"),
        "--quick",
        "--only",
        "parity",
        "--threads",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    actual = json.loads((tmp_path / "out" / "results.json").read_text())["parity"]["runs"][0][
        "parity"
    ]
    assert actual["loss"] < 1e-4
    assert actual["grad_norm"] < 1e-4
    assert "parity" in (tmp_path / "out" / "results.md").read_text()
    assert (tmp_path / "out" / "curves.png").stat().st_size > 0
