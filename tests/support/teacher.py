"""What a good teacher replies to a request for a chain of thought."""

from __future__ import annotations

import re
from typing import Any

from support.fake_server import completion


def truthful(prompt: str) -> str:
    """What a good teacher says: from the answers it was told, in free prose."""
    ego = re.search(r"seen from the camera, it moved: (\w+)", prompt).group(1)
    seen = re.search(r"seen from the object, the camera moved: (\w+)", prompt).group(1)
    turn = re.search(r"the camera turned: (\w+); by about (\d+)", prompt)
    question = re.search(r"Question: (.*?)\n(A: .*?)\n", prompt, re.S)
    side = (
        turn.group(1)
        if "turn" in question.group(1)
        else seen
        if "from the object" in question.group(1)
        else ego
    )
    letter = re.search(rf"([A-C]): \w+ to the {side}", question.group(2)).group(1)
    text = f"Both photos show a mug. The camera clearly moved to its own {ego}."
    text += f" It rotated to the {turn.group(1)} by {turn.group(2)} degrees."
    return (
        f"{text} From the object's point of view, it went to the {seen}.\n\nAnswer: {letter}"
    )


def reply(number: int, body: dict[str, Any]) -> tuple[int, bytes, str]:
    """Return the chat completion of a truthful teacher, for `FakeServer(misbehave=reply)`."""
    return completion(truthful(body["messages"][-1]["content"][-1]["text"]))
