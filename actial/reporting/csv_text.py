"""Write tables as CSV that a spreadsheet opens as what they are."""

from __future__ import annotations

from typing import Any

import pandas as pd

from actial.core.text_files import is_number

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV; names and texts of other people's runs are no formulas in it."""
    columns = [inert_cell(name) for name in table.columns]
    return table.map(inert_cell).set_axis(columns, axis=1).to_csv(index=False)


def inert_cell(value: Any) -> Any:
    """Return a cell, with an apostrophe before a text that a spreadsheet would compute.

    Numbers stay numbers, also negative ones that are written as text.
    """
    if not isinstance(value, str) or not value.startswith(FORMULA_SIGNS) or is_number(value):
        return value
    return f"'{value}"
