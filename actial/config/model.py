"""The model and its prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from actial.config.validation import num, reject


class Attention(Enum):
    sdpa = "sdpa"
    flex = "flex"


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"
    saved = "saved"  # evaluation only: the one that the checkpoint was trained with


class FrozenWeights(Enum):
    """How matrices under adapters are stored."""

    half = "half"  # in bf16 with model.precision=bf16, else in float32
    nf4 = "nf4"  # 4 bits each, by bitsandbytes


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    enabled: bool = False
    rank: int = num(64, "[1, 4096]")
    alpha: int = num(128, "[1, 65536]")
    dropout: float = num(0.0, "[0, 1)")
    # peft target_modules: of the language model only, unless the vision encoder trains
    target: str = "all-linear"


@dataclass(kw_only=True, slots=True)
class ModuleGroupConfig:
    """One group of the model's modules; lr_scale multiplies the stage's learning rate."""

    train: bool = True
    lr_scale: float = num(1.0, "(0, 1000]")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    # a Hugging Face id or folder; ${asset:tiny_base} is the one kept in the package
    path: str = MISSING
    revision: str | None = None
    attention: Attention = Attention.sdpa
    precision: Precision = Precision.fp32  # of the arithmetic; weights stay in fp32
    gradient_checkpointing: bool = False
    # limits of an image's area; 0 = those saved with the checkpoint (evaluation only)
    min_pixels: int = num(3136, "[0, 1e8]")
    max_pixels: int = num(518_400, "[0, 1e8]")  # 960 x 540, paper release
    sequence_tokens: int = num(
        512, "[16, 1e7]"
    )  # of one packed sequence; more where a group is longer
    micro_batch_tokens: int = num(
        16_384, "[16, 1e8]"
    )  # budget of one micro-batch (all its packed sequences)
    # scored positions per vocabulary projection; peak memory is about 5 x this x vocabulary
    head_chunk_tokens: int = num(256, "[1, 1e7]")
    lora: LoraConfig = field(default_factory=LoraConfig)
    # of the text model's blocks, which adapters train; needs lora.enabled
    frozen_weights: FrozenWeights = FrozenWeights.half
    vision: ModuleGroupConfig = field(default_factory=ModuleGroupConfig)
    merger: ModuleGroupConfig = field(default_factory=ModuleGroupConfig)
    language: ModuleGroupConfig = field(default_factory=ModuleGroupConfig)

    def check(self, path: str) -> None:
        if self.max_pixels and self.min_pixels > self.max_pixels:
            reject(
                f"{path}min_pixels",
                self.min_pixels,
                f"it must not exceed {path}max_pixels={self.max_pixels}",
            )
        if self.sequence_tokens > self.micro_batch_tokens:
            reject(
                f"{path}sequence_tokens",
                self.sequence_tokens,
                f"a packed sequence must fit in {path}micro_batch_tokens={self.micro_batch_tokens}",
            )
        if self.frozen_weights is FrozenWeights.nf4 and not self.lora.enabled:
            reject(
                f"{path}frozen_weights",
                self.frozen_weights.value,
                f"full training changes every weight: set {path}lora.enabled=true",
            )
        if not (self.vision.train or self.merger.train or self.language.train):
            reject(
                f"{path}language.train",
                False,
                f"one of {path}vision, {path}merger and {path}language must train",
            )


SAVED = "saved"
SYSTEM_PROMPT_NAMES = ("clean", "paraphrase", "none")


@dataclass(kw_only=True, slots=True)
class PromptConfig:
    """The system prompt: a name of ours, `file:PATH`, `text:...`, or `saved` (evaluation only).

    clean = ours; paraphrase = ours, built as the release's; saved = the one of the checkpoint.
    """

    system_prompt: str = "clean"

    def check(self, path: str) -> None:
        name = self.system_prompt
        if name == "faithful":
            reject(
                f"{path}system_prompt",
                name,
                "the release's own text is read from your copy of it: give file:PATH, or "
                "paraphrase for ours in its manner",
            )
        if name not in (*SYSTEM_PROMPT_NAMES, SAVED) and not name.startswith(
            ("file:", "text:")
        ):
            reject(
                f"{path}system_prompt",
                name,
                f"use {', '.join(SYSTEM_PROMPT_NAMES)}, {SAVED}, file:PATH or text:TEXT",
            )
