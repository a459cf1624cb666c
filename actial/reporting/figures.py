"""Draw a sweep's figures for actial.collect and the notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from actial.core.atomic_io import atomic
from actial.evaluation.results import SampleCard
from actial.reporting.plots import LABELS, MARKERS, STYLE, color, label, places

UNITS = {
    "loss": "loss (nats per token)",
    "reward": "reward",
    "kl": "KL (nats per token)",
    "completions/mean_length": "length (tokens)",
    "reward/format/mean": "format compliance (%)",
    "reward/accuracy/mean": "accuracy of the samples (%)",
    "accuracy": "accuracy (%)",
    "all_correct": "all of a pair correct (%)",
    "entropy": "entropy (nats per token)",
    "completions/clipped_ratio": "truncated (%)",
}
SHARES = (
    "format",
    "reward/format/mean",
    "accuracy",
    "reward/accuracy/mean",
    "truncated",
    "completions/clipped_ratio",
    "all_correct",
    "unparsed",
    "drop",
    "accuracy_of_parsed",
)
GRAY = "#5c6675"
LINES = ("-", "--", ":", "-.")
LOG_SCALE = (
    "loss",
    "kl",
)  # the loss's first fall, and spikes of KL, would flatten all the rest


def scale(metric: str) -> float:
    """Return 100 for shares, which are printed in percent, else 1."""
    whole, _ = _split_metric(metric)
    return 100.0 if whole.removesuffix("_rise") in SHARES else 1.0


def axis_label(metric: str) -> str:
    """Return an axis label: "loss/ego_rotation" -> "loss, ego rotation (nats per token)"."""
    whole, part = _split_metric(metric)
    name, bracket, unit = UNITS.get(whole, whole).partition(" (")
    if not part:
        return f"{name}{bracket}{unit}"
    return f"{name}, {part.replace('_', ' ')}\n{bracket.strip()}{unit}".strip()


def _split_metric(metric: str) -> tuple[str, str]:
    """Split "reward/format/mean/static" into the metric's own name and the part it is about."""
    for name in (*SHARES, *UNITS):
        if "/" in name and (metric == name or metric.startswith(f"{name}/")):
            return name, metric[len(name) + 1 :]
    whole, _, part = metric.partition("/")
    return whole, part


# ---------------------------------------------------------------- conditions


def condition_figure(
    table: pd.DataFrame,
    means: pd.DataFrame,
    metric: str = "accuracy",
    chance: Mapping[str, float] | None = None,
) -> Figure:
    """Draw one panel per set: a row per condition, a marker per model with its interval over seeds.

    Args:
        table: as from `analysis.tidy`; its single seeds are ticks.
        means: as from `seed_statistics.summary`.
        metric: the figure on the axis.
        chance: set -> accuracy of guessing, a vertical line.
    """
    selected = means[(means["metric"] == metric) & (means["set"] != "training")]
    names = [list(dict.fromkeys(selected[key])) for key in ("set", "condition", "model")]
    sets, conditions, models = names
    label_inches = max([1.8, *(0.085 * len(condition) for condition in conditions)])
    width = 3.0 * max(1, len(sets)) + label_inches
    height = 1.1 + 0.22 * len(conditions) * (1 + len(models))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(1, max(1, len(sets)), sharey=True, squeeze=False)[0]
        for axes, name in zip(grid, sets, strict=False):
            where = {"set": name, "metric": metric}
            _condition_panel(axes, selected, table, where, conditions, models)
            if chance and name in chance:
                share = 100 * chance[name]
                axes.axvline(share, color="#b9bec6", lw=1.2, zorder=0, label="guessing")
        _condition_legend(figure, grid[0], one_line=len(sets) > 1)
    return figure


def _condition_panel(
    axes: Any,
    means: pd.DataFrame,
    table: pd.DataFrame,
    where: dict[str, str],
    conditions: Sequence[str],
    models: Sequence[str],
) -> None:
    positions = places(models)
    for y, condition in enumerate(conditions):
        for i, model in enumerate(models):
            offset = 0.8 * ((i + 0.5) / len(models) - 0.5)
            here = where | {"condition": condition, "model": model}
            _point(axes, means, table, here, y + offset, positions[model])
    axes.set_title(where["set"], loc="left", fontsize=10)
    axes.set_xlabel(axis_label(where["metric"]), fontsize=9)
    axes.set_yticks(range(len(conditions)), conditions)
    axes.set_ylim(len(conditions) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(length=0)


def _condition_legend(figure: Figure, axes: Any, one_line: bool) -> None:
    handles, labels = axes.get_legend_handles_labels()
    # A model is drawn for every condition that has it, and named once.
    entries = dict(zip(labels, handles, strict=True))
    entries["95 % interval over seeds"] = Line2D([], [], color=GRAY, lw=2)
    entries["one seed"] = Line2D([], [], color=GRAY, marker="|", ms=8, ls="")
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper left",
        ncols=len(entries) if one_line else 3,
        frameon=False,
        fontsize=9,
    )


def _point(
    axes: Any,
    means: pd.DataFrame,
    table: pd.DataFrame,
    where: dict[str, str],
    y: float,
    index: int,
) -> None:
    rows, seeds = means[_matches(means, where)], table[_matches(table, where)]
    if rows.empty:
        return
    factor, row, shade = scale(where["metric"]), rows.iloc[0], color(index)
    axes.plot(factor * seeds["value"], [y] * len(seeds), "|", color=shade, ms=8)
    if not np.isnan(row["low"]):
        limits = [factor * row["low"], factor * row["high"]]
        axes.plot(limits, [y, y], color=shade, lw=2, solid_capstyle="butt")
    marker = MARKERS[index % len(MARKERS)]
    axes.plot(factor * row["mean"], y, marker, color=shade, ms=6, label=label(where["model"]))


def _matches(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.Series:
    return np.logical_and.reduce([table[key] == value for key, value in where.items()])


# ---------------------------------------------------------------- training curves


def curve_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw one panel per metric: every condition's mean over seeds, shaded by their range.

    Args:
        curves: metric -> frame of `analysis.curve`.
    """
    names = [name for frame in curves.values() for name in frame["condition"]]
    conditions = list(dict.fromkeys(names))
    columns = min(3, max(1, len(curves)))
    lines = max(1, -(-len(curves) // columns))
    size = (3.6 * columns, 2.6 * lines + 0.3 * len(conditions) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes, (metric, frame) in zip(grid.flat, curves.items(), strict=False):
            _curve_panel(axes, metric, frame, conditions)
        for axes in list(grid.flat)[len(curves) :]:
            axes.set_visible(False)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=8
        )
    return figure


def _curve_panel(
    axes: Any, metric: str, frame: pd.DataFrame, conditions: Sequence[str]
) -> None:
    for i, condition in enumerate(conditions):
        here = frame[frame["condition"] == condition]
        by_seed = scale(metric) * here.pivot_table(
            index="step", columns="seed", values="value"
        )
        if len(by_seed):
            low, high, mean = by_seed.min(axis=1), by_seed.max(axis=1), by_seed.mean(axis=1)
            shade, line = color(i + 1), LINES[(i // 5) % len(LINES)]
            axes.fill_between(by_seed.index, low, high, color=shade, alpha=0.15, lw=0)
            axes.plot(by_seed.index, mean, color=shade, ls=line, lw=1.6, label=condition)
    if metric in LOG_SCALE and (frame["value"] > 0).any():
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(axis_label(metric), fontsize=9)
    axes.set_xlabel("step", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(length=0)


# ---------------------------------------------------------------- data and answers


def counts_figure(counts: Mapping[str, pd.Series]) -> Figure:
    """Draw one bar panel per series (title -> count or share by category)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(counts), 2.8), layout="constrained")
        grid = figure.subplots(1, len(counts), squeeze=False)[0]
        for axes, (title, series) in zip(grid, counts.items(), strict=True):
            names = [str(name) for name in series.index]
            longest = max(map(len, names), default=0)
            axes.bar(range(len(names)), series.to_numpy(), color=color(1))
            axes.set_xticks(range(len(names)), names)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_ylabel(str(series.name or "pairs"), fontsize=9)
            axes.tick_params(axis="x", labelrotation=30 if longest > 6 else 0, length=0)
            axes.grid(axis="x", visible=False)
    return figure


def sample_figure(cards: Sequence[SampleCard], folder: Path | str) -> Figure:
    """Draw sample answers of a run: the images, the question, the truth and every model's choice.

    Args:
        cards: of results.json, "examples".
        folder: the run's, to which the cards' image paths are relative.
    """
    columns = max((len(card.images) for card in cards), default=1)
    lines = max(1, len(cards))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.2 * columns + 4.5, 2.0 * lines), layout="constrained")
        widths = [1] * columns + [2]
        grid = figure.subplots(lines, columns + 1, squeeze=False, width_ratios=widths)
        for axes in grid.flat:
            axes.set_axis_off()
        for line, card in zip(grid, cards, strict=False):
            for axes, path in zip(line, card.images, strict=False):
                axes.imshow(
                    matplotlib.image.imread(Path(folder) / path), interpolation="nearest"
                )
            transform = line[-1].transAxes
            line[-1].text(
                0, 0.5, _card_text(card), va="center", fontsize=9, transform=transform
            )
    return figure


def _card_text(card: SampleCard) -> str:
    order = list(LABELS)
    models = sorted(card.answers, key=lambda m: order.index(m) if m in order else len(order))
    lines = [*wrap(card.question.splitlines()[0], 56), f"truth: {card.answer}"]
    for model in models:
        answer = card.answers[model]
        remark = "" if answer.correct else "  (wrong)"
        lines.append(f"{label(model)}: {answer.choice or 'not readable'}{remark}")
    return "\n".join(lines)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, complete or not at all."""
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return path
