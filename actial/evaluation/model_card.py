"""Write a run's figures as a model card that model hubs can read."""

from __future__ import annotations

import json
import re

from actial.core.errors import UserError
from actial.evaluation.audit.certificate import Certificate
from actial.evaluation.results import CONDITIONS, Gain, Results
from actial.grading.metrics import Cell


def model_card(
    results: Results,
    model: str,
    base: str | None,
    library: str = "transformers",
    audit: Certificate | None = None,
) -> str:
    """Return README.md of a model: front matter, each set's figures, controls, and the audit.

    Args:
        results: figures of a finished run.
        model: one of its models.
        base: hub id or folder of the model that it was made from, if that is known.
        library: that loads it: transformers, or peft for an adapter.
        audit: of its training and test sets, if there was one.

    Raises:
        UserError: the run has no figures of the model.
    """
    scored = {name: models for name, models in results.sets.items() if model in models}
    cells = {name: models[model].overall for name, models in scored.items()}
    if not cells:
        raise UserError(
            f"the run has no scores of {model}: its models are {', '.join(results.models)}."
        )
    front_matter = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: image-text-to-text",
        *([f"base_model: {_yaml_scalar(base)}"] if base else []),
        "model-index:",
        f"- name: {model}",
        "  results:",
        *(line for name, cell in cells.items() for line in _index_entry(name, cell)),
        "---",
    ]
    protocols = {
        name: models[model].protocol.get("hash", "-") for name, models in scored.items()
    }
    table = [
        "| set | n | accuracy | 95 % interval | unparsed | protocol |",
        "|---|---|---|---|---|---|",
        *(_table_row(name, cell, protocols[name]) for name, cell in cells.items()),
    ]
    meta = [f"- {key}: {value}" for key, value in results.meta.items()]
    sections = [*_controls_section(results, model), *(_audit_section(audit) if audit else [])]
    return "\n".join([*front_matter, "", f"# {model}", "", *table, "", *sections, *meta, ""])


def _controls_section(results: Results, model: str) -> list[str]:
    """Return a table of accuracies under control conditions; nothing without controls."""
    by_set = {
        name: models[model] for name, models in results.controls.items() if model in models
    }
    if not by_set:
        return []
    head = ["set", *CONDITIONS, "thinking adds", "images add"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, controls in by_set.items():
        cells = [controls.accuracy.get(condition) for condition in CONDITIONS]
        figures = [f"{100 * float(cell.value):.1f}" if cell else "" for cell in cells]
        gains = [_gain_text(controls.gains.get(gain)) for gain in ("thinking", "images")]
        lines.append(f"| {' | '.join([name, *figures, *gains])} |")
    title = (
        "Accuracy (%) of the same questions under control conditions, differences in points:"
    )
    return ["## Controls", "", title, "", *lines, ""]


def _gain_text(gain: Gain | None) -> str:
    if gain is None:
        return ""
    return f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def _audit_section(audit: Certificate) -> list[str]:
    """Return the audit's verdict and one line per check."""
    sets = ", ".join(f"{name} ({n})" for name, n in audit.sets.items())
    verdict = "clean" if audit.clean else "leaks"
    lines = [
        f"| {check.name} | {' and '.join(check.sets)} | {'clean' if check.clean else 'leak'} "
        f"| {check.finding} |"
        for check in audit.checks
    ]
    head = ["| check | sets | verdict | finding |", "|---|---|---|---|"]
    text = f"`python -m actial.audit` over {sets}: **{verdict}**."
    return ["## Audit of the data", "", text, "", *head, *lines, ""]


def _yaml_scalar(text: str) -> str:
    """Return a hub id or path as YAML, in quotes where it holds signs of YAML's own."""
    return text if re.fullmatch(r"[\w./-]+", text) else json.dumps(text)


def _index_entry(name: str, cell: Cell) -> list[str]:
    quoted = json.dumps(name)
    return [
        "  - task: {type: visual-question-answering}",
        f"    dataset: {{name: {quoted}, type: {quoted}}}",
        f"    metrics: [{{type: accuracy, value: {float(cell.value):.4f}}}]",
    ]


def _table_row(name: str, cell: Cell, protocol: str) -> str:
    interval = f"{100 * cell.low:.1f} to {100 * cell.high:.1f}"
    accuracy, unparsed = 100 * float(cell.value), 100 * cell.unparsed
    return f"| {name} | {cell.n} | {accuracy:.1f} | {interval} | {unparsed:.1f} | {protocol} |"
