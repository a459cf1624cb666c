"""The padded forward that packed scoring must equal: one sequence per continuation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from actial.modeling.image_patches import PackingSpec, patchify
from actial.modeling.prefix_packing import PrefixGroup
from support.tiny_models import ALIAS, IMAGE


def padded_logprobs(
    model,
    groups: Sequence[PrefixGroup],
    images: Sequence[np.ndarray],
    spec: PackingSpec,
    banned: Sequence[int] = (),
) -> torch.Tensor:
    """(N,) in the order of pack(), without the banned ids.

    A stray placeholder in a continuation is fed as ALIAS, whose embedding equals IMAGE's.
    """
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[ALIAS] = embedding[IMAGE]
    sequences, encoded, targets = [], [], []
    for group in groups:
        for continuation in group.continuations:
            fed = [ALIAS if token == IMAGE else token for token in continuation.input_ids]
            sequences.append(torch.tensor(group.input_ids + fed))
            encoded += [images[index] for index in group.images]
            supervised = [j for j, scored in enumerate(continuation.loss_mask) if scored]
            targets.append(
                (
                    len(group.input_ids),
                    supervised,
                    [continuation.input_ids[j] for j in supervised],
                )
            )
    ids = pad_sequence(sequences, batch_first=True)
    mask = pad_sequence([torch.ones_like(s) for s in sequences], batch_first=True)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
    }
    if spec.tiled:
        logits = _tiled_logits(model, inputs, encoded, spec)
    else:
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
        if encoded:
            inputs["pixel_values"], inputs["image_grid_thw"] = patchify(encoded, spec)
        logits = model(**inputs).logits
    logits[:, :, list(banned)] = -torch.inf
    logits = logits.log_softmax(-1)
    rows = [
        logits[row, [start + j - 1 for j in supervised], tokens]
        for row, (start, supervised, tokens) in enumerate(targets)
    ]
    return torch.cat(rows)


def _tiled_logits(model, inputs: dict, images: list[np.ndarray], spec: PackingSpec):
    """Logits of a family of square images, which the library merges one size at a time."""
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    if images:
        mean, std = (
            torch.tensor(values)[:, None, None] for values in (spec.image_mean, spec.image_std)
        )
        features = []
        for image in images:
            pixels = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
            pixels = (
                pixels[None, None] if model.config.model_type == "smolvlm" else pixels[None]
            )
            features.append(
                model.model.get_image_features(pixels, return_dict=True).pooler_output[0]
            )
        marks = (inputs["input_ids"] == IMAGE)[..., None]
        embeds = embeds.masked_scatter(marks, torch.cat(features))
    return model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits


def gradients(model, logprobs: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradient of the weighted sum for every parameter; ALIAS's embedding gradient is counted as
    IMAGE's.
    """
    model.zero_grad(set_to_none=True)
    (logprobs * weights).sum().backward()
    actual = {
        n: p.grad.clone() if p.grad is not None else torch.zeros_like(p)
        for n, p in model.named_parameters()
    }
    for name, grad in actual.items():
        if name.endswith("embed_tokens.weight"):
            grad[IMAGE] += grad[ALIAS]
            grad[ALIAS] = 0
    return actual


def assert_same_gradients(
    actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float
) -> None:
    """Raise AssertionError unless every gradient is within `tolerance`.

    Relative to its own norm, or to a thousandth of the whole gradient's if that is larger.
    """
    whole = torch.stack([grad.norm() for grad in expected.values()]).norm()
    for name, grad in expected.items():
        error = (actual[name] - grad).norm() / max(grad.norm(), 1e-3 * whole)
        assert error <= tolerance, f"{name}: {error:.2e}"
