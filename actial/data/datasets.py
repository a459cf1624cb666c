"""Rows of the named sets -> Examples, in the order given by (seed, epoch, position).

A stage sees one infinite, resumable stream: position p belongs to the set drawn by hash with the mix weights; within its set it is the
next row of that set's epoch order. Nothing but the number of consumed positions is needed to resume.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from actial.config import ColdStartConfig, DataConfig, SetConfig, Task
from actial.core.errors import UserError
from actial.core.records import AnswerMode, Example, Question, QuestionType
from actial.core.seeding import hash_int, hash_unit
from actial.data.shards import ShardSet
from actial.viewpoint.perception_exercises import perception_questions, word_question
from actial.viewpoint.questions import askable, kinds_of, qa_question, viewpoint_question
from actial.viewpoint.rationales import grounded_chain, think_target

CLOCK_QUESTIONS_PER_GROUP = 4
CLOCK_TRUNKS = 1024


class TaskSet(Protocol):
    """A sized set of examples; `epoch` makes shuffled options and drawn exercises differ from epoch to epoch."""

    def __len__(self) -> int: ...

    def example(self, index: int, epoch: int) -> Example: ...


class Shards(Protocol):
    """Records with their images: a `ShardSet`, or one tar sample of a stream."""

    rows: list[dict]

    @property
    def root(self) -> str | Path: ...

    def images(self, row: Mapping) -> list[np.ndarray]: ...

    def __len__(self) -> int: ...


class ViewpointSet:
    """Pairs with 1 to 3 questions; a share `cold_start.ratio` of the pairs is answered by chains (hybrid cold start, paper 4)."""

    def __init__(
        self,
        shards: Shards,
        data: DataConfig,
        cold_start: ColdStartConfig,
        *,
        supervised: bool,
        mode: AnswerMode | None,
    ) -> None:
        self.shards, self.data, self.cold_start, self.supervised, self.mode = (
            shards,
            data,
            cold_start,
            supervised,
            mode,
        )
        self.chains: dict[str, dict] = {}
        if supervised and mode is not AnswerMode.DIRECT and cold_start.source != "grounded":
            self.chains = read_chains(Path(cold_start.source))
            self.told = [row for row in shards.rows if row["uid"] in self.chains]
            if not self.told:
                raise UserError(
                    f"cold_start.source={cold_start.source} has no chain for a pair of {shards.root}: make it from this set."
                )

    def __len__(self) -> int:
        return len(self.shards)

    def _mode(self, uid: str, epoch: int) -> AnswerMode:
        if self.mode is not None:
            return self.mode
        return (
            AnswerMode.THINK
            if hash_unit("cold_start", uid, epoch) < self.cold_start.ratio
            else AnswerMode.DIRECT
        )

    def _question(self, row: dict, kind: QuestionType, epoch: int) -> Question:
        question = viewpoint_question(row, kind, self._mode(row["uid"], epoch), epoch=epoch)
        if not self.supervised:
            return question
        answer = question.answer
        target = (
            answer
            if question.mode is AnswerMode.DIRECT
            else think_target(grounded_chain(row, question), answer, question.options)
        )
        return replace(question, target=target)

    def _told(self, draw: str, epoch: int) -> Example:
        """A pair that a teacher told about, in the place of another: a small set of chains is drawn with the ratio, again and again."""
        row = self.told[hash_int("chain", draw, epoch) % len(self.told)]
        chain = self.chains[row["uid"]]
        question = viewpoint_question(
            row, QuestionType(chain["type"]), AnswerMode.THINK, epoch=epoch
        )
        question = replace(question, target=think_target(chain["chain"], question.answer))
        return Example(
            uid=row["uid"],
            images=self.shards.images(row),
            questions=[question],
            task="viewpoint",
            row=row,
        )

    def example(self, index: int, epoch: int) -> Example:
        row = self.shards.rows[index]
        if self.chains and self._mode(row["uid"], epoch) is AnswerMode.THINK:
            return self._told(row["uid"], epoch)
        questions = [
            self._question(row, kind, epoch) for kind in kinds_of(row, self.data.questions_per_pair)
        ]
        return Example(
            uid=row["uid"],
            images=self.shards.images(row),
            questions=questions,
            task="viewpoint",
            row=row,
        )


def read_chains(path: Path) -> dict[str, dict]:
    """Pair id -> {type, chain}, as `python -m actial.chains` wrote them; raises UserError."""
    if not path.is_file():
        raise UserError(
            f"cold_start.source={path} does not exist: give chains.jsonl of `python -m actial.chains`, or grounded."
        )
    try:
        return {
            entry["uid"]: {"type": entry["type"], "chain": entry["chain"]}
            for entry in map(json.loads, path.open(encoding="utf-8"))
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cold_start.source={path} is not what `python -m actial.chains` writes ({error!r}): make it anew."
        ) from error


class QASet:
    """Multiple-choice rows; up to `together` of those about the same images are branches of one trunk."""

    def __init__(
        self,
        shards: Shards,
        types: Sequence[str],
        *,
        supervised: bool,
        mode: AnswerMode | None,
        together: int = 1,
    ) -> None:
        self.shards, self.supervised, self.mode = shards, supervised, mode
        scenes: dict[tuple, list[dict]] = {}
        for row in shards.rows:
            if not types or row["type"] in types:
                scenes.setdefault(
                    (row["shard"], row["key"]) if together > 1 else (row["uid"],), []
                ).append(row)
        self.scenes = [
            rows[first : first + together]
            for rows in scenes.values()
            for first in range(0, len(rows), together)
        ]
        if not self.scenes:
            raise UserError(
                f"set {shards.root} has no row of type {', '.join(types)}: its types are {sorted({r['type'] for r in shards.rows})}."
            )

    def __len__(self) -> int:
        return len(self.scenes)

    def _question(self, row: dict, epoch: int) -> Question:
        drawn = (
            AnswerMode.THINK if hash_unit("mode", row["uid"], epoch) < 0.5 else AnswerMode.DIRECT
        )
        question = qa_question(row, self.mode or drawn, epoch=epoch)
        if not self.supervised:
            return question
        letter, answer = question.answer_letter, question.options[question.answer_index]
        target = (
            letter
            if question.mode is AnswerMode.DIRECT
            else think_target(f"So {answer}.", letter, question.options)
        )
        return replace(question, target=target)

    def example(self, index: int, epoch: int) -> Example:
        rows = self.scenes[index]
        questions = [self._question(row, epoch) for row in rows]
        return Example(
            uid=str(rows[0]["uid"]),
            images=self.shards.images(rows[0]),
            questions=questions,
            task="qa",
            row=rows[0],
        )


class PerceptionSet:
    """Pairs of the procedural world with exercises on what each photo shows."""

    def __init__(self, shards: Shards, exercises: int) -> None:
        self.shards, self.exercises = shards, exercises
        self.names = sorted({row["class_name"].lower() for row in shards.rows})

    def __len__(self) -> int:
        return len(self.shards)

    def example(self, index: int, epoch: int) -> Example:
        row = self.shards.rows[index]
        questions = perception_questions(row, str(epoch), self.names, self.exercises)
        return Example(
            uid=row["uid"],
            images=self.shards.images(row),
            questions=questions,
            task="perception",
            row=row,
        )


class ClockSet:
    """Text-only exercises: the order of the hours, the letters of options."""

    def __len__(self) -> int:
        return CLOCK_TRUNKS

    def example(self, index: int, epoch: int) -> Example:
        draws = [f"{epoch}/{index}/{i}" for i in range(CLOCK_QUESTIONS_PER_GROUP)]
        return Example(
            uid=f"clock/{epoch}/{index}",
            images=[],
            questions=[word_question(d) for d in draws],
            task="clock",
        )


def read_rates(path: Path) -> dict[str, float]:
    """Question id -> share of the tries that a model solved, as `python -m actial.passrates` wrote them; raises UserError."""
    if not path.is_file():
        raise UserError(
            f"pass_rates={path} does not exist: give passrates.jsonl of `python -m actial.passrates`, or leave it out."
        )
    try:
        return {
            row["uid"]: row["solved"] / row["samples"]
            for row in map(json.loads, path.open(encoding="utf-8"))
        }
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(
            f"pass_rates={path} is not what `python -m actial.passrates` writes ({error!r}): make it anew."
        ) from error


def learnable(rows: list[dict], config: SetConfig) -> list[dict]:
    """The rows whose questions the model of `config.pass_rates` solves now and then; what it was not asked stays."""
    if config.pass_rates is None:
        return rows
    known = read_rates(Path(config.pass_rates))
    low, high = config.pass_rate_range or (0.0, 1.0)
    barred = {uid for uid, rate in known.items() if not low < rate < high}
    kept, met = [], 0
    for row in rows:
        if row.get("kind") == "qa":
            met += str(row["uid"]) in known
            kept += [] if str(row["uid"]) in barred else [row]
            continue
        asked = {kind.value: f"{row['uid']}/{kind.value}" for kind in askable(row)}
        met += sum(uid in known for uid in asked.values())
        left = [kind for kind, uid in asked.items() if uid not in barred]
        built_for = row.get("question_type")
        kept += (
            [row | {"questions": left, "question_type": built_for if built_for in left else None}]
            if left
            else []
        )
    if not met or not kept:
        raise UserError(
            f"pass_rates={config.pass_rates} leaves {len(kept)} of {len(rows)} rows of {config.root} and knows {met} of their questions: "
            "make it from this set with a model that solves some of them."
        )
    return kept


def select_pairs(rows: list[dict], config: SetConfig) -> list[dict]:
    """Return the pairs within `config.angles`, each with those of its questions in `config.types`."""
    low, high = config.angles or (0.0, 180.0)
    selected = []
    for row in rows:
        kinds = [
            kind.value for kind in askable(row) if not config.types or kind.value in config.types
        ]
        if kinds and low <= abs(row["geom"]["alpha_deg"]) <= high:
            built_for = row.get("question_type")
            question_type = built_for if built_for in kinds else None
            selected.append(row | {"questions": kinds, "question_type": question_type})
    return selected


def narrowed(shards: ShardSet, config: SetConfig) -> list[dict]:
    """Return the selected pairs of a set; raises UserError when there are none."""
    low, high = config.angles or (0.0, 180.0)
    rows = select_pairs(shards.rows, config)
    if not rows:
        raise UserError(
            f"set {shards.root} has no pair {low:g} to {high:g} degrees apart with a question of {config.types or 'any type'}."
        )
    return rows


def open_set(
    config: SetConfig,
    split: str,
    data: DataConfig,
    cold_start: ColdStartConfig,
    *,
    supervised: bool,
    mode: AnswerMode | None = None,
) -> TaskSet:
    """One split of a named set; `mode` forces an answer form (evaluation, GRPO), None lets the stage's own rule draw it."""
    if config.task is Task.clock:
        return ClockSet()
    shards = ShardSet(config.root, split)
    if split == "train":
        shards.rows = learnable(shards.rows, config)
    if config.task is Task.viewpoint and split == "train" and (config.types or config.angles):
        shards.rows = narrowed(shards, config)
    return task_set(shards, config, data, cold_start, supervised=supervised, mode=mode)


def task_set(
    shards: Shards,
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
        return QASet(
            shards,
            config.types,
            supervised=supervised,
            mode=mode,
            together=data.questions_per_pair if supervised else 1,
        )
    return PerceptionSet(shards, data.exercises_per_pair)
