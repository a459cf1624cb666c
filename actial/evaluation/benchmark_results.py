"""Opening a benchmark by its settings, its scores as JSON, and the paper's rows beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actial.config import BenchmarkConfig
from actial.core.errors import UserError
from actial.core.seeding import hash_shuffle
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.benchmarks.base import Benchmark, Item, Source, Style, rotated
from actial.evaluation.benchmarks.reference import table
from actial.grading import metrics
from actial.grading.metrics import Prediction

# printed column -> (path in the scores, which display form the paper used; `benchmarks.md` 1)
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
    """The benchmark of `config.name`, where its files were found, and its items.

    Raises:
        UserError: unknown name, files that are missing, changed, or do not have the pinned hash.
    """
    if config.name not in BENCHMARKS:
        raise UserError(
            f"benchmark.name={config.name} is unknown: use one of {', '.join(BENCHMARKS)}."
        )
    benchmark = BENCHMARKS[config.name]
    root = Path(config.root) if config.root else None
    source = Source(
        name=benchmark.name,
        hub=benchmark.hub,
        root=root,
        revision=config.revision,
        split=config.split or benchmark.split,
        pinned=dict(config.sha256),
    )
    items = benchmark.load(source)
    if unread := sorted(config.sha256.keys() - source.hashes.keys()):
        raise UserError(
            f"{benchmark.name}: benchmark.sha256 pins {unread[0]}, but the files read are {', '.join(source.hashes)}: name one."
        )
    if not items:
        raise UserError(
            f"{benchmark.name}: {root or benchmark.hub} holds no question of split {source.split}: fetch it again."
        )
    if config.limit:
        items = hash_shuffle(items, "limit", benchmark.name)[: config.limit]
    if config.circular and all(item.circular.get("rotations", 1) == 1 for item in items):
        items = rotated(items)
    return benchmark, source, items


def style_of(config: BenchmarkConfig, benchmark: Benchmark) -> Style:
    """Raises UserError for a style that does not exist."""
    try:
        return Style(config.style) if config.style else benchmark.style
    except ValueError:
        raise UserError(
            f"benchmark.style={config.style} is unknown: use one of {', '.join(Style)}."
        ) from None


def benchmark_scores(
    benchmark: Benchmark,
    source: Source,
    predictions: Sequence[Prediction],
    *,
    partial: bool = False,
) -> dict[str, Any]:
    """scores.json: every cell with n, value, interval, unread and cut shares, both display forms; `partial` skips figures over groups."""
    overall = metrics.accuracy(predictions)
    scores: dict[str, Any] = (
        {"answers": overall, "type": metrics.accuracy_by(predictions, "type")} if partial else {}
    )
    if not partial:
        scores = benchmark.score(predictions)
        if "circular" not in scores and "circ" not in scores and metrics.any_rotated(predictions):
            scores["circular"] = metrics.circular([p for p in predictions if p.group])
    return {
        "benchmark": benchmark.name,
        "split": source.split,
        "n": len(predictions),
        "notes": notes(benchmark, source, predictions),
        "unparsed": overall.unparsed,
        "truncated": overall.truncated,
        "format": sum(p.format_ok for p in predictions) / max(1, len(predictions)),
        "dropped": dict(source.dropped),
        "sha256": source.hashes,
        "licence": benchmark.license,
        "paper": benchmark.paper,
        "scores": metrics.to_json(scores),
    }


def notes(benchmark: Benchmark, source: Source, predictions: Sequence[Prediction]) -> list[str]:
    """What keeps the figures from being compared with published ones, and what a reader must know."""
    found = [benchmark.note] if benchmark.note else []
    asked = len(
        {(p.group["base"], p.group.get("flip", False)) if p.group else p.uid for p in predictions}
    )
    if source.split == benchmark.split and benchmark.questions not in (0, asked):
        found.append(
            f"{asked} questions were asked, {benchmark.questions} are published: not comparable with published figures"
        )
    circular = any(
        path.startswith("circ/") for path, _ in PAPER_COLUMNS.get(benchmark.name, {}).values()
    )
    if circular and not metrics.any_rotated(predictions):
        found.append(
            "no options were rotated, so the published circular figure has none beside it: benchmark.circular=true rotates them"
        )
    return found


def beside_paper(name: str, found: dict[str, Any]) -> dict[str, Any] | None:
    """{"columns", "rows": {model: [..]}, "ours": [..], "notes"}: the paper's figures and ours (scores.json) in one display form.

    None for a benchmark that the paper does not have.
    """
    if name not in PAPER_COLUMNS:
        return None
    columns = PAPER_COLUMNS[name]
    reference = table(BENCHMARKS[name].reference)
    rows = {
        model: [row[c] for c in columns]
        for model, row in reference.rows.items()
        if any(row[c] is not None for c in columns)
    }
    ours = [_find(found["scores"], path, form) for path, form in columns.values()]
    return {"columns": list(columns), "rows": rows, "ours": ours, "notes": found["notes"]}


def _find(scores: dict[str, Any], path: str, form: str) -> float | None:
    """A figure by its path: names of the scores hold slashes themselves ("task/Depth"), so the longest key wins."""
    if path in scores:
        return scores[path][form] if scores[path].get("n") else None
    head, _, rest = path.partition("/")
    return _find(scores[head], rest, form) if rest and head in scores else None
