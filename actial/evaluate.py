"""Ask a model the questions of a set and keep every answer: the one evaluation loop, for training runs, benchmarks and servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from actial import scoring
from actial.predictions import PredictionLog, predict
from actial.progress import Progress
from actial.scoring import Cell, Prediction
from actial.types import Completion, Example, Prompt, Question, SamplingParams


class Sampler(Protocol):
    def generate(self, prompts: list[Prompt], n: int, params: SamplingParams) -> list[list[Completion]]: ...


class Renderer(Protocol):
    def prompt(self, example: Example, question: Question) -> Prompt: ...

    def decode(self, token_ids: list[int]) -> str: ...


def evaluate_examples(
    sampler: Sampler,
    renderer: Renderer,
    examples: Sequence[Example],
    params: SamplingParams,
    *,
    log: PredictionLog | None = None,
    batch_size: int = 128,
    label: str = "evaluating",
) -> list[Prediction]:
    """One answer per question, in the order of the examples.

    Args:
        examples: may load lazily; each is read once, and only its unanswered questions are asked.
        log: where answers are kept and resumed from; without it nothing is written.
        batch_size: prompts handed to the sampler at once, at least.
    """
    done = dict(log.done) if log else {}
    asked: list[str] = []
    with Progress(label, total=len(examples), unit="examples") as progress:
        for batch in _batches(examples, batch_size):
            pairs = [(example, question) for example in batch for question in example.questions]
            asked += [question.uid for _, question in pairs]
            if unanswered := [(example, question) for example, question in pairs if question.uid not in done]:
                fresh = _ask(sampler, renderer, unanswered, params)
                if log:
                    log.append(fresh)
                done |= {p.uid: p for p in fresh}
            progress.advance(len(batch))
    return [done[uid] for uid in asked]


def _ask(sampler: Sampler, renderer: Renderer, pairs: list[tuple[Example, Question]], params: SamplingParams) -> list[Prediction]:
    prompts = [renderer.prompt(example, question) for example, question in pairs]
    completions = [group[0] for group in sampler.generate(prompts, 1, params)]
    return [
        predict(example, question, renderer.decode(c.token_ids), c.finish, len(c.token_ids))
        for (example, question), c in zip(pairs, completions, strict=True)
    ]


def _batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Examples in order, each list with at least `size` questions except the last."""
    batch: list[Example] = []
    for example in examples:
        batch.append(example)
        if sum(len(e.questions) for e in batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def summarise(predictions: Sequence[Prediction], *, joint_size: int = 3) -> dict[str, Cell | dict[str, Cell]]:
    """The cells every set has: overall, by type, and joint over the questions of a pair where pairs have `joint_size` of them."""
    cells: dict[str, Cell | dict[str, Cell]] = {
        "overall": scoring.accuracy(predictions),
        "by_type": scoring.accuracy_by(predictions, "type"),
    }
    if (pairs := scoring.joint(predictions, joint_size)).n:
        cells["joint"] = pairs
    return cells
