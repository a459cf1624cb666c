"""SAT's parquet releases, read as they are: files by split, rows one by one.

`SAT_<split>.parquet` (one row group of 5 GB, static rows first), `<split>-*.parquet`
shards with the same rows, and verl's layout (`prompt`, `images`,
`reward_model.ground_truth`).
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

TYPES = {  # the names differ between the splits
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
# Words of the dynamic questions and the type they mean, the last that occurs; from how SAT's own
# generator names its questions. Anything else is static.
WORDINGS = {
    "action_sequence": r"how did the camera|is the camera moving|did the camera move",
    "goal_aim": r"need to go|direction should i turn|need to pick ?up",
    "obj_movement": r"of the objects in the initial|objects? .*\boriginal positions?",
    "action_consequence": r"\bif i\b",
    "perspective": r"if i (?:move|go) to the|for someone at the|if i (?:was|were) ",
}
# slipped into some options, not into their answers
FIRST_FRAME = re.compile(r"\s*in the first frame\.?$", re.IGNORECASE)
LETTERS = "ABCDEF"
NEARNESS = re.compile(r"\b(closer|closest|nearer|nearest|farther|further|depth)\b")
IMAGE_COLUMNS = ("image_bytes", "images", "image")
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
FILE_PATTERNS = ("SAT_{}.parquet", "{}-*.parquet", "{}.parquet")


def sat_options(answers: Sequence[Any], correct: str) -> tuple[tuple[str, ...], int | None]:
    """Return the cleaned option texts and the index of the correct one.

    The index is None when not exactly one option equals the answer.
    """
    options = clean_options(FIRST_FRAME.sub("", str(text)).strip() for text in answers)
    answer = FIRST_FRAME.sub("", str(correct)).strip().casefold()
    matches = [i for i, option in enumerate(options) if option.casefold() == answer]
    return options, matches[0] if len(matches) == 1 and len(options) > 1 else None


# ---------------------------------------------------------------- files


def find_files(root: Path) -> dict[str, list[Path]]:
    """Return parquet files by split; raises UserError when there are none.

    SAT_static is left out beside SAT_train, which repeats it.
    """
    if not root.is_dir():
        raise UserError(
            f"source.root={root} is not a folder: give the folder that holds SAT's parquet files."
        )
    files: dict[str, list[Path]] = {}
    for split, names in SPLIT_NAMES.items():
        if paths := _first_match(root, names):
            files[split] = paths
    static = root / "SAT_static.parquet"
    if "train" not in files and static.is_file():
        files["train"] = [static]
    if not files:
        raise UserError(
            f"source.root={root} holds no SAT_train.parquet, train-*.parquet, or their like: fetch "
            "them first."
        )
    return files


def _first_match(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of the first pattern that has any, in `root` or data/ below it."""
    for folder in (root, root / "data"):
        for name in names:
            for pattern in FILE_PATTERNS:
                if paths := sorted(folder.glob(pattern.format(name))):
                    return paths
    return []


# ---------------------------------------------------------------- one row


class Unusable(Exception):
    """A row that cannot become a question; str() is the reason it is counted under."""


@dataclass(slots=True, frozen=True)
class SatQuestion:
    """One question as a row of SAT has it."""

    question: str
    options: tuple[str, ...]
    answer_index: int
    raw_type: str  # as spelt in the file

    @property
    def type(self) -> str:
        """One name for both spellings.

        static, ego_motion, obj_motion, action_conseq, goal_aim or perspective.
        """
        return TYPES.get(self.raw_type, self.raw_type)

    @property
    def subtype(self) -> str:
        """The type, but for static questions the kind that their wording tells apart."""
        if self.type != "static":
            return self.type
        if all(option.isdigit() for option in self.options):
            return "count"
        return "depth" if NEARNESS.search(self.question.lower()) else "relation"


def parse_row(row: Mapping[str, Any]) -> SatQuestion:
    """Return question, options and answer of a row of either schema; raises Unusable.

    The answer is a text in SAT's releases: exactly one option must equal it, letter case and a
    stray "in the first frame" aside. Options that repeat each other are merged, so that no two
    letters mean the same.
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
    answer_index = list(unique).index(texts[answer].casefold())
    options = tuple(unique.values())
    return _checked(row["question"], options, answer_index, str(row["question_type"]))


def _parse_verl(row: Mapping[str, Any]) -> SatQuestion:
    user_turns = [
        message["content"] or ""
        for message in row["prompt"] or ()
        if message["role"] == "user"
    ]
    prompt = user_turns[-1].replace("<image>", "").strip() if user_turns else ""
    question, options = inline_options(prompt)
    if len(options) < 2:
        raise Unusable("options not found in the prompt")
    try:
        answer = answer_position(row["reward_model"]["ground_truth"], options, "row")
    except UserError as error:
        raise Unusable("answer is not exactly one option") from error
    written = (row.get("extra_info") or {}).get("question_type") or row.get("data_source")
    return _checked(question, options, answer, _raw_type(written, question))


def _raw_type(written: Any, question: str) -> str:
    """Return the type that a row names, or else the one that its wording has."""
    if written in TYPES:
        return str(written)
    words = question.lower()
    named = [kind for kind, pattern in WORDINGS.items() if re.search(pattern, words)]
    return named[-1] if named else "other"


def _checked(
    question: Any, options: tuple[str, ...], answer: int, raw_type: str
) -> SatQuestion:
    if not isinstance(question, str) or not question.strip():
        raise Unusable("no question")
    if not 2 <= len(options) <= len(LETTERS):
        raise Unusable("fewer than 2 or more than 6 options")
    return SatQuestion(question.strip(), options, answer, raw_type)


def encoded_images(row: Mapping[str, Any]) -> list[bytes]:
    """Return the encoded images of a row, whichever reader made it; raises Unusable.

    A cell holds bytes, {"bytes", "path"} or a PIL image, alone or in a list.
    """
    cells = next((row[name] for name in IMAGE_COLUMNS if row.get(name)), None)
    cells = cells if isinstance(cells, list) else [cells]
    return [_encoded(cell) for cell in cells]


def _encoded(cell: Any) -> bytes:
    if isinstance(cell, Image.Image):
        buffer = io.BytesIO()
        cell.save(buffer, "PNG")
        return buffer.getvalue()
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise Unusable("picture missing")
    return data
