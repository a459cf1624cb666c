"""The file of chains of thought that `python -m actial.chains` writes, as training reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from actial.core.errors import UserError
from actial.core.set_records import QuestionType


@dataclass(slots=True, frozen=True)
class TeacherRationale:
    """A verified chain of thought that a teacher wrote about one question of a pair."""

    type: QuestionType
    text: str


def check_chains_file(path: Path, pairs: str | Path) -> None:
    """Raise UserError when a teacher's file for the set `pairs` is missing."""
    if not path.is_file():
        raise UserError(
            f"cold_start.source={path} does not exist: a teacher writes it by `python -m "
            f"actial.chains pairs={pairs} teacher=NAME url=URL out={path.parent}`; "
            "cold_start.source=grounded writes chains of thought from the poses instead."
        )


def no_chain_for(path: Path, pairs: str | Path) -> str:
    """Return the message for a file without a chain of thought about the set `pairs`."""
    return (
        f"cold_start.source={path} has no chain for a pair of {pairs}: make it from this set with "
        f"`python -m actial.chains pairs={pairs} ...`."
    )


def read_rationales(path: Path, pairs: str | Path) -> dict[str, TeacherRationale]:
    """Return pair id -> rationale, as `python -m actial.chains` wrote them; raises UserError."""
    check_chains_file(path, pairs)
    try:
        return {
            entry["uid"]: TeacherRationale(QuestionType(entry["type"]), entry["chain"])
            for entry in map(json.loads, path.read_text(encoding="utf-8").splitlines())
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cold_start.source={path} is not what `python -m actial.chains` writes ({error!r}): "
            "make it again."
        ) from error
