"""Questions of a question set (SAT, a published set) as training examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from actial.config import ColdStartConfig, DataConfig, SetConfig
from actial.core.errors import UserError
from actial.core.records import AnswerMode, Example, Question
from actial.core.seeding import hash_int, hash_unit
from actial.core.set_records import QuestionRecord
from actial.data.shards import RecordSource
from actial.data.teacher_chains import no_chain_for, read_rationales
from actial.viewpoint.questions import VIEWPOINT_TYPES, qa_question
from actial.viewpoint.rationales import think_target
from actial.viewpoint.wording import read_wording


class QuestionSet:
    """Questions with options, or answered by a number, of one question set.

    Up to `data.questions_per_pair` questions about the same images become one
    supervised example. `cold_start.ratio` is the share of supervised draws that are
    answered by a chain of thought which the set has, or a teacher wrote about its
    viewpoint questions (`cold_start.source`); nothing else thinks, unless
    `weighed_share` of the set says so.
    """

    def __init__(
        self,
        shards: RecordSource,
        config: SetConfig,
        data: DataConfig,
        cold_start: ColdStartConfig,
        *,
        supervised: bool,
        mode: AnswerMode | None,
    ) -> None:
        self.shards, self.supervised, self.mode = shards, supervised, mode
        self.weighed_share, self.ratio = config.weighed_share or 0.0, cold_start.ratio
        self.wording = read_wording(data.wording)
        records = _of_types(shards, config.types)
        self.taught: list[QuestionRecord] = []
        if supervised and mode is not AnswerMode.DIRECT:
            self.taught = [record for record in records if record.chain]
            if not self.taught and wants_teacher(cold_start, shards.question_records()):
                self.taught = _taught_by(Path(cold_start.source), shards, records)
            # A set repeats questions of its letters with a chain: those are drawn by the ratio.
            records = [record for record in records if not record.chain] or records
        self.scenes = _together(records, data.questions_per_pair if supervised else 1)

    def __len__(self) -> int:
        return len(self.scenes)

    def example(self, index: int, epoch: int) -> Example:
        scene = self.scenes[index]
        if self.taught and self._draws_chain(scene[0].uid, epoch):
            record = self.taught[hash_int("chain", scene[0].uid, epoch) % len(self.taught)]
            return self._example([record], [self._taught_question(record)])
        return self._example(scene, [self._question(record, epoch) for record in scene])

    def _example(self, scene: list[QuestionRecord], questions: list[Question]) -> Example:
        return Example(
            uid=scene[0].uid,
            images=self.shards.images(scene[0]),
            questions=questions,
            task="qa",
            record=scene[0],
        )

    def _draws_chain(self, uid: str, epoch: int) -> bool:
        return self.mode is AnswerMode.THINK or (
            hash_unit("cold_start", uid, epoch) < self.ratio
        )

    def _taught_question(self, record: QuestionRecord) -> Question:
        # The chain of thought may name letters, so the options stay in the set's order.
        question = qa_question(record, AnswerMode.THINK, wording=self.wording, shuffled=False)
        answer = f"{record.number:g}" if record.number is not None else question.answer
        return replace(question, target=think_target(record.chain, answer))

    def _question(self, record: QuestionRecord, epoch: int) -> Question:
        weighs = hash_unit("mode", record.uid, epoch) < self.weighed_share
        drawn = AnswerMode.THINK if weighs else AnswerMode.DIRECT
        question = qa_question(record, self.mode or drawn, epoch=epoch, wording=self.wording)
        if not self.supervised:
            return question
        if record.number is not None:
            return replace(question, target=f"{record.number:g}", mode=AnswerMode.DIRECT)
        letter, answer = question.answer_letter, question.options[question.answer_index]
        target = letter
        if question.mode is AnswerMode.THINK:
            target = think_target(f"So {answer}.", letter, question.options)
        return replace(question, target=target)


def wants_teacher(cold_start: ColdStartConfig, records: Iterable[QuestionRecord]) -> bool:
    """Tell whether a question set without chains of its own learns those of a teacher's file.

    Only viewpoint questions do: a file about them says nothing of SAT.
    """
    if cold_start.source == "grounded" or not cold_start.ratio:
        return False
    return any(record.type in VIEWPOINT_TYPES for record in records)


def _taught_by(
    path: Path, shards: RecordSource, records: Sequence[QuestionRecord]
) -> list[QuestionRecord]:
    """Return the records that a teacher wrote about, with its chains of thought."""
    rationales = read_rationales(path, shards.root)
    taught = [
        replace(record, chain=rationales[record.uid].text)
        for record in records
        if record.uid in rationales
    ]
    if not taught:
        raise UserError(no_chain_for(path, shards.root))
    return taught


def _of_types(shards: RecordSource, types: list[str]) -> list[QuestionRecord]:
    """Return the questions of `types`, all without any; raises UserError when there are none."""
    records = shards.question_records()
    wanted = set(types)
    selected = [r for r in records if not types or {r.type, *r.types} & wanted]
    if selected:
        return selected
    present = sorted({kind for record in records for kind in (record.type, *record.types)})
    raise UserError(
        f"set {shards.root} has no question of type {', '.join(types)}: its types are {present}."
    )


def _together(records: list[QuestionRecord], most: int) -> list[list[QuestionRecord]]:
    """Return the records in lists of at most `most` about the same images."""
    by_images: dict[tuple[str, ...], list[QuestionRecord]] = {}
    for record in records:
        key = (record.shard, record.key) if most > 1 else (record.uid,)
        by_images.setdefault(key, []).append(record)
    scenes: list[list[QuestionRecord]] = []
    for scene in by_images.values():
        scenes += [scene[i : i + most] for i in range(0, len(scene), most)]
    return scenes
