"""Sets of exercises for the tiny base model: what photos show, and rules told in words alone."""

from __future__ import annotations

from dataclasses import replace

from actial.core.errors import UserError
from actial.core.records import Example, Question
from actial.core.seeding import hash_int, hash_shuffle, hash_unit
from actial.core.set_records import QuestionRecord
from actial.data.shards import RecordSource
from actial.viewpoint.perception_exercises import perception_questions, word_question
from actial.viewpoint.scene_rules import (
    list_question,
    named_facts,
    named_lines,
    rule_question,
    scene_question,
)

WORD_QUESTIONS_PER_EXAMPLE = 4
WORD_EXAMPLES = 1024
DESCRIPTION = "description"  # type of the record whose answer describes a scene
LAYOUT = "layout"  # type of the record whose answer tells which thing covers which cell
PAIRED_SCENES = (
    0.25  # share of the examples that show two scenes, which have no object in common
)


class PerceptionSet:
    """Pairs of the procedural world with exercises on what each photo shows."""

    def __init__(self, shards: RecordSource, exercises: int) -> None:
        self.shards, self.pairs, self.exercises = shards, shards.view_pairs(), exercises
        self.names = sorted({pair.class_name.lower() for pair in self.pairs})

    def __len__(self) -> int:
        return len(self.pairs)

    def example(self, index: int, epoch: int) -> Example:
        pair = self.pairs[index]
        return Example(
            uid=pair.uid,
            images=self.shards.images(pair),
            questions=perception_questions(pair, str(epoch), self.names, self.exercises),
            task="perception",
            record=pair,
        )


class ClockSet:
    """Text-only exercises: the order of the hours, the letters of options."""

    def __len__(self) -> int:
        return WORD_EXAMPLES

    def example(self, index: int, epoch: int) -> Example:
        draws = [f"{epoch}/{index}/{i}" for i in range(WORD_QUESTIONS_PER_EXAMPLE)]
        questions = [word_question(draw) for draw in draws]
        return Example(
            uid=f"clock/{epoch}/{index}", images=[], questions=questions, task="clock"
        )


class RuleSet:
    """Text-only exercises: what follows from a described scene for a turn, a step or a walk."""

    def __len__(self) -> int:
        return WORD_EXAMPLES

    def example(self, index: int, epoch: int) -> Example:
        draws = [f"{epoch}/{index}/{i}" for i in range(WORD_QUESTIONS_PER_EXAMPLE)]
        questions = [rule_question(draw) for draw in draws]
        return Example(
            uid=f"rules/{epoch}/{index}", images=[], questions=questions, task="rules"
        )


class SceneSet:
    """Scenes of `actial.synthetic.base_scenes`, asked what they show.

    Some examples show two unrelated scenes, so that "photo 2" means
    something. The first exercise is a list of facts in words. Chains of
    thought begin with facts about the things in question now and then;
    nothing speaks of motion.
    """

    def __init__(self, shards: RecordSource, exercises: int) -> None:
        self.shards, self.exercises = shards, exercises
        scenes: dict[tuple[str, str], list[QuestionRecord]] = {}
        for record in shards.question_records():
            scenes.setdefault((record.shard, record.key), []).append(record)
        self.scenes = list(scenes.values())
        if any(_description(records) is None for records in self.scenes):
            raise UserError(
                f"set {shards.root} has scenes without a description: make it "
                "from the folder of `python -m actial.synthetic.base_scenes`."
            )

    def __len__(self) -> int:
        return len(self.scenes)

    def example(self, index: int, epoch: int) -> Example:
        numbers = [index]
        if hash_unit("paired", index, epoch) < PAIRED_SCENES:
            numbers.append(hash_int("second", index, epoch) % len(self.scenes))
        scenes = [self.scenes[number] for number in numbers]
        return Example(
            uid=f"{scenes[0][0].uid}/{epoch}",
            images=[image for scene in scenes for image in self.shards.images(scene[0])],
            questions=self._questions(scenes, str(epoch)),
            task="scenes",
            record=scenes[0][0],
        )

    def _questions(self, scenes: list[list[QuestionRecord]], draw: str) -> list[Question]:
        uid = f"{scenes[0][0].uid}/{draw}"
        descriptions = [_description(scene) for scene in scenes]
        texts = [record.options[record.answer_index] for record in descriptions if record]
        numbered = [
            (i, record)
            for i, scene in enumerate(scenes)
            for record in scene
            if record.type not in (DESCRIPTION, LAYOUT)
        ]
        listed = hash_int("listed", uid) % len(scenes)
        scene_list = list_question(uid, _photo(listed, len(scenes)), texts[listed])
        drawn = hash_shuffle(numbered, "exercises", uid)[: self.exercises - 1]
        questions = [scene_list]
        for i, record in drawn:
            questions.append(_asked(record, _photo(i, len(scenes)), texts[i], draw))
        return questions


def _description(records: list[QuestionRecord]) -> QuestionRecord | None:
    return next((record for record in records if record.type == DESCRIPTION), None)


def _photo(index: int, photos: int) -> str:
    return "the photo" if photos == 1 else f"photo {index + 1}"


def _asked(record: QuestionRecord, photo: str, description: str, draw: str) -> Question:
    """Return a static question in a drawn answer form, its options in a drawn order.

    Of several photos, the question names the one it is about.
    """
    order = hash_shuffle(range(len(record.options)), "options", record.uid, draw)
    text = record.question
    if photo != "the photo":
        named = text.replace("the photo", photo)
        text = named if named != text else f"in {photo}, {text}"
    question = scene_question(
        record.uid,
        record.subtype,
        text,
        [record.options[i] for i in order],
        order.index(record.answer_index),
        _facts(description, record),
        draw,
    )
    return replace(question, uid=f"{record.uid}/{draw}")


def _facts(description: str, record: QuestionRecord) -> str:
    """Return the facts that a chain about this question may begin with."""
    if record.question.startswith("which side of"):
        return named_lines(description, record.question)[0].visible_side
    return named_facts(description, record.question)
