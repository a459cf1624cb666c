"""What is read, in which mixture."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from actial.config.validation import num, reject
from actial.core.records import QuestionType


class EpochRule(Enum):
    """What an epoch of a mixture is: the unit in which a stage's length is told (passport.json); the length itself is `steps`."""

    first = "first"  # an epoch ends when the first source has been drawn once
    draws = "draws"  # an epoch is `epoch_draws` draws


@dataclass(kw_only=True, slots=True)
class MixConfig:
    """What a stage trains on: named sets and their draw weights. 0.9 : 0.1 = nine of ten draws are of the first, whatever their sizes."""

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


@dataclass(kw_only=True, slots=True)
class ColdStartConfig:
    ratio: float = num(
        0.1, "[0, 1]"
    )  # share of viewpoint draws answered with a chain of thought (paper 4.3)
    source: str = (
        "grounded"  # grounded = written from the known geometry; otherwise a chains.jsonl file
    )


class Task(Enum):
    """How the rows of a set become examples (actial/data/datasets.py)."""

    viewpoint = "viewpoint"  # pair rows: the three question types
    qa = "qa"  # multiple-choice rows (SAT and its like)
    perception = (
        "perception"  # pair rows of the procedural world: what each photo shows; never motion
    )
    clock = "clock"  # text only: the order of the hours; needs no root


@dataclass(kw_only=True, slots=True)
class SetConfig:
    """One named set: a folder written by actial.build, read as one task."""

    task: Task = MISSING
    root: str = ""
    types: list[str] = field(
        default_factory=list
    )  # qa: only these types; viewpoint: only these are trained on; empty = all
    angles: list[float] = num(
        [], "[0, 180]"
    )  # viewpoint: smallest and largest angle of the pairs trained on; empty = all
    pass_rates: str | None = (
        None  # qa, viewpoint: passrates.jsonl of actial.passrates; questions outside pass_rate_range are not trained on
    )
    pass_rate_range: list[float] | None = num(
        None, "[0, 1]"
    )  # kept: solved in a share of the tries strictly between; None = [0,1]

    def check(self, path: str) -> None:
        if self.angles and (len(self.angles) != 2 or self.angles[0] >= self.angles[1]):
            reject(
                f"{path}angles",
                self.angles,
                "give the smallest and the largest angle in degrees, such as [20,60]",
            )
        if self.pass_rate_range is not None and (
            len(self.pass_rate_range) != 2 or self.pass_rate_range[0] >= self.pass_rate_range[1]
        ):
            reject(
                f"{path}pass_rate_range",
                self.pass_rate_range,
                "give the two shares that bound what is kept, such as [0.1,0.9]",
            )
        if self.pass_rates and self.task not in (Task.qa, Task.viewpoint):
            reject(
                f"{path}pass_rates",
                self.pass_rates,
                "only the questions of task qa or viewpoint have pass rates",
            )
        known = [kind.value for kind in QuestionType]
        if self.task is Task.viewpoint and not set(self.types) <= set(known):
            reject(f"{path}types", self.types, f"name some of {', '.join(known)}")
        if self.task is not Task.clock and not self.root:
            reject(f"{path}root", "''", "give the folder that actial.build wrote")


@dataclass(kw_only=True, slots=True)
class DataConfig:
    sets: dict[str, SetConfig] = field(default_factory=dict)
    questions_per_pair: int = num(
        1, "[1, 3]"
    )  # 1 = paper; 3 = all three types as branches of one trunk
    exercises_per_pair: int = num(6, "[1, 64]")  # perception branches on one trunk
    workers: int = num(0, "[0, 1024]")
