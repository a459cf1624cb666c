"""Report a comparison of models: text, Markdown, JSON and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from actial.core.atomic_io import write_json, write_text
from actial.evaluation.comparison import Difference
from actial.reporting.figures import save
from actial.reporting.plots import STYLE, color
from actial.reporting.sweep_report import markdown

HEAD = ("A", "B", "task", "items", "A %", "B %", "A - B [95 %]", "p", "p (Holm)", "better")


def comparison_rows(differences: Sequence[Difference]) -> list[list[str]]:
    """Return a row of text per comparison, in the order of HEAD."""
    rows = []
    for d in differences:
        clusters = "" if d.clusters == d.items else f" in {d.clusters}"
        interval = f"{_points(d.value)} [{_points(d.low)}, {_points(d.high)}]"
        figures = [f"{100 * d.mean_a:.1f}", f"{100 * d.mean_b:.1f}", interval]
        tests = [f"{d.p:.3g}", f"{d.p_holm:.3g}", d.verdict]
        rows.append([d.a, d.b, d.task or "all", f"{d.items}{clusters}", *figures, *tests])
    return rows


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def comparison_markdown(differences: Sequence[Difference], remarks: Sequence[str] = ()) -> str:
    """Return the comparison as Markdown: the table, and how many items would show a gain.

    `remarks` say which models were scored under different protocols.
    """
    overall = [d for d in differences if not d.task]
    gains = list(overall[0].items_needed)
    needed = [[d.a, d.b, *[str(d.items_needed[gain]) for gain in gains]] for d in overall]
    head = ["A", "B", *[f"{100 * float(gain):.0f} points" for gain in gains]]
    return "\n\n".join(
        [
            "# Comparison",
            "A minus B in points of percent, with the 95 % bootstrap interval over clusters of "
            "items. `tie`: the test, corrected by Holm's method, shows no difference.",
            *[f"**{remark}**" for remark in remarks],
            markdown(HEAD, comparison_rows(differences)),
            "Items needed to show a gain with 80 % power at the 5 % level:",
            markdown(head, needed),
            "",
        ]
    )


def comparison_figure(differences: Sequence[Difference]) -> Figure:
    """Draw every difference with its interval; filled marks are no ties."""
    height = 1.2 + 0.34 * len(differences)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, height), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="#9aa1ab", lw=1)
        for y, d in enumerate(differences):
            shade = color(2 if d.verdict != "tie" else 0)
            axes.plot([100 * d.low, 100 * d.high], [y, y], color=shade, lw=2)
            face = "white" if d.verdict == "tie" else shade
            axes.plot(100 * d.value, y, "o", color=shade, markerfacecolor=face, ms=6)
        names = [f"{d.a} - {d.b}, {d.task or 'all'}" for d in differences]
        axes.set_yticks(range(len(differences)), names)
        axes.set_ylim(len(differences) - 0.5, -0.5)
        axes.set_xlabel("difference (points of percent)")
        axes.grid(axis="y", visible=False)
    return figure


def write_comparison(
    differences: Sequence[Difference], out: Path, remarks: Sequence[str] = ()
) -> None:
    """Write comparison.json, comparison.md and comparison.png into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "comparison.json", [d.to_json() for d in differences])
    write_text(out / "comparison.md", comparison_markdown(differences, remarks))
    save(comparison_figure(differences), out / "comparison.png")
