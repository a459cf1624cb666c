"""Draw the report's figures as inline SVG: colors that survive color blindness and gray print."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import matplotlib
import numpy as np

# Not pyplot: importing this module must not choose a backend for a notebook.
from matplotlib.figure import Figure

from actial.evaluation.results import SetResult
from actial.grading.metrics import Cell

# Okabe and Ito, gray first.
COLORS = ("#8a8f98", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
DASHES = ("-", "--", ":")  # of curves that share a color
MARKERS = ("o", "s", "D", "^", "v", "P")
LABELS = {"base": "base", "start": "start (SFT)", "sft": "SFT", "grpo": "GRPO"}
# Of colors and markers, the same in every figure.
PLACES = {"base": 0, "start": 1, "sft": 1, "grpo": 2}
STYLE: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "actial",
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa1ab",
    "axes.grid": True,
    "grid.color": "#eceef1",
    "axes.axisbelow": True,
    "xtick.color": "#5c6675",
    "ytick.color": "#1c2430",
}
MAX_POINTS = 600  # per curve

BY_TYPE = "accuracy by question type"
# Panel -> words of which one must stand between the slashes of the metric's name.
PANELS = {
    "loss": ("loss",),
    "reward": ("reward", "rewards"),
    "KL to the reference": ("kl",),
    "response length (tokens)": ("mean_length",),
    "accuracy and format": ("accuracy", "format"),
    BY_TYPE: (),
}


def color(index: int) -> str:
    """Return the color of a place."""
    return COLORS[index % len(COLORS)]


def places(models: Sequence[str]) -> dict[str, int]:
    """Return each model's place among colors and markers.

    Models without a fixed place get the following ones.
    """
    others = [model for model in models if model not in PLACES]
    fixed = {model: PLACES[model] for model in models if model in PLACES}
    following = {model: 3 + i for i, model in enumerate(others)}
    return {model: (fixed | following)[model] for model in models}


def label(model: str) -> str:
    """Return a model's name in figures."""
    return LABELS.get(model, model)


# ---------------------------------------------------------------- accuracies


def forest(
    sets: Mapping[str, Mapping[str, SetResult]],
    models: Sequence[str],
    chance: Mapping[str, float],
) -> str:
    """Draw the accuracy of every model on every set, and over whole pairs, with intervals.

    Returns:
        An svg tag; empty without a set.
    """
    rows = [
        row for name, results in sets.items() for row in _forest_rows(name, results, models)
    ]
    if not rows:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.9 + 0.5 * len(rows)))
        axes = figure.subplots()
        positions = places(models)
        for y, (name, cells) in enumerate(rows):
            if name in chance:
                guessing = [100 * chance[name]] * 2
                axes.plot(guessing, [y - 0.33, y + 0.33], color="#b9bec6", lw=1.5)
            for i, (model, cell) in enumerate(cells.items()):
                offset = 0.2 * (i - (len(cells) - 1) / 2)
                legend = label(model) if y == 0 else None
                _interval(axes, cell, y + offset, positions[model], legend)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% correct")
        axes.grid(axis="y", visible=False)
        axes.tick_params(length=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(models), frameon=False)
        return _svg(figure)


def _forest_rows(
    name: str, results: Mapping[str, SetResult], models: Sequence[str]
) -> list[tuple[str, dict[str, Cell]]]:
    present = [model for model in models if model in results]
    rows = [(name, {model: results[model].overall for model in present})]
    pairs = {model: results[model].all_correct for model in present}
    scored = {model: cell for model, cell in pairs.items() if cell}
    if scored:
        rows.append((f"{name}, pairs all correct", scored))
    return rows


def _interval(axes: Any, cell: Cell, y: float, index: int, legend: str | None) -> None:
    limits = [100 * cell.low, 100 * cell.high]
    shade, marker = color(index), MARKERS[index % len(MARKERS)]
    axes.plot(limits, [y, y], color=shade, lw=2, solid_capstyle="butt")
    axes.plot(100 * float(cell.value), y, marker, color=shade, ms=6, label=legend)


# ---------------------------------------------------------------- training


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Draw one line of panels per stage, for the metrics whose names fit a panel.

    Args:
        metrics: log entries {"stage": .., "step": .., name: number, ..}.

    Returns:
        {"name": stage, "svg": svg tag} each.
    """
    stages: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for entry in metrics:
        series = stages[str(entry.get("stage", ""))]
        for name, value in entry.items():
            if name not in ("stage", "step") and isinstance(value, int | float):
                series[name].append((entry["step"], value))
    drawn = []
    for stage, series in stages.items():
        panels = _sort_into_panels(series)
        if panels:
            drawn.append({"name": label(stage), "svg": _panels(panels)})
    return drawn


def _sort_into_panels(
    series: Mapping[str, list[tuple[float, float]]],
) -> dict[str, dict[str, np.ndarray]]:
    """Return panel -> metric -> (points, 2) steps and values, in the order of PANELS."""
    panels: dict[str, dict[str, np.ndarray]] = {}
    for name in sorted(series):
        panel = _panel(name)
        if panel:
            panels.setdefault(panel, {})[name] = np.array(series[name], dtype=float)
    return {panel: panels[panel] for panel in PANELS if panel in panels}


def _panel(name: str) -> str | None:
    parts = name.lower().split("/")
    if parts[:3] == ["reward", "accuracy", "mean"] and len(parts) > 3:
        return BY_TYPE
    for panel, words in PANELS.items():
        if any(word in parts for word in words):
            return panel
    return None


def _panels(panels: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    lines = -(-len(panels) // columns)
    # a legend below each panel, of two columns
    legend_lines = max(-(-len(series) // 2) for series in panels.values())
    height = 2.6 + 0.16 * legend_lines
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.35 * columns, height * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes, (title, series) in zip(grid.flat, panels.items(), strict=False):
            names = _short_names(list(series))
            for i, (name, points) in enumerate(zip(names, series.values(), strict=True)):
                _curve(axes, points, i + 1, name)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel("step", fontsize=9)
            axes.tick_params(length=0)
            if len(series) > 1:
                anchor: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22)}
                axes.legend(frameon=False, fontsize=7, ncols=2, columnspacing=1.0, **anchor)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        return _svg(figure)


def _short_names(names: Sequence[str]) -> list[str]:
    """Return metrics without the parts that all names begin with: "loss", "turn" of "loss/turn"."""
    parts = [name.split("/") for name in names]
    columns = zip(*parts, strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return ["/".join(own[shared:]) or own[-1] for own in parts]


def _curve(axes: Any, points: np.ndarray, place: int, name: str) -> None:
    """Draw (points, 2) steps and values: every logged step thin, their running mean bold."""
    shade, dashes = color(place), DASHES[place // len(COLORS) % len(DASHES)]
    window = max(1, len(points) // 15)
    padded = np.pad(points[:, 1], (window // 2, window - 1 - window // 2), mode="edge")
    smooth = np.convolve(padded, np.ones(window) / window, mode="valid")
    count = min(len(points), MAX_POINTS)
    keep = np.unique(np.linspace(0, len(points) - 1, count).astype(int))
    if window > 1:
        axes.plot(points[keep, 0], points[keep, 1], color=shade, lw=0.6, alpha=0.35)
    axes.plot(points[keep, 0], smooth[keep], dashes, color=shade, lw=1.6, label=name)


def _svg(figure: Figure) -> str:
    """Return the figure's svg tag without the XML prolog, which has no place inside a page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
