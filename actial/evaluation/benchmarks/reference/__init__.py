"""Published figures of the Actial paper (arXiv 2511.01618): Tables 1 and A1, Viewpoint-100K."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from actial.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Table:
    """Percentages as printed; None where the paper prints none."""

    name: str
    columns: tuple[str, ...]
    rows: dict[str, dict[str, float | None]]

    def row(self, model: str) -> dict[str, float | None]:
        """Raises UserError for a model that is not in the table."""
        if model not in self.rows:
            raise UserError(
                f"table {self.name} has no row {model}: it has {', '.join(self.rows)}."
            )
        return self.rows[model]


@cache
def table(name: str) -> Table:
    """table1, table_a1 or viewpoint."""
    path = Path(__file__).parent / f"{name}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        head, *lines = list(csv.reader(file))
    rows = {
        model: {c: float(v) if v else None for c, v in zip(head[1:], values, strict=True)}
        for model, *values in lines
    }
    return Table(name, tuple(head[1:]), rows)
