"""The watch of a long run sees memory, threads and files that grow, and tells growth from none."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from actial.core.paths import CHECKOUT

FLAT = runpy.run_path(str(CHECKOUT / "experiments" / "soak" / "flat.py"))
LEAKS = """
import sys, threading, time
from pathlib import Path
folder, leaks = Path(sys.argv[1]), sys.argv[2] == "leaks"
folder.mkdir()
leaked = []
for step in range(60):
    if leaks:
        leaked.append((open("/dev/null"), bytearray(b"x") * 2**18))
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("{}\\n")
    time.sleep(0.02)
time.sleep(0.5)
"""


@pytest.mark.parametrize("leaks", [True, False])
def test_growth_by_a_thousand_steps_is_measured_from_outside(
    tmp_path: Path, leaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FLAT["observe"].__globals__, "POLL_S", 0.02)
    folder = tmp_path / "run"
    command = [sys.executable, "-c", LEAKS, str(folder), "leaks" if leaks else "flat"]
    samples = list(FLAT["observe"](command, folder, 10))
    assert len(samples) >= 3
    steps = [sample.step for sample in samples]
    growth = {
        name: FLAT["slope"](steps, [getattr(sample, name) for sample in samples])
        for name in ("anonymous_mib", "threads", "open_files")
    }
    if leaks:
        assert growth["anonymous_mib"] == pytest.approx(250, rel=0.2)  # a quarter MiB a step
        assert growth["threads"] == pytest.approx(1000, rel=0.1)
        assert growth["open_files"] == pytest.approx(1000, rel=0.1)
    else:
        assert abs(growth["anonymous_mib"]) < 20
        assert growth["threads"] == pytest.approx(0, abs=1e-6)
    table = FLAT["summary"](samples, 10)
    assert f"| {steps[-1]} steps |" in table
    assert "| threads |" in table


def test_a_run_that_fails_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="exit code 3"):
        list(
            FLAT["observe"]([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "run", 1)
        )
