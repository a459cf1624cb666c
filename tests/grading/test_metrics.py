"""Scores from hand-counted answers."""

from fractions import Fraction as F

import pytest
from scipy.stats import binomtest

from actial.core.errors import UserError
from actial.grading import metrics, published_formulas


def answer(uid="u", score=1, outcome="parsed", **fields):
    base = {
        "text": "",
        "letter": "A",
        "choice": "x",
        "answer": "A",
        "rule": "whole",
        "format_ok": True,
        "finish": "stop",
    }
    return metrics.Prediction(uid=uid, score=score, outcome=outcome, **(base | fields))


def circ(base, rotation, score, flip=False, rotations=2, category="height_higher"):
    uid = f"{base}{'-flip' * flip}-{rotation}"
    group = {"base": base, "rotation": rotation, "rotations": rotations, "flip": flip}
    return answer(uid, score, group=group, categories={"category": category})


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (71, 133), (1, 3)])
def test_wilson_agrees_with_scipy(hits, n):
    want = binomtest(hits, n).proportion_ci(method="wilson")
    assert metrics.wilson(hits, n) == pytest.approx((want.low, want.high), abs=1e-12)


def test_wilson_without_observations():
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_accuracy_cell():
    rows = [
        answer(score=1),
        answer(score=0),
        answer(score=0, outcome="no_answer"),
        answer(score=0, outcome="truncated"),
    ]
    cell = metrics.accuracy(rows)
    assert (cell.n, cell.value, cell.unparsed, cell.truncated) == (4, F(1, 4), 0.5, 0.25)
    assert cell.low < 0.25 < cell.high
    assert metrics.accuracy([]).to_json()["n"] == 0


def test_display_forms():  # vector (c)
    assert (metrics.trunc1(F(71, 133)), metrics.round1(F(71, 133))) == (53.3, 53.4)
    assert (metrics.trunc1(F(1, 8)), metrics.round1(F(1, 8))) == (12.5, 12.5)
    assert metrics.round1(F(1, 2000)) == 0.1  # half goes up, not to even


def test_accuracy_by_and_joint():
    rows = [
        answer(score=h, type=t, example=e)
        for e, hits in [("p", (1, 1, 1)), ("q", (1, 0, 1))]
        for t, h in zip("xyz", hits, strict=True)
    ]
    assert {k: c.value for k, c in metrics.accuracy_by(rows, "type").items()} == {
        "x": 1,
        "y": F(1, 2),
        "z": 1,
    }
    assert (metrics.pairs_all_correct(rows).n, metrics.pairs_all_correct(rows).value) == (
        2,
        F(1, 2),
    )
    assert metrics.pairs_all_correct(rows[:5]).n == 1  # the second pair lacks a question


def test_confusion():
    number = answer(score=0.1, letter=None, answer="40", choice="90")
    rows = [
        number,
        answer(),
        answer(score=0, choice="No movement"),
        answer(score=0, choice="Move to the left"),
        answer(score=0, choice=None),
    ]
    assert metrics.confusion(rows) == {
        "correct": 0.25,
        "swapped": 0.25,
        "no_movement": 0.25,
        "unparsed": 0.25,
    }


def test_macro_interval_shrinks_with_independent_members():
    one = metrics.accuracy([answer(score=i % 2) for i in range(100)])
    both = metrics.macro([one, one])
    assert both.value == F(1, 2)
    assert both.high - both.low == pytest.approx((one.high - one.low) / 2**0.5)


def test_circular():
    rows = [circ("a", 0, 1), circ("a", 1, 1), circ("b", 0, 1), circ("b", 1, 0)]
    assert (metrics.circular(rows).n, metrics.circular(rows).value) == (2, F(1, 2))
    with pytest.raises(UserError, match="circular group"):
        metrics.circular(rows[:3])
    with pytest.raises(UserError, match="circular group"):
        metrics.circular([*rows, rows[0]])


def test_threedsr_vector_b():
    rows = [
        circ("X", 0, 1),
        circ("X", 1, 0),
        circ("X", 0, 1, flip=True),
        circ("X", 1, 1, flip=True),
    ]
    got = {
        metric: cells["overall"].value
        for metric, cells in published_formulas.threedsr(rows).items()
    }
    assert got == {"vanilla": F(3, 4), "flip": F(1, 2), "circ": F(1, 2), "flip_circ": 0}


def test_threedsr_types_pool_their_groups():
    rows = [
        circ(f"{c}{i}", r, i < hits, category=c)
        for c, n, hits in [("location_above", 3, 3), ("location_next_to", 1, 0)]
        for i in range(n)
        for r in (0, 1)
    ]
    cells = published_formulas.threedsr(rows)["circ"]
    assert (cells["location"].n, cells["location"].value) == (4, F(3, 4))
    assert (
        cells["location_above"].value,
        cells["location_next_to"].value,
        cells["height"].n,
    ) == (
        1,
        0,
        0,
    )


def test_cvbench_vector_a():
    counts = {
        ("Count", "ADE20K"): (6, 10),
        ("Relation", "COCO"): (8, 10),
        ("Depth", "Omni3D"): (10, 10),
        ("Distance", "Omni3D"): (0, 10),
    }
    rows = [
        answer(score=i < k, categories={"task": t, "source": s})
        for (t, s), (k, n) in counts.items()
        for i in range(n)
    ]
    cells = published_formulas.cvbench(rows)
    assert cells["cambrian"].value == F(3, 5)
    assert cells["macro4"].value == F(6 + 8 + 10 + 0, 40)
    assert "macro4" not in published_formulas.cvbench(rows[:30])


@pytest.mark.parametrize(
    ("predicted", "truth", "want"),
    [
        (10, 10, 1.0),
        (15, 10, 0.1),
        (20, 10, 0.0),
        (9, 10, 0.9),
        (9.1, 10, 0.9),
        (0, 0, 1.0),
        (1, 0, 0.0),
    ],
)
def test_mra_vector_i(predicted, truth, want):
    assert metrics.mra(predicted, truth) == pytest.approx(want)
