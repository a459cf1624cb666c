"""CPU seconds and peak memory of five commands against the amount of what they read.

    python experiments/growth/run.py SCRATCH_FOLDER OUT_FOLDER [--only PART ..]
        [--sizes 10 100 1000]

Every measurement is a process of its own, the command as a user calls it. Writes results.json and
results.md; parts that are not run keep their figures.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lookup import measure_lookup
from PIL import Image

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "notebooks" / "sample"
TEMPLATE = SAMPLE / "cold_start=hybrid,seed=1"  # a finished run
WITH_PHOTOS = SAMPLE / "cold_start=hybrid,seed=2"  # one that has the photos of its report
SEEDS = 5  # runs of one condition
STEPS_LOGGED = 20  # log lines of a run, for each unit of size


@dataclass(frozen=True, slots=True)
class Part:
    """What grows, and the command that reads `prepare(folder, size)`."""

    title: str
    unit: str
    each: int  # units for a size of 1
    prepare: Callable[[Path, int], list[str]]


def build_input(folder: Path, objects: int) -> list[str]:
    """Objects in MVImgNet's layout, as experiments/scale writes them."""
    path = ROOT / "experiments" / "scale" / "run.py"
    spec = importlib.util.spec_from_file_location("scale", path)
    assert spec is not None
    assert spec.loader is not None
    scale = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scale)
    scale.write_photos(folder / "photos")
    for number in range(objects):
        scale.write_object(folder / "tree", folder / "photos", number)
    words = ["source=mvimgnet", f"source.root={folder / 'tree'}", "workers=1"]
    return ["actial.build", *words, f"out={folder / 'out'}"]


def audit_input(folder: Path, images: int) -> list[str]:
    """A training and a test folder of unlike images, 9 : 1."""
    noise = np.random.default_rng(0)
    for name, count in (("train", images - images // 10), ("test", max(1, images // 10))):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            coarse = noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            photo = Image.fromarray(coarse).resize((256, 192), Image.Resampling.BICUBIC)
            photo.save(folder / name / f"{number}.jpg", quality=90)
    words = [str(folder / "train"), str(folder / "test"), "workers=1"]
    return ["actial.audit", *words, f"out={folder / 'out'}"]


def collect_input(folder: Path, runs: int) -> list[str]:
    """Copies of a finished run, SEEDS for each value of one setting."""
    settings = (TEMPLATE / "config.yaml").read_text()
    for number in range(runs):
        beta, seed = number // SEEDS, number % SEEDS
        run = folder / "runs" / f"beta={beta},seed={seed}"
        shutil.copytree(TEMPLATE, run)
        text = settings.replace("\nseed: 1\n", f"\nseed: {seed}\n")
        text = text.replace("    beta: 0.01\n", f"    beta: 0.{beta:04d}1\n")
        (run / "config.yaml").write_text(text)
    return ["actial.collect", str(folder / "runs"), f"out={folder / 'out'}"]


def score_input(folder: Path, answers: int) -> list[str]:
    """Questions with an image as a VLMEvalKit table, and an answer to each."""
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "PNG")
    encoded = base64.b64encode(picture.getvalue()).decode()
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["index\tquestion\tA\tB\tanswer\tcategory\timage"]
    said = ["index\tprediction"]
    for number in range(answers):
        right = "AB"[number % 2]
        rows.append(
            f"{number}\tWhich side?\tleft\tright\t{right}\tside{number % 7}\t{encoded}"
        )
        said.append(f"{number}\tI think it is {'ABA'[number % 3]}.")
    (folder / "questions.tsv").write_text("\n".join(rows) + "\n")
    (folder / "answers.tsv").write_text("\n".join(said) + "\n")
    words = ["benchmark=tsv", f"benchmark.root={folder}", "benchmark.split=questions"]
    words.append(f"predictions={folder / 'answers.tsv'}")
    return ["actial.score", *words, f"out={folder / 'out'}"]


REPORT = (
    "import sys; from actial.reporting.html_report import write_report as w; w(sys.argv[1])"
)


def report_input(folder: Path, steps: int) -> list[str]:
    """A run whose log has as many steps of each stage."""
    shutil.copytree(WITH_PHOTOS, folder / "run")
    log = folder / "run" / "metrics.jsonl"
    last = {}
    for line in log.read_text().splitlines():
        last[json.loads(line)["stage"]] = json.loads(line)
    with log.open("w") as file:
        for entry in last.values():
            for step in range(steps):
                file.write(json.dumps(entry | {"step": step + 1}) + "\n")
    return ["-c", REPORT, str(folder / "run")]


PARTS = {
    "build": Part("`actial.build`", "objects", 1, build_input),
    "audit": Part("`actial.audit`, two folders", "images", 10, audit_input),
    "collect": Part("`actial.collect`", "runs", 1, collect_input),
    "score": Part("`actial.score`, with its report", "predictions", 100, score_input),
    "report": Part("a run's report", "logged steps of each stage", STEPS_LOGGED, report_input),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=["lookup", *PARTS])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    arguments = parser.parse_args()
    path = arguments.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in arguments.only or ["lookup", *PARTS]:
        if name == "lookup":
            results[name] = measure_lookup(arguments.scratch / name, arguments.sizes)
        else:
            results[name] = [measure(name, arguments.scratch, n) for n in arguments.sizes]
        path.write_text(json.dumps(results, indent=1) + "\n")
        (arguments.out / "results.md").write_text(table(results))
    print(table(results))


def measure(name: str, scratch: Path, size: int) -> dict[str, float]:
    """One command: its own CPU seconds, those of its processes, and the largest one's memory."""
    part, folder = PARTS[name], scratch / f"{name}-{size}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = part.prepare(folder, size * part.each)
    module = [] if words[0] == "-c" else ["-m"]
    with (folder / "said.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, *module, *words],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{name} at {size}: {(folder / 'said.txt').read_text()[-2000:]}")
    shutil.rmtree(folder)
    row = {
        "count": size * part.each,
        "cpu": usage.ru_utime + usage.ru_stime,
        "mib": usage.ru_maxrss / 1024,
    }
    print(name, row, flush=True)
    return row


def table(results: dict) -> str:
    """One row per command and size; the last columns are slopes from the size before."""
    lines = [
        "| command | grows | count | CPU s | peak MiB | CPU ms for one more | KiB for one more |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, part in PARTS.items():
        before = None
        for row in results.get(name, []):
            slopes = ["", ""]
            if before:
                more = row["count"] - before["count"]
                slopes = [f"{1000 * (row['cpu'] - before['cpu']) / more:.2f}"]
                slopes += [f"{1024 * (row['mib'] - before['mib']) / more:.1f}"]
            figures = [f"{row['count']:,}", f"{row['cpu']:.2f}", f"{row['mib']:.0f}", *slopes]
            lines.append(f"| {part.title} | {part.unit} | {' | '.join(figures)} |")
            before = row
    return "\n".join([*lines, "", *results.get("lookup", [])]) + "\n"


if __name__ == "__main__":
    main()
