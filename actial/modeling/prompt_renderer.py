"""Messages -> token ids: the only file that touches a chat template. One renderer serves SFT, GRPO and evaluation.

Two id lists per prompt are kept apart: `engine_ids` with one placeholder per image (an engine expands them itself) and `trunk_ids` with the
placeholder repeated once per visual token (https://github.com/huggingface/trl/issues/6294). Prompts are never truncated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

from actial.config import ModelConfig, PromptConfig, SystemPrompt
from actial.core.errors import UserError
from actial.core.records import Example, Prompt, Question
from actial.modeling.prefix_packing import Continuation, PrefixGroup

SYSTEM_PROMPTS = {
    SystemPrompt.none: None,
    # Same build as the release's prompt: a role, reasoning before the answer, and both tag pairs shown with placeholder text inside.
    SystemPrompt.faithful: (
        "|\nYou are Actial, an assistant with strong spatial reasoning. Reason first, then answer, in this form: "
        "<think> your reasoning </think> <answer> your answer </answer>"
    ),
    # No placeholder text inside the tags: a model that repeats its instruction cannot be graded on it (paper 5, trap a).
    SystemPrompt.clean: "Reason inside <think> </think>, then give the letter inside <answer> </answer>.",
}
BANNED_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
KEPT_TEXTS = 4096


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What the model accepts: both sides multiples of `multiple`, area within [min_pixels, max_pixels]."""

    multiple: int
    min_pixels: int
    max_pixels: int

    def visual_tokens(self, image: np.ndarray, name: str) -> int:
        """Number of merged visual tokens of a uint8 (H, W, 3) image; UserError when its size is not one the model sees unresized."""
        height, width = image.shape[:2]
        if (
            height % self.multiple
            or width % self.multiple
            or not self.min_pixels <= height * width <= self.max_pixels
        ):
            raise UserError(
                f"image of {name} is {width}x{height}, but the model needs sides in multiples of {self.multiple} and an area of "
                f"{self.min_pixels}..{self.max_pixels} pixels: rebuild the data set with image.multiple={self.multiple} "
                f"and image.max_pixels={self.max_pixels}, or change model.min_pixels / model.max_pixels."
            )
        return (height // self.multiple) * (width // self.multiple)


class PromptRenderer:
    """Builds prompts and supervised trunks for one model folder and one system prompt."""

    def __init__(self, tokenizer: Any, limits: ImageLimits, system_prompt: str | None) -> None:
        self.tokenizer = tokenizer
        self.limits = limits
        self.system_prompt = system_prompt
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.stop_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.banned_ids = [tokenizer.convert_tokens_to_ids(token) for token in BANNED_TOKENS]
        self._known: dict[str, list[int]] = {}

    @classmethod
    def load(
        cls, model: ModelConfig, prompt: PromptConfig, path: Path | str | None = None
    ) -> PromptRenderer:
        """From a model folder or hub id; `path` overrides `model.path` (a later stage's checkpoint). UserError when it cannot be read."""
        folder, revision = path or model.path, (model.revision if path is None else None) or "main"
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
            processor = Qwen2VLImageProcessor.from_pretrained(folder, revision=revision)
        except OSError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"model.path={folder} gives no tokenizer or image processor ({reason}): give a model folder or hub id."
            ) from error
        multiple = processor.patch_size * processor.merge_size
        return cls(
            tokenizer,
            ImageLimits(multiple, model.min_pixels, model.max_pixels),
            SYSTEM_PROMPTS[prompt.system_prompt],
        )

    def _text(self, question: str, num_images: int, text_first: bool = False) -> str:
        messages: list[dict] = []
        if self.system_prompt is not None:
            messages.append(
                {"role": "system", "content": [{"type": "text", "text": self.system_prompt}]}
            )
        pictures, text = [{"type": "image"}] * num_images, [{"type": "text", "text": question}]
        messages.append(
            {"role": "user", "content": text + pictures if text_first else pictures + text}
        )
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def _encode(self, text: str) -> list[int]:
        """Ids of a text; heads, questions and letters recur from row to row, so the ids of recent ones are kept."""
        ids = self._known.get(text)
        if ids is None:
            if len(self._known) >= KEPT_TEXTS:
                self._known.clear()
            ids = self._known[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return list(ids)

    def _expand(self, ids: list[int], images: list[np.ndarray], name: str) -> list[int]:
        counts = iter([self.limits.visual_tokens(image, name) for image in images])
        return [
            token
            for i in ids
            for token in ([i] * next(counts) if i == self.image_token_id else [i])
        ]

    def prompt(self, example: Example, question: Question) -> Prompt:
        """The whole prompt up to where the assistant starts."""
        ids = self._encode(self._text(question.text, len(example.images), example.text_first))
        return Prompt(
            uid=question.uid,
            engine_ids=ids,
            input_ids=self._expand(ids, example.images, example.uid),
            images=example.images,
        )

    def supervised_group(self, example: Example, first_image: int = 0) -> PrefixGroup:
        """Trunk = everything before the question's text; branches = question + target + end of turn, target tokens scored.

        `first_image`: index of the example's first image in the batch's list of unique images.
        """
        head, continuations = "", []
        for question in example.questions:
            if question.target is None:
                raise UserError(
                    f"question {question.uid} has no target to learn from: draw it from a supervised set."
                )
            text = self._text(question.text, len(example.images))
            cut = text.rindex(question.text)
            head = text[:cut]
            asked, answer = self._encode(text[cut:]), [*self._encode(question.target), self.stop_id]
            continuations.append(
                Continuation(
                    input_ids=asked + answer, loss_mask=[False] * len(asked) + [True] * len(answer)
                )
            )
        ids = self._expand(self._encode(head), example.images, example.uid)
        return PrefixGroup(
            uid=example.uid,
            input_ids=ids,
            images=list(range(first_image, first_image + len(example.images))),
            continuations=continuations,
        )

    def decode(self, token_ids: list[int]) -> str:
        """Text for grading and tables only; never encoded again."""
        ids = token_ids[:-1] if token_ids and token_ids[-1] == self.stop_id else token_ids
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Hashes kept in every checkpoint; a run that would change one of them silently is refused."""
        sample = self._text("question", 2)
        return {
            "chat_template": sha256(sample.encode()).hexdigest()[:16],
            "system_prompt": sha256(json.dumps(self.system_prompt).encode()).hexdigest()[:16],
            "tokenizer": sha256(
                json.dumps(sorted(self.tokenizer.get_vocab().items())).encode()
            ).hexdigest()[:16],
            "pixel_limits": f"{self.limits.multiple}:{self.limits.min_pixels}:{self.limits.max_pixels}",
        }
