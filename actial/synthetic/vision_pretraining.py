"""Pre-training of the tiny model's vision encoder on what a photo shows.

A real model's encoder is trained on captions first. Read through an untrained
language model, the side of an object stays at chance for tens of thousands of
photos. From the pooled features of the encoder alone it is learnt several times
faster, and the language model then only has to put it into words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from actial.core.errors import UserError
from actial.core.seeding import hash_int
from actial.data.sampling_order import epoch_order
from actial.data.shards import ShardSet
from actial.modeling.image_patches import patchify
from actial.modeling.policy import Policy

SHIFT = 4  # pixels of random displacement: the object's place must not matter
BINS = 24  # of the azimuth


@dataclass(slots=True)
class Photos:
    """Every distinct photo of a split with its labels."""

    images: np.ndarray  # uint8 (N, H, W, 3)
    azimuth: torch.Tensor  # (N,) radians, counter-clockwise from the object's front
    classes: torch.Tensor  # (N,)
    colors: torch.Tensor  # (N,)


def load_photos(shards: ShardSet) -> Photos:
    """Return the photos of the pairs of the procedural world, each once, in index order."""
    seen: dict[tuple[str, str], tuple[np.ndarray, float, str, str]] = {}
    for pair in shards.view_pairs():
        if all((pair.key, image.name) in seen for image in pair.images):
            continue
        for pixels, image, view in zip(
            shards.images(pair), pair.images, pair.views, strict=True
        ):
            if view.azimuth_deg is None:
                raise UserError(
                    f"pair {pair.uid} of {shards.root} has no known front: "
                    "give a set of the procedural world."
                )
            seen[pair.key, image.name] = (
                pixels,
                view.azimuth_deg,
                pair.class_name,
                pair.attributes["body_colour"],
            )
    images, azimuths, names, colors = zip(*seen.values(), strict=True)
    return Photos(
        np.stack(images), torch.tensor(azimuths).deg2rad(), _numbers(names), _numbers(colors)
    )


def _numbers(names: tuple[str, ...]) -> torch.Tensor:
    number = {name: i for i, name in enumerate(sorted(set(names)))}
    return torch.tensor([number[name] for name in names])


def shifted(images: np.ndarray, key: str) -> list[np.ndarray]:
    """Return each photo displaced by up to SHIFT pixels, its border repeated."""
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    _, height, width, _ = images.shape
    draws = [hash_int(key, i) for i in range(len(images))]
    span = 2 * SHIFT + 1
    return [
        p[d % span : d % span + height, d // span % span : d // span % span + width]
        for p, d in zip(padded, draws, strict=True)
    ]


def pretrain_vision_encoder(
    policy: Policy, shards: ShardSet, *, steps: int, batch_size: int, lr: float, seed: int
) -> Iterator[dict[str, float]]:
    """Train `policy`'s vision encoder and merger in place; yield the metrics of each step.

    The metrics are the loss, and the share of photos whose azimuth is right within 20 degrees.
    """
    photos = load_photos(shards)
    vision_encoder = policy.core.model
    num_classes, num_colors = int(photos.classes.max()) + 1, int(photos.colors.max()) + 1
    torch.manual_seed(seed)
    head = nn.Linear(
        policy.hf_config.vision_config.out_hidden_size, BINS + num_classes + num_colors
    )
    parameters = [*vision_encoder.visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    size = len(photos.images)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                lr * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
        draws = [divmod(step * batch_size + i, size) for i in range(batch_size)]
        index = torch.tensor(
            [int(epoch_order(f"{seed}/tower", epoch, size)[number]) for epoch, number in draws]
        )
        pixels, grid = patchify(shifted(photos.images[index], f"{seed}/{step}"), policy.spec)
        features = torch.stack(
            tuple(
                vision_encoder.get_image_features(pixels, grid, return_dict=True).pooler_output
            )
        ).mean(1)
        loss, right = photo_loss(head(features), photos, index)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield {"loss": float(loss.detach()), "azimuth_within_one_bin": right}


def photo_loss(
    logits: torch.Tensor, photos: Photos, index: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Return the loss of (N, bins + classes + colors) logits about the photos at `index`.

    Also the share of them whose azimuth is right within one bin.
    """
    num_colors = int(photos.colors.max()) + 1
    num_classes = logits.shape[1] - BINS - num_colors
    bins, classes, colors = logits.split([BINS, num_classes, num_colors], dim=1)
    target = (photos.azimuth[index] / (2 * math.pi) * BINS).round().long() % BINS
    loss = (
        cross_entropy(bins, target)
        + 0.3 * cross_entropy(classes, photos.classes[index])
        + 0.3 * cross_entropy(colors, photos.colors[index])
    )
    off = (bins.argmax(1) - target + BINS // 2) % BINS - BINS // 2
    return loss, float((off.abs() <= 1).float().mean())
