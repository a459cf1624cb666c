"""Figures of a sweep for actial.collect and the notebooks: points with intervals per arm, training curves, photos of answers."""

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
from actial.reporting.plots import LABELS, MARKERS, STYLE, color, label, places

UNITS = {
    "loss": "loss (nats per token)",
    "reward": "reward",
    "kl": "KL (nats per token)",
    "length": "length (tokens)",
    "format": "format kept (%)",
    "accuracy": "right (%)",
    "joint": "all of a pair right (%)",
    "entropy": "entropy (nats per token)",
    "truncated": "cut short (%)",
}
SHARES = ("format", "accuracy", "truncated", "joint", "unparsed", "drop", "right_of_read")
GRAY = "#5c6675"
LINES = ("-", "--", ":", "-.")


def scale(metric: str) -> float:
    """100 for shares, which are shown in percent."""
    return 100.0 if metric.partition("/")[0].removesuffix("_rise") in SHARES else 1.0


def axis_label(metric: str) -> str:
    """What an axis says: "loss/ego_rotation" -> "loss, ego rotation (nats per token)"."""
    whole, _, part = metric.partition("/")
    named, bracket, unit = UNITS.get(whole, whole).partition(" (")
    return (
        f"{named}, {part.replace('_', ' ')}\n{bracket.strip()}{unit}".strip()
        if part
        else f"{named}{bracket}{unit}"
    )


def arm_figure(
    table: pd.DataFrame,
    means: pd.DataFrame,
    metric: str = "accuracy",
    chance: Mapping[str, float] | None = None,
) -> Figure:
    """One panel per set: a row per arm, a marker per model with its interval over seeds, ticks for the single seeds.

    `table` as from analysis.tidy, `means` as from analysis.summary; `chance`: set -> share that guessing gets right.
    """
    shown = means[(means["metric"] == metric) & (means["set"] != "training")]
    sets, arms, models = (list(dict.fromkeys(shown[name])) for name in ("set", "arm", "model"))
    with matplotlib.rc_context(STYLE):
        named_by = max(
            1.8, 0.085 * max((len(arm) for arm in arms), default=0)
        )  # inches of the arms' names
        figure = Figure(
            figsize=(
                3.0 * max(1, len(sets)) + named_by,
                1.1 + 0.22 * len(arms) * (1 + len(models)),
            ),
            layout="constrained",
        )
        grid = figure.subplots(1, max(1, len(sets)), sharey=True, squeeze=False)[0]
        for axes, name in zip(grid, sets, strict=False):
            for y, arm in enumerate(arms):
                for i, model in enumerate(models):
                    place = y + 0.8 * ((i + 0.5) / len(models) - 0.5)
                    _point(
                        axes,
                        shown,
                        table,
                        {"set": name, "arm": arm, "model": model, "metric": metric},
                        place,
                        places(models)[model],
                    )
            if chance and name in chance:
                axes.axvline(
                    100 * chance[name], color="#b9bec6", lw=1.2, zorder=0, label="guessing"
                )
            axes.set_title(name, loc="left", fontsize=10)
            axes.set_xlabel(axis_label(metric), fontsize=9)
            axes.set_yticks(range(len(arms)), arms)
            axes.set_ylim(len(arms) - 0.5, -0.5)
            axes.grid(axis="y", visible=False)
            axes.tick_params(length=0)
        drawn, said = grid[0].get_legend_handles_labels()
        named = dict(
            zip(said, drawn, strict=True)
        )  # a model is drawn in every arm that has it, and named once
        named["95 % interval over seeds"] = Line2D([], [], color=GRAY, lw=2)
        named["one seed"] = Line2D([], [], color=GRAY, marker="|", ms=8, ls="")
        figure.legend(
            named.values(),
            named.keys(),
            loc="outside upper left",
            ncols=len(named) if len(sets) > 1 else 3,
            frameon=False,
            fontsize=9,
        )
    return figure


def _point(
    axes: Any, means: pd.DataFrame, table: pd.DataFrame, where: dict[str, str], y: float, index: int
) -> None:
    found, single = means[_matches(means, where)], table[_matches(table, where)]
    if found.empty:
        return
    factor, row = scale(where["metric"]), found.iloc[0]
    axes.plot(factor * single["value"], [y] * len(single), "|", color=color(index), ms=8)
    if row["low"] == row["low"]:
        axes.plot(
            [factor * row["low"], factor * row["high"]],
            [y, y],
            color=color(index),
            lw=2,
            solid_capstyle="butt",
        )
    axes.plot(
        factor * row["mean"],
        y,
        MARKERS[index % len(MARKERS)],
        color=color(index),
        ms=6,
        label=label(where["model"]),
    )


def _matches(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.Series:
    return np.logical_and.reduce([table[key] == value for key, value in where.items()])


def curve_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """One panel per metric (name -> frame of analysis.curve): the mean over seeds of every arm, shaded from least to greatest."""
    arms = list(dict.fromkeys(arm for frame in curves.values() for arm in frame["arm"]))
    columns = min(3, max(1, len(curves)))
    lines = max(1, -(-len(curves) // columns))
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(3.6 * columns, 2.6 * lines + 0.3 * len(arms) / columns), layout="constrained"
        )
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes, (metric, frame) in zip(grid.flat, curves.items(), strict=False):
            for i, arm in enumerate(arms):
                values = scale(metric) * frame[frame["arm"] == arm].pivot_table(
                    index="step", columns="seed", values="value"
                )
                if len(values):
                    axes.fill_between(
                        values.index,
                        values.min(axis=1),
                        values.max(axis=1),
                        color=color(i + 1),
                        alpha=0.15,
                        lw=0,
                    )
                    style = LINES[(i // 5) % len(LINES)]
                    axes.plot(
                        values.index,
                        values.mean(axis=1),
                        color=color(i + 1),
                        ls=style,
                        lw=1.6,
                        label=arm,
                    )
            if (
                metric in ("loss", "kl")
            ):  # the first fall of the one, of the answers' form, and spikes of the other would flatten the rest
                axes.set_yscale("log", nonpositive="mask")
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_ylabel(axis_label(metric), fontsize=9)
            axes.set_xlabel("step", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.tick_params(length=0)
        for axes in list(grid.flat)[len(curves) :]:
            axes.set_visible(False)
        handles, names = grid.flat[0].get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=8
        )
    return figure


def counts_figure(counts: Mapping[str, pd.Series]) -> Figure:
    """One bar panel per series (title -> count or share by category)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(counts), 2.8), layout="constrained")
        for axes, (title, series) in zip(
            figure.subplots(1, len(counts), squeeze=False)[0], counts.items(), strict=True
        ):
            axes.bar([str(name) for name in series.index], series.to_numpy(), color=color(1))
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_ylabel(str(series.name or "pairs"), fontsize=9)
            axes.tick_params(
                axis="x",
                labelrotation=30 if max(map(len, map(str, series.index)), default=0) > 6 else 0,
                length=0,
            )
            axes.grid(axis="x", visible=False)
    return figure


def photo_figure(cards: Sequence[Mapping[str, Any]], folder: Path | str) -> Figure:
    """Photos of a run's sample answers (results.json, "examples") with the question, the truth and what every model said."""
    photos = max((len(card["images"]) for card in cards), default=1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(2.2 * photos + 4.5, 2.0 * max(1, len(cards))), layout="constrained"
        )
        grid = figure.subplots(
            max(1, len(cards)), photos + 1, squeeze=False, width_ratios=[1] * photos + [2]
        )
        for axes in grid.flat:
            axes.set_axis_off()
        for line, card in zip(grid, cards, strict=False):
            for axes, path in zip(line, card["images"], strict=False):
                axes.imshow(matplotlib.image.imread(Path(folder) / path), interpolation="nearest")
            answers = sorted(
                card["answers"].items(),
                key=lambda named: (
                    list(LABELS).index(named[0]) if named[0] in LABELS else len(LABELS)
                ),
            )
            said = [
                f"{label(m)}: {a['choice'] or 'not readable'}{'' if a['hit'] else '  (wrong)'}"
                for m, a in answers
            ]
            asked = wrap(card["question"].splitlines()[0], 56)
            text = "\n".join([*asked, f"truth: {card['answer']}", *said])
            line[-1].text(0, 0.5, text, va="center", fontsize=9, transform=line[-1].transAxes)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, complete or not at all."""
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return path
