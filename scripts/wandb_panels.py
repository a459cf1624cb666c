"""Draw docs/wandb.png from offline runs: python scripts/wandb_panels.py SWEEP docs/wandb.png"""

from __future__ import annotations

import sys
from pathlib import Path

from actial.reporting.offline_wandb import draw_sweep, read_offline

SETS = ["viewpoint", "sat"]  # of conf/benchmark/world_val.yaml

if __name__ == "__main__":
    sweep, out = Path(sys.argv[1]), Path(sys.argv[2])
    folders = sorted(sweep.glob("*/wandb/offline-run-*"))
    draw_sweep({path.parents[1].name: read_offline(path) for path in folders}, SETS, out)
