"""The type of a viewpoint question of a published set, recognized from its wording and options."""

from __future__ import annotations

import re
from collections.abc import Sequence

from actial.core.set_records import QuestionType

_VIEW = r"(?:perspective|point of view|viewpoint|view|frame of reference|standpoint)"
_OWN = r"(?:own |original |local )?"
# Each names in its group whose view it is: "the mug's perspective", "as seen from the mug".
_OWNERS = (
    re.compile(rf"\b([\w-]+)'s {_OWN}{_VIEW}"),
    re.compile(rf"\b{_VIEW} of (?:the |an? )?([\w-]+)"),
    re.compile(
        r"\b(?:seen|viewed|observed|looking|looked at) (?:from|by) (?:the |an? )?([\w-]+)"
    ),
    re.compile(rf"\bfrom (?:the |an? )?([\w-]+) {_VIEW}"),
)
_CAMERA = {"camera", "photographer", "viewer", "observer", "your", "our", "ego", "egocentric"}
_NOBODY = {
    *(
        "first",
        "second",
        "third",
        "last",
        "one",
        "this",
        "that",
        "its",
        "each",
        "both",
        "same",
    ),
    *("image", "images", "photo", "photos", "picture", "pictures", "frame", "frames"),
    *("the", "a", "an", "left", "right", "above", "behind", "front"),
    *("different", "another", "other", "new", "position", "location"),
}


def recognize_type(question: str, options: Sequence[str]) -> QuestionType | None:
    """Return the type of a question, or None for a question without options that we know.

    The options tell translation from rotation; the wording tells whose left and right are meant.
    """
    texts = " | ".join(option.lower() for option in options)
    if not texts:
        return None
    if sum(any(sign.isdigit() for sign in option) for option in options) > 1:
        return QuestionType.ROTATION_DEGREES
    if re.search(r"\b(?:rotat|turn|yaw|pan)", texts):
        return QuestionType.EGO_ROTATION
    if re.search(r"\b(?:up|down|upwards?|downwards?)\b", texts):
        return QuestionType.EGO_VERTICAL
    if re.search(r"\b(?:forwards?|backwards?|closer|further)\b", texts):
        return QuestionType.EGO_DEPTH
    if not re.search(r"\b(?:left|right)", texts):
        return None
    if asks_object_view(question):
        return QuestionType.OBJECT_TRANSLATION
    return QuestionType.EGO_TRANSLATION


def asks_object_view(question: str) -> bool:
    """Tell whether a question means left and right as the object has them."""
    words = question.lower().replace("\u2019", "'")
    owners = {match for pattern in _OWNERS for match in pattern.findall(words)}
    return bool(owners - _CAMERA - _NOBODY)
