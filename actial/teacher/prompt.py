"""The request to a teacher: a template with the right answers, and what its reply says (paper 4).

A template is a text with {answers}, {question} and {closing} where these go. `sections`
is ours in the paper's sections, with an example (conf/teacher_template/sections.md);
`short` has no example.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actial.core.errors import UserError
from actial.core.image_codec import data_url
from actial.core.paths import CONF
from actial.core.records import Question
from actial.core.set_records import ViewPair
from actial.core.text_files import read_utf8

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
SHORT = "\n\n".join(
    [
        STAGES,
        "Question: {question}",
        "The right answers for this pair: {answers}.",
        'Close with a line of its own: "Answer: " and the {closing}, nothing behind it.',
    ]
)
FIELDS = ("{answers}", "{question}", "{closing}")
# Runs of signs are bounded: "answer" with thousands of colons must not take quadratic time.
CLOSING = re.compile(
    r"^[^\w\n]{0,20}answer\W{0,20}[:=]\W{0,20}\(?([A-Fa-f]|\d+(?:\.\d+)?)\)?\W*$",
    re.IGNORECASE | re.MULTILINE,
)
END_OF_THINKING = "</think>"
WORDS_OF_A_CHAIN = 12  # fewer behind a teacher's own thinking are an answer alone


def read_template(setting: str) -> str:
    """Return the template that `template=` names: sections, short, or file:PATH.

    Raises UserError for a file that is missing or lacks a field.
    """
    if setting == "short":
        return SHORT
    path = CONF / "teacher_template" / "sections.md"
    if setting.startswith("file:"):
        path = Path(setting.removeprefix("file:"))
    elif setting != "sections":
        raise UserError(f"template={setting} is unknown: give sections, short, or file:PATH.")
    if not path.is_file():
        raise UserError(
            f"template={setting} does not exist: give a text with {', '.join(FIELDS)}, such as "
            "conf/teacher_template/sections.md."
        )
    template = read_utf8(path, f"template={setting}").strip()
    missing = [field for field in FIELDS if field not in template]
    if missing:
        raise UserError(
            f"template={setting} lacks {', '.join(missing)}: the question, the right answers and "
            "what the last line must hold go there."
        )
    return template


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
    pair: ViewPair, question: Question, images: Sequence[bytes], template: str = SHORT
) -> list[dict[str, Any]]:
    """Return the messages of one chat request.

    Args:
        images: the encoded photos, in order.
        template: a text with the fields of this module.
    """
    photos = [{"type": "image_url", "image_url": {"url": data_url(data)}} for data in images]
    closing = "letter of its option" if question.options else "number"
    values = (right_answers(pair), question.text, closing)
    text = template
    # Not str.format: a template of the user's may hold braces.
    for field, value in zip(FIELDS, values, strict=True):
        text = text.replace(field, value)
    return [{"role": "user", "content": [*photos, {"type": "text", "text": text}]}]


def read_reply(text: str) -> tuple[str, str | None]:
    """Return (chain of thought, closing letter or number) of a teacher's reply.

    Think and answer tags are taken off. A teacher that thinks by itself first, in tags,
    and then writes the chain is read behind its thinking. The answer is None where no
    line closes so.
    """
    _, tag, written = text.rpartition(END_OF_THINKING)
    if tag and (closings := list(CLOSING.finditer(written))):
        chain = written[: closings[-1].start()].strip()
        if len(chain.split()) >= WORDS_OF_A_CHAIN:
            return chain, closings[-1].group(1).upper()
    bare = re.sub(r"</?think>|</?answer>", "", text, flags=re.IGNORECASE).strip()
    closings = list(CLOSING.finditer(bare))
    if not closings:
        return bare, None
    return bare[: closings[-1].start()].strip(), closings[-1].group(1).upper()
