"""Form and reasoning apart, over seeds: `kinds.py RUN [RUN ...]`.

Reads the predictions that the quickstart's runs have left, and prints a Markdown table: for each
model and group of question kinds the shares of right answers, of answers in form, of right
answers among the readable ones and of right answers in form; the mean over runs and, of the
readable ones, the smallest and largest run. Then the gain of GRPO over SFT among readable
answers, with its Student interval over runs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from scipy.stats import t as student

DYNAMIC = ("goal_aim", "action_conseq", "ego_motion", "obj_motion")
GROUPS = {  # name -> (set, kinds); None = all kinds
    "scenes, static": ("sat", ("static",)),
    "scenes, dynamic kinds": ("sat", DYNAMIC),
    "scenes, dynamic kinds, test": ("sat_test", DYNAMIC),
    "scenes, kind never trained": ("sat_test", ("perspective",)),
    "viewpoint, held-out objects": ("viewpoint", None),
    "viewpoint, held-out categories": ("unseen", None),
}
GROUPS |= {f"scenes, {kind} (val and test)": ("sat*", (kind,)) for kind in DYNAMIC}
MODELS = ("base", "sft", "grpo")


def predictions(run: Path, model: str, name: str) -> list[dict[str, Any]]:
    sets = ("sat", "sat_test") if name == "sat*" else (name,)
    files = [run / "scores" / model / each / "predictions.jsonl" for each in sets]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def shares(rows: list[dict[str, Any]]) -> tuple[float, float, float, float]:
    """Return right, form, right of readable, right and in form."""
    readable = [row for row in rows if row["letter"]]
    return (
        statistics.fmean(row["score"] for row in rows),
        statistics.fmean(row["format_ok"] for row in rows),
        statistics.fmean(row["score"] for row in readable) if readable else math.nan,
        statistics.fmean(row["score"] * row["format_ok"] for row in rows),
    )


def table(runs: list[Path]) -> str:
    lines = [
        "| questions | n a run | model | right | form | of readable | right and in form |",
        "|---|---:|---|---:|---:|---|---:|",
    ]
    gains: dict[str, list[float]] = defaultdict(list)
    for group, (name, kinds) in GROUPS.items():
        readable_of: dict[str, list[float]] = {}
        for model in MODELS:
            if not all((run / "scores" / model / name.rstrip("*")).is_dir() for run in runs):
                continue
            chosen = [
                [
                    p
                    for p in predictions(run, model, name)
                    if kinds is None or p["type"] in kinds
                ]
                for run in runs
            ]
            per_run = [shares(rows) for rows in chosen]
            right, form, readable, both = map(statistics.fmean, zip(*per_run, strict=True))
            readable_of[model] = [one[2] for one in per_run]
            low, high = min(readable_of[model]), max(readable_of[model])
            lines.append(
                f"| {group} | {len(chosen[0])} | {model} | {right:.2f} | {form:.2f} | "
                f"{readable:.2f} ({low:.2f} to {high:.2f}) | {both:.2f} |"
            )
        if "sft" in readable_of and "grpo" in readable_of:
            pairs = zip(readable_of["sft"], readable_of["grpo"], strict=True)
            gains[group] = [after - before for before, after in pairs]
    lines += [
        "",
        "| questions | GRPO - SFT among readable answers | 95 % over runs |",
        "|---|---:|---|",
    ]
    for group, values in gains.items():
        lines.append(f"| {group} | {statistics.fmean(values):+.3f} | {interval(values)} |")
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return "one run"
    half = (
        student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    )
    mean = statistics.fmean(values)
    return f"{mean - half:+.3f} to {mean + half:+.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    print(table(parser.parse_args().runs))


if __name__ == "__main__":
    main()
