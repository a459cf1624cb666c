"""Typed contents of results.json and scores.json, readable from files with older names too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actial.core.errors import UserError
from actial.core.line_counts import LINES, RESCORE, RESULTS, count_lines
from actial.core.sealed_files import read_sealed_json, write_sealed_json
from actial.grading.metrics import Cell, cell_tree_to_json

Json = dict[str, Any]


def _cells(entry: Mapping[str, Any] | None) -> dict[str, Cell]:
    return {name: Cell.from_json(cell) for name, cell in (entry or {}).items()}


# ---------------------------------------------------------------- one model on one set


@dataclass(slots=True, kw_only=True)
class SetResult:
    """Figures of one model on one set."""

    overall: Cell
    # question type -> accuracy
    by_type: dict[str, Cell] = field(default_factory=dict)
    by_angle: dict[str, Cell] = field(
        default_factory=dict
    )  # bin of the viewpoint angle -> accuracy
    # share of view pairs with every question correct
    all_correct: Cell | None = None
    unparsed: float = 0.0  # shares of the answers
    truncated: float = 0.0
    # one think block followed by one answer block
    format_compliance: float = 0.0
    # mean length of a completion
    tokens: float | None = None
    # hash, and what it stands for (protocol.py)
    protocol: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        entry: Json = {
            "overall": self.overall.to_json(),
            "by_type": cell_tree_to_json(self.by_type),
            "unparsed": self.unparsed,
            "truncated": self.truncated,
            "format_compliance": self.format_compliance,
        }
        if self.by_angle:
            entry["by_angle"] = cell_tree_to_json(self.by_angle)
        if self.all_correct is not None:
            entry["all_correct"] = self.all_correct.to_json()
        if self.tokens is not None:
            entry["tokens"] = self.tokens
        if self.protocol:
            entry["protocol"] = self.protocol
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> SetResult:
        pairs = entry.get("all_correct") or entry.get("joint")
        overall = Cell.from_json(entry["overall"])
        return cls(
            overall=overall,
            by_type=_cells(entry.get("by_type")),
            by_angle=_cells(entry.get("by_angle")),
            all_correct=Cell.from_json(pairs) if pairs else None,
            unparsed=entry.get("unparsed", overall.unparsed),
            truncated=entry.get("truncated", overall.truncated),
            format_compliance=entry.get("format_compliance", entry.get("format", 0.0)),
            tokens=entry.get("tokens"),
            protocol=dict(entry.get("protocol", {})),
        )


@dataclass(slots=True, kw_only=True)
class SampleAnswer:
    """One model's answer to a question of the report."""

    text: str
    choice: str | None
    outcome: str  # an `Outcome` value
    correct: bool


@dataclass(slots=True, kw_only=True)
class SampleCard:
    """A question of the report with its images and every model's answer."""

    uid: str
    # PNG files, relative to the run folder
    images: list[str]
    question: str
    answer: str  # the truth
    # model -> its answer
    answers: dict[str, SampleAnswer]

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> SampleCard:
        answers = {}
        for model, answer in entry["answers"].items():
            correct = answer["correct"] if "correct" in answer else answer["hit"]
            named = {key: answer[key] for key in ("text", "choice", "outcome")}
            answers[model] = SampleAnswer(**named, correct=correct)
        return cls(**{**entry, "answers": answers})


# ---------------------------------------------------------------- diagnostics


@dataclass(slots=True, kw_only=True)
class Consistency:
    """How answers to transformed questions agree with the answers to the original ones."""

    consistent: Cell
    # consistent, and every answer is correct
    consistent_correct: Cell

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Consistency:
        correct = entry.get("consistent_correct") or entry["consistent_right"]
        return cls(
            consistent=Cell.from_json(entry["consistent"]),
            consistent_correct=Cell.from_json(correct),
        )

    def to_json(self) -> Json:
        return {
            "consistent": self.consistent.to_json(),
            "consistent_correct": self.consistent_correct.to_json(),
        }


@dataclass(slots=True, kw_only=True)
class ShortcutMargin:
    """Accuracy less that of the best shortcut, with a 95 % interval."""

    shortcut: str
    value: float
    low: float
    high: float


@dataclass(slots=True, kw_only=True)
class VisualDependence:
    """Mean drop of log-probability without the images, nats per token, 95 % interval."""

    n: int
    value: float
    low: float
    high: float


CONSISTENCY_CHECKS = ("swap", "mirror", "options", "three questions")


@dataclass(slots=True, kw_only=True)
class Diagnostics:
    """Consistency under transformations, and what shortcuts reach, of a model on a set."""

    accuracy: Cell
    # a subset of CONSISTENCY_CHECKS
    checks: dict[str, Consistency]
    by_angle: dict[str, Cell]
    shortcuts: dict[str, Cell]
    margin: ShortcutMargin
    visual_dependence: VisualDependence | None = None

    def to_json(self) -> Json:
        entry: Json = {"accuracy": self.accuracy.to_json()}
        entry |= {name: check.to_json() for name, check in self.checks.items()}
        entry["by angle"] = cell_tree_to_json(self.by_angle)
        entry["shortcuts"] = cell_tree_to_json(self.shortcuts)
        entry["above best shortcut"] = asdict(self.margin)
        if self.visual_dependence is not None:
            entry["visual dependence"] = asdict(self.visual_dependence)
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Diagnostics:
        names = [name for name in CONSISTENCY_CHECKS if name in entry]
        drop = entry.get("visual dependence")
        return cls(
            accuracy=Cell.from_json(entry["accuracy"]),
            checks={name: Consistency.from_json(entry[name]) for name in names},
            by_angle=_cells(entry.get("by angle")),
            shortcuts=_cells(entry.get("shortcuts")),
            margin=ShortcutMargin(**entry["above best shortcut"]),
            visual_dependence=VisualDependence(**drop) if drop else None,
        )


# ---------------------------------------------------------------- control conditions


# under which the same questions are asked, in display order
CONDITIONS = ("as scored", "thinking", "direct answer", "no image", "swapped images")


@dataclass(slots=True, kw_only=True)
class Gain:
    """Difference of two accuracies on the same questions, with a 95 % interval."""

    n: int
    value: float
    low: float
    high: float


@dataclass(slots=True, kw_only=True)
class Controls:
    """A model's accuracy on the same questions under several conditions."""

    # condition, e.g. "direct answer" -> accuracy
    accuracy: dict[str, Cell]
    # condition -> mean length of a completion
    tokens: dict[str, float]
    # "thinking", "images" -> what it adds to the accuracy
    gains: dict[str, Gain]

    def to_json(self) -> Json:
        return {
            "accuracy": cell_tree_to_json(self.accuracy),
            "tokens": self.tokens,
            "gains": {name: asdict(gain) for name, gain in self.gains.items()},
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Controls:
        return cls(
            accuracy=_cells(entry["accuracy"]),
            tokens=dict(entry["tokens"]),
            gains={name: Gain(**gain) for name, gain in entry["gains"].items()},
        )


# ---------------------------------------------------------------- the paper's figures


@dataclass(slots=True, kw_only=True)
class PaperComparison:
    """Published figures of a benchmark, and ours in the same display form (percent)."""

    columns: list[str]
    # model -> a figure per column
    rows: dict[str, list[float | None]]
    ours: list[float | None]
    notes: list[str] = field(default_factory=list)
    # of ours, where they are not the paper's: image size, prompt style, rotations, temperature
    conditions: list[str] = field(default_factory=list)
    # rows of the paper that were asked with another system prompt
    other_prompt: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- results.json


@dataclass(slots=True, kw_only=True)
class Results:
    """All figures of one run: every model on every set."""

    # "title" and "subtitle" head the report
    meta: Json = field(default_factory=dict)
    # in display order, e.g. ["base", "sft", "grpo"]
    models: list[str]
    set_names: list[str]  # in display order
    # set -> model -> figures
    sets: dict[str, dict[str, SetResult]]
    # set -> accuracy of guessing
    chance: dict[str, float] = field(default_factory=dict)
    # set -> model
    controls: dict[str, dict[str, Controls]] = field(default_factory=dict)
    diagnostics: dict[str, dict[str, Diagnostics]] = field(default_factory=dict)
    paper: dict[str, PaperComparison] = field(default_factory=dict)
    examples: dict[str, list[SampleCard]] = field(default_factory=dict)

    def to_json(self) -> Json:
        return {
            "meta": self.meta,
            "models": self.models,
            "set_names": self.set_names,
            "sets": _map_models(self.sets, lambda result: result.to_json()),
            "chance": self.chance,
            "controls": _map_models(self.controls, lambda entry: entry.to_json()),
            "diagnostics": _map_models(self.diagnostics, lambda entry: entry.to_json()),
            "paper": {name: asdict(figures) for name, figures in self.paper.items()},
            "examples": {
                name: [card.to_json() for card in cards]
                for name, cards in self.examples.items()
            },
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Results:
        sets = _map_models(entry["sets"], SetResult.from_json)
        all_models = [model for results in sets.values() for model in results]
        diagnostics = {
            name: {model: report for model, report in reports.items() if report}
            for name, reports in entry.get("diagnostics", {}).items()
        }
        return cls(
            meta=dict(entry.get("meta", {})),
            models=list(entry.get("models") or dict.fromkeys(all_models)),
            set_names=list(entry.get("set_names") or sets),
            sets=sets,
            chance=dict(entry.get("chance", {})),
            controls=_map_models(entry.get("controls", {}), Controls.from_json),
            diagnostics=_map_models(diagnostics, Diagnostics.from_json),
            paper={
                name: PaperComparison(**figures)
                for name, figures in entry.get("paper", {}).items()
                if figures
            },
            examples={
                name: [SampleCard.from_json(card) for card in cards]
                for name, cards in entry.get("examples", {}).items()
            },
        )

    def write(self, folder: Path | str) -> None:
        """Write results.json into `folder`, which marks a run as finished.

        It counts the lines of the logs there, so that lost ones are noticed.
        """
        lines = count_lines(Path(folder), self.models, self.set_names)
        write_sealed_json(Path(folder) / RESULTS, self.to_json() | {LINES: lines})

    @classmethod
    def read(cls, folder: Path | str) -> Results:
        """Read results.json of a run.

        Raises:
            UserError: the file is missing or damaged.
        """
        path = Path(folder) / RESULTS
        if not path.is_file():
            raise UserError(
                f"{folder} has no results.json to report on: "
                "give a folder that actial.train or actial.evaluate has finished."
            )
        return cls.from_json(read_sealed_json(path, RESCORE))


def _map_models(
    sets: Mapping[str, Mapping[str, Any]], convert: Any
) -> dict[str, dict[str, Any]]:
    return {
        name: {model: convert(value) for model, value in models.items()}
        for name, models in sets.items()
    }


# ---------------------------------------------------------------- scores.json


@dataclass(slots=True, kw_only=True)
class BenchmarkScores:
    """The scores of one model on one published benchmark."""

    benchmark: str
    split: str
    n: int  # answers
    # what a reader of the figures must know
    notes: list[str]
    unparsed: float  # shares of the answers
    truncated: float
    format_compliance: float
    dropped: dict[str, int]  # reason -> items left out
    # file of the benchmark -> its hash
    sha256: dict[str, str]
    license: str
    paper: str
    scores: Json  # names -> cells in JSON form, nested
    # figures of EASI's leaderboard, if it has the set
    easi: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> BenchmarkScores:
        """Read scores.json; "format" and "licence" are the older names, other keys are ignored."""
        renamed = {"format": "format_compliance", "licence": "license"}
        named = {renamed.get(key, key): value for key, value in entry.items()}
        return cls(**{key: named[key] for key in cls.__dataclass_fields__ if key in named})
