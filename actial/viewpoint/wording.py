"""The wording of the viewpoint questions: ours, or the user's from a YAML file.

The file names what differs from ours:

    questions:                 # {last} is the number of the last photo
      ego_translation: "..."
      object_translation: "..."
      ego_rotation: "..."
    options:                   # side -> text
      ego_translation: {left: "...", right: "...", none: "..."}
    layout: "{question} {options}"          # a request to think
    direct_layout: "{question} {options} {instruction}"
    instruction: "..."         # the request for the letter alone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from actial.core.errors import UserError
from actial.core.records import AnswerMode
from actial.core.set_records import QuestionType

SIDES = {"left", "right", "none"}
KEYS = ("questions", "options", "layout", "direct_layout", "instruction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Texts that replace ours; an empty one leaves ours in place."""

    questions: Mapping[QuestionType, str] = field(default_factory=dict)
    options: Mapping[QuestionType, Mapping[str, str]] = field(default_factory=dict)
    layout: str = "{question}\n{options}"
    direct_layout: str = "{question}\n{options}\n{instruction}"
    instruction: str = ""

    def text(self, question: str, options: str, mode: AnswerMode, instruction: str) -> str:
        """Return the user's text behind the images."""
        layout = self.direct_layout if mode is AnswerMode.DIRECT else self.layout
        return layout.format(
            question=question, options=options, instruction=self.instruction or instruction
        )


@cache
def read_wording(setting: str) -> Wording | None:
    """Return the wording of `questions.wording`; None for ours.

    Raises UserError for a file that cannot be read or has other keys.
    """
    if setting == "ours":
        return None
    path = Path(setting.removeprefix("file:"))
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or not set(raw) <= set(KEYS):
            raise ValueError(f"its keys must be among {', '.join(KEYS)}")
        return _wording(raw)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"questions.wording={setting} cannot be read ({reason}): "
            "`python -m actial.import_release DIR` writes the release's; "
            "actial/viewpoint/wording.py describes the file."
        ) from error


def _wording(raw: Mapping[str, Any]) -> Wording:
    options = {}
    for kind, texts in raw.get("options", {}).items():
        if set(texts) != SIDES:
            raise ValueError(f"options of {kind} must be {', '.join(sorted(SIDES))}")
        for side in ("left", "right"):
            if side not in texts[side].lower():
                raise ValueError(f"the option {texts[side]!r} of {kind} does not say {side}")
        options[QuestionType(kind)] = texts
    texts = {key: raw[key] for key in ("layout", "direct_layout", "instruction") if key in raw}
    questions = {QuestionType(kind): text for kind, text in raw.get("questions", {}).items()}
    return Wording(questions=questions, options=options, **texts)
