"""Break training runs at random and compare what they end with: `run.py OUT --faults N [--seed S]`.

Each run of the smoke experiment is killed or stopped at random moments, and between two starts a
file of its newest checkpoint may be damaged. The same command is repeated until the run finishes.
It must then hold the same metrics, weights and report as a run that nothing disturbed, and no
temporary file. Writes results.csv: one line per fault, with what was broken and how it ended.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

COMPARED = ("metrics.jsonl", "results.json", "sft/model/model.safetensors")
COMPARED += ("grpo/model/model.safetensors", "report.html")


def cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "cut": cut,
    "bit flipped": flip,
    "deleted": delete,
}


def command(folder: Path, arguments: list[str]) -> list[str]:
    fixed = ["+experiment=smoke", f"run_dir={folder}", "trainer.threads=1", "logger=none"]
    saving = ["sft.save_every=1", "grpo.save_every=1"]
    return [sys.executable, "-m", "actial.train", *fixed, *saving, *arguments]


def disturbed(
    folder: Path, arguments: list[str], seconds: float, rng: random.Random
) -> str | None:
    """Start the run and break it at a random moment; None where it had finished before."""
    process = subprocess.Popen(
        command(folder, arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    kind = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
    try:
        process.wait(timeout=rng.uniform(0.0, seconds))
        return None
    except subprocess.TimeoutExpired:
        process.send_signal(kind)
    process.wait(timeout=600)
    checkpoints = sorted(folder.glob("checkpoints/*/step-*"), key=lambda p: p.stat().st_mtime)
    if not checkpoints or rng.random() < 0.5:
        return kind.name
    damage = rng.choice(list(DAMAGES))
    path = rng.choice(sorted(checkpoints[-1].iterdir()))
    DAMAGES[damage](path, rng)
    return f"{kind.name}, newest {path.name} {damage}"


def differences(folder: Path, reference: Path) -> list[str]:
    """Return the files that differ from the undisturbed run, and temporary files that remain."""
    names = [name for name in COMPARED if (reference / name).exists()]
    different = [
        name
        for name in names
        if (folder / name).read_bytes() != (reference / name).read_bytes()
    ]
    leftovers = [str(p.relative_to(folder)) for p in folder.rglob(".*") if p.name != ".lock"]
    return different + leftovers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, default=Path(__file__).parent / "results.csv")
    options, arguments = parser.parse_known_args()
    rng = random.Random(options.seed)
    # The title of a report is the folder's name, so every run has the same one.
    reference = options.out / "undisturbed" / "run"
    started = time.monotonic()
    subprocess.run(command(reference, arguments), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    lines: list[list[str]] = []
    number = 0
    while len(lines) < options.faults:
        folder = options.out / f"{number:04d}" / "run"
        faults: list[str] = []
        while len(lines) + len(faults) < options.faults:
            fault = disturbed(folder, arguments, seconds, rng)
            if fault is None:
                break
            faults.append(fault)
        done = subprocess.run(command(folder, arguments), capture_output=True, text=True)
        broken = [done.stderr.strip()] if done.returncode else differences(folder, reference)
        verdict = "; ".join(broken) or "identical"
        lines += [[str(number), fault, verdict] for fault in faults]
        print(f"run {number}: {len(faults)} faults, {verdict}", flush=True)
        number += 1
    with options.table.open("w", newline="") as file:
        csv.writer(file).writerows([["run", "fault", "ends"], *lines])
    sys.exit(any(verdict != "identical" for _, _, verdict in lines))


if __name__ == "__main__":
    main()
