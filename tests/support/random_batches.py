"""Random packed batches of every supported model family."""

from __future__ import annotations

import random

from support.tiny_models import make_group, random_continuation, random_image

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")


SIZES = (
    (2, 3),
    (3, 2),
    (1, 1),
    (4, 2),
    (3, 5),
)  # rows x columns of visual tokens: landscape, portrait, single, ..


def random_batch(seed: int, policy, *, counts: tuple[int, ...], stray: bool = True):
    """Trunks with the given image counts over a shared pool of images, ragged branches of length 0 to 9."""
    rng = random.Random(seed)
    images = [
        random_image(rng, policy, *SIZES[rng.randrange(len(SIZES))])
        for _ in range(max([*counts, 1]))
    ]
    prefix_groups = []
    for number, count in enumerate(counts):
        chosen = rng.sample(range(len(images)), count)
        lengths = [rng.choice((0, 1, 2, 5, 9)) for _ in range(rng.choice((1, 2, 4)))] + [3]
        continuations = [
            random_continuation(rng, length, stray=stray and rng.random() < 0.3)
            for length in lengths
        ]
        text = [rng.randrange(200) for _ in range(rng.choice((1, 3, 7)))]
        prefix_groups.append(make_group(f"t{number}", policy, images, chosen, text, continuations))
    return prefix_groups, images
