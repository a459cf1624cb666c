"""Draw docs/overview.png from a finished run: python scripts/overview.py RUN docs/overview.png"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.image import imread

COLORS = {"base": "#8a8f98", "sft": "#0072b2", "grpo": "#d55e00"}  # color-blind safe


def draw(run: Path, out: Path) -> None:
    """One question whose answer turned from wrong to right, beside the accuracy of every model."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    models = results["models"]
    shown = next(
        example
        for example in results["examples"]["viewpoint"]
        if not example["answers"]["base"]["correct"]
        and all(example["answers"][model]["correct"] for model in models[1:])
    )
    figure = plt.figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1.5, 2.3, 2.2])
    for number, (axis, name) in enumerate(
        zip(left.subplots(2, 1), shown["images"], strict=True), 1
    ):
        axis.imshow(imread(run / name), interpolation="nearest")
        axis.set_title(f"photo {number}", fontsize=9)
        axis.axis("off")
    lines = [
        *textwrap.wrap(shown["question"].replace("\n", "  "), 52),
        f"truth: {shown['answer']}",
    ]
    for model in models:
        answer = shown["answers"][model]
        text = answer["text"].replace("\n", " ")
        lines += [
            "",
            f"{model} ({'right' if answer['correct'] else 'wrong'})",
            *textwrap.wrap(text, 60, max_lines=5, placeholder=" ..."),
        ]
    middle.text(0.0, 0.97, "\n".join(lines), va="top", fontsize=7.6, family="monospace")
    axis = right.subplots()
    names = list(results["sets"])
    for offset, model in enumerate(models):
        cells = [results["sets"][name][model]["overall"] for name in names]
        places = [
            place + 0.2 * (offset - (len(models) - 1) / 2) for place in range(len(names))
        ]
        errors = [
            [c["value"] - c["low"] for c in cells],
            [c["high"] - c["value"] for c in cells],
        ]
        axis.errorbar(
            [c["value"] for c in cells],
            places,
            xerr=errors,
            fmt="o",
            color=COLORS[model],
            label=model,
            capsize=3,
        )
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of right answers (95 % Wilson interval)", fontsize=8)
    axis.legend(fontsize=8)
    figure.savefig(out)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
