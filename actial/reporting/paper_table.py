"""Tables 1 and A1 of the paper with our figures beside the published ones.

Reads evaluation folders laid out as SCORES/MODEL/BENCHMARK, written by actial.evaluate or
actial.score. MODEL is base, sft (without G.E.), grpo_only (without K.I.), grpo, or any other name.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actial.core.atomic_io import write_text
from actial.core.errors import UserError
from actial.core.line_counts import RESCORE
from actial.core.sealed_files import read_sealed_json
from actial.evaluation.benchmark_results import (
    NOT_ALL_QUESTIONS,
    PAPER_COLUMNS,
)
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.benchmarks.reference import table
from actial.evaluation.protocol import Protocol, protocol_remarks
from actial.reporting.csv_text import inert_cell
from actial.reporting.sweep_report import markdown

# folder of a model -> its row in the paper; also the order of our columns
PUBLISHED_AS = {
    "base": "Qwen2.5-VL-7B-Instruct",
    "grpo": "Actial-7B",
    "grpo_only": "Actial-7B without K.I.",
    "sft": "Actial-7B without G.E.",
}
# heading -> the benchmarks whose figures stand below it
TABLES = {
    "Table 1": ("3dsrbench", "cv_bench", "blink", "blink_all"),
    "Table A1 (MMSI-Bench)": ("mmsi",),
    "Viewpoint-100K test": ("viewpoint_100k",),
}
FORMS = ("trunc1", "round1")
LEGEND = (
    "Percent, truncated/rounded (the paper truncates BLINK and CV-Bench and rounds the others), in "
    "brackets the 95 % interval over questions, then the paper's figure. `!`: the interval "
    "excludes the paper's figure. `~`: asked under other conditions than the paper's, which are "
    "named; the notes say more."
)
CSV_COLUMNS = (
    "model",
    "benchmark",
    "column",
    "ours",
    "truncated",
    "rounded",
    "low",
    "high",
    "paper",
    "differs",
    "comparable",
    "conditions",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One cell: a figure of ours and the published one, in percent."""

    model: str
    benchmark: str
    column: str
    ours: float | None  # in the form that the paper prints
    truncated: float | None
    rounded: float | None
    low: float | None
    high: float | None
    paper: float | None
    conditions: tuple[str, ...]  # in which ours was measured otherwise than the paper's

    @property
    def comparable(self) -> bool:
        """Whether ours was measured as the paper's was."""
        return not self.conditions

    @property
    def differs(self) -> bool:
        """Whether the interval excludes the published figure."""
        if self.paper is None or self.low is None or self.high is None:
            return False
        return not self.low <= self.paper <= self.high

    def text(self) -> str:
        """Return "83.1/83.2 [81.7, 84.6], paper 83.5 ! ~image size"."""
        if self.ours is None:
            return "-"
        words = [f"{self.truncated:.1f}/{self.rounded:.1f}"]
        if self.low is not None:
            words.append(f"[{self.low:.1f}, {self.high:.1f}]")
        if self.paper is not None:
            words[-1] += ","
            words.append(f"paper {self.paper:.1f}")
        if self.differs:
            words.append("!")
        if self.conditions:
            words.append(f"~{', '.join(self.conditions)}")
        return " ".join(words)


def write_paper_table(scores: Path, out: Path) -> str:
    """Write table.md and table.csv into `out` and return the Markdown.

    Raises UserError where `scores` holds no evaluation of a set that the paper reports, or two of
    one model on one set.
    """
    figures: list[Figure] = []
    folders: dict[tuple[str, str], Path] = {}
    notes: dict[str, list[str]] = {}
    protocols: dict[str, list[tuple[str, Protocol | None]]] = {}
    for path in sorted(scores.glob("*/*/scores.json")):
        model, name = path.parent.parent.name, _benchmark_of(path)
        if name not in PAPER_COLUMNS:
            continue
        twin = folders.setdefault((model, name), path.parent)
        if twin != path.parent:
            raise UserError(
                f"{twin} and {path.parent} are both evaluations of {model} on {name}, and a cell "
                "has room for one: move the other elsewhere."
            )
        paper = _comparison(path.parent, name)
        if paper.get("notes"):
            notes[f"{model} on {name}"] = paper["notes"]
        content = read_sealed_json(path, RESCORE)
        entry = content.get("protocol")
        protocol = Protocol.from_json(entry) if entry else None
        protocols.setdefault(name, []).append((model, protocol))
        if protocol:
            notes.setdefault(f"{model} on {name}", []).append(f"protocol {protocol.hash}")
        figures += _figures(content, model, name, _conditions(paper, model))
    if not figures:
        sets = ", ".join(PAPER_COLUMNS)
        raise UserError(
            f"runs={scores} holds no SCORES/MODEL/BENCHMARK/scores.json of {sets}: evaluate with "
            f"out={scores}/MODEL/BENCHMARK first (docs/reproduce.md)."
        )
    for name, scored in protocols.items():
        if remarks := protocol_remarks(scored):
            notes[name] = remarks
    text = _markdown(figures, notes)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "table.md", text)
    write_text(out / "table.csv", _csv(figures))
    return text


def _figures(
    content: Mapping[str, Any],
    model: str,
    name: str,
    conditions: tuple[str, ...],
) -> list[Figure]:
    published = table(BENCHMARKS[name].reference).rows.get(PUBLISHED_AS.get(model, ""), {})
    figures = []
    for column, (path, form) in PAPER_COLUMNS[name].items():
        cell = _cell(content["scores"], path) or {}
        measured = bool(cell.get("n"))
        bounds = [cell.get(bound) if measured else None for bound in ("low", "high")]
        low, high = (None if bound is None else 100 * bound for bound in bounds)
        truncated, rounded = (cell[each] if measured else None for each in FORMS)
        figures.append(
            Figure(
                model=model,
                benchmark=name,
                column=column,
                ours=cell[form] if measured else None,
                truncated=truncated,
                rounded=rounded,
                low=low,
                high=high,
                paper=published.get(column),
                conditions=conditions,
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
    settings = read_sealed_json(path, RESCORE).get("settings", {})
    return str(settings.get("benchmark", path.parent.name))


def _comparison(folder: Path, name: str) -> dict[str, Any]:
    """Return what an evaluation's results.json says of the paper's figures; {} without one."""
    results = folder / "results.json"
    if not results.is_file():
        return {}
    return dict(read_sealed_json(results, RESCORE).get("paper", {}).get(name) or {})


def _conditions(paper: Mapping[str, Any], model: str) -> tuple[str, ...]:
    """Return the conditions in which a model was asked otherwise than its row of the paper."""
    conditions = list(paper.get("conditions", []))
    if PUBLISHED_AS.get(model) in paper.get("other_prompt", []):
        conditions.append("prompt")
    if any(NOT_ALL_QUESTIONS in note for note in paper.get("notes", [])):
        conditions.append("questions")
    return tuple(conditions)


# ---------------------------------------------------------------- Markdown and CSV


def _markdown(figures: list[Figure], notes: Mapping[str, list[str]]) -> str:
    sections = []
    for heading, benchmarks in TABLES.items():
        own = [figure for figure in figures if figure.benchmark in benchmarks]
        if own:
            sections.append(f"## {heading}\n\n{_beside(own)}\n\n{_published(own)}")
    if notes:
        lines = [f"* {subject}: {'; '.join(remarks)}" for subject, remarks in notes.items()]
        sections.append("## Notes\n\n" + "\n".join(lines))
    return f"# Tables of the paper\n\n{LEGEND}\n\n" + "\n\n".join(sections) + "\n"


def _beside(figures: Sequence[Figure]) -> str:
    """Return the table of our models: a line per figure, a column per model."""
    names = {figure.model for figure in figures}
    models = [name for name in PUBLISHED_AS if name in names]
    models += sorted(names - set(models))
    cells = {(figure.column, figure.model): figure.text() for figure in figures}
    columns = list(dict.fromkeys(figure.column for figure in figures))
    lines = [[column, *(cells.get((column, m), "-") for m in models)] for column in columns]
    return markdown(["figure", *(_heading(model) for model in models)], lines)


def _heading(model: str) -> str:
    published = PUBLISHED_AS.get(model)
    return model if published is None else f"{model}: {published}"


def _published(figures: Sequence[Figure]) -> str:
    """Return the paper's own table, in its orientation, of the figures that we have."""
    columns = list(dict.fromkeys(figure.column for figure in figures))
    reference = table(BENCHMARKS[figures[0].benchmark].reference)
    lines = []
    for label, published in reference.rows.items():
        values = [published.get(column) for column in columns]
        if any(value is not None for value in values):
            lines.append([label, *("-" if v is None else f"{v:.1f}" for v in values)])
    return markdown(["published", *columns], lines)


def _csv(figures: list[Figure]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for figure in figures:
        values = {name: getattr(figure, name) for name in CSV_COLUMNS}
        values["conditions"] = "; ".join(figure.conditions)
        writer.writerow(map(inert_cell, values.values()))
    return buffer.getvalue()
