"""How many lines the logs of a finished run have: a checksum of each line does not miss a line.

results.json, which is written last, has the number under "lines" for each log
beside or below it. Those of earlier versions have none, and nothing is known of
their logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from actial.core.errors import UserError
from actial.core.json_lines import read_complete_lines
from actial.core.sealed_files import read_sealed_json

RESULTS = "results.json"
LINES = "lines"
RESCORE = "remove it and run the same command again, which scores the saved answers"
DEPTH = 5  # of scores/MODEL/SET/diagnostics/predictions.jsonl below results.json


def count_lines(folder: Path, models: Iterable[str], sets: Sequence[str]) -> dict[str, int]:
    """Return the number of complete lines of each log of a run, or of an evaluation, in `folder`.

    Answers lie in scores/MODEL/SET of a run, and in `folder` or SET of an evaluation.
    """
    answers = ["", *(f"{name}/" for name in sets)]
    answers += [f"scores/{model}/{name}/" for model in models for name in sets]
    answers += [f"{name}diagnostics/" for name in answers]
    names = ["metrics.jsonl", *(f"{name}predictions.jsonl" for name in answers)]
    logs = {name: folder / name for name in names if (folder / name).is_file()}
    return {name: len(read_complete_lines(path)) for name, path in logs.items()}


def check_line_count(path: Path) -> None:
    """Raise UserError for a log with fewer or more lines than its results.json has counted."""
    absolute = path.absolute()
    for folder in absolute.parents[:DEPTH]:
        if (folder / RESULTS).is_file():
            name = absolute.relative_to(folder).as_posix()
            expected = _counted(folder).get(name)
            if expected is not None:
                _compare(path, expected)
            return


def check_all_line_counts(folder: Path) -> None:
    """Raise UserError for the first log of a finished run that has lost lines, or is gone."""
    for name, expected in _counted(folder).items():
        _compare(folder / name, expected)


def _counted(folder: Path) -> dict[str, int]:
    counted: dict[str, int] = read_sealed_json(folder / RESULTS, RESCORE).get(LINES, {})
    return counted


def _compare(path: Path, expected: int) -> None:
    present = len(read_complete_lines(path)) if path.is_file() else 0
    if present == expected:
        return
    remedy = "put a copy back, or remove this run folder and train anew"
    if path.name == "predictions.jsonl":
        remedy = (
            f"put a copy back, or remove {RESULTS} and run the same command again, which asks "
        )
        remedy += "the missing questions"
    raise UserError(f"{path} is damaged ({present} lines instead of {expected}): {remedy}.")
