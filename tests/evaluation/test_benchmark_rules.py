"""Scorers against independent readings of the published rules on thousands of random answers, and the paper's rows from hit counts.

The oracles below work on plain data frames and share nothing with actial.grading.metrics.
"""

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from support.predictions import prediction

from actial.core.seeding import hash_unit
from actial.evaluation.benchmarks import BENCHMARKS, blink
from actial.evaluation.benchmarks.reference import table
from actial.grading.metrics import Cell, trunc1
from actial.grading.open_ended import grade_open

CATEGORIES_3DSR = {
    "height": ["height_higher"],
    "location": ["location_above", "location_closer_to_camera", "location_next_to"],
    "orientation": [
        "orientation_in_front_of",
        "orientation_on_the_left",
        "orientation_viewpoint",
    ],
    "multi_object": [
        "multi_object_closer_to",
        "multi_object_facing",
        "multi_object_viewpoint_towards_object",
        "multi_object_parallel",
        "multi_object_same_direction",
    ],
}


def value(cell: Cell) -> float:
    return float(cell.value)


def draw(*parts):
    return hash_unit("oracle", *parts)


# ---------------------------------------------------------------- 3DSRBench


def random_3dsr(n=800):
    """A random release: some originals without a mirrored twin, 2- and 4-option items."""
    names = [c for members in CATEGORIES_3DSR.values() for c in members]
    rows = []
    for i in range(n):
        category = names[int(draw(i, "c") * len(names))]
        options = 4 if category == "orientation_viewpoint" else 2
        for flip in [False, True] if draw(i, "f") < 0.9 else [False]:
            for r in range(options):
                qid = f"{i:08d}" + "-flip" * flip + (f"-{r}" if r else "")
                group = {"base": f"{i:08d}", "rotation": r, "rotations": options, "flip": flip}
                rows.append((qid, category, draw(qid, "hit") < 0.8, group))
    return rows


def oracle_3dsr(frame: pd.DataFrame, key) -> dict[str, float]:
    grouped = (
        frame.assign(key=[key(q) for q in frame.qid])
        .groupby("key", sort=False)
        .agg({"hit": "prod", "category": "first"})
    )
    result = {"overall": grouped.hit.mean()}
    for kind, members in CATEGORIES_3DSR.items():
        result[kind] = grouped[grouped.category.isin(members)].hit.mean()
        result |= {
            member: grouped[grouped.category == member].hit.mean() for member in members
        }
    return result


def test_3dsrbench_agrees_with_its_rules():
    rows = random_3dsr()
    frame = pd.DataFrame(
        [(q, c, int(h)) for q, c, h, _ in rows], columns=["qid", "category", "hit"]
    )
    keys = {
        "vanilla": lambda q: q,
        "flip": lambda q: q.replace("-flip", ""),
        "circ": lambda q: (
            q[:-2] if q[-2] == "-" else q
        ),  # the authors' own: cut a trailing -digit
        "flip_circ": lambda q: q[:8],
    }
    got = BENCHMARKS["3dsrbench"].score(
        [prediction(q, h, group=g, categories={"category": c}) for q, c, h, g in rows]
    )
    assert len(frame) > 3000
    for metric, key in keys.items():
        want = oracle_3dsr(frame, key)
        assert {name: value(cell) for name, cell in got[metric].items()} == pytest.approx(
            want, abs=1e-12
        )
    harness_circ = oracle_3dsr(frame, lambda q: q[:13] if "-flip" in q else q[:8])
    assert {name: value(cell) for name, cell in got["circ"].items()} == pytest.approx(
        harness_circ, abs=1e-12
    )


# ---------------------------------------------------------------- CV-Bench, BLINK, MMSI, SAT


def test_cv_bench_agrees_with_its_rules():
    rows = []
    for i in range(2638):
        task = ["Count", "Relation", "Depth", "Distance"][int(draw(i, "t") * 4)]
        source = (
            "Omni3D"
            if task in ("Depth", "Distance")
            else ["ADE20K", "COCO"][int(draw(i, "s") * 2)]
        )
        rows.append((task, source, draw(i, "h") < 0.7))
    frame = pd.DataFrame(rows, columns=["task", "source", "hit"])
    by_source, by_task = frame.groupby("source").hit.mean(), frame.groupby("task").hit.mean()
    got = BENCHMARKS["cv_bench"].score(
        [
            prediction(str(i), h, categories={"task": t, "source": s})
            for i, (t, s, h) in enumerate(rows)
        ]
    )
    assert value(got["cambrian"]) == pytest.approx(
        ((by_source.ADE20K + by_source.COCO) / 2 + by_source.Omni3D) / 2
    )
    assert value(got["macro4"]) == pytest.approx(by_task.mean())
    assert value(got["micro"]) == pytest.approx(frame.hit.mean())
    assert value(got["task/Depth"]) == pytest.approx(by_task.Depth)


def test_blink_and_mmsi_agree_with_their_rules():
    rows = [(blink.SUBTASKS[int(draw(i, "t") * 14)], draw(i, "h") < 0.6) for i in range(4000)]
    frame = pd.DataFrame(rows, columns=["task", "hit"])
    got = BENCHMARKS["blink_all"].score(
        [prediction(str(i), h, t, categories={"sub_task": t}) for i, (t, h) in enumerate(rows)]
    )
    means = frame.groupby("task").hit.mean()
    assert value(got["macro14"]) == pytest.approx(means.mean())
    assert value(got["macro3"]) == pytest.approx(means[list(blink.SPATIAL)].mean())
    assert value(got["micro"]) == pytest.approx(frame.hit.mean())
    got = BENCHMARKS["mmsi"].score(
        [prediction(str(i), h, t, categories={"category": t}) for i, (t, h) in enumerate(rows)]
    )
    assert value(got["overall"]) == pytest.approx(frame.hit.mean())
    assert {k: value(c) for k, c in got["category"].items()} == pytest.approx(means.to_dict())


def test_sat_agrees_with_circular_evaluation():
    rows = [
        (i, r, "ego_motion" if i % 2 else "goal_aim", draw(i, r) < 0.75)
        for i in range(1500)
        for r in range(2 + (i % 7 == 0))
    ]
    frame = pd.DataFrame(rows, columns=["item", "rotation", "type", "hit"])
    group = {
        i: {"base": str(i), "rotations": 2 + (i % 7 == 0), "flip": False} for i in range(1500)
    }
    got = BENCHMARKS["sat"].score(
        [prediction(f"{i}#{r}", h, t, group=group[i] | {"rotation": r}) for i, r, t, h in rows]
    )
    whole = frame.groupby("item").agg({"hit": "all", "type": "first"})
    assert value(got["circular"]) == pytest.approx(whole.hit.mean())
    assert value(got["mean"]) == pytest.approx(frame.hit.mean())
    assert {k: value(c) for k, c in got["circular_by_type"].items()} == pytest.approx(
        whole.groupby("type").hit.mean().to_dict()
    )


# ---------------------------------------------------------------- the other published means


def test_vsi_and_spar_means():
    names = [
        "object_rel_direction_easy",
        "object_rel_direction_medium",
        "object_rel_direction_hard",
        "object_counting",
        "route_planning",
    ]
    hits = {
        name: [draw(name, i) < 0.5 for i in range(40 + 10 * k)] for k, name in enumerate(names)
    }
    got = BENCHMARKS["vsi"].score(
        [prediction(f"{n}{i}", h, n) for n, rows in hits.items() for i, h in enumerate(rows)]
    )
    means = {n: float(np.mean(rows)) for n, rows in hits.items()}
    direction = sum(means[n] for n in names[:3]) / 3
    assert value(got["overall"]) == pytest.approx(
        (direction + means["object_counting"] + means["route_planning"]) / 3
    )
    tasks = {
        "depth_prediction_oc": 0.3,
        "view_change_infer": 0.5,
        "position_matching": 1.0,
        "spatial_imagination_oo": 0.0,
    }
    got = BENCHMARKS["spar"].score(
        [prediction(f"{t}{i}", v, t) for t, v in tasks.items() for i in range(5)]
    )
    assert value(got["overall"]) == pytest.approx(0.45)
    assert {k: value(c) for k, c in got["level"].items()} == pytest.approx(
        {"Low": 0.3, "Middle": 0.75, "High": 0.0}
    )


@pytest.mark.parametrize(
    ("text", "metric", "answer", "want"),
    [
        ("about 15 m", "mra_first", "10", (0.1, "15")),
        ("10 m", "mra_token", "10", (1.0, "10")),
        ("-10.", "mra_token", "10", (0.0, "-10")),
        ("about 10", "mra_token", "10", (0.0, None)),
        ("1,200", "mra_token", "1200", (0.0, None)),
        ("<think> The first photo shows 10 chairs", "mra_first", "10", (0.0, None)),
        ("<think> yes, or", "yes_no", "yes", (0.0, None)),
        ("from 3 to 10", "mra_last", "10", (1.0, "10")),
        ("none", "mra_first", "10", (0.0, None)),
        ("<think>7</think><answer>10</answer>", "mra_first", "10", (1.0, "10")),
        (
            "10.5",
            "mra_strict",
            "10",
            (0.9, "10.5"),
        ),  # an error of exactly 0.05 is not below 0.05
        ("3", "count", "3", (1.0, "3")),
        ("3.0", "count", "3", (0.0, None)),
        ("+3", "count", "3", (1.0, "+3")),
        ("3 chairs", "count", "3", (0.0, None)),
        ("1e1", "mra_token", "10", (1.0, "1e1")),
        ("10%", "mra_token", "10", (0.0, None)),
        ("10m", "mra_token", "10", (0.0, None)),
        ("10 cm", "mra_token", "10", (1.0, "10")),
        ("", "mra_token", "10", (0.0, None)),
        ("None", "mra_first", "10", (0.0, None)),
        ("chair.", "exact", "chair", (0.0, "chair.")),
        ("", "exact", "chair", (0.0, None)),
        ("<ans>Yes, it is</ans>", "yes_no", "yes", (1.0, "yes")),
        ("maybe", "yes_no", "no", (0.0, None)),
        ("Chair", "exact", "chair", (1.0, "Chair")),
        ("It is the Red one", "contains", "red", (1.0, "It is the Red one")),
        ("so r , A", "joint", "r,A", (1.0, "r,A")),
        ("r,B", "joint", "r,A", (0.0, "r,B")),
        (
            "move_right:1.0,rotate_left:20",
            "view_change",
            "move_right:1.0,rotate_left:20",
            (1.0, "move_right:1.0,rotate_left:20"),
        ),
        ("move_left:1.0", "view_change", "move_right:1.0", (0.8, "move_left:1.0")),
        ("no idea", "view_change", "move_right:1.0", (0.0, None)),
    ],
)
def test_open_answers(text, metric, answer, want):
    grade, read = grade_open(text, metric, answer)
    assert grade.value == pytest.approx(want[0])
    assert read == want[1]
    cut = text.startswith("<think>") and "</think>" not in text
    assert grade.outcome.value == (
        "truncated" if cut else "no_answer" if read is None else "parsed"
    )


# ---------------------------------------------------------------- the paper's rows from hit counts

BLINK_ROWS = {  # MultiView of 133, RelDepth of 124, SpRel of 143
    "Qwen2.5-VL-7B-Instruct": (71, 97, 127),
    "Actial-7B": (132, 98, 121),
    "Actial-7B without K.I.": (74, 104, 122),
    "Actial-7B without G.E.": (132, 98, 117),
}
CV_SIZES = {"Relation": 650, "Count": 788, "Depth": 600, "Distance": 600}
CV_COUNTS = {"Qwen2.5-VL-7B-Instruct": [516, 449, 415, 478], "Actial-7B": [593, 542, 531, 514]}


@pytest.mark.parametrize("model", BLINK_ROWS)
def test_blink_rows_of_the_paper(model):
    row = table("table1").row(model)
    sizes = dict(zip(blink.SPATIAL, (133, 124, 143), strict=True))
    counts = dict(zip(blink.SPATIAL, BLINK_ROWS[model], strict=True))
    rows = [
        prediction(f"{t}{i}", i < counts[t], t, categories={"sub_task": t})
        for t, n in sizes.items()
        for i in range(n)
    ]
    got = BENCHMARKS["blink"].score(rows)
    printed = {name: cell.to_json()["trunc1"] for name, cell in got["sub_task"].items()}
    assert [printed[t] for t in blink.SPATIAL] == [
        row["BLINK MultiView"],
        row["BLINK RelDepth"],
        row["BLINK SpRel"],
    ]
    assert trunc1(got["macro3"].value) == row["BLINK avg"]


@pytest.mark.parametrize("model", BLINK_ROWS)
def test_cv_bench_rows_of_the_paper(model):
    row = table("table1").row(model)
    sizes = CV_SIZES
    fitting = {
        t: [k for k in range(n + 1) if math.floor(1000 * k / n) / 10 == row[f"CV {t}"]]
        for t, n in sizes.items()
    }
    assert [len(actual) for actual in fitting.values()] == [
        1
    ] * 4  # each printed figure has one hit count, if it was cut and not rounded
    counts = {t: actual[0] for t, actual in fitting.items()}
    assert list(counts.values()) == CV_COUNTS.get(model, list(counts.values()))
    source = {"Relation": "COCO", "Count": "ADE20K", "Depth": "Omni3D", "Distance": "Omni3D"}
    rows = [
        prediction(f"{t}{i}", i < counts[t], categories={"task": t, "source": source[t]})
        for t, n in sizes.items()
        for i in range(n)
    ]
    got = BENCHMARKS["cv_bench"].score(rows)
    assert {t: trunc1(got[f"task/{t}"].value) for t in sizes} == {
        "Relation": row["CV Relation"],
        "Count": row["CV Count"],
        "Depth": row["CV Depth"],
        "Distance": row["CV Distance"],
    }
    printed = [Fraction(str(row[f"CV {t}"])) for t in sizes]
    assert (
        trunc1(sum(printed) / 4 / 100) == row["CV avg"]
    )  # the paper averages its printed figures
    assert abs(float(got["macro4"].value) * 100 - row["CV avg"]) < 0.15


def test_mmsi_rows_of_the_paper():
    reference = table("table_a1")
    sizes = dict(
        zip(reference.columns[:-1], (93, 94, 81, 86, 85, 83, 64, 66, 74, 76, 198), strict=True)
    )
    for model, total in (
        ("Qwen2.5-VL-7B-Instruct", 265),
        ("Actial-7B", 289),
        ("SFT only (Viewpoint-100K, pseudo CoT, SAT)", 272),
    ):
        row = reference.row(model)
        counts = {name: round(row[name] * n / 100) for name, n in sizes.items()}
        rows = [
            prediction(f"{k}{i}", i < counts[k], k, categories={"category": k})
            for k, n in sizes.items()
            for i in range(n)
        ]
        got = BENCHMARKS["mmsi"].score(rows)
        assert sum(counts.values()) == total
        assert {k: c.to_json()["round1"] for k, c in got["category"].items()} == {
            k: row[k] for k in sizes
        }
        assert got["overall"].to_json()["round1"] == row["Avg"]


def test_height_scores_of_the_paper_are_multiples_of_1_in_690():
    for model, hits in zip(BLINK_ROWS, (295, 320, 310, 325), strict=True):
        group = {"rotations": 2, "flip": False}
        turns = [
            (i, turn, group | {"base": str(i), "rotation": turn})
            for i in range(690)
            for turn in (0, 1)
        ]
        rows = [
            prediction(
                f"{i}-{turn}",
                turn or i < hits,
                group=g,
                categories={"category": "height_higher"},
            )
            for i, turn, g in turns
        ]
        printed = BENCHMARKS["3dsrbench"].score(rows)["circ"]["height"].to_json()["round1"]
        assert printed == table("table1").row(model)["3DSR Height"]
