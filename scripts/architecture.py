"""Draw docs/data_flow.png and docs/layers.png: python scripts/architecture.py docs"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import grimp
import matplotlib.pyplot as plt
from importlinter import api
from matplotlib.patches import FancyArrowPatch

ROOT = Path(__file__).resolve().parents[1]
BLUE, ORANGE, GREEN, GREY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#5f6670",
)  # safe for color-blind eyes
BOX = {"boxstyle": "round,pad=0.5", "facecolor": "white", "linewidth": 1.3}

# name -> (column, row, color, text)
STEPS = {
    "captures": (0, 2, GREY, "Capture\nphotos, poses"),
    "pairs": (1, 2, GREEN, "ViewPair\ntwo photos, angle, labels"),
    "questions": (2, 2, GREEN, "Example\nimages, questions, answers"),
    "packed": (3.15, 2, BLUE, "PackedBatch\nshared prefix + continuations"),
    "loss": (4.3, 2, BLUE, "Loss\nNLL (SFT), policy gradient (GRPO)"),
    "sampler": (2, 1, ORANGE, "Sampler\nhf, vllm, vllm_server"),
    "grade": (3.15, 1, ORANGE, "Grade\nrewards, advantages"),
    "evaluation": (3.15, 0, GREY, "Evaluation\nscores, diagnostics, report"),
    "benchmarks": (2, 0, GREY, "Benchmark items\npublished sets"),
}
FLOW = [  # from, to, what happens
    ("captures", "pairs", "gates"),
    ("pairs", "questions", "wording"),
    ("questions", "packed", "SFT"),
    ("packed", "loss", "log-probs"),
    ("questions", "sampler", "GRPO prompts"),
    ("sampler", "grade", "G completions"),
    ("grade", "packed", "GRPO"),
    ("benchmarks", "evaluation", "same sampler, same grader"),
]


def draw_data_flow(out: Path) -> None:
    """Draw which record each step hands to the next."""
    figure, axis = plt.subplots(figsize=(14, 4.4), dpi=110, layout="constrained")
    boxes = {}
    for name, (column, row, color, text) in STEPS.items():
        boxes[name] = axis.text(
            2.9 * column, 1.2 * row, text, ha="center", va="center", fontsize=9,
            bbox=BOX | {"edgecolor": color},
        )  # fmt: skip
    axis.set_xlim(-0.9, 13.7)
    axis.set_ylim(-0.5, 2.9)
    axis.axis("off")
    figure.canvas.draw()  # gives the boxes their sizes
    for start, end, label in FLOW:
        (x0, y0), (x1, y1) = boxes[start].get_position(), boxes[end].get_position()
        arrow = FancyArrowPatch(
            (x0, y0), (x1, y1), patchA=boxes[start].get_bbox_patch(),
            patchB=boxes[end].get_bbox_patch(), arrowstyle="-|>", mutation_scale=13, color=GREY,
            shrinkA=0, shrinkB=0,
        )  # fmt: skip
        axis.add_patch(arrow)
        vertical = x0 == x1
        dx, dy = (0.08, 0.0) if vertical else (0.0, 0.12)
        axis.text(
            (x0 + x1) / 2 + dx, (y0 + y1) / 2 + dy, label, va="center",
            ha="left" if vertical else "center", fontsize=8, color=GREY,
        )  # fmt: skip
    figure.savefig(out)


def layers() -> list[list[str]]:
    """Return the layers of the import contract, highest first."""
    contracts = api.read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    names = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in names]


def draw_layers(out: Path) -> None:
    """Draw the layers with the number of imports between packages; every arrow points down."""
    graph = grimp.build_graph("actial")
    counts: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = (module.split(".")[1:2], imported.split(".")[1:2])
            if all(pair) and pair[0] != pair[1]:
                counts[pair[0][0], pair[1][0]] += 1
    rows = layers()
    commands = rows[0]
    level = {name: len(rows) - index for index, row in enumerate(rows) for name in row}
    figure, axis = plt.subplots(figsize=(9, 8), dpi=110, layout="constrained")
    for height, row in zip(range(len(rows), 0, -1), rows, strict=True):
        text = "commands: " + ", ".join(sorted(row)) if row is commands else "  |  ".join(row)
        color = ORANGE if row is commands else BLUE
        axis.text(
            0.0, height, text, ha="center", va="center", fontsize=10 if row is commands else 11,
            bbox=BOX | {"edgecolor": color}, zorder=3,
        )  # fmt: skip
    upward = 0
    for (source, target), count in sorted(counts.items()):
        if source not in level or target not in level or source in commands:
            continue
        upward += level[target] > level[source]
        side = 1 if (level[source] + level[target]) % 2 else -1
        distance = level[source] - level[target]
        if distance == 0:
            continue
        axis.annotate(
            "", (side * 0.9, level[target]), (side * 0.9, level[source]),
            arrowprops={
                "arrowstyle": "-|>", "color": GREY, "alpha": 0.55, "linewidth": 0.4 + 0.12 * count,
                "connectionstyle": f"arc3,rad={-side * min(0.12 * distance, 0.8)}",
            },
        )  # fmt: skip
    axis.set_title(
        f"A module imports from its own layer or a lower one ({upward} upward imports); "
        "width: number of imports",
        fontsize=9,
    )
    axis.set_xlim(-5.2, 5.2)
    axis.set_ylim(0.4, len(rows) + 0.6)
    axis.axis("off")
    figure.savefig(out)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    draw_data_flow(folder / "data_flow.png")
    draw_layers(folder / "layers.png")
