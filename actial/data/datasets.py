"""Records of the named sets -> Examples, in the order given by (seed, epoch, position).

A stage sees one infinite, resumable stream: position p belongs to the set drawn
by hash with the mix weights; within its set it is the next record of that set's
epoch order. Nothing but the number of consumed positions is needed to resume.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from actial.config import ChainForm, ColdStartConfig, DataConfig, SetConfig, Task
from actial.core.errors import UserError
from actial.core.records import AnswerMode, Example, Question
from actial.core.seeding import hash_int, hash_unit
from actial.core.set_records import QuestionRecord, QuestionType, StoredRecord, ViewPair
from actial.data.exercise_sets import ClockSet, PerceptionSet, RuleSet, SceneSet
from actial.data.question_set import QuestionSet
from actial.data.shards import RecordSource, ShardSet
from actial.data.teacher_chains import TeacherRationale, no_chain_for, read_rationales
from actial.viewpoint.questions import question_types, viewpoint_question
from actial.viewpoint.rationales import grounded_rationale, think_target
from actial.viewpoint.section_rationales import sections_rationale
from actial.viewpoint.wording import read_wording


class TaskSet(Protocol):
    """A sized set of examples; `epoch` varies shuffled options and drawn exercises."""

    def __len__(self) -> int: ...

    def example(self, index: int, epoch: int) -> Example: ...


# ---------------------------------------------------------------- view pairs


class ViewpointSet:
    """Pairs with 1 to 3 questions, answered directly or by a chain of thought.

    `cold_start.ratio` is the share of pairs answered by a chain (hybrid cold start, paper 4).
    """

    def __init__(
        self,
        shards: RecordSource,
        data: DataConfig,
        cold_start: ColdStartConfig,
        *,
        supervised: bool,
        mode: AnswerMode | None,
    ) -> None:
        self.shards, self.pairs, self.data = shards, shards.view_pairs(), data
        self.cold_start, self.supervised, self.mode = cold_start, supervised, mode
        self.wording = read_wording(data.wording)
        self.rationales: dict[str, TeacherRationale] = {}
        if supervised and mode is not AnswerMode.DIRECT and cold_start.source != "grounded":
            self.rationales = read_rationales(Path(cold_start.source), shards.root)
            self.taught_pairs = [pair for pair in self.pairs if pair.uid in self.rationales]
            if not self.taught_pairs:
                raise UserError(no_chain_for(Path(cold_start.source), shards.root))

    def __len__(self) -> int:
        return len(self.pairs)

    def example(self, index: int, epoch: int) -> Example:
        pair = self.pairs[index]
        if self.rationales and self._mode(pair.uid, epoch) is AnswerMode.THINK:
            return self._taught_example(pair.uid, epoch)
        kinds = question_types(pair, self.data.questions_per_pair)
        return self._example(pair, [self._question(pair, kind, epoch) for kind in kinds])

    def _taught_example(self, draw: str, epoch: int) -> Example:
        """Return a pair that a teacher wrote about, in the place of the pair `draw`.

        So a small set of rationales is drawn with the ratio, again and again.
        """
        pair = self.taught_pairs[hash_int("chain", draw, epoch) % len(self.taught_pairs)]
        rationale = self.rationales[pair.uid]
        question = viewpoint_question(
            pair, rationale.type, AnswerMode.THINK, epoch=epoch, wording=self.wording
        )
        target = think_target(rationale.text, question.answer)
        return self._example(pair, [replace(question, target=target)])

    def _example(self, pair: ViewPair, questions: list[Question]) -> Example:
        images = self.shards.images(pair)
        return Example(
            uid=pair.uid, images=images, questions=questions, task="viewpoint", record=pair
        )

    def _mode(self, uid: str, epoch: int) -> AnswerMode:
        if self.mode is not None:
            return self.mode
        thinks = hash_unit("cold_start", uid, epoch) < self.cold_start.ratio
        return AnswerMode.THINK if thinks else AnswerMode.DIRECT

    def _question(self, pair: ViewPair, kind: QuestionType, epoch: int) -> Question:
        question = viewpoint_question(
            pair, kind, self._mode(pair.uid, epoch), epoch=epoch, wording=self.wording
        )
        if not self.supervised:
            return question
        target = question.answer
        if question.mode is AnswerMode.THINK:
            target = self._grounded_target(pair, question)
        return replace(question, target=target)

    def _grounded_target(self, pair: ViewPair, question: Question) -> str:
        if self.cold_start.form is ChainForm.sections:
            return think_target(sections_rationale(pair, question), question.answer)
        rationale = grounded_rationale(pair, question)
        return think_target(rationale, question.answer, question.options)


# ---------------------------------------------------------------- which records a stage trains on


def read_pass_rates(path: Path) -> dict[str, float]:
    """Return question id -> share of the tries that a model solved; raises UserError.

    The file is the one that `python -m actial.passrates` writes.
    """
    if not path.is_file():
        raise UserError(
            f"pass_rates={path} does not exist: give passrates.jsonl of "
            "`python -m actial.passrates`, or leave it out."
        )
    try:
        return {
            entry["uid"]: entry["solved"] / entry["samples"] for entry in _json_lines(path)
        }
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(
            f"pass_rates={path} is not what `python -m actial.passrates` writes ({error!r}): "
            "make it again."
        ) from error


def learnable(records: Sequence[StoredRecord], config: SetConfig) -> list[StoredRecord]:
    """Return the records with the questions that a model solves now and then.

    `config.pass_rates` names the model's measured rates; questions it was not asked stay.
    """
    if config.pass_rates is None:
        return list(records)
    rates = read_pass_rates(Path(config.pass_rates))
    low, high = config.pass_rate_range or (0.0, 1.0)
    outside = {uid for uid, rate in rates.items() if not low < rate < high}
    measured = 0
    remaining: list[StoredRecord] = []
    for record in records:
        measured += sum(uid in rates for uid in _question_uids(record))
        narrowed = _without_questions(record, outside)
        if narrowed is not None:
            remaining.append(narrowed)
    if not measured or not remaining:
        raise UserError(
            f"pass_rates={config.pass_rates} leaves {len(remaining)} of {len(records)} records of "
            f"{config.root} and has rates for {measured} of their questions: make it from this set "
            "with a model that solves some of them."
        )
    return remaining


def _question_uids(record: StoredRecord) -> list[str]:
    if isinstance(record, QuestionRecord):
        return [record.uid]
    return [f"{record.uid}/{kind.value}" for kind in record.questions]


def _without_questions(record: StoredRecord, outside: set[str]) -> StoredRecord | None:
    """Return the record without the questions `outside`, None where no question is left."""
    uids = _question_uids(record)
    if isinstance(record, QuestionRecord):
        return None if record.uid in outside else record
    questions_with_uid = zip(record.questions, uids, strict=True)
    kinds = tuple(kind for kind, uid in questions_with_uid if uid not in outside)
    return record.with_questions(kinds) if kinds else None


def select_pairs(pairs: Sequence[ViewPair], config: SetConfig) -> list[ViewPair]:
    """Return the pairs within `config.angles`, each with its questions of `config.types`."""
    low, high = config.angles or (0.0, 180.0)
    selected = []
    for pair in pairs:
        kinds = pair.questions
        if config.types:
            kinds = tuple(kind for kind in kinds if kind.value in config.types)
        if kinds and low <= abs(pair.geometry.alpha_deg) <= high:
            selected.append(pair.with_questions(kinds))
    return selected


def _json_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def open_set(
    config: SetConfig,
    split: str,
    data: DataConfig,
    cold_start: ColdStartConfig,
    *,
    supervised: bool,
    mode: AnswerMode | None = None,
) -> TaskSet:
    """Return one split of a named set.

    `mode` forces an answer form (evaluation, GRPO); None lets the stage's own rule draw it.
    """
    if config.task is Task.clock:
        return ClockSet()
    if config.task is Task.rules:
        return RuleSet()
    shards = ShardSet(config.root, split)
    if split == "train":
        shards.records = learnable(shards.records, config)
    if config.task is Task.viewpoint and split == "train" and (config.types or config.angles):
        shards.records = list(select_pairs(shards.view_pairs(), config))
        if not shards.records:
            low, high = config.angles or (0.0, 180.0)
            raise UserError(
                f"set {config.root} has no pair {low:g} to {high:g} degrees apart with a question "
                f"of {config.types or 'any type'}: widen angles or types of this set."
            )
    return task_set(shards, config, data, cold_start, supervised=supervised, mode=mode)


def task_set(
    shards: RecordSource,
    config: SetConfig,
    data: DataConfig,
    cold_start: ColdStartConfig,
    *,
    supervised: bool,
    mode: AnswerMode | None = None,
) -> TaskSet:
    """Return the examples that `config.task` makes of the records of `shards`."""
    if config.task is Task.viewpoint:
        return ViewpointSet(shards, data, cold_start, supervised=supervised, mode=mode)
    if config.task is Task.qa:
        return QuestionSet(shards, config, data, cold_start, supervised=supervised, mode=mode)
    if config.task is Task.scenes:
        return SceneSet(shards, data.exercises_per_pair)
    return PerceptionSet(shards, data.exercises_per_pair)
