"""SAT's parquet releases, read as they are: files by split, rows one by one, and each row's question, options and pictures.

`SAT_<split>.parquet` (one row group of 5 GB, static rows first), `<split>-*.parquet` shards with the same rows, and verl's layout
(`prompt`, `images`, `reward_model.ground_truth`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from actial.core.errors import UserError
from actial.core.multiple_choice_format import answer_position, clean_options, inline_options

# names differ between the splits
TYPES = {
    "other": "static",
    "static": "static",
    "ego_movement": "ego_motion",
    "action_sequence": "ego_motion",
    "obj_movement": "obj_motion",
    "action_conseq": "action_conseq",
    "action_consequence": "action_conseq",
    "goal_aim": "goal_aim",
    "perspective": "perspective",
}


FIRST_FRAME = re.compile(
    r"\s*in the first frame\.?$", re.IGNORECASE
)  # slipped into some options, not into their answers


def sat_options(answers: Sequence[Any], correct: str) -> tuple[tuple[str, ...], int | None]:
    """Cleaned option texts and the index of the right one; None when not exactly one option equals the answer."""
    options = clean_options(FIRST_FRAME.sub("", str(text)).strip() for text in answers)
    want = FIRST_FRAME.sub("", str(correct)).strip().casefold()
    hits = [i for i, option in enumerate(options) if option.casefold() == want]
    return options, hits[0] if len(hits) == 1 and len(options) > 1 else None


LETTERS = "ABCDEF"
NEARNESS = re.compile(r"\b(closer|closest|nearer|nearest|farther|further|depth)\b")


# ---------------------------------------------------------------- files


def find_files(root: Path) -> dict[str, list[Path]]:
    """Parquet files by split; SAT_static is left out beside SAT_train, which repeats it. Raises UserError when there are none."""
    if not root.is_dir():
        raise UserError(
            f"source.root={root} is not a folder: give the folder that holds SAT's parquet files."
        )
    found: dict[str, list[Path]] = {}
    for split, names in {
        "train": ("train",),
        "val": ("val", "validation"),
        "test": ("test",),
    }.items():
        patterns = [
            pattern.format(name)
            for name in names
            for pattern in ("SAT_{}.parquet", "{}-*.parquet", "{}.parquet")
        ]
        hits = [
            sorted(folder.glob(pattern)) for folder in (root, root / "data") for pattern in patterns
        ]
        if first := next((paths for paths in hits if paths), None):
            found[split] = first
    if "train" not in found and (root / "SAT_static.parquet").is_file():
        found["train"] = [root / "SAT_static.parquet"]
    if not found:
        raise UserError(
            f"source.root={root} holds no SAT_train.parquet, train-*.parquet, or their like: fetch them first."
        )
    return found


# ---------------------------------------------------------------- one row


class Unusable(Exception):
    """A row that cannot become a question; str() is the reason it is counted under."""


@dataclass(slots=True, frozen=True)
class Asked:
    question: str
    options: tuple[str, ...]
    answer_index: int
    raw_type: str  # as spelt in the file

    @property
    def type(self) -> str:
        """One name for both spellings: static, ego_motion, obj_motion, action_conseq, goal_aim, perspective."""
        return TYPES.get(self.raw_type, self.raw_type)

    @property
    def subtype(self) -> str:
        """Static rows carry one type name for three kinds, told apart by their wording."""
        if self.type != "static":
            return self.type
        if all(option.isdigit() for option in self.options):
            return "count"
        return "depth" if NEARNESS.search(self.question.lower()) else "relation"


def parse_row(row: Mapping[str, Any]) -> Asked:
    """Question, options and the right one, from either schema; raises Unusable.

    The answer is a text in SAT's releases: exactly one option must equal it, letter case and a stray "in the first frame" aside. Options
    that repeat each other are merged, so that no two letters mean the same.
    """
    if "prompt" in row:
        return _parse_verl(row)
    if any(text is None for text in row["answers"] or ()):
        raise Unusable("an option is missing")
    texts, answer = sat_options(row["answers"] or (), row["correct_answer"] or "")
    if answer is None:
        raise Unusable("answer is not exactly one option")
    unique: dict[str, str] = {}
    for text in texts:
        unique.setdefault(text.casefold(), text)
    place = list(unique).index(texts[answer].casefold())
    return _checked(row["question"], tuple(unique.values()), place, str(row["question_type"]))


def _parse_verl(row: Mapping[str, Any]) -> Asked:
    asked = [
        message["content"] or "" for message in row["prompt"] or () if message["role"] == "user"
    ]
    question, options = inline_options(asked[-1].replace("<image>", "").strip() if asked else "")
    if len(options) < 2:
        raise Unusable("options not found in the prompt")
    try:
        answer = answer_position(row["reward_model"]["ground_truth"], options, "row")
    except UserError as error:
        raise Unusable("answer is not exactly one option") from error
    kind = (row.get("extra_info") or {}).get("question_type") or row.get("data_source") or "unknown"
    return _checked(question, options, answer, str(kind))


def _checked(question: Any, options: tuple[str, ...], answer: int, raw_type: str) -> Asked:
    if not isinstance(question, str) or not question.strip():
        raise Unusable("no question")
    if not 2 <= len(options) <= len(LETTERS):
        raise Unusable("fewer than 2 or more than 6 options")
    return Asked(question.strip(), options, answer, raw_type)


def pictures_of(row: Mapping[str, Any]) -> list[bytes]:
    """Encoded pictures of a row, whichever reader made it: bytes, {"bytes", "path"} or PIL; raises Unusable."""
    cells = row.get("image_bytes") or row.get("images")
    cells = cells if isinstance(cells, list) else [cells]
    return [_encoded(cell) for cell in cells]


def _encoded(cell: Any) -> bytes:
    if isinstance(cell, Image.Image):
        buffer = io.BytesIO()
        cell.save(buffer, "PNG")
        return buffer.getvalue()
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(found, bytes):
        raise Unusable("picture missing")
    return found
