"""What a guesser scores on a two-view set without looking at geometry; needs no model. Fitted on some objects, tested on others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from actial.core.records import Example, Question
from actial.core.seeding import hash_int
from actial.grading.metrics import Cell, mean_cell

FOLDS = 5
RIDGE = 1e-2  # L2 weight of the regression, per observation
Case = tuple[np.ndarray, Question]  # features of a question's photos
Fit = Callable[
    [list[Case]], Callable[[Case], bool]
]  # cases of one type -> whether a guesser is right on a case


def centroid(image: np.ndarray) -> tuple[float, float, float]:
    """(x, y, area) of what differs from the picture's border colour; x, y in [-1, 1] about the middle, area as a share of the picture.

    image: uint8 (H, W, 3). A flat picture gives (0, 0, 0).
    """
    pixels = image.astype(np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    color = np.median(border, axis=0)
    weight = np.abs(pixels - color).sum(axis=2)
    weight[weight < max(2 * np.median(np.abs(border - color).sum(axis=1)), 30.0)] = (
        0.0  # the background's own texture
    )
    total = weight.sum()
    if total == 0:
        return 0.0, 0.0, 0.0
    ys, xs = (np.linspace(-1, 1, n) for n in weight.shape)
    return (
        float(weight.sum(axis=0) @ xs / total),
        float(weight.sum(axis=1) @ ys / total),
        float((weight > 0).mean()),
    )


def centroid_probe(examples: Sequence[Example]) -> Cell:
    """Accuracy of a logistic regression per question type from the object's centroid and area in the first and last photo to the answer.

    A row's own `centroids` [[x, y] x 2] in [-1, 1] take the place of the estimate from the background.
    """
    return _cross_fitted(examples, _features, _fit_logistic)


def answer_prior(examples: Sequence[Example]) -> Cell:
    """Accuracy of the most frequent answer of each question type, by text or by letter, whichever does better."""
    by_text = _cross_fitted(
        examples, lambda _: np.empty(0), _fit_most_frequent(lambda q: q.options[q.answer_index])
    )
    by_letter = _cross_fitted(
        examples, lambda _: np.empty(0), _fit_most_frequent(lambda q: q.answer_letter)
    )
    return max(by_text, by_letter, key=lambda cell: cell.value)


def _cross_fitted(
    examples: Sequence[Example], features: Callable[[Example], np.ndarray], fit: Fit
) -> Cell:
    """Every question guessed once, by a guesser fitted on the other folds; an object's pairs stay in one fold."""
    cases = defaultdict(list)
    for example in examples:
        fold = hash_int("fold", example.row.get("object_id", example.uid)) % FOLDS
        inputs = features(example)
        for question in example.questions:
            cases[question.type].append((fold, (inputs, question)))
    hits: list[bool] = []
    for rows in cases.values():
        for fold in range(FOLDS):
            train, test = (
                [case for f, case in rows if f != fold],
                [case for f, case in rows if f == fold],
            )
            if train and test:
                hits += map(fit(train), test)
    return mean_cell([Fraction(hit) for hit in hits], [])


def _features(example: Example) -> np.ndarray:
    found = example.row.get("centroids") or [
        centroid(image) for image in (example.images[0], example.images[-1])
    ]
    first, last = np.array(found, dtype=np.float64)
    return np.concatenate([first, last, last - first])


def _fit_most_frequent(name: Callable[[Question], str]) -> Fit:
    def fit(train: list[Case]) -> Callable[[Case], bool]:
        best = Counter(name(question) for _, question in train).most_common(1)[0][0]
        return lambda case: name(case[1]) == best

    return fit


def _fit_logistic(train: list[Case]) -> Callable[[Case], bool]:
    """Softmax regression on standardised features; classes are the right options' texts."""
    inputs = np.array([features for features, _ in train])
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
    texts = sorted({q.options[q.answer_index] for _, q in train})
    labels = np.array([texts.index(q.options[q.answer_index]) for _, q in train])
    design = np.column_stack([(inputs - mean) / scale, np.ones(len(train))])
    shape = design.shape[1], len(texts)
    target = np.eye(len(texts))[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scores = design @ flat.reshape(shape)
        logp = scores - logsumexp(scores, axis=1, keepdims=True)
        gradient = design.T @ (np.exp(logp) - target) / len(train) + RIDGE * flat.reshape(shape)
        return float(
            -(target * logp).sum() / len(train) + RIDGE / 2 * flat @ flat
        ), gradient.ravel()

    weights = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B").x.reshape(
        shape
    )

    def right(case: Case) -> bool:
        features, question = case
        guess = np.append((features - mean) / scale, 1.0) @ weights
        return texts[int(np.argmax(guess))] == question.options[question.answer_index]

    return right
