"""Write a run's figures as a model card that model hubs can read."""

from __future__ import annotations

import json
import re

from actial.core.errors import UserError
from actial.evaluation.results import Results
from actial.grading.metrics import Cell


def model_card(
    results: Results, model: str, base: str | None, library: str = "transformers"
) -> str:
    """Return README.md of a model: front matter, and a table with each set's figure and interval.

    Args:
        results: figures of a finished run.
        model: one of its models.
        base: hub id or folder of the model that it was made from, if that is known.
        library: that loads it: transformers, or peft for an adapter.

    Raises:
        UserError: the run has no figures of the model.
    """
    cells = {
        name: models[model].overall for name, models in results.sets.items() if model in models
    }
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
    table = [
        "| set | n | accuracy | 95 % interval | unparsed |",
        "|---|---|---|---|---|",
        *(_table_row(name, cell) for name, cell in cells.items()),
    ]
    meta = [f"- {key}: {value}" for key, value in results.meta.items()]
    return "\n".join([*front_matter, "", f"# {model}", "", *table, "", *meta, ""])


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


def _table_row(name: str, cell: Cell) -> str:
    interval = f"{100 * cell.low:.1f} to {100 * cell.high:.1f}"
    accuracy, unparsed = 100 * float(cell.value), 100 * cell.unparsed
    return f"| {name} | {cell.n} | {accuracy:.1f} | {interval} | {unparsed:.1f} |"
