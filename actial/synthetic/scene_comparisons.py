"""Teach the language model to say which of two things is further left, and which is closer.

A head that finds a thing by its name (actial/synthetic/word_grounding.py)
is not enough: the language model must also compare what two such looks
found, and in an exercise few words depend on it. Here those words alone
are supervised, for many pairs of each scene behind one shared prefix.
With the exercises of +experiment=tiny_base_rules, left or right stays
near guessing for hundreds of steps; here it is learnt in 200.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from actial.core.records import Example, Question
from actial.core.seeding import Draw
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import Continuation, PrefixGroup, pack
from actial.modeling.prompt_renderer import PromptRenderer
from actial.viewpoint.perception_exercises import free_question
from actial.viewpoint.scene_rules import Line, relation

PAIRS = 6  # of one scene, at most
SEQUENCE_TOKENS = 512
LEARNING_RATE = 1e-3
DECAY_FROM = 0.6  # of the steps: the rate falls to zero from there


@dataclass(slots=True, frozen=True)
class DescribedScene:
    """A photo and the things that it shows."""

    image: np.ndarray  # uint8 (H, W, 3)
    lines: Sequence[Line]


class ComparedWords:
    """Tells which tokens of an answer depend on a look at the photo."""

    def __init__(self, tokenizer: Any) -> None:
        def ids(text: str) -> list[int]:
            encoded: list[int] = tokenizer.encode(text, add_special_tokens=False)
            return encoded

        self.sides = {*ids(" left"), *ids(" right")}
        self.is_closer = ids(" is closer")

    def mask(self, continuation: Continuation) -> list[bool]:
        """Return the part of the loss mask that falls on sides and on the name of what is closer.

        A name is its color and its category: a token each.
        """
        token_ids, length = continuation.input_ids, len(self.is_closer)
        compared = [token in self.sides for token in token_ids]
        for i in range(len(token_ids) - length + 1):
            if token_ids[i : i + length] == self.is_closer:
                compared[i - 2 : i] = [True, True]
        supervised = zip(compared, continuation.loss_mask, strict=True)
        return [word and target for word, target in supervised]


def pair_question(uid: str, a: Line, b: Line, draw: Draw) -> Question:
    """Return an exercise on two things: what is where, or on which side of `a` the thing `b` is."""
    statements = relation(a, b)
    text = f"in the photo, is {b.phrase} to the left or to the right of {a.phrase}?"
    if draw.uniform() < 0.5:
        text = f"what is where in the photo: {a.phrase}, {b.phrase}?"
        if draw.uniform() < 0.3:
            statements += [a.half, b.half]
    return free_question(uid, "pair", text, "\n".join(statements))


def comparison_group(
    renderer: PromptRenderer,
    words: ComparedWords,
    scene: DescribedScene,
    index: int,
    draw: Draw,
) -> PrefixGroup | None:
    """Return exercises on pairs of a scene behind its photo; None where it has no clear pair.

    index: of the photo among the images of the batch.
    """
    pairs = [(a, b) for a, b in itertools.permutations(scene.lines, 2) if a.column != b.column]
    if not pairs:
        return None
    chosen = sorted(pairs, key=lambda _: draw.uniform())[:PAIRS]
    questions = [pair_question(str(i), a, b, draw) for i, (a, b) in enumerate(chosen)]
    example = Example(uid=str(index), images=[scene.image], questions=questions, task="pairs")
    group = renderer.supervised_group(example, index)
    continuations = [replace(c, loss_mask=words.mask(c)) for c in group.continuations]
    return replace(group, continuations=continuations)


def learn_comparisons(
    policy: Policy,
    renderer: PromptRenderer,
    scenes: Sequence[DescribedScene],
    *,
    steps: int,
    scenes_per_step: int = 48,
    seed: int,
) -> Iterator[float]:
    """Train the language model of `policy` in place, its vision encoder as it is.

    Yields, for each step, the share of the compared words that are more
    likely than all others together.
    """
    words = ComparedWords(renderer.tokenizer)
    parameters = list(policy.core.model.language_model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.98))
    for step in range(steps):
        for options in optimizer.param_groups:
            options["lr"] = LEARNING_RATE * learning_rate_factor(step, steps)
        draw = Draw("comparisons", seed, step)
        drawn = [scenes[int(draw.uniform() * len(scenes))] for _ in range(scenes_per_step)]
        groups = [
            group
            for index, scene in enumerate(drawn)
            if (group := comparison_group(renderer, words, scene, index, draw)) is not None
        ]
        images = [scene.image for scene in drawn]
        batch = pack(groups, images, policy.spec, SEQUENCE_TOKENS)
        logprobs = policy.token_logprobs(batch).logprobs
        optimizer.zero_grad()
        (-logprobs.mean()).backward(inputs=parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield float((logprobs.detach().exp() > 0.5).float().mean())


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the full rate: 30 steps of warm-up, a straight fall from DECAY_FROM."""
    left = (steps - step) / (steps * (1 - DECAY_FROM))
    return min(1.0, (step + 1) / 30, left)
