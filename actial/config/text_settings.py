"""Which settings of a command hold text, such as a path, and what was typed for one."""

from __future__ import annotations

import os
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING


@dataclass(frozen=True, slots=True)
class TextSetting:
    """A setting of type str, or of str or None."""

    may_be_null: bool
    needs_text: bool  # an empty text stands for nothing: it has no default, or None


def text_setting(schema: type | None, key: str) -> TextSetting | None:
    """Return the text setting that a key of an override names, None for any other key.

    >>> from actial.config import BuildConfig
    >>> text_setting(BuildConfig, "source.root")
    TextSetting(may_be_null=False, needs_text=True)
    """
    kind: Any = schema
    default: object = NO_DEFAULT
    for name in key.lstrip("+").split("."):
        kind = _without_none(kind)[0]
        if is_dataclass(kind):
            if not any(item.name == name for item in fields(kind)):
                return None
            default = next(item.default for item in fields(kind) if item.name == name)
            kind = get_type_hints(kind)[name]
        elif get_origin(kind) is dict:
            default, kind = NO_DEFAULT, get_args(kind)[1]
        else:
            return None
    kind, may_be_null = _without_none(kind)
    if kind is not str:
        return None
    return TextSetting(may_be_null, default is None or default == MISSING)


def _without_none(kind: Any) -> tuple[Any, bool]:
    """Return X and True of `X | None`, and any other type with False."""
    choices = [choice for choice in get_args(kind) if choice is not NoneType]
    if len(choices) == 1 and NoneType in get_args(kind):
        return choices[0], True
    return kind, False


def with_home(text: str) -> str:
    """Return a path with the home folder for its ~, which no shell expands after `key=`."""
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text
