"""The system prompts by name, from a file, or as text."""

from __future__ import annotations

from pathlib import Path

from actial.config import PromptConfig
from actial.core.errors import UserError

# No placeholder text inside the tags of `clean`: a model that repeats its instruction could be
# graded on it (paper 5, trap a). `paraphrase` is built as the release's prompt is, in our words: a
# role, reasoning before the answer, and both tag pairs shown with placeholder text inside. The
# release's own text is read from the user's copy: file:PATH.
SYSTEM_PROMPTS: dict[str, str | None] = {
    "none": None,
    "paraphrase": (
        "|\nYou are Actial, an assistant with strong spatial reasoning. Reason first, then answer, "
        "in this form: <think> your reasoning </think> <answer> your answer </answer>"
    ),
    "clean": "Reason inside <think> </think>, then give the letter inside <answer> </answer>.",
}

# what the release's own text holds, by which import_release finds it in a clone
RELEASE_MARKS = ("<think>", "<answer>", "Actial")


def may_be_the_release_s(text: str | None) -> bool:
    """Return whether a prompt is built as the release's is, and is none of ours."""
    if text is None or text in SYSTEM_PROMPTS.values():
        return False
    return all(mark in text for mark in RELEASE_MARKS)


def system_prompt_text(config: PromptConfig) -> str | None:
    """Return the system prompt's text; None for none.

    Raises UserError for a file that cannot be read.
    """
    name = config.system_prompt
    kind, colon, value = name.partition(":")
    if colon and kind == "text":
        return value
    if colon and kind == "file":
        try:
            return Path(value).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"prompt.system_prompt={name} cannot be read ({error}): name a text file; "
                "the release's prompt is written by `python -m actial.import_release DIR`."
            ) from error
    return SYSTEM_PROMPTS[name]
