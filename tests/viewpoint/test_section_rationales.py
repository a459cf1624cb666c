"""Grounded chains of thought in sections, on built pairs and on hand-written ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.records import RIGHT, view_pair

from actial.core.records import AnswerMode
from actial.core.set_records import (
    PAPER_QUESTIONS,
    Motion,
    MotionLabels,
    QuestionType,
    ViewPair,
)
from actial.data.shards import ShardSet
from actial.viewpoint.questions import viewpoint_question
from actial.viewpoint.rationale_verifier import contradictions
from actial.viewpoint.section_rationales import Displacement, sections_rationale

SECTIONS = (
    "Images: ",
    "Photo 1: ",
    "Photo 2: ",
    "Seen from the camera: ",
    "Seen from the object: ",
    "Background: ",
    "Scale: ",
    "Left or right: ",
    "Up or down: ",
    "Forward or back: ",
    "Yaw: ",
    "Pitch: ",
    "Roll: ",
    "Path: ",
    "Answers: ",
    "The question is about ",
)


def rationale(pair: ViewPair, kind: QuestionType) -> str:
    return sections_rationale(pair, viewpoint_question(pair, kind, AnswerMode.THINK))


def test_built_pairs_get_every_section_and_no_contradiction(tiny_set: Path) -> None:
    pairs = ShardSet(tiny_set, "train").view_pairs()
    assert pairs
    for pair in pairs:
        for kind in PAPER_QUESTIONS:
            text = rationale(pair, kind)
            starts = [
                line[: len(start)]
                for line, start in zip(text.split("\n"), SECTIONS, strict=True)
            ]
            assert tuple(starts) == SECTIONS
            question = viewpoint_question(pair, kind, AnswerMode.THINK)
            letter = question.answer_letter
            assert contradictions(text, pair, letter, question, all_axes=True) == []
            assert text.endswith(
                f"which is {letter}: {question.options[question.answer_index]}."
            )


def test_it_contradicts_the_pair_that_goes_the_other_way_in_all_three_frames() -> None:
    text = rationale(view_pair(60.0), QuestionType.EGO_TRANSLATION)
    reasons = {c.reason for c in contradictions(text, view_pair(-60.0, (60.0, 0.0)))}
    assert {"ego_translation", "object_translation", "ego_rotation", "turn"} <= reasons


def raised(alpha: float = 60.0) -> ViewPair:
    pair = view_pair(alpha)
    geometry = replace(
        pair.geometry,
        t_rel=(0.9, -0.4, 0.6),
        elev_deg=(5.0, 30.0),
        roll_deg=(0.0, 1.0),
        rho_ratio=1.0,
    )
    return replace(pair, geometry=geometry, labels=replace(RIGHT, ego_rotation_deg=58.0))


def test_scale_height_and_depth_are_those_of_the_poses() -> None:
    lines = rationale(raised(), QuestionType.EGO_ROTATION).split("\n")
    assert "Up or down: the camera moved up clearly." in lines
    assert "Forward or back: the camera moved forward clearly." in lines
    assert "Yaw: the camera turned to the left by about 60 degrees." in lines
    assert any(line.startswith("Scale: the distance becomes 1.2 times") for line in lines)
    assert Displacement.of(raised()).distance_ratio == pytest.approx(1.15, abs=0.01)


def test_old_records_without_poses_leave_the_axes_out() -> None:
    text = rationale(view_pair(60.0, None), QuestionType.OBJECT_TRANSLATION)
    assert "nan" not in text
    assert "Up or down" not in text
    assert "Seen from the object" in text


def test_a_pair_that_only_rises_is_told_so() -> None:
    up = MotionLabels(ego_vertical="up")
    pair = replace(raised(2.0), motion=Motion.VERTICAL, labels=up)
    text = rationale(pair, QuestionType.EGO_VERTICAL)
    assert "The question is about height: the camera moved up" in text
    assert contradictions(text, pair, all_axes=True) == []


@pytest.mark.parametrize(
    ("prose", "reasons"),
    [
        ("The camera moved up and a little forward.", []),
        ("The camera moved down.", ["rise"]),
        ("It moved backwards.", []),  # the distance grew
        ("The camera moved closer.", ["distance"]),
        ("The camera hardly moved down.", []),
        ("The camera did not move down or up.", []),
        ("The camera moved further away.", []),
    ],
)
def test_the_verifier_reads_all_axes_where_it_is_wanted(
    prose: str, reasons: list[str]
) -> None:
    assert [c.reason for c in contradictions(prose, raised(), all_axes=True)] == reasons
    assert contradictions(prose, raised()) == []
    assert contradictions(prose, view_pair(), all_axes=True) == []  # no poses, nothing denied
