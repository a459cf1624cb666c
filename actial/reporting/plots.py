"""The report's figures as inline SVG: colours that survive colour blindness and grey print, text kept as text."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import (
    Figure,
)  # not pyplot: importing this module must not choose a backend for a notebook

COLORS = (
    "#8a8f98",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
)  # Okabe and Ito, grey first
MARKERS = ("o", "s", "D", "^", "v", "P")
LABELS = {"base": "base", "start": "start (SFT)", "sft": "SFT", "grpo": "GRPO"}
PLACES = {
    "base": 0,
    "start": 1,
    "sft": 1,
    "grpo": 2,
}  # of colours and markers, the same in every figure
STYLE: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "actial",
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
# panel -> words of which one must stand between the slashes of the metric's name
PANELS = {
    "loss": ("loss",),
    "reward": ("reward", "rewards"),
    "KL to the reference": ("kl",),
    "response length (tokens)": ("mean_length",),
    "accuracy and form": ("accuracy", "format"),
    BY_TYPE: (),
}


def color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def places(models: Sequence[str]) -> dict[str, int]:
    """Model -> its place among colours and markers; what has no place of its own gets the next one."""
    others = [model for model in models if model not in PLACES]
    return {
        model: PLACES.get(model, 3 + others.index(model) if model in others else 0)
        for model in models
    }


def label(model: str) -> str:
    return LABELS.get(model, model)


def forest(sets: dict[str, Any], models: Sequence[str], chance: dict[str, float]) -> str:
    """Accuracy of every model on every set, and jointly over a pair's questions, with intervals."""
    rows: list[tuple[str, float | None, dict[str, Any]]] = []
    for name, found in sets.items():
        rows.append(
            (name, chance.get(name), {m: found[m]["overall"] for m in models if m in found})
        )
        if joint := {m: found[m]["joint"] for m in models if "joint" in found.get(m, {})}:
            rows.append((f"{name}, pairs all right", None, joint))
    if not rows:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.9 + 0.5 * len(rows)))
        axes = figure.subplots()
        for y, (_, guessing, cells) in enumerate(rows):
            if guessing is not None:
                axes.plot([100 * guessing] * 2, [y - 0.33, y + 0.33], color="#b9bec6", lw=1.5)
            for i, (model, cell) in enumerate(cells.items()):
                _interval(
                    axes,
                    cell,
                    y + 0.2 * (i - (len(cells) - 1) / 2),
                    places(models)[model],
                    label(model) if y == 0 else None,
                )
        axes.set_yticks(range(len(rows)), [text for text, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% right")
        axes.grid(axis="y", visible=False)
        axes.tick_params(length=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(models), frameon=False)
        return _svg(figure)


def _interval(axes: Any, cell: dict[str, Any], y: float, index: int, name: str | None) -> None:
    axes.plot(
        [100 * cell["low"], 100 * cell["high"]],
        [y, y],
        color=color(index),
        lw=2,
        solid_capstyle="butt",
    )
    axes.plot(
        100 * cell["value"], y, MARKERS[index % len(MARKERS)], color=color(index), ms=6, label=name
    )


def curves(metrics: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """One row of panels per stage, for the metrics whose names fit a panel; {"name": stage, "svg": ..} each."""
    stages: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in metrics:
        for name, value in row.items():
            if name not in ("stage", "step") and isinstance(value, int | float):
                stages[str(row.get("stage", ""))][name].append((row["step"], value))
    found = []
    for stage, series in stages.items():
        panels: dict[str, dict[str, np.ndarray]] = {}
        for name in sorted(series):
            if panel := _panel(name):
                panels.setdefault(panel, {})[name] = np.array(series[name], dtype=float)
        if panels:
            found.append(
                {
                    "name": label(stage),
                    "svg": _panels({panel: panels[panel] for panel in PANELS if panel in panels}),
                }
            )
    return found


def _panel(name: str) -> str | None:
    parts = name.lower().split("/")
    if parts[:3] == ["reward", "accuracy", "mean"] and len(parts) > 3:
        return BY_TYPE
    return next(
        (panel for panel, words in PANELS.items() if any(word in parts for word in words)),
        None,
    )


def _panels(panels: dict[str, dict[str, np.ndarray]]) -> str:
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.35 * columns, 2.8 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes, (title, series) in zip(grid.flat, panels.items(), strict=False):
            for i, (name, points) in enumerate(series.items()):
                _curve(axes, points, color(i + 1), name)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel("step", fontsize=9)
            axes.tick_params(length=0)
            if len(series) > 1:
                axes.legend(
                    frameon=False,
                    fontsize=7,
                    ncols=2,
                    loc="upper center",
                    bbox_to_anchor=(0.5, -0.22),
                )
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        return _svg(figure)


def _curve(axes: Any, points: np.ndarray, shade: str, name: str) -> None:
    window = max(1, len(points) // 15)
    padded = np.pad(points[:, 1], (window // 2, window - 1 - window // 2), mode="edge")
    smooth = np.convolve(padded, np.ones(window) / window, mode="valid")
    keep = np.unique(np.linspace(0, len(points) - 1, min(len(points), MAX_POINTS)).astype(int))
    if window > 1:
        axes.plot(points[keep, 0], points[keep, 1], color=shade, lw=0.6, alpha=0.35)
    axes.plot(points[keep, 0], smooth[keep], color=shade, lw=1.6, label=name)


def _svg(figure: Figure) -> str:
    """The figure's svg tag; the XML prolog before it has no place inside a page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
