"""Side by side with TRL 1.16 on the same tiny weights and tokens: parity first, then ratios, memory, phases and the limit of the machine.

    python experiments/bench/run.py WORK_FOLDER [--quick] [--only CELL ..] [--threads N]

Every measurement runs in a fresh process. Writes results.json, results.md and curves.png into WORK_FOLDER; --quick takes single steps, to
see that all of it runs. Exits 1 when a cell has no parity, or a ratio or the memory share misses its target.
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

from cells import CELLS, MEMORY, MEMORY_PARTS  # noqa: E402
from report import figure, machine, missed, table  # noqa: E402
from setting import save_model  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="one process and single steps per cell")
    parser.add_argument("--only", nargs="+", choices=[*CELLS, "memory"], help="some cells; those already in results.json stay")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    folder, started = arguments.folder, time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    models = {vocab: model_folder(folder, vocab) for vocab in {MEMORY.vocab, *(cell.work.vocab for cell in CELLS.values())}}
    results: dict[str, Any] = {}
    if arguments.only and (folder / "results.json").exists():
        results = json.loads((folder / "results.json").read_text())
    results["machine"] = machine(arguments.threads)
    for name in arguments.only or [*CELLS, "memory"]:
        if name == "memory":
            results[name] = {part: worker(name, part, models[MEMORY.vocab], arguments) for part in MEMORY_PARTS}
        else:
            cell = CELLS[name]
            count = 1 if arguments.quick else cell.processes
            runs = [worker(name, "speed", models[cell.work.vocab], arguments) for _ in range(count)]
            results[name] = {"runs": runs, "roofline": worker(name, "roofline", models[cell.work.vocab], arguments) if count > 1 else None}
        print(f"{time.perf_counter() - started:5.0f} s  {name}", flush=True)
        write(folder / "results.json", json.dumps(results, indent=1))
    text = table(results)
    write(folder / "results.md", text)
    figure(results, folder / "curves.png")
    print(text)
    for line in missed(results):
        print(f"missed: {line}")
    return 1 if missed(results) else 0


def worker(name: str, part: str, model: Path, arguments: argparse.Namespace) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.json"
        command = [sys.executable, str(HERE / "worker.py"), name, part, str(model), str(out), *(["quick"] if arguments.quick else [])]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(arguments.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONWARNINGS": "ignore",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name}, {part}: the process ended with {done.returncode}\n{done.stderr[-3000:]}")
        return json.loads(out.read_text())


def model_folder(folder: Path, vocab: int) -> Path:
    path = folder / f"model-{vocab}"
    if not (path / "model.safetensors").exists():
        save_model(path, vocab)
    return path


def write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
