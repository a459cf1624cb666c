"""What one optimiser step costs a rank before it is run: floating-point operations, and bytes of state, activations and logits.

A multiply-add counts as two operations. Only matrix products are counted: they are all but everything in models of this kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from actial.parts import PARTS, part_of
from actial.policy import Policy
from actial.trunk import Trunk

FP32 = 4  # bytes


@dataclass(slots=True, kw_only=True)
class Load:
    """The tokens of one micro-batch or step of one rank."""

    tokens: int  # of the text model: every trunk once, and all branches
    pairs: int  # (query, key) positions that the text model's attention visits
    scored: int  # tokens whose log-probability is wanted
    patches: list[int]  # of each distinct image

    def __add__(self, other: Load) -> Load:
        return Load(
            tokens=self.tokens + other.tokens,
            pairs=self.pairs + other.pairs,
            scored=self.scored + other.scored,
            patches=self.patches + other.patches,
        )


def load_of(trunks: Sequence[Trunk], images: Sequence[np.ndarray], policy: Policy) -> Load:
    used = dict.fromkeys(index for trunk in trunks for index in trunk.images)
    pairs = 0
    for trunk in trunks:
        prompt = len(trunk.ids)
        pairs += prompt * (prompt + 1) // 2
        pairs += sum(n * prompt + n * (n + 1) // 2 for n in (len(branch.ids) for branch in trunk.branches))
    return Load(
        tokens=sum(trunk.num_tokens for trunk in trunks),
        pairs=pairs,
        scored=sum(sum(branch.scored) for trunk in trunks for branch in trunk.branches),
        patches=[images[i].shape[0] * images[i].shape[1] // policy.spec.patch_size**2 for i in used],
    )


@dataclass(slots=True, kw_only=True)
class Flops:
    """Of one part in one step; `again` is forward work repeated in the backward pass to save memory."""

    forward: float
    backward: float
    again: float

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.again


def step_flops(policy: Policy, load: Load, *, reference: bool = False) -> dict[str, Flops]:
    """Per part ("vision", "merger", "language", "head") for a forward and backward pass; `reference` adds a forward without gradient."""
    text, config = policy.hf_config.text_config, policy.config
    sizes = _matrix_sizes(policy)
    patches = sum(load.patches)
    text_width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    forward = {
        "vision": 2.0 * sizes["vision"] * patches + 4.0 * _vision_width(policy) * _vision_pairs(policy, load.patches),
        "merger": 2.0 * sizes["merger"] * patches / policy.spec.merge_size**2,
        "language": 2.0 * sizes["language"] * load.tokens + 4.0 * text_width * text.num_hidden_layers * load.pairs,
        "head": 2.0 * text.hidden_size * text.vocab_size * load.scored,
    }
    trains = {part: getattr(config, part).train for part in PARTS}
    found, flows = {}, False  # whether a gradient must go on through a part
    for part, operations in forward.items():
        own = trains["language" if part == "head" else part]
        flows = flows or own
        weights = own and not config.lora.enabled  # an adapter's own products are small, and are not counted
        checkpointed = config.gradient_checkpointing and flows and part != "merger"
        repeats = load.scored > config.head_chunk_tokens if part == "head" else checkpointed
        compares = reference and (part in ("language", "head") or policy.tower_trains)
        found[part] = Flops(forward=operations * (1 + compares), backward=operations * (flows + weights), again=operations * repeats)
    return found


def _matrix_sizes(policy: Policy) -> dict[str, int]:
    """Weights that each patch, merged patch or token is multiplied with, head and adapters excluded."""
    sizes = dict.fromkeys(PARTS, 0)
    for name, module in policy.core.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d) and name != "lm_head" and "lora_" not in name:
            sizes[part_of(f"{name}.weight")] += module.weight.numel()
    return sizes


def _vision_width(policy: Policy) -> int:
    vision = policy.hf_config.vision_config
    return int(getattr(vision, "embed_dim", None) or vision.hidden_size)


def _vision_pairs(policy: Policy, patches: Sequence[int]) -> int:
    """Over all blocks: every patch sees its image, in windowed blocks its window."""
    vision = policy.hf_config.vision_config
    whole = getattr(vision, "fullatt_block_indexes", None)
    full = vision.depth if whole is None else len(whole)
    window = (getattr(vision, "window_size", 0) // vision.patch_size) ** 2
    return sum(full * n * n + (vision.depth - full) * n * min(n, window) for n in patches)
