"""The tokens that stand for images in a family's prompts, and that end its turns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMarks:
    """How a family writes an image: `before`, one placeholder per visual token, `after`.

    The chat template writes one placeholder, in Qwen-VL's families with the marks around it.
    """

    placeholder: str
    before: tuple[str, ...] = ()  # what the template does not write
    after: tuple[str, ...] = ()
    end_of_turn: str
    banned: tuple[str, ...]  # tokens that a model must not sample


QWEN_VL = ImageMarks(
    placeholder="<|image_pad|>",
    end_of_turn="<|im_end|>",
    banned=(
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ),
)
SMOLVLM = ImageMarks(
    placeholder="<image>",
    before=("<fake_token_around_image>", "<global-img>"),
    after=("<fake_token_around_image>",),
    end_of_turn="<end_of_utterance>",
    banned=("<image>", "<fake_token_around_image>", "<global-img>"),
)
INTERNVL = ImageMarks(
    placeholder="<IMG_CONTEXT>",
    before=("<img>",),
    after=("</img>",),
    end_of_turn="<|im_end|>",
    banned=("<img>", "<IMG_CONTEXT>", "</img>"),
)
_OF_FAMILY = {"smolvlm": SMOLVLM, "internvl": INTERNVL}


def image_marks(family: str) -> ImageMarks:
    """The marks of a model_type."""
    return _OF_FAMILY.get(family, QWEN_VL)
