"""What a guesser scores on a two-view set without looking at geometry; needs no model.

A probe is fitted on some objects and tested on the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from actial.core.records import Example, ObjectPosition, Question
from actial.core.seeding import hash_int
from actial.core.set_records import ViewPair
from actial.grading.metrics import Cell, mean_cell

FOLDS = 5
RIDGE = 1e-2  # L2 weight of the regression, per observation
MIN_CONTRAST = 30.0  # summed over the colors: what differs less is background
Case = tuple[np.ndarray, Question]  # features of a question's images
Guess = Callable[[Case], bool]  # whether the guesser answers a case right
Fit = Callable[[list[Case]], Guess]  # from cases of one question type


def centroid(image: np.ndarray) -> ObjectPosition:
    """Return (x, y, area) of what differs from the color of the image's border.

    Args:
        image: uint8 (H, W, 3).

    Returns:
        x, y in [-1, 1] about the middle, area as a share of the image; a flat image gives zeros.
    """
    pixels = image.astype(np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    color = np.median(border, axis=0)
    # Weight of a pixel (H, W) = its distance to the border's color; what differs no more than
    # twice as much as border pixels do is the background's own texture.
    weight = np.abs(pixels - color).sum(axis=2)
    texture = np.median(np.abs(border - color).sum(axis=1))
    weight[weight < max(2 * texture, MIN_CONTRAST)] = 0.0
    total = weight.sum()
    if total == 0:
        return 0.0, 0.0, 0.0
    ys, xs = (np.linspace(-1, 1, n) for n in weight.shape)
    x = weight.sum(axis=0) @ xs / total
    y = weight.sum(axis=1) @ ys / total
    return float(x), float(y), float((weight > 0).mean())


def centroid_probe(examples: Sequence[Example]) -> Cell:
    """Return the accuracy of guessing from where the object stands in the first and last image.

    One logistic regression per question type, from both centroids and areas to the
    answer; an example's own `object_positions` take the place of the estimate from its
    pixels.
    """
    return _cross_fitted(examples, _features, _fit_logistic)


def answer_prior(examples: Sequence[Example]) -> Cell:
    """Return the accuracy of the most frequent answer of each question type.

    By the answer's text or by its letter, whichever does better.
    """

    def no_features(_: Example) -> np.ndarray:
        return np.empty(0)

    by_text = _cross_fitted(examples, no_features, _fit_most_frequent(_right_option))
    by_letter = _cross_fitted(examples, no_features, _fit_most_frequent(_right_letter))
    return max(by_text, by_letter, key=lambda cell: cell.value)


def _right_option(question: Question) -> str:
    return question.options[question.answer_index]


def _right_letter(question: Question) -> str:
    return question.answer_letter


def _cross_fitted(
    examples: Sequence[Example], features: Callable[[Example], np.ndarray], fit: Fit
) -> Cell:
    """Return the share of questions guessed right, each by a guesser fitted on other folds.

    All pairs of an object stay in one fold.
    """
    folds_and_cases = defaultdict(list)  # by question type
    for example in examples:
        record = example.record
        name = record.object_id if isinstance(record, ViewPair) else example.uid
        fold = hash_int("fold", name) % FOLDS
        inputs = features(example)
        for question in example.questions:
            folds_and_cases[question.type].append((fold, (inputs, question)))
    guessed_right: list[bool] = []
    for cases in folds_and_cases.values():
        for fold in range(FOLDS):
            train = [case for own_fold, case in cases if own_fold != fold]
            test = [case for own_fold, case in cases if own_fold == fold]
            if train and test:
                guessed_right += map(fit(train), test)
    return mean_cell([Fraction(right) for right in guessed_right], [])


def _features(example: Example) -> np.ndarray:
    """Return (9,): position in the first image, in the last one, and their difference."""
    positions = example.object_positions
    if positions is None:
        positions = centroid(example.images[0]), centroid(example.images[-1])
    first, last = np.array(positions, dtype=np.float64)
    return np.concatenate([first, last, last - first])


def _fit_most_frequent(name: Callable[[Question], str]) -> Fit:
    def fit(train: list[Case]) -> Guess:
        best = Counter(name(question) for _, question in train).most_common(1)[0][0]
        return lambda case: name(case[1]) == best

    return fit


def _fit_logistic(train: list[Case]) -> Guess:
    """Fit a softmax regression on standardized features; classes are the right options' texts."""
    inputs = np.array([features for features, _ in train])
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
    texts = sorted({_right_option(question) for _, question in train})
    labels = np.array([texts.index(_right_option(question)) for _, question in train])
    # design (n, features + 1) with a constant column; target (n, classes) one-hot
    design = np.column_stack([(inputs - mean) / scale, np.ones(len(train))])
    shape = design.shape[1], len(texts)
    target = np.eye(len(texts))[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean cross-entropy plus the ridge, and its gradient in the flat weights."""
        scores = design @ flat.reshape(shape)
        logp = scores - logsumexp(scores, axis=1, keepdims=True)
        gradient = design.T @ (np.exp(logp) - target) / len(train) + RIDGE * flat.reshape(
            shape
        )
        value = -(target * logp).sum() / len(train) + RIDGE / 2 * flat @ flat
        return float(value), gradient.ravel()

    start = np.zeros(shape[0] * shape[1])
    weights = minimize(loss, start, jac=True, method="L-BFGS-B").x.reshape(shape)

    def guess(case: Case) -> bool:
        features, question = case
        scores = np.append((features - mean) / scale, 1.0) @ weights
        return texts[int(np.argmax(scores))] == _right_option(question)

    return guess
