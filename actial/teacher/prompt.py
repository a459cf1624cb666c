"""What the teacher is told: the stages of a chain, the pair's right answers, and what not to argue from (paper 4)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from actial.core.image_codec import data_url
from actial.core.records import Question

STAGES = """You see two photos of one object that did not move; the camera did. Write the reasoning of somebody who looks at both photos,
works out how the camera moved, and then answers the question at the end. Go through these stages, a short paragraph each:
1. Images: what the object is, and which part of it each photo shows.
2. Comparison: how the view of the object, its distance and the background differ between the photos.
3. Movements: where the camera went, to its own left or right, and how it turned, to its left or right, by about how many degrees.
4. Path: the whole movement in one sentence, first as seen from the camera, then as seen from the object facing the camera of photo 1.
5. Conclusion: the answer to the question.
Keep the two frames of reference apart: say "the camera moved to its left" or "seen from the object, the camera moved to the right".
Argue from which parts of the object come into view or go out of view and from the depth of the scene. Never argue from where something
stands in the flat picture: a camera can aim anywhere. Do not mention that you were told the answers."""
CLOSING = re.compile(
    r"^\W*answer\W*[:=]\W*\(?([A-Fa-f]|\d+(?:\.\d+)?)\)?\W*$", re.IGNORECASE | re.MULTILINE
)


def facts(row: Mapping) -> str:
    """The right answers, in the words the verifier reads."""
    labels = row["labels"]
    told = {
        "ego_translation": "seen from the camera, it moved: {}",
        "object_translation": "seen from the object, the camera moved: {}",
        "ego_rotation": "the camera turned: {}",
        "ego_rotation_deg": "by about {:.0f} degrees",
        "ego_vertical": "the camera moved: {}",
        "ego_depth": "the camera moved: {}",
    }
    return "; ".join(
        words.format(labels[name]) for name, words in told.items() if labels.get(name) is not None
    )


def messages(
    row: Mapping, question: Question, pictures: Sequence[bytes], example: str | None = None
) -> list[dict]:
    """One chat request; `pictures` are encoded photos in order, `example` a chain for another pair that shows the form."""
    shown = [{"type": "image_url", "image_url": {"url": data_url(data)}} for data in pictures]
    closing = "letter of its option" if question.options else "number"
    parts = [STAGES]
    if example:
        parts.append(f"A chain for another pair, for its form only:\n{example}")
    parts.append(f"Question: {question.text}")
    parts.append(f"The right answers for this pair: {facts(row)}.")
    parts.append(f'Close with a line of its own: "Answer: " and the {closing}, nothing behind it.')
    return [{"role": "user", "content": [*shown, {"type": "text", "text": "\n\n".join(parts)}]}]


def read_reply(text: str) -> tuple[str, str | None]:
    """(chain, closing letter or number) of a teacher's reply; think and answer tags of its own are taken off."""
    bare = re.sub(r"</?think>|</?answer>", "", text, flags=re.IGNORECASE).strip()
    found = list(CLOSING.finditer(bare))
    if not found:
        return bare, None
    return bare[: found[-1].start()].strip(), found[-1].group(1).upper()
