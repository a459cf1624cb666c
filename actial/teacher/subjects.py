"""What a teacher writes about: a pair with poses, or a released question about one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from actial.config import ChainsConfig
from actial.core.errors import UserError
from actial.core.records import AnswerMode, Question
from actial.core.seeding import hash_int
from actial.core.set_records import (
    MotionLabels,
    PairGeometry,
    QuestionRecord,
    QuestionType,
    ViewPair,
)
from actial.data.shards import ShardSet
from actial.viewpoint.questions import qa_question, question_types, viewpoint_question

TOLERANCE_DEG = 15.0  # of a chain's degrees
OTHER = {"left": "right", "right": "left"}
SAME_WAY = {  # type of the question -> the camera's way where its answer is "right"
    QuestionType.EGO_TRANSLATION: "right",
    QuestionType.OBJECT_TRANSLATION: "left",
    QuestionType.EGO_ROTATION: "left",
}


@dataclass(slots=True, frozen=True)
class Subject:
    """A pair, the question that its chain of thought answers, and how it is verified."""

    pair: ViewPair
    question: Question
    degrees_tolerance: float = TOLERANCE_DEG

    @property
    def uid(self) -> str:
        return self.pair.uid


def drawn_subjects(data: ShardSet, config: ChainsConfig) -> list[Subject]:
    """Return what a teacher is asked about, drawn by hash, in the order of the set.

    Raises UserError for a question set without viewpoint questions.
    """
    subjects = _subjects(data)
    by_draw = sorted(subjects, key=lambda one: hash_int("chains", config.seed, one.uid))
    drawn = {subject.uid for subject in by_draw[: config.limit]}
    return [subject for subject in subjects if subject.uid in drawn]


def _subjects(data: ShardSet) -> list[Subject]:
    if not isinstance(next(iter(data.records), None), QuestionRecord):
        return [_of_pair(pair) for pair in data.view_pairs()]
    records = [record for record in data.question_records() if not record.chain]
    subjects = [subject for record in records if (subject := _of_question(record)) is not None]
    if not subjects:
        raise UserError(
            f"pairs={data.root} has no question about left or right of the types "
            f"{', '.join(kind.value for kind in SAME_WAY)}: give view pairs, or the released "
            "Viewpoint-100K."
        )
    return subjects


def _of_pair(pair: ViewPair) -> Subject:
    kind = question_types(pair, 1)[0]
    return Subject(pair, viewpoint_question(pair, kind, AnswerMode.THINK))


def _of_question(record: QuestionRecord) -> Subject | None:
    """Return the pair that a released question is about; None for another kind of question.

    Its answer tells the three sides (paper 1.2): a camera that keeps aiming at the
    object and goes right goes left for the object and turns left. How far it went is
    not known.
    """
    kinds = [kind for kind in SAME_WAY if kind.value == record.type]
    sides = re.findall(r"\b(left|right)\b", record.options[record.answer_index].lower())
    if not kinds or len(sides) != 1:
        return None
    went_right = sides[0] == SAME_WAY[kinds[0]]
    side = "right" if went_right else "left"
    labels = MotionLabels(
        ego_translation=side, object_translation=OTHER[side], ego_rotation=OTHER[side]
    )
    pair = ViewPair(
        uid=record.uid,
        class_name="object",
        object_id=record.uid,
        frame_names=tuple(image.name for image in record.images),
        geometry=PairGeometry(alpha_deg=1.0 if went_right else -1.0, angle_ok=False),
        labels=labels,
        images=record.images,
        shard=record.shard,
        key=record.key,
    )
    question = qa_question(record, AnswerMode.THINK, shuffled=False)
    return Subject(pair, replace(question, type=kinds[0].value), degrees_tolerance=math.inf)
