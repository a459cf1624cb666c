"""Which of the paper's figures may stand beside ours: those measured under the same conditions."""

from __future__ import annotations

from dataclasses import replace

from actial.config import EvaluateConfig
from actial.evaluation.benchmarks.base import Benchmark, Style
from actial.evaluation.results import PaperComparison
from actial.modeling.system_prompts import may_be_the_release_s, system_prompt_text

PAPER_MAX_PIXELS = 518_400  # 960 x 540, release
BASE_MODEL = "Qwen2.5-VL-7B-Instruct"


def comparable_rows(
    paper: PaperComparison | None,
    config: EvaluateConfig,
    benchmark: Benchmark,
    style: Style,
) -> PaperComparison | None:
    """Return the paper's figures without the rows that were measured under other conditions.

    The notes say what differs. The paper's own models were asked with the release's system prompt,
    its base model without one.
    """
    if paper is None:
        return None
    notes, rows = list(paper.notes), dict(paper.rows)
    differing = _differing(config, benchmark, style)
    other_prompt = _rows_with_other_prompt(paper, config)
    if differing:
        rows = {}
        notes.append(f"no published figures beside {', '.join(differing.values())}")
    else:
        rows = {name: row for name, row in rows.items() if name not in other_prompt}
        if not may_be_the_release_s(system_prompt_text(config.prompt)):
            notes.append(
                "Actial's own figures need the release's system prompt: "
                "prompt.system_prompt=file:PATH"
            )
    return replace(
        paper,
        rows=rows,
        notes=notes,
        conditions=list(differing),
        other_prompt=other_prompt,
    )


def _differing(config: EvaluateConfig, benchmark: Benchmark, style: Style) -> dict[str, str]:
    """Return the conditions that are not the paper's: a word -> ours, and the paper's."""
    differing = {}
    max_pixels = config.model.max_pixels
    if max_pixels != PAPER_MAX_PIXELS:
        differing["image size"] = f"images of at most {max_pixels} pixels ({PAPER_MAX_PIXELS})"
    if style is not benchmark.style:
        differing["prompt style"] = f"prompt style {style} ({benchmark.style})"
    if config.benchmark.circular:
        differing["rotations"] = "options in every rotation (in one order)"
    if config.temperature:
        differing["temperature"] = f"temperature {config.temperature:g} (0)"
    return differing


def _rows_with_other_prompt(paper: PaperComparison, config: EvaluateConfig) -> list[str]:
    """Return the rows of the paper's own models that were asked with another system prompt."""
    prompt = system_prompt_text(config.prompt)
    differs_from_actial = not may_be_the_release_s(prompt)
    differs = {BASE_MODEL: prompt is not None}
    return [
        row
        for row in paper.rows
        if differs.get(row, row.startswith("Actial") and differs_from_actial)
    ]
