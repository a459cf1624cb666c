"""Memory, threads and open files of a long GRPO run, from outside: `flat.py OUT [key=value ...]`.

The run is the command itself, of the tiny base with the hf sampler, two prompts a step. This
script reads /proc of its process after every so many steps. flat.csv has what it saw, flat.md the
growth by 1,000 steps, and flat.png the curves.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ARGUMENTS = ("+experiment=smoke", "stages=[grpo]", "trainer.threads=1", "benchmark=none")
ARGUMENTS += ("grpo.log_every=1", "grpo.save_every=50", "logger.mode=offline")
POLL_S = 0.2


@dataclass(frozen=True)
class Sample:
    """What the process held when `step` steps were logged."""

    step: int
    resident_mib: float
    anonymous_mib: float  # of it, without files that are mapped
    threads: int
    open_files: int
    processes: int  # started by it and alive


UNITS = {"resident_mib": "MiB", "anonymous_mib": "MiB"}


def read_sample(pid: int, step: int) -> Sample:
    """Return what a process holds now. Raises FileNotFoundError when it has ended."""
    process = Path(f"/proc/{pid}")
    sizes: dict[str, float] = {}
    for line in (process / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            sizes[name] = int(value.split()[0]) / 1024
    children = [path.read_text().split() for path in process.glob("task/*/children")]
    return Sample(
        step=step,
        resident_mib=round(sizes["VmRSS"], 2),
        anonymous_mib=round(sizes["RssAnon"], 2),
        threads=len(os.listdir(process / "task")),
        open_files=len(os.listdir(process / "fd")),
        processes=sum(map(len, children)),
    )


def observe(command: list[str], folder: Path, every: int) -> Iterator[Sample]:
    """Run a command that writes `folder`/metrics.jsonl; yield a sample every `every` lines of it."""
    metrics = folder / "metrics.jsonl"
    log = folder.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        position, steps = 0, 0
        while process.poll() is None:
            time.sleep(POLL_S)
            if not metrics.exists():
                continue
            with metrics.open("rb") as file:
                file.seek(position)
                fresh = file.read()
            position += len(fresh)
            before, steps = steps, steps + fresh.count(b"\n")
            if steps // every > before // every:
                try:
                    yield read_sample(process.pid, steps)
                except (FileNotFoundError, ProcessLookupError, KeyError):
                    break  # it has ended since
    finally:
        if process.poll() is None and sys.exc_info()[0] is not None:
            process.terminate()
        code = process.wait()
    if code:
        sys.exit(f"the run ended with exit code {code}; its output is in {log}")


def slope(steps: list[int], values: list[float]) -> float:
    """Return the growth by 1,000 steps of a straight line through the values."""
    return float(np.polyfit(steps, values, 1)[0]) * 1000 if len(steps) > 1 else 0.0


def summary(samples: list[Sample], first: int) -> str:
    """Return a table: values after the first `first` steps and at the end, and the growth."""
    later = [sample for sample in samples if sample.step >= first]
    steps = [sample.step for sample in later]
    lines = [
        f"| {later[-1].step} steps | at step {steps[0]} | at the end | highest | growth by 1,000 steps |"
    ]
    lines += ["|---|---:|---:|---:|---:|"]
    for name in [field.name for field in fields(Sample)][1:]:
        values = [float(getattr(sample, name)) for sample in later]
        cells = [f"{value:.1f}" if name in UNITS else f"{value:.0f}" for value in values]
        highest = cells[values.index(max(values))]
        label = name.removesuffix("_mib").replace("_", " ") + (
            ", MiB" if name in UNITS else ""
        )
        growth = f"{slope(steps, values):+.2f}"
        lines.append(f"| {label} | {cells[0]} | {cells[-1]} | {highest} | {growth} |")
    return "\n".join(lines) + "\n"


def draw(samples: list[Sample], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3), layout="constrained")
    steps = [sample.step for sample in samples]
    groups = (("resident_mib", "anonymous_mib"), ("threads", "open_files", "processes"))
    for axis, names in zip(axes, groups, strict=True):
        for name in names:
            values = [getattr(sample, name) for sample in samples]
            axis.plot(steps, values, label=name.removesuffix("_mib").replace("_", " "))
        axis.set(xlabel="GRPO step", ylabel="MiB" if "resident_mib" in names else "number")
        axis.set_ylim(bottom=0)
        axis.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the run")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=10, help="steps between two samples")
    parser.add_argument("--first", type=int, default=200, help="steps before growth counts")
    parser.add_argument("--results", type=Path, default=HERE)
    options, settings = parser.parse_known_args()
    folder: Path = options.out.absolute() / "flat"
    if folder.exists():
        sys.exit(f"{folder} exists: remove it, or give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    words = [*ARGUMENTS, f"grpo.steps={options.steps}", *settings, f"run_dir={folder}"]
    command = [sys.executable, "-m", "actial.train", *words]
    samples: list[Sample] = []
    with (options.results / "flat.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Sample)])
        for sample in observe(command, folder, options.every):
            samples.append(sample)
            writer.writerow(astuple(sample))
            file.flush()
    text = summary(samples, options.first)
    (options.results / "flat.md").write_text(text)
    draw(samples, options.results / "flat.png")
    print(text)


if __name__ == "__main__":
    main()
