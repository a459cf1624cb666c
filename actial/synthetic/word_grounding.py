"""Teach one attention head of the first language layer to find things by their words.

Left to the loss of the answers, the language model stays blind to scenes
for hundreds of steps: no head attends from a name in the question to the
visual tokens that show the thing. Here the attention itself is
supervised. The query of " red" or " car" is to fall on the visual tokens
of the red car, among those of the whole scene and among words of text. A
few hundred steps on cached visual tokens take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from actial.modeling.policy import Policy

SCENES = 48  # of one step
TEXT_WORDS = 30  # drawn words that the query might attend to instead
DISTANCES = (8, 75)  # in positions, of the query behind the photo
LEARNING_RATE = 4e-3


def tokens_of_words(labels: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return bool (scenes, words, tokens): which visual tokens show what a word names.

    Args:
        labels: (scenes, tokens, fields); the last field is 1 where a token shows a thing.
        sizes: number of words of each of the first fields, whose answers are the words.
    """
    shows = labels[..., -1] == 1
    tokens = [
        (labels[..., field] == number) & shows
        for field, size in enumerate(sizes)
        for number in range(size)
    ]
    return torch.stack(tokens, 1)


def ground_words(
    policy: Policy, words: Tensor, features: Tensor, owned: Tensor, *, steps: int, seed: int
) -> Iterator[float]:
    """Train the query of the last head, and its key, in the first layer of `policy`.

    Yields the share of the attention that falls on the tokens of the
    named thing, for each step.

    Args:
        words: (words, width) embeddings.
        features: (scenes, tokens, width) visual tokens of square photos.
        owned: bool (scenes, words, tokens), see `tokens_of_words`.
    """
    language = policy.core.model.language_model
    layer = language.layers[0]
    attention = layer.self_attn
    parameters = [
        weight
        for projection in (attention.q_proj, attention.k_proj)
        for weight in projection.parameters()
    ]
    vocabulary = policy.core.model.get_input_embeddings().weight.detach()
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    num_tokens = features.shape[1]
    for step in range(steps):
        for group in optimizer.param_groups:
            warmup = min(1.0, (step + 1) / 20)
            group["lr"] = LEARNING_RATE * warmup * (1 - step / steps)
        chosen = torch.randint(len(features), (SCENES,), generator=draw)
        scene, word = owned[chosen].any(-1).nonzero(as_tuple=True)  # (queries,) each
        drawn = torch.randint(len(vocabulary), (SCENES, TEXT_WORDS), generator=draw)
        # (scenes, keys, width): the photo, then words of text
        context = torch.cat([features[chosen], vocabulary[drawn]], 1)
        distance = torch.randint(*DISTANCES, (len(scene),), generator=draw)
        shares = torch.rand(len(scene), TEXT_WORDS, generator=draw)
        scores = _attention(
            language,
            layer.input_layernorm(words)[word],
            layer.input_layernorm(context)[scene],
            _positions(num_tokens, distance, shares),
        )
        on_thing = (scores[:, :num_tokens] * owned[chosen][scene, word]).sum(-1)
        loss = -(on_thing + 1e-6).log().mean()
        optimizer.zero_grad()
        loss.backward(inputs=parameters)
        optimizer.step()
        yield float(on_thing.mean().detach())


def _positions(num_tokens: int, distance: Tensor, shares: Tensor) -> Tensor:
    """Return (3, queries, keys + 1) positions: of the photo, of the words behind it, of the query.

    A query stands `distance` behind the photo, the words in between at
    `shares` (queries, words) of it.
    """
    side = round(num_tokens**0.5)
    number = torch.arange(num_tokens)
    photo = torch.stack([torch.zeros(num_tokens), number // side, number % side])
    queries = len(distance)
    text = side + (shares * distance[:, None]).floor()
    own = (side + distance).float()[:, None]
    behind = torch.cat([text, own], 1).expand(3, -1, -1)
    return torch.cat([photo[:, None].expand(3, queries, -1), behind], 2)


def _attention(language: Any, queries: Tensor, keys: Tensor, positions: Tensor) -> Tensor:
    """Return the attention (queries, keys + 1) of the last head; the last key is a query's own.

    queries: (queries, width) and keys: (queries, keys, width), both normalized.
    """
    attention = language.layers[0].self_attn
    size = attention.head_dim
    cos, sin = language.rotary_emb(keys, positions)
    context = torch.cat([keys, queries[:, None]], 1)
    key = attention.k_proj(context)[..., -size:]
    query = attention.q_proj(queries)[:, None, -size:]
    scores = _rotated(query, cos[:, -1:], sin[:, -1:]) * _rotated(key, cos, sin)
    return (scores.sum(-1) / size**0.5).softmax(-1)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return queries or keys (queries, keys, size) with their rotary positions."""
    first, second = heads.chunk(2, -1)
    return heads * cos + torch.cat([-second, first], -1) * sin
