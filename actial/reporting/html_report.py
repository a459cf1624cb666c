"""A finished or running stage's figures -> report.html: one file, no network, readable on paper.

results.json, all parts optional but `sets`:

    meta         {name: value}; "title" and "subtitle" head the page, the rest is listed at its end
    models       names in display order, e.g. ["base", "sft", "grpo"]; by default the order in which `sets` has them
    set_names    sets in display order; by default as in `sets`
    sets         {set: {model: set_results(...)}}
    chance       {set: share} what guessing among the options scores
    diagnostics  {set: {model: diagnostics.diagnose(...)}}
    paper        {set: benchmarks.results.beside_paper(...)}: published rows, printed beside ours
    examples     {set: sample_answers(...)}; image paths are relative to the run folder

metrics.jsonl: rows {"stage": .., "step": .., name: number, ..}.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from actial.core.atomic_io import write_text
from actial.core.errors import UserError
from actial.core.paths import ASSETS
from actial.reporting import plots
from actial.runs.step_log import StepLog

ABSENT = "\N{EN DASH}"


# ---------------------------------------------------------------- what goes into results.json


# ---------------------------------------------------------------- the page


def write_report(run_dir: Path | str) -> Path:
    """Read results.json and metrics.jsonl of a run and write report.html beside them.

    Raises:
        UserError: results.json is missing.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "results.json").exists():
        raise UserError(
            f"{run_dir} has no results.json to report on: give a folder that actial.train or actial.evaluate has finished."
        )
    results = json.loads((run_dir / "results.json").read_text())
    path = run_dir / "report.html"
    write_text(path, render_report(results, StepLog(run_dir / "metrics.jsonl").entries(), run_dir))
    return path


def render_report(results: dict[str, Any], metrics: Sequence[dict[str, Any]], run_dir: Path) -> str:
    meta = dict(results.get("meta", {}))
    sets = {name: results["sets"][name] for name in results.get("set_names", results["sets"])}
    models = results.get("models") or list(
        dict.fromkeys(model for found in sets.values() for model in found)
    )
    heads = {
        model: {"label": plots.label(model), "colour": plots.color(i)}
        for model, i in plots.places(models).items()
    }
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((ASSETS / "report.html.j2").read_text())
    examples = [
        {"name": name, "cards": [_card(c, heads, run_dir) for c in cards]}
        for name, cards in results.get("examples", {}).items()
    ]
    return template.render(
        title=meta.pop("title", "Results"),
        subtitle=meta.pop("subtitle", ""),
        tiles=_tiles(sets, heads),
        forest=plots.forest(sets, models, results.get("chance", {})),
        chance_shown=bool(results.get("chance")),
        tables=[_set_table(name, found, heads) for name, found in sets.items()],
        papers=[
            _paper_table(name, found) for name, found in results.get("paper", {}).items() if found
        ],
        curves=plots.curves(metrics),
        diagnostics=[
            _diagnostics_table(name, found, heads)
            for name, found in results.get("diagnostics", {}).items()
            if any(found.values())
        ],
        examples=[group for group in examples if group["cards"]],
        meta=list(meta.items()),
        pixelated=True,
    )


def percent(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:.1f}".replace("-", "\N{MINUS SIGN}")


def _shown(cell: dict[str, Any] | None) -> dict[str, Any]:
    if not cell or cell.get("n") == 0:
        return {"value": ABSENT, "interval": "", "best": False}
    return {
        "value": percent(cell["value"]),
        "interval": f"{percent(cell['low'])} to {percent(cell['high'])}",
        "best": False,
    }


def _row(name: str, cells: list[dict[str, Any] | None], kind: str = "") -> dict[str, Any]:
    shown = [_shown(cell) for cell in cells]
    present = [cell for cell in cells if cell]
    clear = [max(present, key=lambda c: c["value"])] if len(present) > 1 else []
    for entry, cell in zip(shown, cells, strict=True):
        entry["best"] = any(
            cell is c and all(c is o or c["low"] > o["value"] for o in present) for c in clear
        )
    return {
        "name": name,
        "kind": kind,
        "n": "/".join(sorted({str(c["n"]) for c in present if "n" in c})),
        "cells": shown,
    }


def _plain_row(name: str, values: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "minor",
        "n": "",
        "cells": [{"value": value, "interval": "", "best": False} for value in values],
    }


def _tiles(sets: dict[str, Any], heads: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "steps": [
                heads[m] | {"value": percent(found[m]["overall"]["value"])}
                for m in heads
                if m in found
            ],
        }
        for name, found in sets.items()
    ]


def _set_table(name: str, found: dict[str, Any], heads: dict[str, Any]) -> dict[str, Any]:
    columns = [found.get(model) or {} for model in heads]
    rows = [_row("all questions", [c.get("overall") for c in columns], "main")]
    if any("joint" in c for c in columns):
        rows.append(
            _row("all questions of a pair right", [c.get("joint") for c in columns], "main")
        )
    kinds = sorted({kind for c in columns for kind in c.get("by_type", {})})
    if len(kinds) > 1:
        rows += [
            _row(kind.replace("_", " "), [c.get("by_type", {}).get(kind) for c in columns])
            for kind in kinds
        ]
    for key, label in (
        ("unparsed", "unread answers"),
        ("truncated", "of these, cut before the answer"),
        ("format", "think/answer form"),
    ):
        rows.append(_plain_row(label, [percent(c.get(key)) for c in columns]))
    if any("tokens" in c for c in columns):
        rows.append(
            _plain_row(
                "tokens per answer",
                [f"{c['tokens']:.0f}" if "tokens" in c else ABSENT for c in columns],
            )
        )
    return {"name": name, "heads": list(heads.values()), "rows": rows}


def _paper_table(name: str, found: dict[str, Any]) -> dict[str, Any]:
    rows = [{"name": model, "cells": values, "kind": ""} for model, values in found["rows"].items()]
    rows.append({"name": "this model", "cells": found["ours"], "kind": "main"})
    for row in rows:
        row["cells"] = [ABSENT if value is None else value for value in row["cells"]]
    return {
        "name": name,
        "columns": found["columns"],
        "rows": rows,
        "notes": "; ".join(found.get("notes", [])),
    }


PAIRED = (
    ("swap", "swapped photos"),
    ("mirror", "mirrored photos"),
    ("options", "reordered options"),
    ("three questions", "three questions agree"),
)


def _diagnostics_table(name: str, found: dict[str, Any], heads: dict[str, Any]) -> dict[str, Any]:
    columns = [found.get(model) or {} for model in heads]
    rows = [_row("accuracy", [c.get("accuracy") for c in columns], "main")]
    for key, label in PAIRED:
        rows.append(
            _row(f"{label}: consistent", [c.get(key, {}).get("consistent") for c in columns])
        )
        rows.append(
            _row("… and right", [c.get(key, {}).get("consistent_right") for c in columns], "minor")
        )
    rows += _nested("by angle", "{} degrees apart", columns)
    rows += _nested("shortcuts", "shortcut: {}", columns)
    rows.append(
        _row(
            "accuracy above the best shortcut",
            [c.get("above best shortcut") for c in columns],
            "main",
        )
    )
    drops = [c.get("visual dependence") for c in columns]
    if any(drops):
        texts = [f"{d['value']:.2f} nats" if d else ABSENT for d in drops]
        rows.append(_plain_row("log-probability lost when photos turn grey", texts))
    return {"name": name, "heads": list(heads.values()), "rows": rows}


def _nested(key: str, pattern: str, columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for c in columns for name in c.get(key, {}))
    return [
        _row(pattern.format(name), [c.get(key, {}).get(name) for c in columns]) for name in names
    ]


def _card(card: dict[str, Any], heads: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    images = [
        f"data:image/png;base64,{base64.b64encode((run_dir / path).read_bytes()).decode()}"
        for path in card["images"]
    ]
    unread = defaultdict(lambda: "not readable", truncated="cut before the answer")
    replies = [
        head | a | {"choice": a["choice"] or unread[a["outcome"]], "text": a["text"] or "(empty)"}
        for head, a in ((heads[m], card["answers"][m]) for m in heads if m in card["answers"])
    ]
    return card | {"images": images, "replies": replies}


def summary(run_dir: Path) -> str:
    """The figures of results.json as lines of text: a set each, its models side by side in per cent."""
    results: dict[str, Any] = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    models = results["models"]
    lines = ["% right".ljust(32) + "".join(f"{model:>8}" for model in models)]
    for name, cells in results["sets"].items():
        for key, label in (
            ("overall", name),
            ("joint", f"{name}, all of a pair right"),
            ("format", f"{name}, form"),
        ):
            values = [cells[model].get(key) for model in models]
            shares = [value["value"] if isinstance(value, dict) else value for value in values]
            if None not in shares:
                lines.append(label.ljust(32) + "".join(f"{100 * share:8.1f}" for share in shares))
    return "\n".join(lines)
