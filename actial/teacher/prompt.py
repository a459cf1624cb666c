"""The request to a teacher: the stages of a chain of thought and the right answers (paper 4)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from actial.core.image_codec import data_url
from actial.core.records import Question
from actial.core.set_records import ViewPair

STAGES = (
    "You see two photos of one object that did not move; the camera did. Write the "
    "reasoning of somebody who looks at both photos,\n"
    "works out how the camera moved, and then answers the question at the end. Go "
    "through these stages, a short paragraph each:\n"
    "1. Images: what the object is, and which part of it each photo shows.\n"
    "2. Comparison: how the view of the object, its distance and the background differ "
    "between the photos.\n"
    "3. Movements: where the camera went, to its own left or right, and how it turned, "
    "to its left or right, by about how many degrees.\n"
    "4. Path: the whole movement in one sentence, first as seen from the camera, then as "
    "seen from the object facing the camera of photo 1.\n"
    "5. Conclusion: the answer to the question.\n"
    'Keep the two frames of reference apart: say "the camera moved to its left" or "seen '
    'from the object, the camera moved to the right".\n'
    "Argue from which parts of the object come into view or go out of view and from the "
    "depth of the scene. Never argue from where something\n"
    "stands in the flat picture: a camera can aim anywhere. Do not mention that you were "
    "told the answers."
)
# Runs of signs are bounded: "answer" with thousands of colons must not take quadratic time.
CLOSING = re.compile(
    r"^[^\w\n]{0,20}answer\W{0,20}[:=]\W{0,20}\(?([A-Fa-f]|\d+(?:\.\d+)?)\)?\W*$",
    re.IGNORECASE | re.MULTILINE,
)


def right_answers(pair: ViewPair) -> str:
    """Return the right answers about a pair, in the words that the verifier reads."""
    labels = pair.labels
    sentences = [
        ("seen from the camera, it moved: {}", labels.ego_translation),
        ("seen from the object, the camera moved: {}", labels.object_translation),
        ("the camera turned: {}", labels.ego_rotation),
        ("by about {:.0f} degrees", labels.ego_rotation_deg),
        ("the camera moved: {}", labels.ego_vertical),
        ("the camera moved: {}", labels.ego_depth),
    ]
    return "; ".join(form.format(answer) for form, answer in sentences if answer is not None)


def chat_request(
    pair: ViewPair, question: Question, images: Sequence[bytes], example: str | None = None
) -> list[dict[str, Any]]:
    """Return the messages of one chat request.

    Args:
        images: the encoded photos, in order.
        example: a chain of thought for another pair that shows the form.
    """
    photos = [{"type": "image_url", "image_url": {"url": data_url(data)}} for data in images]
    closing = "letter of its option" if question.options else "number"
    paragraphs = [STAGES]
    if example:
        paragraphs.append(f"A chain for another pair, for its form only:\n{example}")
    paragraphs += [
        f"Question: {question.text}",
        f"The right answers for this pair: {right_answers(pair)}.",
        f'Close with a line of its own: "Answer: " and the {closing}, nothing behind it.',
    ]
    text = {"type": "text", "text": "\n\n".join(paragraphs)}
    return [{"role": "user", "content": [*photos, text]}]


def read_reply(text: str) -> tuple[str, str | None]:
    """Return (chain of thought, closing letter or number) of a teacher's reply.

    Think and answer tags of its own are taken off; the answer is None where no line closes so.
    """
    bare = re.sub(r"</?think>|</?answer>", "", text, flags=re.IGNORECASE).strip()
    closings = list(CLOSING.finditer(bare))
    if not closings:
        return bare, None
    return bare[: closings[-1].start()].strip(), closings[-1].group(1).upper()
