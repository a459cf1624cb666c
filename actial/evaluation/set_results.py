"""Turn one set's graded answers into the figures and sample cards of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from actial.core.atomic_io import atomic
from actial.core.records import Example, Question
from actial.core.seeding import hash_int
from actial.evaluation.protocol import Protocol
from actial.evaluation.results import SampleAnswer, SampleCard, SetResult
from actial.grading import metrics
from actial.grading.metrics import Prediction
from actial.grading.predictions import truth

MAX_CHARACTERS = 4000  # of one answer's text on a sample card


def set_results(
    predictions: Sequence[Prediction],
    *,
    questions_per_pair: int = 3,
    protocol: Protocol | None = None,
) -> SetResult:
    """Summarize one model's answers on one set.

    Args:
        predictions: graded answers.
        questions_per_pair: a view pair counts for `all_correct` only with so many questions.
        protocol: under which the answers were made and read.
    """
    overall = metrics.accuracy(predictions)
    with_angle = [p for p in predictions if "angle" in p.categories]
    pairs = metrics.pairs_all_correct(predictions, questions_per_pair)
    lengths = [p.tokens for p in predictions if p.tokens is not None]
    return SetResult(
        overall=overall,
        by_type=metrics.accuracy_by(predictions, "type"),
        by_angle=metrics.accuracy_by(with_angle, "angle"),
        all_correct=pairs if pairs.n else None,
        unparsed=overall.unparsed,
        truncated=overall.truncated,
        format_compliance=format_compliance(predictions),
        tokens=sum(lengths) / len(lengths) if lengths else None,
        protocol=protocol.to_json() if protocol else {},
    )


def format_compliance(predictions: Sequence[Prediction]) -> float:
    """Return the share of answers that are one think block followed by one answer block."""
    return sum(p.format_ok for p in predictions) / max(1, len(predictions))


def sample_answers(
    run_dir: Path | str,
    set_name: str,
    examples: Sequence[Example],
    predictions: Mapping[str, Sequence[Prediction]],
    count: int = 6,
) -> list[SampleCard]:
    """Return cards of `count` examples drawn by hash, with every model's answer.

    The images are written to run_dir/samples.
    """
    by_uid = {model: {p.uid: p for p in answers} for model, answers in predictions.items()}
    drawn = sorted(range(len(examples)), key=lambda i: hash_int("sample", set_name, i))[:count]
    cards = []
    for index in drawn:
        example = examples[index]
        question = example.questions[hash_int("sample", example.uid) % len(example.questions)]
        answers = {
            model: _sample_answer(answers[question.uid])
            for model, answers in by_uid.items()
            if question.uid in answers
        }
        card = SampleCard(
            uid=question.uid,
            images=_write_images(Path(run_dir), f"{set_name}-{index:06d}", example),
            question=question.text,
            answer=_truth_text(example, question),
            answers=answers,
        )
        cards.append(card)
    return cards


def _write_images(run_dir: Path, stem: str, example: Example) -> list[str]:
    """Write the example's images to run_dir/samples and return their paths relative to run_dir."""
    folder = run_dir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for i, image in enumerate(example.images):
        path = folder / f"{stem}-{i}.png".replace("/", "_")
        with atomic(path) as file:
            Image.fromarray(image).save(file, format="png")
        names.append(str(path.relative_to(run_dir)))
    return names


def _sample_answer(p: Prediction) -> SampleAnswer:
    return SampleAnswer(
        text=p.text[:MAX_CHARACTERS], choice=p.choice, outcome=p.outcome, correct=p.score == 1
    )


def _truth_text(example: Example, question: Question) -> str:
    answer = truth(example.record, question)
    return (
        f"{answer}: {question.options[question.answer_index]}" if question.options else answer
    )
