"""Examples asked of a sampler in batches, and their answers graded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from actial.core.progress import Progress
from actial.core.records import Completion, Example, Prompt, Question, SamplingParams
from actial.grading.metrics import Prediction
from actial.grading.predictions import PredictionLog, predict

BATCH_BYTES = 1 << 30  # of pictures; two batches are in memory at a time


class Sampler(Protocol):
    def generate(
        self, prompts: list[Prompt], n: int, params: SamplingParams
    ) -> list[list[Completion]]: ...


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
        batch_size: prompts handed to the sampler at once, at least, unless pictures take
            BATCH_BYTES; the next ones are read meanwhile.
    """
    done = dict(log.done) if log else {}
    pending_uids: list[str] = []
    batches = _batches(examples, batch_size)
    with (
        Progress(label, total=len(examples), unit="examples") as progress,
        ThreadPoolExecutor(1) as reader,
    ):
        reading = reader.submit(next, batches, None)
        while batch := reading.result():
            reading = reader.submit(next, batches, None)
            pairs = [
                (example, question) for example in batch for question in example.questions
            ]
            pending_uids += [question.uid for _, question in pairs]
            if unanswered := [
                (example, question) for example, question in pairs if question.uid not in done
            ]:
                fresh = _ask(sampler, renderer, unanswered, params)
                if log:
                    log.append(fresh)
                done |= {p.uid: p for p in fresh}
            progress.advance(len(batch))
    return [done[uid] for uid in pending_uids]


def _ask(
    sampler: Sampler,
    renderer: Renderer,
    pairs: list[tuple[Example, Question]],
    params: SamplingParams,
) -> list[Prediction]:
    prompts = [renderer.prompt(example, question) for example, question in pairs]
    completions = [group[0] for group in sampler.generate(prompts, 1, params)]
    return [
        predict(example, question, renderer.decode(c.token_ids), c.finish, len(c.token_ids))
        for (example, question), c in zip(pairs, completions, strict=True)
    ]


def _batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Yield lists of examples with at least `size` questions or BATCH_BYTES of images."""
    batch: list[Example] = []
    questions = pixels = 0
    for example in examples:
        batch.append(example)
        questions += len(example.questions)
        pixels += sum(image.nbytes for image in example.images)
        if questions >= size or pixels >= BATCH_BYTES:
            yield batch
            batch, questions, pixels = [], 0, 0
    if batch:
        yield batch
