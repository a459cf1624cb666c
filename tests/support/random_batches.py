"""Random packed batches of every supported model family."""

from __future__ import annotations

import random

import torch
from torch.nn.functional import pad

from actial.modeling.flex_attention import BLOCK, mask_rule
from actial.modeling.prefix_packing import PAD_SEGMENT
from support.tiny_models import make_group, random_continuation, random_image

QWEN_VL = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_5")
FAMILIES = (*QWEN_VL, "smolvlm", "internvl")

# The recurrence of Qwen3.5 is in float32 in any case, and rounds otherwise where its chunks begin
# elsewhere: gradients of the few numbers that set its decay agree to this.
GRADIENT_TOLERANCE = dict.fromkeys(FAMILIES, 1e-5) | {"qwen3_5": 5e-5}


# rows x columns of visual tokens: landscape, portrait, single, ...
SIZES = ((2, 3), (3, 2), (1, 1), (4, 2), (3, 5))


def random_batch(seed: int, policy, *, counts: tuple[int, ...], stray: bool = True):
    """Groups with the given image counts over a pool of images, continuations of 0 to 9 tokens."""
    rng = random.Random(seed)
    images = [
        random_image(rng, policy, *SIZES[rng.randrange(len(SIZES))])
        for _ in range(max([*counts, 1]))
    ]
    groups = []
    for number, count in enumerate(counts):
        indices = rng.sample(range(len(images)), count)
        lengths = [rng.choice((0, 1, 2, 5, 9)) for _ in range(rng.choice((1, 2, 4)))] + [3]
        continuations = [
            random_continuation(rng, length, stray=stray and rng.random() < 0.3)
            for length in lengths
        ]
        text = [rng.randrange(200) for _ in range(rng.choice((1, 3, 7)))]
        groups.append(make_group(f"t{number}", policy, images, indices, text, continuations))
    return groups, images


def visible_pairs(batch) -> torch.Tensor:
    """(S, S) by the rule for single pairs, over all sequences laid behind each other and padded."""
    tokens = batch.input_ids.numel()
    length = -(-tokens // BLOCK) * BLOCK
    group_of = pad(batch.group_of.flatten(), (0, length - tokens), value=PAD_SEGMENT)
    continuation_of = pad(batch.continuation_of.flatten(), (0, length - tokens))
    query, key = torch.meshgrid(torch.arange(length), torch.arange(length), indexing="ij")
    return mask_rule(group_of, continuation_of)(torch.tensor(0), torch.tensor(0), query, key)
