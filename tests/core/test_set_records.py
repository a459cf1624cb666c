"""Entries of a data set's index: what is written reads back to the same JSON."""

import json
from dataclasses import replace

import pytest
from support.records import question_record, view_pair

from actial.core.set_records import (
    PAPER_QUESTIONS,
    Motion,
    MotionLabels,
    PairGeometry,
    QuestionType,
    StoredImage,
    ViewPair,
    stored_record,
)

IMAGE = StoredImage(
    name="f003.png", offset=512, size=90, sha256="ab" * 32, width=48, height=32
)
GEOMETRY = PairGeometry(
    alpha_deg=63.1218,
    yaw_right_deg=-67.5313,
    yaw_cam_axis_deg=-62.8615,
    rot_full_deg=68.2727,
    s_rel=0.9856,
    t_rel=(0.9689, -0.3034, 0.4686),
    elev_deg=(18.6004, 18.7802),
    roll_deg=(-3.4969, -1.9563),
    offaxis_deg=(4.3218, 3.0284),
    heading_off_deg=(-2.0009, 2.4086),
    rho_ratio=1.1249,
    up_method="svd_right",
    up_rms_deg=2.3629,
    up_sv2=0.6317,
    centre_method="axes",
)
LABELS = {
    Motion.HORIZONTAL: MotionLabels(
        ego_translation="right",
        object_translation="left",
        ego_rotation="left",
        ego_rotation_deg=67.5313,
    ),
    Motion.VERTICAL: MotionLabels(ego_vertical="up"),
    Motion.DEPTH: MotionLabels(ego_depth="forward"),
    Motion.STILL: MotionLabels(ego_translation="none", ego_rotation="none", ego_depth="none"),
}


@pytest.mark.parametrize("motion", LABELS)
def test_a_stored_pair_reads_back_and_writes_the_same_json(motion):
    pair = view_pair(
        geometry=GEOMETRY,
        labels=LABELS[motion],
        motion=motion,
        images=(IMAGE, replace(IMAGE, name="f000.png", offset=1024)),
        shard="train-000000.tar",
        key="02de95ad6098a896",
    )
    text = json.dumps(pair.to_json())
    assert stored_record(json.loads(text)) == pair
    assert json.dumps(stored_record(json.loads(text)).to_json()) == text


def test_the_keys_of_an_index_entry_stand_in_the_order_of_schema_2():
    pair = view_pair(images=(IMAGE, IMAGE), shard="train-000000.tar", key="k")
    assert " ".join(pair.to_json()) == (
        "schema uid kind split source class_id class_name object_id group motion frame_names geom "
        "labels questions question_type views attributes images shard key"
    )
    assert " ".join(LABELS[Motion.HORIZONTAL].to_json()) == (
        "ego_translation object_translation ego_rotation ego_rotation_deg"
    )
    assert pair.to_json()["schema"] == 2


def test_a_pair_without_a_shard_has_no_place_in_its_json():
    assert {"images", "shard", "key"}.isdisjoint(view_pair().to_json())
    assert {"images", "shard", "key"}.isdisjoint(question_record().to_json())


def test_a_stored_question_reads_back_and_writes_the_same_json():
    question = question_record(
        source="sat", images=(IMAGE,), shard="val-000000.tar", key="001914dc86fd3f2e"
    )
    text = json.dumps(question.to_json())
    assert stored_record(json.loads(text)) == question
    assert json.dumps(stored_record(json.loads(text)).to_json()) == text


def test_entries_of_older_versions_get_the_values_they_imply():
    old = {
        "uid": 7,
        "class_name": "mug",
        "geom": {"alpha_deg": 40.0},
        "labels": {"ego_translation": "right", "object_translation": "left"},
        "images": ["f000.png", "f001.png"],
    }
    pair = ViewPair.from_json(old | {"a_field_of_a_newer_version": 1})
    assert (pair.uid, pair.motion, pair.questions) == ("7", Motion.HORIZONTAL, PAPER_QUESTIONS)
    assert (len(pair.frame_names), pair.images[1].name) == (2, "f001.png")
    assert pair.labels.side(QuestionType.EGO_ROTATION) is None


def test_another_thing_than_a_record_raises():
    with pytest.raises(KeyError, match="geom"):
        stored_record({"uid": "a", "class_name": "mug", "labels": {}})
    with pytest.raises(KeyError, match="options"):
        stored_record({"kind": "qa", "uid": "a", "type": "static", "question": "How many?"})


def test_fewer_questions_keep_the_built_one_only_if_it_is_among_them():
    pair = view_pair(question_type=QuestionType.EGO_ROTATION)
    assert pair.with_questions(PAPER_QUESTIONS[2:]).question_type is QuestionType.EGO_ROTATION
    assert pair.with_questions(PAPER_QUESTIONS[:2]).question_type is None
