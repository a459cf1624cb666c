"""Named checks whose failures reject a capture, each with the measured value and its limit."""

from __future__ import annotations

from actial.core.errors import Rejected

Faults = dict[str, str]  # reason -> the measured value and its limit


def reject_if(faults: Faults) -> None:
    """Raise Rejected with all faults, if there are any."""
    if faults:
        raise Rejected(*faults, detail="; ".join(faults.values()))


def failed_checks(checks: dict[str, tuple[bool, str]]) -> Faults:
    """Return reason -> text of the (passed, text) checks that failed."""
    return {reason: text for reason, (passed, text) in checks.items() if not passed}
