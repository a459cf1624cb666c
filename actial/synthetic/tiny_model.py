"""The untrained tiny Qwen2.5-VL: a small byte-level BPE and a random model over it.

The tokenizer has Qwen's special tokens and chat template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from actial.config import ModelConfig, TinyConfig
from actial.config.hydra_app import hydra_command
from actial.core.progress import Progress
from actial.core.records import AnswerMode
from actial.core.set_records import PAPER_QUESTIONS
from actial.data.shards import ShardSet
from actial.modeling.policy import Policy
from actial.modeling.system_prompts import SYSTEM_PROMPTS
from actial.synthetic.vision_pretraining import pretrain_vision_encoder
from actial.viewpoint.perception_exercises import KINDS, clock_question, perception_questions
from actial.viewpoint.questions import qa_question, viewpoint_question
from actial.viewpoint.rationales import grounded_rationale

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WHOLE_WORDS = (
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
)  # one token each, so that the tiny model spends none on form
CHAT_TEMPLATE = (
    (
        "{%- for message in messages -%}"
        "<|im_start|>{{ message.role }}\n"
        "{%- if message.content is string -%}{{ message.content }}"
        "{%- else -%}{%- for part in message.content -%}"
        "{%- if part.type in ('image', 'image_url') or 'image' in part -%}"
        "<|vision_start|><|image_pad|><|vision_end|>"
        "{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}<|im_end|>\n"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
    )
    .replace("{{ message.role }}\n", "{{ message.role + '\\n' }}")
    .replace("<|im_end|>\n", "{{ '<|im_end|>\\n' }}")
    .replace("<|im_start|>assistant\n", "{{ '<|im_start|>assistant\\n' }}")
)


def corpus(pairs: ShardSet, sat: ShardSet, rows: int = 1500) -> Iterator[str]:
    """Yield every kind of text that the tiny model will meet."""
    yield from [
        "system\n",
        "user\n",
        "assistant\n",
        *(text for text in SYSTEM_PROMPTS.values() if text),
    ] * rows
    view_pairs = pairs.view_pairs()
    names = sorted({pair.class_name.lower() for pair in view_pairs})
    for number, pair in enumerate(view_pairs[:rows]):
        for question in [
            *perception_questions(pair, "words", names, len(KINDS)),
            clock_question(str(number)),
        ]:
            yield from (question.text, question.target or "")
        for kind in PAPER_QUESTIONS:
            question = viewpoint_question(pair, kind, AnswerMode.DIRECT)
            yield from (question.text, grounded_rationale(pair, question))
    for record in sat.question_records()[:rows]:
        yield qa_question(record, AnswerMode.DIRECT).text


def train_tokenizer(corpus: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """Return a byte-level BPE over Qwen's own pre-tokenization."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False
        ),
    )
    bpe = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(pair) for pair in bpe["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=bpe["vocab"], merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS[1:])})
    tokenizer.add_tokens(list(WHOLE_WORDS))
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_config(
    tokenizer: Qwen2Tokenizer,
    *,
    width: int = 128,
    layers: int = 4,
    vision_width: int = 128,
    vision_layers: int = 4,
    patch: int = 8,
) -> Qwen2_5_VLConfig:
    """Return a Qwen2.5-VL of about 2 M parameters.

    Heads have 32 dimensions, the smallest size that vLLM's CPU attention takes.
    """
    heads = width // 32

    def token(text: str) -> int:
        number = tokenizer.convert_tokens_to_ids(text)
        assert isinstance(number, int)
        return number

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) + 63) // 64 * 64,
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [4, 6, 6],
                "rope_theta": 10_000.0,
            },
            "tie_word_embeddings": True,
            "initializer_range": width
            ** -0.5,  # the usual 0.02 suits widths of thousands; here it would mute every block
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": vision_width,
            "intermediate_size": 3 * vision_width,
            "num_heads": vision_width // 32,
            "patch_size": patch,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": patch * 2 * 8,
            "fullatt_block_indexes": list(range(vision_layers)),
            "out_hidden_size": width,
            "initializer_range": vision_width**-0.5,
        },
        tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )


def save_untrained(
    out: Path,
    tokenizer: Qwen2Tokenizer,
    seed: int,
    *,
    max_pixels: int = 64 * 64 * 4,
    **size: int,
) -> None:
    """Write the folder of a randomly initialized tiny model that transformers and vLLM load."""
    config = tiny_config(tokenizer, **size)
    text: Any = config.text_config
    vision: Any = config.vision_config
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = text.eos_token_id
    model.generation_config.pad_token_id = text.pad_token_id
    patch, merge = vision.patch_size, vision.spatial_merge_size
    limits = {"min_pixels": (patch * merge) ** 2, "max_pixels": max_pixels}
    shape = {
        "patch_size": patch,
        "merge_size": merge,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            **shape,
            size={"shortest_edge": limits["min_pixels"], "longest_edge": limits["max_pixels"]},
        ),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shape),
        chat_template=tokenizer.chat_template,
    )
    model.save_pretrained(out)
    processor.save_pretrained(out)


def make_tiny(config: TinyConfig) -> None:
    """python -m actial.synthetic.tiny_model out=DIR pairs=DIR sat=DIR [vision_steps=N] [seed=S]

    Writes the tiny Qwen2.5-VL with its tokenizer and a pre-trained vision encoder;
    +experiment=tiny_base then teaches it language.
    """
    pairs, sat = ShardSet(config.pairs, "train"), ShardSet(config.sat, "train")
    out = Path(config.out)
    size = {
        key: getattr(config, key)
        for key in ("width", "layers", "vision_width", "vision_layers", "patch")
    }
    save_untrained(
        out, train_tokenizer(corpus(pairs, sat), config.vocab_size), config.seed, **size
    )
    policy = Policy.load(ModelConfig(path=str(out)))
    steps = pretrain_vision_encoder(
        policy,
        pairs,
        steps=config.vision_steps,
        batch_size=config.vision_batch,
        lr=config.vision_lr,
        seed=config.seed,
    )
    with Progress("vision encoder", total=config.vision_steps, unit="steps") as progress:
        for number, metrics in enumerate(steps, 1):
            note = (
                f"azimuth within a bin {metrics['azimuth_within_one_bin']:.2f}"
                if number % 100 == 0
                else ""
            )
            progress.advance(1, note)
    policy.save_pretrained(out)


main = hydra_command("tiny", folder_key="out")(make_tiny)

if __name__ == "__main__":
    main()
