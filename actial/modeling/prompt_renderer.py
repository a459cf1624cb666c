"""Messages as token ids: the only file that touches a chat template, for SFT, GRPO and evaluation.

Two id lists per prompt must not be confused: `engine_ids` hold one placeholder
per image (an engine expands them itself), `input_ids` repeat it once per visual
token (https://github.com/huggingface/trl/issues/6294). Prompts are never
truncated.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError, TemplateSyntaxError
from transformers import AutoConfig, AutoTokenizer
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

from actial.config import ModelConfig, PromptConfig
from actial.core.errors import UserError
from actial.core.records import Example, Prompt, Question
from actial.modeling.adapter_folder import base_of
from actial.modeling.families import TILED, packing_spec
from actial.modeling.hf_checkpoint import model_file
from actial.modeling.image_marks import QWEN_VL, ImageMarks, image_marks
from actial.modeling.prefix_packing import Continuation, PrefixGroup
from actial.modeling.system_prompts import system_prompt_text

MAX_CACHED_TEXTS = 4096
# what transformers raises for files that are missing, no JSON, or JSON of another kind
UNREADABLE = (OSError, ValueError, TypeError, AttributeError, KeyError)
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
THINK, END_THINK = "<think>", "</think>"
# the end of a prompt whose template begins the answer
OPENED = re.compile(rf"{THINK}\s*({END_THINK}\s*)?$")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Image sizes the model accepts: sides multiples of `multiple`, area in [min, max]_pixels."""

    multiple: int
    min_pixels: int
    max_pixels: int
    square: bool = False  # SmolVLM and InternVL take no other images

    def visual_tokens(self, image: np.ndarray, name: str) -> int:
        """Number of visual tokens of a uint8 (H, W, 3) image.

        Raises UserError, naming the example `name`, for a size that would need
        resizing.
        """
        height, width = int(image.shape[0]), int(image.shape[1])
        divides = height % self.multiple == 0 and width % self.multiple == 0
        if not divides or not self.min_pixels <= height * width <= self.max_pixels:
            raise UserError(
                f"image of {name} is {width}x{height}, but the model needs sides in multiples of "
                f"{self.multiple} and an area of {self.min_pixels}..{self.max_pixels} pixels: "
                f"rebuild the data set with image.multiple={self.multiple} and "
                f"image.max_pixels={self.max_pixels}, or change model.min_pixels / "
                "model.max_pixels."
            )
        if self.square and height != width:
            raise UserError(
                f"image of {name} is {width}x{height}, but the model takes square images only: "
                "rebuild the data set with image.square=true."
            )
        return (height // self.multiple) * (width // self.multiple)


class PromptRenderer:
    """Builds prompts and supervised prefix groups for one model folder and one system prompt."""

    def __init__(
        self,
        tokenizer: Any,
        limits: ImageLimits,
        system_prompt: str | None,
        marks: ImageMarks = QWEN_VL,
    ) -> None:
        self.tokenizer = tokenizer
        self.limits = limits
        self.system_prompt = system_prompt
        self.image_token = marks.placeholder
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.ids_before_image = tokenizer.convert_tokens_to_ids(list(marks.before))
        self.ids_after_image = tokenizer.convert_tokens_to_ids(list(marks.after))
        self.stop_id = tokenizer.convert_tokens_to_ids(marks.end_of_turn)
        # Targets end with the first one; `load` adds those of generation_config.json.
        self.stop_ids = [self.stop_id]
        self.banned_ids = [tokenizer.convert_tokens_to_ids(token) for token in marks.banned]
        self._cached_ids: dict[str, list[int]] = {}

    @classmethod
    def load(
        cls, model: ModelConfig, prompt: PromptConfig, path: Path | str | None = None
    ) -> PromptRenderer:
        """The renderer of a model folder or hub id; `path` (a later stage's) overrides model.path.

        Raises UserError when the folder cannot be read, and names a damaged file of it.
        """
        path = path or model.path
        same = str(path) == model.path  # the revision is that of model.path alone
        folder, revision = base_of(path, model.revision if same else None)
        revision = revision or "main"
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
            family = model_file(folder, "config.json", revision).get("model_type", "")
            multiple = _side_multiple(folder, revision, family)
        except UNREADABLE as error:
            for name in TOKENIZER_FILES:
                model_file(folder, name, revision)  # names one that is damaged
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"model.path={folder} gives no tokenizer or image processor ({reason}): "
                "give a model folder or hub id."
            ) from error
        tokenizer.chat_template = tokenizer.chat_template or _legacy_template(folder, revision)
        square = family in TILED
        limits = ImageLimits(multiple, model.min_pixels, model.max_pixels, square)
        marks = image_marks(family)
        renderer = cls(tokenizer, limits, system_prompt_text(prompt), marks)
        ends = _end_of_turn_ids(folder, revision)
        renderer.stop_ids += [token for token in ends if token != renderer.stop_id]
        return renderer

    def _text(self, question: str, num_images: int, text_first: bool = False) -> str:
        """The chat template's text up to where the assistant starts."""
        messages: list[dict[str, Any]] = []
        if self.system_prompt is not None:
            content = [{"type": "text", "text": self.system_prompt}]
            messages.append({"role": "system", "content": content})
        images, text = [{"type": "image"}] * num_images, [{"type": "text", "text": question}]
        messages.append(
            {"role": "user", "content": text + images if text_first else images + text}
        )
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise self._refused_by_template(error) from error
        return rendered

    def _refused_by_template(self, error: TemplateError) -> UserError:
        """The error of a template that is damaged, or that raises one, as some of system turns."""
        template = f"the chat template of model.path={self.tokenizer.name_or_path}"
        if isinstance(error, TemplateSyntaxError):
            return UserError(
                f"{template} is damaged (line {error.lineno}: {error.message}): restore its "
                "chat_template.jinja."
            )
        remedy = "mend its chat_template.jinja"
        if self.system_prompt is not None:
            remedy = f"set prompt.system_prompt=none, or {remedy}"
        return UserError(f"{template} refuses the prompt ({error}): {remedy}.")

    def _encode(self, text: str) -> list[int]:
        """Ids of a text, cached: heads, questions and letters recur from example to example."""
        ids = self._cached_ids.get(text)
        if ids is None:
            if len(self._cached_ids) >= MAX_CACHED_TEXTS:
                self._cached_ids.clear()
            ids = self._cached_ids[text] = self.tokenizer.encode(
                text, add_special_tokens=False
            )
        return list(ids)

    def _expand(self, ids: list[int], images: list[np.ndarray], name: str) -> list[int]:
        """The ids with each image placeholder repeated once per visual token."""
        counts = iter([self.limits.visual_tokens(image, name) for image in images])
        expanded: list[int] = []
        for token in ids:
            if token == self.image_token_id:
                placeholders = [token] * next(counts)
                expanded += [*self.ids_before_image, *placeholders, *self.ids_after_image]
            else:
                expanded.append(token)
        return expanded

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
        """A group whose prefix is all that stands before the question, one continuation a question.

        A continuation is question + target + end of turn, of which the target and
        the end of turn are supervised. `first_image`: index of the example's
        first image in the batch's images. Raises UserError for a question without
        a target.
        """
        head, continuations = "", []
        for question in example.questions:
            if question.target is None:
                raise UserError(
                    f"question {question.uid} has no target to learn from: "
                    "draw it from a supervised set."
                )
            text = self._text(question.text, len(example.images))
            question_start = text.rindex(question.text)
            head = text[:question_start]
            question_ids = self._encode(text[question_start:])
            target_ids = [*self._encode(self._after_opened(question.target)), self.stop_id]
            loss_mask = [False] * len(question_ids) + [True] * len(target_ids)
            continuations.append(Continuation(question_ids + target_ids, loss_mask))
        return PrefixGroup(
            uid=example.uid,
            input_ids=self._expand(self._encode(head), example.images, example.uid),
            images=list(range(first_image, first_image + len(example.images))),
            continuations=continuations,
        )

    def decode(self, token_ids: list[int]) -> str:
        """Text for grading and tables only; it is never encoded again."""
        ended = bool(token_ids) and token_ids[-1] in self.stop_ids
        ids = token_ids[:-1] if ended else token_ids
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
        return self.opened + text

    @cached_property
    def opened(self) -> str:
        """What the chat template has already written of the answer; it counts as said by the model.

        Templates of thinking models end the prompt with "<think>" and white space, some with an
        empty think block.
        """
        written = OPENED.search(self._text("question", 0))
        return written[0] if written else ""

    def _after_opened(self, target: str) -> str:
        """Return what remains to be said of a target behind what the template has opened."""
        if not self.opened:
            return target
        if END_THINK in self.opened:
            if target.startswith(THINK):
                raise UserError(
                    "the chat template writes an empty think block before every answer, so chains "
                    "of thought cannot be learned: take that block out of chat_template.jinja, or "
                    "set cold_start.ratio=0."
                )
            return target
        if target.startswith(THINK):
            return target.removeprefix(THINK).lstrip()
        return f"\n{END_THINK}\n\n{target}"  # an answer without reasoning

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Hashes that every checkpoint stores; a run that would change one is refused."""
        vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items()))
        limits = self.limits
        return {
            "chat_template": _short_hash(self._text("question", 2)),
            "system_prompt": _short_hash(json.dumps(self.system_prompt)),
            "tokenizer": _short_hash(vocabulary),
            "pixel_limits": f"{limits.multiple}:{limits.min_pixels}:{limits.max_pixels}",
        }


def template_opening(model: ModelConfig, prompt: PromptConfig) -> str | None:
    """Return what the chat template of a folder `model.path` writes of an answer.

    None where model.path names no folder with a tokenizer: a server may hold the only copy.
    """
    if not model.path:
        return None
    folder, _ = base_of(model.path)
    if not (Path(folder) / "tokenizer_config.json").is_file():
        return None
    return PromptRenderer.load(model, prompt).opened


def _short_hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def _side_multiple(folder: Path | str, revision: str, family: str) -> int:
    """Return the pixels that one visual token covers along a side."""
    if family in TILED:
        config = AutoConfig.from_pretrained(folder, revision=revision)
        return packing_spec(config, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).factor
    processor = Qwen2VLImageProcessor.from_pretrained(folder, revision=revision)
    return int(processor.patch_size * processor.merge_size)


def _legacy_template(folder: Path | str, revision: str) -> str:
    """Return the chat template of a folder that has it in chat_template.json alone.

    Raises UserError where it has none.
    """
    template = model_file(folder, "chat_template.json", revision).get("chat_template")
    if not template:
        raise UserError(
            f"model.path={folder} has no chat template: add chat_template.jinja from the model "
            "that it was trained from."
        )
    return str(template)


def _end_of_turn_ids(folder: Path | str, revision: str) -> list[int]:
    """Return the ids at which the model's own generation_config.json ends a turn."""
    ids = model_file(folder, "generation_config.json", revision).get("eos_token_id")
    if ids is None:
        return []
    return ids if isinstance(ids, list) else [ids]
