"""Side by side with TRL 1.16 on the same tiny weights and tokens: parity first, then ratios,
memory, phases and the limit of the machine.

    python experiments/bench/run.py MODELS_FOLDER OUT_FOLDER [--quick] [--only CELL ..] [--threads
    N]

Every measurement runs in a fresh process. Writes results.json, results.md and curves.png into
OUT_FOLDER; --quick takes single steps, to see that all of it runs. Exits 1 when a cell has no
parity, or a ratio or the memory share misses its target.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from cells import CELLS, MEMORY_PARTS  # noqa: E402
from report import figure, machine, missed, table  # noqa: E402

TABLES = ("memory", "width", "sampler")  # cells with a table of their own


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, help="where the random models are made")
    parser.add_argument("out", type=Path, help="where the table and the figure go")
    parser.add_argument(
        "--quick", action="store_true", help="one process and single steps per cell"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*CELLS, *TABLES],
        help="some cells; those already in results.json stay",
    )
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    folder, started = arguments.out, time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    if arguments.only and (folder / "results.json").exists():
        results = json.loads((folder / "results.json").read_text())
    results["machine"] = machine(arguments.threads)
    wanted = arguments.only or [*CELLS, *TABLES]
    shared = [name for name in wanted if name in CELLS and CELLS[name].shared]
    for names in [[name] for name in wanted if name not in shared] + (
        [shared] if shared else []
    ):
        results |= measure(names, arguments)
        print(f"{time.perf_counter() - started:5.0f} s  {', '.join(names)}", flush=True)
        write(folder / "results.json", json.dumps(results, indent=1))
    text = table(results)
    write(folder / "results.md", text)
    figure(results, folder / "curves.png")
    print(text)
    for line in missed(results):
        print(f"missed: {line}")
    return 1 if missed(results) else 0


def measure(names: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Results by cell; cells measured together are run once each in one process."""
    if names == ["memory"]:
        return {
            "memory": {part: worker(names, part, arguments)["memory"] for part in MEMORY_PARTS}
        }
    if names[0] in TABLES:
        return worker(names, "speed", arguments)
    count = 1 if arguments.quick else max(CELLS[name].processes for name in names)
    runs = [worker(names, "speed", arguments) for _ in range(count)]
    limits = worker(names, "roofline", arguments)
    return {
        name: {"runs": [run[name] for run in runs], "roofline": limits[name]} for name in names
    }


def worker(names: list[str], part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.json"
        command = [
            sys.executable,
            str(HERE / "worker.py"),
            ",".join(names),
            part,
            str(arguments.models),
            str(out),
        ]
        command += ["quick"] if arguments.quick else []
        environment = os.environ | {
            "OMP_NUM_THREADS": str(arguments.threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        if names == ["memory"]:  # an allocator told to keep what it has would hide the peak
            environment = {
                key: value
                for key, value in environment.items()
                if not key.startswith("MALLOC_")
            }
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(
                f"{', '.join(names)}, {part}: the process ended with {done.returncode}\n{done.stderr[-3000:]}"
            )
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
