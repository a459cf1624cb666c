"""Choice of pairs: spread over the angle, orientation by hash, splits by object, rows that say what
the geometry says.
"""

from dataclasses import replace

import numpy as np
import pytest
from support.posed_captures import Rig, arc, random_similarity
from support.rig_captures import capture_of

from actial.config import GateConfig, PairConfig
from actial.core.set_records import PAPER_QUESTIONS, MotionLabels, QuestionType, ViewPair
from actial.viewpoint.pairs import capture_key, split_of, view_pairs
from actial.viewpoint.quality_gates import judge_capture


def rows_of(rig: Rig, pairs: PairConfig | None = None, **facts) -> list[ViewPair]:
    capture = capture_of(rig, **facts)
    return view_pairs(
        capture,
        judge_capture(capture, GateConfig(), ordered=False),
        GateConfig(),
        pairs or PairConfig(),
    )[0]


def test_rows_tell_the_truth_about_their_photos():
    rig = arc(24, span=200.0, elevation=15.0, **random_similarity(np.random.default_rng(4)))
    rows = rows_of(rig)
    assert len(rows) == 12
    for row in rows:
        first, second = (int(name[:3]) for name in row.frame_names)
        angle = rig.azimuth[second] - rig.azimuth[first]
        assert row.geometry.alpha_deg == pytest.approx(angle, abs=1e-3)
        assert row.geometry.yaw_right_deg == pytest.approx(-angle, abs=1e-3)
        assert row.geometry.s_rel == pytest.approx(np.sin(np.radians(angle)), abs=1e-3)
        ego, other = ("right", "left") if angle > 0 else ("left", "right")
        assert row.labels.ego_translation == ego
        assert row.labels.object_translation == row.labels.ego_rotation == other
        assert row.labels.ego_rotation_deg == pytest.approx(abs(angle), abs=1e-3)
        assert [v.elevation_deg for v in row.views] == pytest.approx([15, 15], abs=1e-3)
        assert [v.azimuth_deg for v in row.views] == [None, None]
        assert np.linalg.norm(row.geometry.t_rel) == pytest.approx(
            2 * np.sin(np.radians(abs(angle) / 2)), abs=1e-3
        )


def test_views_are_named_from_the_object_s_front():
    """Camera 0 stands at (0, -rho, 0); the object faces it, so a camera 40 degrees to its right
    stands at azimuth 40.
    """
    similarity = random_similarity(np.random.default_rng(8))
    front = similarity["rotation"] @ np.array([0.0, -1, 0])
    rows = rows_of(
        arc(24, span=230.0, **similarity), front_prior=front, attributes={"body_colour": "red"}
    )
    for row in rows:
        for view, name in zip(row.views, row.frame_names, strict=True):
            expected = np.linspace(0, 230, 24)[int(name[:3])]
            assert (view.azimuth_deg - expected + 180) % 360 - 180 == pytest.approx(
                0, abs=1e-3
            )
        assert row.attributes == {"body_colour": "red"}


def test_angles_are_spread_evenly_and_photos_pair_once():
    rows = rows_of(arc(60, span=300.0), PairConfig(per_object=16))
    bins = np.bincount(
        [int((abs(r.geometry.alpha_deg) - 21) / 78 * 8) for r in rows], minlength=8
    )
    assert (bins == 2).all()
    assert len({frozenset(r.frame_names) for r in rows}) == 16


def test_orientation_is_a_coin_that_knows_nothing_of_time():
    forward = right = total = 0
    for index in range(60):
        for row in _rows_named(str(index)):
            forward += row.frame_names[0] < row.frame_names[1]
            right += row.labels.ego_translation == "right"
            total += 1
    assert forward == right  # this rig walks to the right
    assert abs(forward / total - 0.5) < 3 * 0.5 / np.sqrt(total)


def _rows_named(object_id: str, pairs: PairConfig | None = None) -> list[dict]:
    capture = replace(capture_of(arc(24, span=200.0)), object_id=object_id)
    return view_pairs(
        capture,
        judge_capture(capture, GateConfig(), ordered=True),
        GateConfig(),
        pairs or PairConfig(),
    )[0]


def test_another_seed_draws_other_pairs():
    def names(seed):
        return [row.frame_names for row in _rows_named("b", PairConfig(seed=seed))]

    assert names(0) == names(0)
    assert names(0) != names(1)


def test_swapping_the_photos_would_flip_every_label():
    """The same capture walked the other way gives, for the same ordered photos, the opposite
    labels.
    """
    there = {r.frame_names: r.labels for r in rows_of(arc(24, span=200.0))}
    back = {r.frame_names: r.labels for r in rows_of(Rig(azimuth=-np.linspace(0, 200, 24)))}
    assert there.keys() == back.keys()
    for names, labels in there.items():
        for kind in PAPER_QUESTIONS:
            assert labels.side(kind) != back[names].side(kind)


def test_splits_are_disjoint_over_groups_and_near_their_shares():
    config = PairConfig(val_fraction=0.1, test_fraction=0.2)
    base = capture_of(arc())
    splits = [split_of(replace(base, group_id=f"7/{i}"), config) for i in range(2000)]
    assert splits.count("test") / 2000 == pytest.approx(0.2, abs=0.03)
    assert splits.count("val") / 2000 == pytest.approx(0.1, abs=0.02)
    assert {
        split_of(replace(base, group_id="7/3", object_id=o), config) for o in "abcdef"
    } == {splits[3]}


def test_unseen_classes_form_their_own_split():
    base = replace(capture_of(arc()), class_id="17", class_name="sofa")
    assert split_of(base, PairConfig(unseen_classes=["sofa"])) == "test_unseen"
    assert split_of(base, PairConfig(unseen_classes=["17"])) == "test_unseen"
    assert split_of(base, PairConfig(unseen_classes=["chair"])) != "test_unseen"


def test_a_fraction_of_the_classes_is_unseen_whole():
    base = capture_of(arc())
    config = PairConfig(unseen_class_fraction=0.2)
    drawn = {
        c: {
            split_of(replace(base, class_id=str(c), group_id=f"{c}/{i}"), config)
            for i in range(5)
        }
        for c in range(300)
    }
    unseen = [c for c, splits in drawn.items() if "test_unseen" in splits]
    assert len(unseen) / 300 == pytest.approx(0.2, abs=0.07)
    assert all(drawn[c] == {"test_unseen"} for c in unseen)


# A capture with level orbits at two heights and two distances: pairs of every motion.
GRID = Rig(
    azimuth=np.concatenate([np.linspace(0, 150, 12)] * 3),
    elevation=np.repeat([10.0, 45.0, 10.0], 12),
    rho=np.repeat([4.0, 2.9, 6.0], 12),
)
WIDER = [
    *PairConfig().questions,
    "rotation_degrees",
    "rotation_number",
    "ego_vertical",
    "ego_depth",
]


def test_further_motions_bring_their_own_rows_and_questions():
    config = PairConfig(
        per_object=4,
        vertical_per_object=6,
        depth_per_object=6,
        still_per_object=3,
        questions=WIDER,
    )
    rows = rows_of(GRID, config)
    motions = [row.motion for row in rows]
    assert {m: motions.count(m) for m in motions} == {
        "horizontal": 4,
        "vertical": 6,
        "depth": 6,
        "still": 3,
    }
    for row in rows:
        first, second = (
            int(name[:3]) for name in (n.removesuffix("@crop") for n in row.frame_names)
        )
        if row.motion == "horizontal":
            assert list(row.questions) == WIDER[:5]
        elif row.motion == "vertical":
            rise = "up" if GRID.elevation[second] > GRID.elevation[first] else "down"
            assert row.labels == MotionLabels(ego_vertical=rise)
            assert row.questions == (QuestionType.EGO_VERTICAL,)
        elif row.motion == "depth":
            way = "forward" if GRID.rho[second] < GRID.rho[first] else "backward"
            assert row.labels == MotionLabels(ego_depth=way)
        else:
            assert first == second
            assert row.frame_names[1].endswith("@crop")
            assert {row.labels.side(kind) for kind in row.questions} == {"none"}
            assert row.geometry.alpha_deg == row.geometry.s_rel == 0
        assert row.question_type in row.questions
    for motion, sides in {
        "vertical": ("up", "down"),
        "depth": ("forward", "backward"),
    }.items():
        answers = [row.labels.first_side() for row in rows if row.motion == motion]
        assert [answers.count(side) for side in sides] == [3, 3]


def test_by_default_only_the_paper_s_rows_are_made():
    assert {(row.motion, *row.questions) for row in rows_of(GRID)} == {
        ("horizontal", *PairConfig().questions)
    }


def test_rows_of_more_than_two_photos_ask_about_the_first_and_last():
    rows = rows_of(arc(24, span=200.0), PairConfig(views=4))
    for row in rows:
        numbers = [int(name[:3]) for name in row.frame_names]
        assert len(set(numbers)) == len(row.views) == 4
        assert row.geometry.alpha_deg == pytest.approx(
            200 / 23 * (numbers[-1] - numbers[0]), abs=1e-3
        )
    assert len({row.uid for row in rows}) == 12


def test_degrees_are_asked_only_where_they_are_sure():
    rolled = arc(16, roll=11.0 * np.resize([1, -1], 16))
    assert all(
        row.questions == PAPER_QUESTIONS
        for row in rows_of(rolled, PairConfig(questions=WIDER))
    )
    assert rows_of(rolled, PairConfig(questions=["rotation_number"])) == []


def test_keys_fit_into_webdataset_names():
    assert capture_key(replace(capture_of(arc()), object_id="obj1.5_a/../b")).isalnum()
