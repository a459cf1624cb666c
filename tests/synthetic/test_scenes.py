"""Questions about scenes: every label is recomputed from pixels or from a moved camera."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actial.build import build
from actial.config import BuildConfig, ImageConfig, ImageFormat, SourceConfig, SourceKind
from actial.data.shards import ShardSet
from actial.synthetic.rasterizer import EMPTY
from actial.synthetic.sat_writer import TEST_TYPES, TRAIN_TYPES, write_sat
from actial.synthetic.scene_questions import KINDS, SceneQuestion, ask
from actial.synthetic.scenes import Scene, owners, render_scene
from actial.viewpoint.geometry import pair_motion

SIZE = 64
UP = np.array([0.0, 0.0, 1.0])


@cache
def questions_of(kind: str) -> list[SceneQuestion]:
    return [
        item
        for i in range(16 if kind == "static" else 40)
        for item in ask(kind, ("test", i), SIZE)
    ]


def of(kind: str, form: str) -> list[SceneQuestion]:
    matching = [item for item in questions_of(kind) if item.kind == form]
    assert len(matching) >= 4
    return matching


def middle(scene: Scene, photo: int, index: int) -> np.ndarray:
    """Centroid (x, y) of an object's visible pixels, 0..1."""
    rows, columns = np.nonzero(owners(scene, photo) == index)
    return np.array([columns.mean(), rows.mean()]) / (2 * SIZE)


# ---------------------------------------------------------------- all kinds


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_short_lower_case_and_have_one_right_answer(kind: str) -> None:
    for item in questions_of(kind):
        assert item.question == item.question.lower()
        assert len(item.question.split()) <= 30
        assert list(item.answers).count(item.correct) == 1
        assert len({answer.casefold() for answer in item.answers}) == len(item.answers)


def test_the_vocabulary_is_small() -> None:
    texts = [
        text
        for kind in KINDS
        for item in questions_of(kind)
        for text in (item.question, *item.answers)
    ]
    words = {word.strip(".,?") for text in texts for word in text.split()}
    assert len(words) < 100


@pytest.mark.parametrize("kind", KINDS)
def test_neither_the_place_nor_the_text_of_the_answer_gives_it_away(kind: str) -> None:
    """Each place, and each of two opposite answers, is right equally often (4 deviations)."""
    items = [
        item for item in questions_of(kind) if item.kind != "count" and len(item.answers) == 2
    ]
    n = len(items)
    margin = 2.0 / np.sqrt(n)
    assert abs(np.mean([item.answers[0] == item.correct for item in items]) - 0.5) < margin
    first_named = [
        item.correct == item.scene.phrases[item.about[0]]
        for item in items
        if item.kind in ("depth", "action_step")
    ]
    opposite = [
        item.correct == sorted(item.answers)[0]
        for item in items
        if item.kind not in ("depth", "action_step", "obj_which")
    ]
    for right in (first_named, opposite):
        assert not right or abs(np.mean(right) - 0.5) < 2.0 / np.sqrt(len(right))


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_is_well_in_view(kind: str) -> None:
    """At least 20 of the 4096 pixels each, and next to nothing on the border."""
    for item in questions_of(kind)[::3]:
        for photo in range(len(item.scene.places)):
            seen = owners(item.scene, photo)
            for index in range(len(item.scene.specs)):
                assert (seen == index).sum() >= 4 * 20
            border = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
            assert (border != EMPTY).mean() < 0.08


def test_objects_of_a_scene_differ_in_category_and_color() -> None:
    for item in questions_of("static"):
        specs = item.scene.specs
        assert (
            len({s.category for s in specs})
            == len({s.attributes["body_colour"] for s in specs})
            == len(specs)
        )


def test_the_same_key_gives_the_same_question_and_pixels() -> None:
    one, two = (ask("ego_motion", ("again", 3), SIZE)[0] for _ in range(2))
    assert (one.question, one.answers, one.correct) == (two.question, two.answers, two.correct)
    assert (render_scene(one.scene) == render_scene(two.scene)).all()
    assert (
        render_scene(one.scene) != render_scene(ask("ego_motion", ("again", 4), SIZE)[0].scene)
    ).any()


# ---------------------------------------------------------------- one photo


def test_relation_is_what_the_pixels_show() -> None:
    for item in of("static", "relation"):
        a, b = (middle(item.scene, 0, i)[0] for i in item.about)
        assert item.correct == ("left" if a < b else "right")
        assert abs(a - b) > 0.08


def test_the_closer_object_stands_lower_on_the_floor() -> None:
    """Feet on one floor: the closer object's lowest pixel is lower in the photo."""
    agree = []
    for item in of("static", "depth"):
        feet = [np.nonzero(owners(item.scene, 0) == i)[0].max() for i in item.about]
        closer = item.scene.phrases[item.about[int(np.argmax(feet))]]
        agree.append(closer == item.correct)
    assert np.mean(agree) > 0.9


def test_count_is_the_number_of_things_in_the_pixels() -> None:
    for item in of("static", "count"):
        assert item.correct == str(len(set(np.unique(owners(item.scene, 0))) - {EMPTY}))
    assert set(
        Counter(item.correct for item in questions_of("static") if item.kind == "count")
    ) == {
        "2",
        "3",
        "4",
    }


def test_goal_aim_is_the_side_of_the_photo_on_which_the_goal_is() -> None:
    for item in of("goal_aim", "goal_aim"):
        x = middle(item.scene, 0, item.about[0])[0]
        assert item.correct == ("turn left" if x < 0.5 else "turn right")


def test_after_a_turn_to_the_goal_the_other_is_on_the_stated_side() -> None:
    """A level camera is turned until the goal is in its middle column."""
    for item in of("action_conseq", "action_turn"):
        goal, other = (
            item.scene.centers[0, i] - item.scene.cameras.centers()[0] for i in item.about
        )
        forward = np.array([goal[0], goal[1], 0]) / np.hypot(*goal[:2])
        right = np.cross(forward, UP)
        assert abs(right @ goal) < 1e-9
        assert item.correct == ("right" if other @ right > 0 else "left")


def test_after_the_walk_the_other_is_on_the_stated_side() -> None:
    """The signed area of (me, goal, other) from above: positive = the other is on the left."""
    for item in of("action_conseq", "action_walk"):
        me = item.scene.cameras.centers()[0][:2]
        goal, other = (item.scene.centers[0, i, :2] for i in item.about)
        area = np.linalg.det(np.stack([goal - me, other - goal]))
        assert item.correct == ("left" if area > 0 else "right")


def test_after_the_side_step_the_stated_object_is_closer() -> None:
    for item in of("action_conseq", "action_step"):
        way = -1.0 if "to the left" in item.question else 1.0
        for step in (1.0, 1.7, 2.4):
            distance = np.linalg.norm(
                item.scene.local[0] - (way * step, 0, 0), axis=1
            )  # along the camera's own right, roll and all
            closer = (
                item.about[0]
                if distance[item.about[0]] < distance[item.about[1]]
                else item.about[1]
            )
            assert item.correct == item.scene.phrases[closer]


def test_perspective_is_told_by_the_standing_objects_own_axes() -> None:
    """The object's front and left vertices, as drawn, against the direction of the other object."""
    for item in questions_of("perspective"):
        a, b = item.about
        spec, place = item.scene.specs[a], item.scene.places[0][a]
        vertices = item.scene.mesh(0).vertices[: len(spec.mesh.vertices)] if a == 0 else None
        heading = np.radians(place.heading_deg)
        front, left = (
            np.array([np.cos(heading), np.sin(heading)]),
            np.array([-np.sin(heading), np.cos(heading)]),
        )
        if vertices is not None:
            # drawn with that very heading, the mesh's foremost vertex is the world's
            foremost = np.argmax(spec.mesh.vertices[:, 0])
            assert vertices[foremost, :2] @ front == pytest.approx(
                (vertices[:, :2] @ front).max()
            )
        to = item.scene.centers[0, b, :2] - item.scene.centers[0, a, :2]
        if "ahead" in item.answers:
            assert item.correct == ("ahead" if to @ front > 0 else "behind")
        else:
            assert item.correct == ("left" if to @ left > 0 else "right")


# ---------------------------------------------------------------- two photos


def test_going_round_is_told_as_the_viewpoint_labels_tell_it() -> None:
    for item in of("ego_motion", "ego_round"):
        (R1, R2), (C1, C2) = item.scene.cameras.R, item.scene.cameras.centers()
        motion = pair_motion(R1[None], C1[None], R2[None], C2[None], np.zeros(3), UP)
        right = float(motion.s[0]) > 0
        assert (float(motion.yaw[0]) < 0) == right
        assert item.correct == (
            "moved right and turned left" if right else "moved left and turned right"
        )


def test_walking_ahead_makes_everything_larger() -> None:
    for item in of("ego_motion", "ego_walk"):
        sizes = [(owners(item.scene, photo) != EMPTY).sum() for photo in (0, 1)]
        assert item.correct == ("moved forward" if sizes[1] > sizes[0] else "moved backward")


def test_turning_left_moves_everything_to_the_right() -> None:
    for item in of("ego_motion", "ego_turn"):
        shifts = [
            middle(item.scene, 1, i)[0] - middle(item.scene, 0, i)[0]
            for i in range(len(item.scene.specs))
        ]
        assert item.correct == ("turned left" if min(shifts) > 0 else "turned right")
        assert np.ptp(np.sign(shifts)) == 0


@pytest.mark.parametrize("form", ["obj_which", "obj_aside", "obj_depth"])
def test_the_object_that_moved_is_the_one_whose_pixels_did(form: str) -> None:
    for item in of("obj_motion", form):
        shifts = [
            middle(item.scene, 1, i) - middle(item.scene, 0, i)
            for i in range(len(item.scene.specs))
        ]
        mover = item.about[0]
        assert int(np.argmax([np.linalg.norm(s) for s in shifts])) == mover
        if form == "obj_which":
            assert item.correct == item.scene.phrases[mover]
        elif form == "obj_aside":
            assert item.correct == ("to the left" if shifts[mover][0] < 0 else "to the right")
        else:
            assert item.correct == (
                "closer to the camera" if shifts[mover][1] > 0 else "away from the camera"
            )


# ---------------------------------------------------------------- files


def test_parquet_is_in_sats_schema_and_builds_into_shards(tmp_path: Path) -> None:
    for split, rows in (("train", 25), ("val", 10), ("test", 10)):
        assert (
            sum(
                write_sat(
                    tmp_path / f"SAT_{split}.parquet",
                    split,
                    rows,
                    seed=3,
                    size=SIZE,
                    workers=1,
                )
            )
            == rows
        )
    file = pq.ParquetFile(tmp_path / "SAT_train.parquet")
    assert file.schema_arrow.names == [
        "image_bytes",
        "question",
        "answers",
        "question_type",
        "correct_answer",
    ]
    assert file.metadata.num_row_groups == 1
    types = file.read().column("question_type").to_pylist()
    assert types[:10] == ["other"] * 10
    assert set(types[10:]) == set(TRAIN_TYPES.values())
    assert set(
        pq.read_table(tmp_path / "SAT_test.parquet").column("question_type").to_pylist()
    ) == set(TEST_TYPES.values())

    source = SourceConfig(kind=SourceKind.sat, root=str(tmp_path))
    image = ImageConfig(max_pixels=SIZE * SIZE, multiple=16, format=ImageFormat.png)
    build(BuildConfig(source=source, image=image, out=str(tmp_path / "out"), workers=1))
    assert {
        split: len(ShardSet(tmp_path / "out", split)) for split in ("train", "val", "test")
    } == {"train": 25, "val": 10, "test": 10}
    assert {row.type for row in ShardSet(tmp_path / "out", "test").records} == set(TEST_TYPES)


def test_parquet_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        list(
            write_sat(
                tmp_path / f"{workers}.parquet",
                "train",
                20,
                seed=3,
                size=SIZE,
                workers=workers,
            )
        )
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
