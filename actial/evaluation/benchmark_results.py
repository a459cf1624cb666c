"""Open a benchmark by its settings, score its answers, and put the paper's figures beside ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actial.config import BenchmarkConfig
from actial.core.errors import UserError
from actial.core.seeding import hash_shuffle
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.benchmarks.base import Benchmark, Item, Source, Style, rotated
from actial.evaluation.benchmarks.checked_items import read_items
from actial.evaluation.benchmarks.reference import table
from actial.evaluation.results import BenchmarkScores, PaperComparison
from actial.evaluation.set_results import format_compliance
from actial.grading import metrics
from actial.grading.metrics import Prediction

NOT_ALL_QUESTIONS = "not comparable with published figures"  # ends a note
# printed column -> (path in the scores, display form that the paper used)
PAPER_COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "3dsrbench": {
        "3DSR avg": ("circ/overall", "round1"),
        "3DSR Height": ("circ/height", "round1"),
        "3DSR Location": ("circ/location", "round1"),
        "3DSR Orientation": ("circ/orientation", "round1"),
        "3DSR Multi": ("circ/multi_object", "round1"),
    },
    "cv_bench": {
        "CV avg": ("macro4", "trunc1"),
        "CV Relation": ("task/Relation", "trunc1"),
        "CV Count": ("task/Count", "trunc1"),
        "CV Distance": ("task/Distance", "trunc1"),
        "CV Depth": ("task/Depth", "trunc1"),
    },
    "blink": {
        "BLINK avg": ("macro3", "trunc1"),
        "BLINK MultiView": ("sub_task/Multi-view_Reasoning", "trunc1"),
        "BLINK RelDepth": ("sub_task/Relative_Depth", "trunc1"),
        "BLINK SpRel": ("sub_task/Spatial_Relation", "trunc1"),
    },
    "mmsi": {
        name: ("overall" if name == "Avg" else f"category/{name}", "round1")
        for name in table("table_a1").columns
    },
    "viewpoint_100k": {"Viewpoint-100K test": ("overall", "round1")},
}
PAPER_COLUMNS["blink_all"] = PAPER_COLUMNS["blink"]


def open_benchmark(config: BenchmarkConfig) -> tuple[Benchmark, Source, list[Item]]:
    """Return the benchmark of `config.name`, where its files are, and its items.

    Raises:
        UserError: unknown name or split; files that are missing, changed, or without the pinned
            hash; a row that cannot be read; two questions of one name.
    """
    if config.name not in BENCHMARKS:
        raise UserError(
            f"benchmark.name={config.name} is unknown: use one of {', '.join(BENCHMARKS)}."
        )
    benchmark = BENCHMARKS[config.name]
    _check_split(config.split, benchmark)
    root = Path(config.root) if config.root else None
    source = Source(
        name=benchmark.name,
        hub=benchmark.hub,
        root=root,
        revision=config.revision,
        split=config.split or benchmark.split,
        pinned=dict(config.sha256),
    )
    items = read_items(benchmark, source)
    never_read = sorted(config.sha256.keys() - source.hashes.keys())
    if never_read:
        raise UserError(
            f"{benchmark.name}: benchmark.sha256 pins {never_read[0]}, but the files read are "
            f"{', '.join(source.hashes)}: name one."
        )
    if not items:
        raise UserError(
            f"{benchmark.name}: {root or benchmark.hub} holds no question of split "
            f"{source.split}: fetch it again."
        )
    counts = Counter(item.uid for item in items)
    if repeated := [uid for uid, count in counts.items() if count > 1]:
        raise UserError(
            f"{benchmark.name}: {len(repeated)} names stand for several questions, the first "
            f"{repeated[0]}: give every row a name of its own, or fetch the files again."
        )
    if config.limit:
        items = hash_shuffle(items, "limit", benchmark.name)[: config.limit]
    if config.circular and all(item.circular.get("rotations", 1) == 1 for item in items):
        items = rotated(items)
    return benchmark, source, items


def _check_split(split: str, benchmark: Benchmark) -> None:
    """Raise UserError for a split that the benchmark does not have."""
    splits = (benchmark.split, *(benchmark.splits or ()))
    if split and benchmark.splits is not None and split not in splits:
        raise UserError(
            f"benchmark.split={split} is no split of {benchmark.name}: use {' or '.join(splits)}."
        )


def asks_published_items(config: BenchmarkConfig, benchmark: Benchmark) -> bool:
    """Return whether all items that papers report are asked, in their own order of options."""
    whole = not (config.limit or config.circular)
    return whole and config.split in ("", benchmark.split)


def style_of(config: BenchmarkConfig, benchmark: Benchmark) -> Style:
    """Return the prompt style; raises UserError for one that does not exist."""
    try:
        return Style(config.style) if config.style else benchmark.style
    except ValueError:
        raise UserError(
            f"benchmark.style={config.style} is unknown: use one of {', '.join(Style)}."
        ) from None


def benchmark_settings(
    config: BenchmarkConfig, benchmark: Benchmark, source: Source
) -> dict[str, Any]:
    """Return which questions are asked, as settings.json beside their answers has it."""
    return {
        "benchmark": benchmark.name,
        "split": source.split,
        "circular": config.circular,
        "limit": config.limit,
        "files": source.hashes,
    }


def benchmark_scores(
    benchmark: Benchmark,
    source: Source,
    predictions: Sequence[Prediction],
    *,
    partial: bool = False,
) -> BenchmarkScores:
    """Score predictions by the benchmark's published rule.

    Args:
        benchmark: whose rule it is.
        source: where its files were read.
        predictions: one per item.
        partial: only some items were answered; figures over groups of items are left out.
    """
    overall = metrics.accuracy(predictions)
    if partial:
        scores = {"answers": overall, "type": metrics.accuracy_by(predictions, "type")}
    else:
        scores = _complete_scores(benchmark, predictions)
    return BenchmarkScores(
        benchmark=benchmark.name,
        split=source.split,
        n=len(predictions),
        notes=notes(benchmark, source, predictions),
        unparsed=overall.unparsed,
        truncated=overall.truncated,
        format_compliance=format_compliance(predictions),
        dropped=dict(source.dropped),
        sha256=source.hashes,
        license=benchmark.license,
        paper=benchmark.paper,
        scores=metrics.cell_tree_to_json(scores),
    )


def _complete_scores(
    benchmark: Benchmark, predictions: Sequence[Prediction]
) -> dict[str, Any]:
    scores = benchmark.score(predictions)
    has_circular = "circular" in scores or "circ" in scores
    if metrics.any_rotated(predictions) and not has_circular:
        scores["circular"] = metrics.circular([p for p in predictions if p.group])
    return scores


def notes(
    benchmark: Benchmark, source: Source, predictions: Sequence[Prediction]
) -> list[str]:
    """Return what a reader must know, and what makes figures not comparable with published ones."""
    remarks = [benchmark.note] if benchmark.note else []
    questions = {_question_of(p) for p in predictions}
    published_split = source.split == benchmark.split
    if published_split and benchmark.questions not in (0, len(questions)):
        remarks.append(
            f"{len(questions)} questions were asked, {benchmark.questions} are published: "
            f"{NOT_ALL_QUESTIONS}"
        )
    paths = [path for path, _ in PAPER_COLUMNS.get(benchmark.name, {}).values()]
    published_circular = any(path.startswith("circ/") for path in paths)
    if published_circular and not metrics.any_rotated(predictions):
        remarks.append(
            "no options were rotated, so the published circular figure has none beside it: "
            "benchmark.circular=true rotates them"
        )
    return remarks


def _question_of(p: Prediction) -> Any:
    """Return what the rotations of one question share."""
    return (p.group["base"], p.group.get("flip", False)) if p.group else p.uid


def beside_paper(name: str, scores: BenchmarkScores) -> PaperComparison | None:
    """Return the paper's figures and ours in one display form; None where the paper has none."""
    if name not in PAPER_COLUMNS:
        return None
    columns = PAPER_COLUMNS[name]
    published = {
        model: [row[column] for column in columns]
        for model, row in table(BENCHMARKS[name].reference).rows.items()
    }
    return PaperComparison(
        columns=list(columns),
        rows={
            model: figures
            for model, figures in published.items()
            if any(figure is not None for figure in figures)
        },
        ours=[_figure(scores.scores, path, form) for path, form in columns.values()],
        notes=scores.notes,
    )


def _figure(scores: dict[str, Any], path: str, form: str) -> float | None:
    """Return a figure by its path.

    Names of scores hold slashes themselves ("task/Depth"), so the longest key wins.
    """
    if path in scores:
        return scores[path][form] if scores[path].get("n") else None
    head, _, rest = path.partition("/")
    return _figure(scores[head], rest, form) if rest and head in scores else None
