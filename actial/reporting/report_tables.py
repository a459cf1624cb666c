"""Arrange a run's results as the tables of its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from actial.evaluation.protocol import Protocol, protocol_remarks
from actial.evaluation.results import (
    CONDITIONS,
    Controls,
    Diagnostics,
    Gain,
    PaperComparison,
    SetResult,
    ShortcutMargin,
)
from actial.grading.metrics import Cell

ABSENT = "\N{EN DASH}"


@dataclass(slots=True, frozen=True)
class Head:
    """A model as the report names it."""

    label: str
    color: str


@dataclass(slots=True)
class TableCell:
    value: str
    interval: str = ""
    best: bool = False  # its lower limit lies above every other model's value


@dataclass(slots=True)
class TableRow:
    name: str
    cells: list[TableCell]
    kind: str = ""  # "main" is set in bold, "minor" in gray
    n: str = ""


@dataclass(slots=True)
class Table:
    name: str
    heads: list[Head]
    rows: list[TableRow]
    notes: str = ""


@dataclass(slots=True)
class PaperTable:
    name: str
    columns: list[str]
    rows: list[TableRow]
    notes: str


Heads = Mapping[str, Head]  # model -> its head, in display order


def percent(value: float | None) -> str:
    """Return a share in percent with one decimal; a dash for None."""
    return ABSENT if value is None else f"{100 * value:.1f}".replace("-", "\N{MINUS SIGN}")


# ---------------------------------------------------------------- tables


def set_table(name: str, results: Mapping[str, SetResult], heads: Heads) -> Table:
    """Tabulate every model's figures on one set."""
    columns = [results.get(model) for model in heads]
    rows = [_figure_row("all questions", _pick(columns, lambda r: r.overall), "main")]
    pairs = _pick(columns, lambda r: r.all_correct)
    if any(pairs):
        rows.append(_figure_row("all questions of a pair correct", pairs, "main"))
    kinds = sorted({kind for result in results.values() for kind in result.by_type})
    if len(kinds) > 1:
        for kind in kinds:
            cells = _pick(columns, lambda r, kind=kind: r.by_type.get(kind))
            rows.append(_figure_row(kind.replace("_", " "), cells))
    shares: dict[str, Callable[[SetResult], float]] = {
        "unparsed answers": lambda r: r.unparsed,
        "of these, truncated": lambda r: r.truncated,
        "format compliance": lambda r: r.format_compliance,
    }
    for label, share in shares.items():
        rows.append(_text_row(label, [percent(share(r) if r else None) for r in columns]))
    lengths = [r.tokens if r else None for r in columns]
    if any(length is not None for length in lengths):
        texts = [ABSENT if length is None else f"{length:.0f}" for length in lengths]
        rows.append(_text_row("tokens per answer", texts))
    hashes = [r.protocol.get("hash", ABSENT) if r else ABSENT for r in columns]
    if set(hashes) != {ABSENT}:
        rows.append(_text_row("protocol", hashes))
    protocols = {
        head.label: Protocol.from_json(result.protocol) if result.protocol else None
        for head, result in zip(heads.values(), columns, strict=True)
        if result
    }
    notes = protocol_remarks(list(protocols.items()))
    return Table(name, list(heads.values()), rows, "; ".join(notes))


def paper_table(name: str, figures: PaperComparison) -> PaperTable:
    """Tabulate published figures, and ours in the last row."""
    rows = [_published_row(model, values) for model, values in figures.rows.items()]
    rows.append(_published_row("this model", figures.ours, "main"))
    return PaperTable(name, figures.columns, rows, "; ".join(figures.notes))


GAIN_LABELS = {"thinking": "what thinking adds", "images": "what the images add"}


def controls_table(name: str, reports: Mapping[str, Controls], heads: Heads) -> Table:
    """Tabulate every model's accuracy under the control conditions, and what they show."""
    columns = [reports.get(model) for model in heads]
    rows = []
    for condition in CONDITIONS:
        cells = _pick(columns, lambda r, name=condition: r.accuracy.get(name))
        if any(cells):
            rows.append(_figure_row(condition, cells))
    for gain, label in GAIN_LABELS.items():
        gains = [r.gains.get(gain) if r else None for r in columns]
        if any(gains):
            counts = {str(g.n) for g in gains if g}
            differences = [_difference_cell(g) for g in gains]
            rows.append(TableRow(label, differences, "main", "/".join(sorted(counts))))
    for condition in CONDITIONS:
        lengths = [r.tokens.get(condition) if r else None for r in columns]
        if not any(lengths):
            continue
        texts = [ABSENT if length is None else f"{length:.0f}" for length in lengths]
        rows.append(_text_row(f"tokens per answer, {condition}", texts))
    return Table(name, list(heads.values()), rows)


CHECK_LABELS = {
    "swap": "swapped images",
    "mirror": "mirrored images",
    "options": "reordered options",
    "three questions": "three questions agree",
}


def diagnostics_table(name: str, reports: Mapping[str, Diagnostics], heads: Heads) -> Table:
    """Tabulate every model's diagnostics on one set, without checks that do not apply."""
    columns = [reports.get(model) for model in heads]
    rows = [_figure_row("accuracy", _pick(columns, lambda r: r.accuracy), "main")]
    for check, label in CHECK_LABELS.items():
        checks = [r.checks.get(check) if r else None for r in columns]
        consistent = [c.consistent if c else None for c in checks]
        correct = [c.consistent_correct if c else None for c in checks]
        if any(cell and cell.n for cell in consistent):
            rows.append(_figure_row(f"{label}: consistent", consistent))
            rows.append(_figure_row("… and correct", correct, "minor"))
    rows += _nested_rows("{} degrees apart", [r.by_angle if r else {} for r in columns])
    rows += _nested_rows("shortcut: {}", [r.shortcuts if r else {} for r in columns])
    margins = [_difference_cell(r.margin if r else None) for r in columns]
    rows.append(TableRow("accuracy above the best shortcut", margins, "main"))
    drops = [r.visual_dependence if r else None for r in columns]
    if any(drops):
        texts = [f"{drop.value:.2f} nats" if drop else ABSENT for drop in drops]
        rows.append(_text_row("log-probability lost when the images turn gray", texts))
    return Table(name, list(heads.values()), rows)


# ---------------------------------------------------------------- rows


def _pick(
    columns: Sequence[SetResult | Controls | Diagnostics | None],
    figure: Callable[..., Cell | None],
) -> list[Cell | None]:
    """Return one figure of every model; None where the model or the figure is absent."""
    return [figure(column) if column else None for column in columns]


def _figure_row(name: str, cells: Sequence[Cell | None], kind: str = "") -> TableRow:
    present = [cell for cell in cells if cell]
    counts = sorted({str(cell.n) for cell in present})
    formatted = [_table_cell(cell, present) for cell in cells]
    return TableRow(name, formatted, kind, "/".join(counts))


def _table_cell(cell: Cell | None, present: Sequence[Cell]) -> TableCell:
    if not cell or cell.n == 0:
        return TableCell(ABSENT)
    others = [other for other in present if other is not cell]
    best = bool(others) and all(cell.low > other.value for other in others)
    return TableCell(percent(float(cell.value)), _interval(cell.low, cell.high), best)


def _difference_cell(difference: ShortcutMargin | Gain | None) -> TableCell:
    if difference is None:
        return TableCell(ABSENT)
    interval = _interval(difference.low, difference.high)
    return TableCell(percent(difference.value), interval)


def _interval(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"


def _nested_rows(pattern: str, columns: Sequence[Mapping[str, Cell]]) -> list[TableRow]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [
        _figure_row(pattern.format(name), [column.get(name) for column in columns])
        for name in names
    ]


def _text_row(name: str, values: Sequence[str]) -> TableRow:
    return TableRow(name, [TableCell(value) for value in values], "minor")


def _published_row(name: str, values: Sequence[float | None], kind: str = "") -> TableRow:
    texts = [ABSENT if value is None else str(value) for value in values]
    return TableRow(name, [TableCell(text) for text in texts], kind)
