"""The ordinary padded forward, one sequence per branch with its images repeated: what packed scoring must equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from actial.modeling.prefix_packing import PackingSpec, PrefixGroup, patchify
from support.tiny_models import ALIAS, IMAGE


def padded_logprobs(
    model,
    prefix_groups: Sequence[PrefixGroup],
    images: Sequence[np.ndarray],
    spec: PackingSpec,
    banned: Sequence[int] = (),
) -> torch.Tensor:
    """(N,) in the order of pack(), under the law without the banned ids.

    A stray placeholder in a branch is fed as ALIAS, whose embedding row equals IMAGE's.
    """
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[ALIAS] = embedding[IMAGE]
    sequences, pictures, wanted = [], [], []
    for prefix_group in prefix_groups:
        for continuation in prefix_group.continuations:
            fed = [ALIAS if token == IMAGE else token for token in continuation.input_ids]
            sequences.append(torch.tensor(prefix_group.input_ids + fed))
            pictures += [images[index] for index in prefix_group.images]
            places = [j for j, scored in enumerate(continuation.loss_mask) if scored]
            wanted.append(
                (len(prefix_group.input_ids), places, [continuation.input_ids[j] for j in places])
            )
    ids = pad_sequence(sequences, batch_first=True)
    mask = pad_sequence([torch.ones_like(s) for s in sequences], batch_first=True)
    inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == IMAGE).int()}
    if pictures:
        inputs["pixel_values"], inputs["image_grid_thw"] = patchify(pictures, spec)
    logits = model(**inputs).logits
    logits[:, :, list(banned)] = -torch.inf
    logits = logits.log_softmax(-1)
    rows = [
        logits[row, [start + j - 1 for j in places], tokens]
        for row, (start, places, tokens) in enumerate(wanted)
    ]
    return torch.cat(rows)


def gradients(model, logprobs: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradient of the weighted sum for every parameter; ALIAS's embedding gradient is counted as IMAGE's."""
    model.zero_grad(set_to_none=True)
    (logprobs * weights).sum().backward()
    found = {
        n: p.grad.clone() if p.grad is not None else torch.zeros_like(p)
        for n, p in model.named_parameters()
    }
    for name, grad in found.items():
        if name.endswith("embed_tokens.weight"):
            grad[IMAGE] += grad[ALIAS]
            grad[ALIAS] = 0
    return found


def assert_same_gradients(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float
) -> None:
    """Relative to each parameter's own gradient norm, or to a thousandth of the whole gradient's where that is larger."""
    whole = torch.stack([grad.norm() for grad in expected.values()]).norm()
    for name, grad in expected.items():
        error = (found[name] - grad).norm() / max(grad.norm(), 1e-3 * whole)
        assert error <= tolerance, f"{name}: {error:.2e}"
