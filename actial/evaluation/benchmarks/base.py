"""What every benchmark becomes: items with ordered images, options and one normalized answer.

A loader reads the published files as they are. A missing file or column is
refused with what was expected; the sha256 of every file read is kept with the
scores, because published sets have been changed in place before (BLINK's TSV,
MindCube 2026-03, CV-Bench's split).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from actial.core.atomic_io import file_sha256
from actial.core.errors import UserError
from actial.core.multiple_choice_format import names_other_options
from actial.grading.metrics import Prediction, accuracy, accuracy_by

Picture = bytes | Path  # encoded bytes, or a file
Scores = dict[str, Any]  # names -> Cell, nested


class Style(StrEnum):
    """How the user's text is written; the images come first in all of them but one."""

    # question and options on one line; the system prompt asks for think and answer tags
    THINK = "think"
    LETTER = "letter"  # the same with a request for the letter alone
    VLMEVAL = "vlmeval"  # VLMEvalKit's multiple-choice form
    DATASET = "dataset"  # the prompt column of the data set (CV-Bench, BLINK)
    # the same before the images, as BLINK's own runner sends it
    DATASET_TEXT_FIRST = "dataset_text_first"
    MMSI = "mmsi"
    VIEWSPATIAL = "viewspatial"
    FRAMES = "frames"  # VSI-Bench, STI-Bench, SPAR-Bench
    SITE = "site"  # SITE-Bench and EmbSpatial-Bench, as EASI asks them


@dataclass(slots=True, kw_only=True)
class Item:
    """One question; without options, `open` describes its answer (metric, answer)."""

    uid: str
    images: list[Picture]
    question: str  # without the options
    options: tuple[str, ...] = ()
    answer_index: int = -1
    type: str = ""
    categories: dict[str, str] = field(default_factory=dict)
    circular: dict[str, Any] = field(default_factory=dict)  # base, rotation, rotations, flip
    open: dict[str, Any] = field(default_factory=dict)
    raw_prompt: str | None = None  # the data set's own text
    hint: str = ""
    source_index: int | str = 0  # the row's name in its file and in the harnesses' outputs


@dataclass(slots=True)
class Source:
    """Where a benchmark's files are: a local folder, or a hub data set at a revision."""

    name: str
    hub: str
    root: Path | None = None
    revision: str | None = None
    split: str = ""
    pinned: dict[str, str] = field(
        default_factory=dict
    )  # file name -> the sha256 it must have
    hashes: dict[str, str] = field(
        default_factory=dict
    )  # file name -> sha256, of everything read
    dropped: Counter[str] = field(default_factory=Counter)  # rows left out, by reason

    def file(self, *names: str, columns: Sequence[str] = ()) -> Path:
        """Return the first of `names` that exists; `columns` are named by the error.

        Raises:
            UserError: none does, naming them, their columns and where they are published; or the
                file does not have its pinned hash.
        """
        if self.root is None:
            return self._noted(*self._download(names))
        for name in names:
            if (path := self.root / name).is_file():
                return self._noted(name, path)
        pins = [f"sha256 {self.pinned[name]}" for name in names if name in self.pinned]
        form = f" (columns {', '.join(columns)})" if columns else ""
        raise UserError(
            f"{self.name}: {self.root} has none of {', '.join(names + tuple(pins))}{form}: "
            f"download it from the hub data set {self.hub}, "
            "or leave benchmark.root empty to fetch it."
        )

    def picture(self, name: str) -> Path:
        """A picture beside the files; checked now, read later."""
        if self.root is None:
            raise UserError(
                f"{self.name}: its pictures come in archives: download {self.hub}, unpack it and "
                "give benchmark.root=FOLDER."
            )
        path = self.root / name
        if not path.is_file():
            raise UserError(
                f"{self.name}: picture {path} is missing: unpack the data set's archives into "
                f"{self.root}."
            )
        return path

    def _download(self, names: Sequence[str]) -> tuple[str, Path]:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        if "/" not in self.hub:
            raise UserError(
                f"{self.name}: such a set has no place on the hub: give benchmark.root=FOLDER."
            )
        summary = ""
        for name in names:
            try:
                return name, Path(
                    hf_hub_download(
                        self.hub, name, repo_type="dataset", revision=self.revision
                    )
                )
            except EntryNotFoundError as error:
                summary = str(error).splitlines()[0].rstrip(". ")
            except OSError as error:
                raise self._unfetched(
                    names, str(error).splitlines()[0].rstrip(". ")
                ) from error
        raise self._unfetched(names, summary)

    def _unfetched(self, names: Sequence[str], reason: str) -> UserError:
        return UserError(
            f"{self.name}: {' or '.join(names)} of {self.hub} cannot be fetched ({reason}): give "
            "benchmark.root=FOLDER."
        )

    def _noted(self, name: str, path: Path) -> Path:
        digest = self.hashes[name] = file_sha256(path)
        if self.pinned.get(name, digest) != digest:
            raise UserError(
                f"{self.name}: {name} has sha256 {digest}, pinned is "
                f"{self.pinned[name]}: fetch the pinned revision or change the pin."
            )
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A published set: where it lies, how it is read, asked and scored."""

    name: str
    hub: str
    load: Callable[[Source], list[Item]]
    score: Callable[[Sequence[Prediction]], Scores]
    style: Style = Style.VLMEVAL
    split: str = "test"
    # others that `load` knows; None where a split is a file's own name
    splits: tuple[str, ...] | None = ()
    license: str = ""
    paper: str = ""
    reference: str = ""  # name of a table under reference/
    questions: int = 0  # in the split that papers report, options in one order; 0 = not known
    note: str = ""  # what a reader of its figures must know


def require(table: str, columns: Iterable[str], expected: Sequence[str]) -> None:
    """Refuse a table whose columns have changed."""
    have = set(columns)
    missing = [name for name in expected if name not in have]
    if missing:
        raise UserError(
            f"{table} lacks the columns {', '.join(missing)}; the published format has "
            f"{', '.join(expected)}, "
            f"this file has {', '.join(sorted(have))}: fetch the revision you mean to score."
        )


# ---------------- one form for every answer convention


def rotated(items: Iterable[Item]) -> list[Item]:
    """Return every item under all cyclic shifts of its options.

    Open answers stay as they are, and so do options such as "Both A and B", in their one order.
    """
    turned = []
    for item in items:
        k = len(item.options)
        shifts = min(k, 1) if names_other_options(item.options) else k
        for shift in range(shifts):
            circular = {
                "base": item.uid,
                "flip": False,
                **item.circular,
                "rotation": shift,
                "rotations": shifts,
            }
            options = item.options[shift:] + item.options[:shift]
            index = (item.answer_index - shift) % k
            turned.append(
                replace(
                    item,
                    uid=f"{item.uid}#{shift}",
                    options=options,
                    answer_index=index,
                    circular=circular,
                    raw_prompt=None,
                )
            )
        if not k:
            turned.append(item)
    return turned


def score_types(predictions: Sequence[Prediction]) -> Scores:
    """The mean over answers, and by type."""
    return {"overall": accuracy(predictions), "type": accuracy_by(predictions, "type")}
