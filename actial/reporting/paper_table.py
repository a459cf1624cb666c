"""Tables 1 and A1 of the paper with our figures beside the published ones.

Reads evaluation folders laid out as SCORES/MODEL/BENCHMARK, written by actial.evaluate or
actial.score. MODEL is base, sft (without G.E.), grpo_only (without K.I.), grpo, or any other name.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actial.core.atomic_io import write_text
from actial.core.errors import UserError
from actial.evaluation.benchmark_results import PAPER_COLUMNS
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.benchmarks.reference import table
from actial.reporting.sweep_report import markdown

PUBLISHED_AS = {
    "base": "Qwen2.5-VL-7B-Instruct",
    "grpo": "Actial-7B",
    "grpo_only": "Actial-7B without K.I.",
    "sft": "Actial-7B without G.E.",
}
LEGEND = (
    "Percent in the paper's own rounding (truncated for BLINK and CV-Bench, rounded elsewhere), in "
    "brackets the 95 % interval over questions; `paper` is the published figure. `!`: the interval "
    "excludes it. `~`: asked under other conditions, see the notes."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One cell: a figure of ours and the published one, in percent."""

    model: str
    benchmark: str
    column: str
    ours: float | None
    low: float | None
    high: float | None
    paper: float | None
    comparable: bool

    @property
    def differs(self) -> bool:
        """Whether the interval excludes the published figure."""
        if self.paper is None or self.low is None or self.high is None:
            return False
        return not self.low <= self.paper <= self.high

    def text(self) -> str:
        if self.ours is None:
            return "-"
        interval = "" if self.low is None else f" [{self.low:.1f}, {self.high:.1f}]"
        paper = "" if self.paper is None else f", paper {self.paper:g}"
        marks = "!" * self.differs + "~" * (not self.comparable)
        return f"{self.ours:.1f}{interval}{paper}{' ' if marks else ''}{marks}"


def write_paper_table(scores: Path, out: Path) -> str:
    """Write table.md and table.csv into `out` and return the Markdown.

    Raises UserError where `scores` holds no evaluation of a set that the paper reports.
    """
    figures, notes = [], {}
    for path in sorted(scores.glob("*/*/scores.json")):
        model, name = path.parent.parent.name, _benchmark_of(path)
        if name not in PAPER_COLUMNS:
            continue
        remarks = _notes(path.parent, name)
        if remarks:
            notes[f"{model} on {name}"] = remarks
        comparable = not any("no published figures" in remark for remark in remarks)
        figures += _figures(json.loads(path.read_text()), model, name, comparable)
    if not figures:
        sets = ", ".join(PAPER_COLUMNS)
        raise UserError(
            f"runs={scores} holds no SCORES/MODEL/BENCHMARK/scores.json of {sets}: evaluate with "
            f"out={scores}/MODEL/BENCHMARK first (docs/reproduce.md)."
        )
    text = _markdown(figures, notes)
    write_text(out / "table.md", text)
    write_text(out / "table.csv", _csv(figures))
    return text


def _figures(
    content: Mapping[str, Any], model: str, name: str, comparable: bool
) -> list[Figure]:
    published = table(BENCHMARKS[name].reference).rows.get(PUBLISHED_AS.get(model, ""), {})
    figures = []
    for column, (path, form) in PAPER_COLUMNS[name].items():
        cell = _cell(content["scores"], path) or {}
        measured = bool(cell.get("n"))
        bounds = [cell.get(bound) if measured else None for bound in ("low", "high")]
        low, high = (None if bound is None else 100 * bound for bound in bounds)
        figures.append(
            Figure(
                model=model,
                benchmark=name,
                column=column,
                ours=cell[form] if measured else None,
                low=low,
                high=high,
                paper=published.get(column),
                comparable=comparable,
            )
        )
    return figures


def _cell(scores: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """Return a cell by its path; names of scores hold slashes, so the longest key wins."""
    if path in scores:
        return scores[path]
    head, _, rest = path.partition("/")
    return _cell(scores[head], rest) if rest and head in scores else None


def _benchmark_of(path: Path) -> str:
    return str(
        json.loads(path.read_text()).get("settings", {}).get("benchmark", path.parent.name)
    )


def _notes(folder: Path, name: str) -> list[str]:
    results = folder / "results.json"
    if not results.is_file():
        return []
    paper = json.loads(results.read_text()).get("paper", {}).get(name) or {}
    return list(paper.get("notes", []))


def _markdown(figures: list[Figure], notes: Mapping[str, list[str]]) -> str:
    sections = []
    for name in dict.fromkeys(figure.benchmark for figure in figures):
        mine = [figure for figure in figures if figure.benchmark == name]
        columns = list(PAPER_COLUMNS[name])
        cells = {(figure.model, figure.column): figure.text() for figure in mine}
        models = list(dict.fromkeys(figure.model for figure in mine))
        rows = [[model, *(cells[model, column] for column in columns)] for model in models]
        for label, published in table(BENCHMARKS[name].reference).rows.items():
            values = [published.get(column) for column in columns]
            if any(value is not None for value in values):
                texts = ["-" if value is None else f"{value:g}" for value in values]
                rows.append([f"*{label}* (published)", *texts])
        sections.append(f"## {name}\n\n{markdown(['model', *columns], rows)}")
    if notes:
        lines = [f"* {subject}: {'; '.join(remarks)}" for subject, remarks in notes.items()]
        sections.append("## Notes\n\n" + "\n".join(lines))
    return f"# Tables of the paper\n\n{LEGEND}\n\n" + "\n\n".join(sections) + "\n"


def _csv(figures: list[Figure]) -> str:
    buffer = io.StringIO()
    names = (
        "model",
        "benchmark",
        "column",
        "ours",
        "low",
        "high",
        "paper",
        "differs",
        "comparable",
    )
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(figure, name) for name in names] for figure in figures)
    return buffer.getvalue()
