"""Write report.html from results.json and metrics.jsonl: one file, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from actial.core.atomic_io import write_text
from actial.core.html_page import render_page
from actial.core.image_codec import data_url
from actial.core.records import Outcome
from actial.evaluation.results import Results, SampleAnswer, SampleCard, SetResult
from actial.reporting import plots
from actial.reporting.report_tables import (
    Head,
    Heads,
    controls_table,
    diagnostics_table,
    paper_table,
    percent,
    set_table,
)
from actial.runs.step_log import StepLog


def write_report(run_dir: Path | str) -> Path:
    """Write report.html beside results.json and metrics.jsonl of a run, and return its path.

    Raises:
        UserError: results.json is missing.
    """
    run_dir = Path(run_dir)
    results = Results.read(run_dir)
    path = run_dir / "report.html"
    write_text(
        path, render_report(results, StepLog(run_dir / "metrics.jsonl").entries(), run_dir)
    )
    return path


def render_report(results: Results, metrics: Sequence[dict[str, Any]], run_dir: Path) -> str:
    """Return the page.

    Args:
        results: figures of the run.
        metrics: log entries {"stage": .., "step": .., name: number, ..}.
        run_dir: folder that the sample cards' image paths are relative to.
    """
    meta = dict(results.meta)
    sets = {name: results.sets[name] for name in results.set_names}
    positions = plots.places(results.models)
    heads = {
        model: Head(plots.label(model), plots.color(position))
        for model, position in positions.items()
    }
    examples = [
        {"name": name, "cards": [_card(card, heads, run_dir) for card in cards]}
        for name, cards in results.examples.items()
        if cards
    ]
    return render_page(
        "report.html.j2",
        title=meta.pop("title", "Results"),
        subtitle=meta.pop("subtitle", ""),
        tiles=[_tile(name, models, heads) for name, models in sets.items()],
        forest=plots.forest(sets, results.models, results.chance),
        chance_shown=bool(results.chance),
        tables=[set_table(name, models, heads) for name, models in sets.items()],
        papers=[paper_table(name, figures) for name, figures in results.paper.items()],
        curves=plots.curves(metrics),
        controls=[
            controls_table(name, reports, heads) for name, reports in results.controls.items()
        ],
        diagnostics=[
            diagnostics_table(name, reports, heads)
            for name, reports in results.diagnostics.items()
            if reports
        ],
        examples=examples,
        meta=list(meta.items()),
    )


def _tile(name: str, models: Mapping[str, SetResult], heads: Heads) -> dict[str, Any]:
    """Return a set's headline: the accuracy of every model, in display order."""
    steps = []
    for model, head in heads.items():
        if model in models:
            accuracy = percent(float(models[model].overall.value))
            steps.append({"label": head.label, "color": head.color, "value": accuracy})
    return {"name": name, "steps": steps}


# ---------------------------------------------------------------- sample answers


@dataclass(slots=True)
class Reply:
    """One model's answer on a card."""

    label: str
    color: str
    choice: str  # the option it chose, or why none was read
    text: str
    correct: bool


def _card(card: SampleCard, heads: Heads, run_dir: Path) -> dict[str, Any]:
    return {
        "uid": card.uid,
        "question": card.question,
        "answer": card.answer,
        "images": [data_url((run_dir / path).read_bytes()) for path in card.images],
        "replies": [
            _reply(card.answers[model], head)
            for model, head in heads.items()
            if model in card.answers
        ],
    }


def _reply(answer: SampleAnswer, head: Head) -> Reply:
    truncated = answer.outcome == Outcome.TRUNCATED.value
    unparsed = "truncated before the answer" if truncated else "not readable"
    return Reply(
        label=head.label,
        color=head.color,
        choice=answer.choice or unparsed,
        text=answer.text or "(empty)",
        correct=answer.correct,
    )


# ---------------------------------------------------------------- the terminal


def summary(run_dir: Path) -> str:
    """Return a run's figures as lines of text, models side by side, in percent."""
    results = Results.read(run_dir)
    lines = [_summary_line("% correct", [f"{model:>8}" for model in results.models])]
    for name, models in results.sets.items():
        columns = [models[model] for model in results.models]
        pairs = [r.all_correct.value if r.all_correct else None for r in columns]
        figures: dict[str, Sequence[float | Fraction | None]] = {
            name: [r.overall.value for r in columns],
            f"{name}, all of a pair correct": pairs,
            f"{name}, format compliance": [r.format_compliance for r in columns],
        }
        for label, shares in figures.items():
            values = [float(share) for share in shares if share is not None]
            if len(values) == len(columns):
                lines.append(_summary_line(label, [f"{100 * value:8.1f}" for value in values]))
    return "\n".join(lines)


def _summary_line(label: str, values: Sequence[str]) -> str:
    return label.ljust(36) + "".join(values)
