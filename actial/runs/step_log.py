"""A log of training steps: one JSON object per line, written as the steps complete."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actial.core.atomic_io import write_text
from actial.core.errors import UserError
from actial.core.json_lines import append_lines, read_complete_lines
from actial.core.line_counts import check_line_count
from actial.core.sealed_files import read_line, sealed_line
from actial.runs.renamed_metrics import with_current_names

REMEDY = "put a copy back, or remove this run folder and train anew"


class StepLog:
    """The file `path` with one JSON object per line, each with "stage", "step" and numbers.

    An entry is on disk when `write` returns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append one entry; a value that is not finite becomes null."""
        entry: dict[str, Any] = {"stage": stage, "step": step}
        for name, value in values.items():
            entry[name] = value if math.isfinite(value) else None
        append_lines(self.path, [sealed_line(entry)], durable=False)

    def entries(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Return all complete entries, of `stage` alone where it is given.

        A last line that a kill cut short is left out. Metrics have today's names.
        Raises UserError for a damaged line, and where lines of a finished run are
        missing.
        """
        check_line_count(self.path)
        if not self.path.exists():
            return []
        lines = read_complete_lines(self.path)
        entries = [self._entry(number, line) for number, line in enumerate(lines, 1)]
        return [entry for entry in entries if stage in (None, entry["stage"])]

    def rewind(self, stage: str, step: int) -> None:
        """Remove the entries after `step` of `stage`.

        A resumed run then writes the same bytes as one that was never interrupted.
        """
        remaining = [
            entry
            for entry in self.entries()
            if entry["stage"] != stage or entry["step"] <= step
        ]
        write_text(self.path, b"".join(map(sealed_line, remaining)).decode())

    def check_complete(self, stage: str, step: int, every: int) -> None:
        """Raise UserError unless a stage has the entries of `step` and of every `every`-th before.

        Step 0 has none.
        """
        steps = {entry["step"] for entry in self.entries(stage)}
        due = {*range(every, step + 1, every), step} - {0}
        if missing := sorted(due - steps):
            raise UserError(
                f"{self.path} is damaged ({len(missing)} entries of {stage} are missing, the first "
                f"of step {missing[0]}): {REMEDY}."
            )

    def _entry(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = read_line(line)
            numbers = [entry[name] for name in entry if name != "stage"]
            if not all(isinstance(value, int | float | None) for value in numbers):
                raise ValueError("a value is no number")
            return with_current_names(entry)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self.path} line {number} is damaged ({error}): {REMEDY}."
            ) from error
