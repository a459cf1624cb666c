"""A log of training steps: one JSON object per line, written as the steps complete."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actial.core.atomic_io import write_text
from actial.core.json_lines import append_lines, read_complete_lines
from actial.runs.renamed_metrics import with_current_names


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
        append_lines(self.path, [json.dumps(entry).encode() + b"\n"], durable=False)

    def entries(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Return all complete entries, of `stage` alone where it is given.

        A last line that a kill cut short is left out. Metrics have today's names.
        """
        if not self.path.exists():
            return []
        lines = read_complete_lines(self.path)
        entries = [with_current_names(json.loads(line)) for line in lines]
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
        write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in remaining))
