"""Which of the paper's figures may stand beside ours: those measured under the same conditions."""

from __future__ import annotations

from dataclasses import replace

from actial.config import EvaluateConfig
from actial.evaluation.benchmarks.base import Benchmark, Style
from actial.evaluation.results import PaperComparison
from actial.modeling.system_prompts import SYSTEM_PROMPTS, system_prompt_text

PAPER_MAX_PIXELS = 518_400  # 960 x 540, release
BASE_MODEL = "Qwen2.5-VL-7B-Instruct"


def comparable_rows(
    paper: PaperComparison | None, config: EvaluateConfig, benchmark: Benchmark, style: Style
) -> PaperComparison | None:
    """Return the paper's figures without the rows that were measured under other conditions.

    The notes say what differs. The paper's own models were asked with the release's system prompt,
    its base model without one.
    """
    if paper is None:
        return None
    notes, rows = list(paper.notes), dict(paper.rows)
    differing = []
    if config.model.max_pixels != PAPER_MAX_PIXELS:
        differing.append(
            f"images of at most {config.model.max_pixels} pixels ({PAPER_MAX_PIXELS})"
        )
    if style is not benchmark.style:
        differing.append(f"prompt style {style} ({benchmark.style})")
    if config.benchmark.circular:
        differing.append("options in every rotation (in one order)")
    if differing:
        rows = {}
        notes.append(f"no published figures beside {', '.join(differing)}")
    else:
        prompt = system_prompt_text(config.prompt)
        asked_as_actial = prompt not in SYSTEM_PROMPTS.values()
        asked_as_base = prompt is None
        hidden = {BASE_MODEL: not asked_as_base}
        for model in paper.rows:
            if hidden.get(model, model.startswith("Actial") and not asked_as_actial):
                del rows[model]
        if not asked_as_actial:
            notes.append(
                "Actial's own figures need the release's system prompt: "
                "prompt.system_prompt=file:PATH"
            )
    return replace(paper, rows=rows, notes=notes)
