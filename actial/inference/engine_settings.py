"""Settings of an engine that vLLM refuses, as sentences for the user."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from actial.core.errors import UserError


def refuse_unknown_settings(given: Iterable[str], of_vllm: Iterable[str]) -> None:
    """Raise UserError for a name in sampler.engine that vLLM does not know."""
    names = set(of_vllm)
    for name in given:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(f"sampler.engine.{name} is no setting of vLLM's engine{hint}.")


def first_reason(error: ValueError) -> str:
    """Return the first sentence of vLLM's own, or the first setting that pydantic refuses."""
    lines = [line.strip() for line in str(error).splitlines()] or ["no reason given"]
    own = [line for line in lines if line.startswith("Value error, ")]
    reason = (own or lines)[0].removeprefix("Value error, ")
    if not own and "validation error" in reason and len(lines) > 2:
        reason = f"{lines[1]}: {lines[2]}"  # its heading is followed by name and reason
    return reason.partition(". ")[0].partition(" [type=")[0]
