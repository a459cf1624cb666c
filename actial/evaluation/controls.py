"""Ask a model again under control conditions: what do thinking and the images add?

Chains of thought can cost accuracy on spatial questions (arXiv 2604.16060), and
questions can be answered without looking: a score alone tells neither. The same
questions are put again for a direct answer, without images, and with the images
in reverse order where that turns the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from actial.core.records import AnswerMode, Example
from actial.evaluation.comparison import bootstrap_interval
from actial.evaluation.diagnostics import Answer, turning_part, without_images
from actial.evaluation.results import CONDITIONS, Controls, Gain
from actial.evaluation.tasks import Task
from actial.grading.metrics import Prediction, accuracy
from actial.viewpoint.symmetry import swap_views, variant

AS_SCORED, THINKING, DIRECT, NO_IMAGE, SWAPPED = CONDITIONS
MODES = {THINKING: AnswerMode.THINK, DIRECT: AnswerMode.DIRECT}
RESAMPLES = 4000  # of the bootstrap


def measure_controls(
    answer: Answer, task: Task, predictions: Sequence[Prediction], count: int
) -> Controls | None:
    """Return a model's accuracy on the same questions under every condition that applies.

    Args:
        answer: asks the model, under a named condition.
        task: the set.
        predictions: the model's answers to the whole set.
        count: questions, at least; fewer where the set has fewer.

    Returns:
        None where no question can be put both ways, such as one that asks for a number.
    """
    indices = take_examples(task, count, lambda example: example)
    examples = [task.examples[i] for i in indices]
    by_uid = {p.uid: p for p in predictions}
    original = [by_uid[q.uid] for example in examples for q in example.questions]
    answers = {AS_SCORED: original}
    for condition, mode in MODES.items():
        reworded = [task.reworded(i, mode) for i in indices]
        if [_texts(e) for e in reworded] == [_texts(e) for e in examples]:
            answers[condition] = original
        else:
            name = condition.split()[0]
            answers[condition] = answer(
                [variant(e, name, e.images, e.questions) for e in reworded], condition
            )
    if answers[THINKING] is answers[DIRECT]:
        return None
    if original in (answers[THINKING], answers[DIRECT]):
        del answers[AS_SCORED]
    with_images = [example for example in examples if example.images]
    answers[NO_IMAGE] = answer([without_images(example) for example in with_images], NO_IMAGE)
    seen = [by_uid[q.uid] for example in with_images for q in example.questions]
    gains = {
        "thinking": _gain(answers[THINKING], answers[DIRECT]),
        "images": _gain(seen, answers[NO_IMAGE]),
    }
    turning = [turning_part(task.examples[i]) for i in turning_examples(task, 1, count)]
    if turning:
        swapped = [swap_views(example) for example in turning if example]
        answers[SWAPPED] = answer(swapped, SWAPPED)
    answered = {condition: rows for condition, rows in answers.items() if rows}
    return Controls(
        accuracy={condition: accuracy(rows) for condition, rows in answered.items()},
        tokens={
            condition: float(np.mean([p.tokens for p in rows]))
            for condition, rows in answered.items()
            if all(p.tokens is not None for p in rows)
        },
        gains={name: gain for name, gain in gains.items() if gain.n},
    )


def turning_examples(task: Task, count: int, questions: int) -> list[int]:
    """Return the indices of examples whose answer turns with the images, in random order.

    Args:
        task: the set.
        count: examples, at least.
        questions: questions whose answer turns, at least.
    """
    return take_examples(task, questions, turning_part, count)


def take_examples(
    task: Task, questions: int, part: Callable[[Example], Example | None], count: int = 1
) -> list[int]:
    """Return indices, in random order, of so many examples with so many questions of a part."""
    indices: list[int] = []
    for index in task.random_order:
        if len(indices) >= count and questions <= 0:
            break
        selected = part(task.outline(index))
        if selected is not None:
            indices.append(index)
            questions -= len(selected.questions)
    return indices


def _texts(example: Example) -> list[str]:
    return [question.text for question in example.questions]


def _gain(first: Sequence[Prediction], second: Sequence[Prediction]) -> Gain:
    """Return the difference of two conditions' accuracies; examples are resampled whole."""
    if not first:
        return Gain(n=0, value=0.0, low=0.0, high=0.0)
    one, other = (np.array([[float(p.score) for p in rows]]) for rows in (first, second))
    index = {name: i for i, name in enumerate(sorted({p.example for p in first}))}
    clusters = np.array([index[p.example] for p in first])
    low, high = bootstrap_interval(one, other, clusters, RESAMPLES)
    return Gain(n=len(first), value=float((one - other).mean()), low=low, high=high)
