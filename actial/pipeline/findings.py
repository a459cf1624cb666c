"""What actial.doctor has found: lines with a status, and their table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(slots=True)
class Finding:
    """One line of the table; a warning or failure says what to do."""

    check: str
    status: Status
    text: str


Lines = Iterator[tuple[Status, str]]


def table(findings: list[Finding]) -> str:
    """One line per finding, in columns."""
    width = max(len(finding.check) for finding in findings)
    lines = [f"{line.status.value}  {line.check:{width}}  {line.text}" for line in findings]
    return "\n".join(lines)
