"""What both systems are given: one random model folder, and prompts, images, completions and
answers as functions of the step alone.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from actial.config import ModelConfig, PromptConfig
from actial.core.records import AnswerMode, Example, Question
from actial.core.set_records import PAPER_QUESTIONS, MotionLabels, PairGeometry, ViewPair
from actial.modeling.prompt_renderer import PromptRenderer
from actial.synthetic.tiny_model import save_untrained
from actial.viewpoint.questions import viewpoint_question

PATCH = 14  # Qwen2.5-VL's own: a 448-pixel image is 256 visual tokens, one of 224 pixels 64
MAX_PIXELS = 10**6
WORDS = (
    300,
    450,
)  # ids from which completions and filler are drawn: ordinary words of the tokenizer, no special token


@dataclass(frozen=True, kw_only=True)
class Work:
    """One workload; a GRPO step has one prompt with its group, an SFT step `pairs` view pairs with
    their questions.
    """

    kind: str = "grpo"  # or "sft"
    pixels: int = 448  # side of each of the two images; 0 = a prompt of text alone
    group: int = 16
    length: int = 48  # tokens of each completion
    ragged: bool = False  # completions of half to all of `length`
    pairs: int = 4
    vocab: int = 4096
    peer: str = "trl"  # or "prefix_grouper"
    samples_itself: bool = False  # both sample and grade; else completions are given
    width: int = 128  # of the text model and the tower
    beta: float = 0.0  # weight of the k3 penalty against a frozen copy
    bf16: bool = False  # autocast, together with gradient checkpointing
    # TRL with its fused head bypassed: the model's own forward, logits of the completions only
    plain_peer: bool = False
    # our linear layers with torch's own matrix products, as TRL's
    torch_products: bool = False
    # our head also scores every position that TRL's scores, with weight zero
    all_positions: bool = False

    @property
    def samples(self) -> int:
        """Sequences that the peer computes in a step."""
        return self.group if self.kind == "grpo" else 3 * self.pairs


def save_model(folder: Path, vocab: int, width: int) -> None:
    """Four text and four vision layers, windowed attention in all of the tower but its last block;
    the tokenizer of the tiny base.
    """
    with importlib.resources.as_file(
        importlib.resources.files("actial") / "assets" / "tiny_base"
    ) as base:
        tokenizer = AutoTokenizer.from_pretrained(base)
    save_untrained(
        folder,
        tokenizer,
        0,
        max_pixels=MAX_PIXELS,
        width=width,
        vision_width=width,
        patch=PATCH,
    )
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    model.config.vision_config.fullatt_block_indexes = [3]
    torch.manual_seed(1)
    model.resize_token_embeddings(vocab, mean_resizing=False)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)


def model_folder(models: Path, work: Work) -> Path:
    """The workload's model, made when it is not there."""
    folder = models / f"{work.vocab}-{work.width}"
    if not (folder / "model.safetensors").exists():
        save_model(folder, work.vocab, work.width)
    return folder


class Setting:
    """A workload on its model, in our terms; the peer's side derives its data set from the same
    examples.
    """

    def __init__(self, work: Work, models: Path) -> None:
        self.work = work
        self.folder = folder = model_folder(models, work)
        self.model = ModelConfig(
            path=str(folder),
            max_pixels=MAX_PIXELS,
            sequence_tokens=4096,
            micro_batch_tokens=65536,
            gradient_checkpointing=work.bf16,
            # a chunk of 16 million logits: all of them at the small vocabulary, as in TRL
            head_chunk_tokens=max(256, 2**24 // work.vocab),
        )

    @cached_property
    def renderer(self) -> PromptRenderer:
        renderer = PromptRenderer.load(self.model, PromptConfig(system_prompt="none"))
        renderer.banned_ids = []  # TRL scores under the whole vocabulary, so we do too
        return renderer

    def examples(self, step: int) -> list[Example]:
        """The step's prompts with their questions; every image is new."""
        count = self.work.pairs if self.work.kind == "sft" else 1
        return [self._example(step * count + number) for number in range(count)]

    def completions(self, step: int) -> list[list[int]]:
        noise = np.random.default_rng((2, step))
        full = noise.integers(*WORDS, (self.work.group, self.work.length)).tolist()
        lengths = noise.integers(self.work.length // 2, self.work.length + 1, self.work.group)
        return (
            [ids[:length] for ids, length in zip(full, lengths, strict=True)]
            if self.work.ragged
            else full
        )

    def rewards(self, step: int) -> list[float]:
        return np.random.default_rng((3, step)).random(self.work.group).tolist()

    def advantages(self, step: int) -> list[float]:
        """Rewards centred in their group and not scaled, as both systems do under the option
        "none".
        """
        rewards = torch.tensor(self.rewards(step))
        return (rewards - rewards.mean()).tolist()

    def _example(self, number: int) -> Example:
        size, noise = self.work.pixels, np.random.default_rng((1, number))
        images = [
            noise.integers(0, 256, (size, size, 3), dtype=np.uint8)
            for _ in range(2 if size else 0)
        ]
        pair = ViewPair(
            uid=f"pair{number}",
            class_name="object",
            object_id=str(number),
            frame_names=("first", "last"),
            geometry=PairGeometry(alpha_deg=60.0),
            labels=MotionLabels(
                ego_translation="right", object_translation="left", ego_rotation="left"
            ),
        )
        questions = [
            self._answered(viewpoint_question(pair, kind, AnswerMode.DIRECT))
            for kind in PAPER_QUESTIONS
        ]
        return Example(uid=pair.uid, images=images, questions=questions, task="viewpoint")

    def _answered(self, question: Question) -> Question:
        question.target = f"<answer>{question.answer_letter}</answer>"
        return question
