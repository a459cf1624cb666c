"""Data sets and their mixture."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from actial.config.validation import num, reject
from actial.core.set_records import QuestionType


class EpochRule(Enum):
    """When an epoch of a mixture ends."""

    first = "first"  # an epoch ends when the first source has been drawn once
    draws = "draws"  # an epoch is `epoch_draws` draws


@dataclass(kw_only=True, slots=True)
class MixConfig:
    """Sets a stage trains on and their draw weights.

    Weights 0.9 and 0.1 draw the first set nine times out of ten, whatever the sizes of the sets.
    """

    weights: dict[str, float] = field(default_factory=dict)  # set name -> draw weight
    epoch_rule: EpochRule = EpochRule.first
    epoch_draws: int = num(0, "[0, 1e12]")

    def check(self, path: str) -> None:
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                reject(f"{path}weights.{name}", weight, "give a weight of 0 or more")
        if self.epoch_rule is EpochRule.draws and self.epoch_draws == 0:
            reject(
                f"{path}epoch_draws",
                0,
                f"{path}epoch_rule=draws needs the number of draws in an epoch",
            )


class ChainForm(Enum):
    """How long a chain of thought from the geometry is (actial/viewpoint/rationales.py)."""

    short = "short"  # about 40 words and the options weighed, for the tiny model
    sections = (
        "sections"  # the paper's sections: both images, both views, scale, all axes, path
    )


@dataclass(kw_only=True, slots=True)
class ColdStartConfig:
    # share of the draws of a set answered with a chain of thought (paper 4.3); a question set
    # without chains of its own is answered with letters alone
    ratio: float = num(0.1, "[0, 1]")
    # view pairs: grounded = written from the known geometry; otherwise a chains.jsonl file
    source: str = "grounded"
    form: ChainForm = ChainForm.short  # of grounded chains


class Task(Enum):
    """How the records of a set become training examples (actial/data/datasets.py)."""

    viewpoint = "viewpoint"  # view pairs: the three question types
    qa = "qa"  # multiple-choice questions, such as SAT
    # view pairs of the procedural world: questions about each photo, never about motion
    perception = "perception"
    clock = "clock"  # text only: the order of the hours; needs no root
    # scenes of actial.synthetic.base_scenes: descriptions and questions about them, never motion
    scenes = "scenes"
    # text only: what follows from a described scene for a turn, a step or a walk; needs no root
    rules = "rules"


WORDS_ONLY = (Task.clock, Task.rules)


@dataclass(kw_only=True, slots=True)
class SetConfig:
    """One named set: a folder that actial.build wrote, read as one task."""

    task: Task = MISSING
    root: str = ""
    # qa: only these types; viewpoint: only these are trained on; empty = all
    types: list[str] = field(default_factory=list)
    # viewpoint: smallest and largest angle of the pairs trained on; empty = all
    angles: list[float] = num([], "[0, 180]")
    # qa: share of the supervised answers that weigh option after option before the letter, for a
    # tiny model without a teacher; None = letters, and the chains of thought that the set has
    weighed_share: float | None = num(None, "[0, 1]")
    # qa, viewpoint: passrates.jsonl of actial.passrates; questions outside pass_rate_range are
    # not trained on
    pass_rates: str | None = None
    # trained on: questions solved in a share of the tries strictly between these; None = [0,1]
    pass_rate_range: list[float] | None = num(None, "[0, 1]")

    def check(self, path: str) -> None:
        if self.angles and (len(self.angles) != 2 or self.angles[0] >= self.angles[1]):
            reject(
                f"{path}angles",
                self.angles,
                "give the smallest and the largest angle in degrees, such as [20,60]",
            )
        if self.pass_rate_range is not None and (
            len(self.pass_rate_range) != 2
            or self.pass_rate_range[0] >= self.pass_rate_range[1]
        ):
            reject(
                f"{path}pass_rate_range",
                self.pass_rate_range,
                "give the two shares that bound the questions to train on, such as [0.1,0.9]",
            )
        if self.pass_rates and self.task not in (Task.qa, Task.viewpoint):
            reject(
                f"{path}pass_rates",
                self.pass_rates,
                "only the questions of task qa or viewpoint have pass rates",
            )
        types = [kind.value for kind in QuestionType]
        if self.task is Task.viewpoint and not set(self.types) <= set(types):
            reject(f"{path}types", self.types, f"name some of {', '.join(types)}")
        if self.task not in WORDS_ONLY and not self.root:
            reject(f"{path}root", "''", "give the folder that actial.build wrote")


class Reader(Enum):
    """How SFT reads its sets (actial/data/stream.py names what a stream cannot do)."""

    index = "index"  # any record by its offset: exact shuffling, resume without reading again
    stream = "stream"  # whole shards in sequence, from a folder or a URL (https, s3, pipe)


@dataclass(kw_only=True, slots=True)
class DataConfig:
    sets: dict[str, SetConfig] = field(default_factory=dict)
    # wording of the viewpoint questions: ours, or file:PATH (actial/viewpoint/wording.py)
    wording: str = "ours"
    reader: Reader = Reader.index
    shuffle_buffer: int = num(
        1000, "[1, 1e7]"
    )  # reader=stream: examples that wait to be drawn
    # 1 = paper; 3 = all three types behind one shared prefix
    questions_per_pair: int = num(1, "[1, 3]")
    exercises_per_pair: int = num(
        6, "[1, 64]"
    )  # perception questions behind one shared prefix
    workers: int = num(0, "[0, 1024]")

    def check(self, path: str) -> None:
        if self.wording != "ours" and not self.wording.startswith("file:"):
            reject("questions.wording", self.wording, "give ours, or file:PATH of a YAML file")


@dataclass(kw_only=True, slots=True)
class WordingConfig:
    """How viewpoint questions are worded: ours, or file:PATH."""

    wording: str = "ours"
