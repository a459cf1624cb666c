"""Ranges declared with the fields, and the check of a whole typed config against them."""

from __future__ import annotations

from dataclasses import field, fields, is_dataclass
from typing import Any, NoReturn

from actial.core.errors import UserError


def num(default: Any, interval: str) -> Any:
    """Return a dataclass field of numbers with its range, in mathematical notation: "[0, 1)".

    `default` is a number, a list of numbers, None or MISSING.
    """
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"interval": interval})
    return field(default=default, metadata={"interval": interval})


def reject(key: str, value: object, remedy: str) -> NoReturn:
    """Raise the UserError of a value that cannot be used: key, value and remedy in one sentence."""
    raise UserError(f"{key}={value} cannot be used: {remedy}.")


def changed(settings: Any) -> dict[str, Any]:
    """Return what differs from the defaults in a dataclass whose fields all have one."""
    usual = type(settings)()
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}
    return {name: value for name, value in values.items() if value != getattr(usual, name)}


def inside(value: float, interval: str) -> bool:
    """Return whether a number lies in an interval; nan lies in none.

    >>> inside(1, "(0, 1]"), inside(1, "[0, 1)")
    (True, False)
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def validate(node: Any, path: str = "") -> None:
    """Check the range of every `num` field below `node`, then the rules that its dataclasses
    `check`.

    Inner nodes come first. Raises UserError with the full key ("sft.optim.lr"), value and remedy.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            validate(value, f"{path}{key}.")
    if not is_dataclass(node):
        return
    for item in fields(node):
        value = getattr(node, item.name)
        if interval := item.metadata.get("interval"):
            numbers = value if isinstance(value, list) else [] if value is None else [value]
            for number in numbers:
                if not inside(number, interval):
                    reject(path + item.name, number, f"give a number in {interval}")
        validate(value, f"{path}{item.name}.")
    if hasattr(node, "check"):
        node.check(path)
