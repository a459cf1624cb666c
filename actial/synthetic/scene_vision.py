"""`python -m actial.synthetic.scene_vision`: teach a model's vision encoder what stands where.

The encoder has no absolute positions (its rotary embedding is
relative), so "left" has to be worked out from the borders of the photo;
read through the language model, that stays at chance for tens of
thousands of scenes. Here each visual token is supervised at once: its
own row and column, and of the thing that it shows the color, category,
column, distance and visible side. On photos of single objects the
features stay what they were, so that the language model reads them as
before. At last a head of the language model learns to find things by
their words (actial/synthetic/word_grounding.py), and the language model
to compare two of them (actial/synthetic/scene_comparisons.py).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from actial.config import ModelConfig, PromptConfig, SceneVisionConfig
from actial.config.hydra_app import hydra_command
from actial.core.errors import UserError
from actial.core.progress import Progress
from actial.core.set_records import QuestionRecord
from actial.data.exercise_sets import DESCRIPTION, LAYOUT
from actial.data.sampling_order import epoch_order
from actial.data.shards import ShardSet
from actial.modeling.image_patches import patchify
from actial.modeling.policy import Policy
from actial.modeling.prompt_renderer import PromptRenderer
from actial.synthetic.base_scenes import EMPTY_CELL, UNCLEAR_CELL
from actial.synthetic.scene_comparisons import DescribedScene, learn_comparisons
from actial.synthetic.vision_pretraining import load_photos, shifted
from actial.synthetic.word_grounding import ground_words, tokens_of_words
from actial.viewpoint.perception_exercises import SIDES
from actial.viewpoint.scene_rules import COLUMNS, DISTANCES, Line, read_description
from actial.viewpoint.vocabulary import PALETTE, SEEN

IGNORED = -100  # label of what is not supervised
# What the language model's embeddings of these words must tell of a token that shows a thing: one
# word of a group, or how much of each of two.
WORDS = {
    "color": tuple(f" {color}" for color in PALETTE),
    "category": tuple(f" {name}" for name in SEEN),
    "half": (" left", " right"),
    "nearness": (" closer", " far"),
}
WORD_SCALE = 0.2  # of the products with embeddings: less asks for a larger part of the feature
FIELDS = {  # what a token is asked -> number of answers
    "color": len(PALETTE),
    "category": len(SEEN),
    "column": COLUMNS,
    "distance": DISTANCES,
    "side": len(SIDES),
    "covered": 2,  # by a thing or by none
}
POSITION_WEIGHT = 0.5  # of the losses of a token's own row and column
GROUNDED_SCENES = 1600  # whose visual tokens are cached
COMPARED_SCENES = 8000  # whose photos are kept in memory
PHOTO_WEIGHT = 3.0  # of the change of the features of single objects


@dataclass(slots=True)
class Scenes:
    """The scenes of a set with the labels of their visual tokens, in the order of the index."""

    shards: ShardSet
    records: list[QuestionRecord]
    lines: list[list[Line]]  # of their descriptions
    labels: list[np.ndarray]  # see `token_labels`

    @classmethod
    def load(cls, shards: ShardSet) -> Scenes:
        texts: dict[tuple[str, str], dict[str, str]] = {}
        first: dict[tuple[str, str], QuestionRecord] = {}
        for record in shards.question_records():
            if record.type in (DESCRIPTION, LAYOUT):
                key = (record.shard, record.key)
                first.setdefault(key, record)
                texts.setdefault(key, {})[record.type] = record.options[record.answer_index]
        if any(len(both) < 2 for both in texts.values()) or not texts:
            raise UserError(
                f"scenes={shards.root} has scenes without description and layout: make it "
                "from the folder of `python -m actial.synthetic.base_scenes`."
            )
        lines = [read_description(both[DESCRIPTION]) for both in texts.values()]
        layouts = [both[LAYOUT] for both in texts.values()]
        labels = [token_labels(*scene) for scene in zip(lines, layouts, strict=True)]
        return cls(shards, list(first.values()), lines, labels)

    def described(self, count: int) -> list[DescribedScene]:
        """Return the first `count` scenes with their photos decoded."""
        return [
            DescribedScene(self.shards.images(record)[0], lines)
            for record, lines in zip(self.records[:count], self.lines[:count], strict=True)
        ]


def token_labels(lines: list[Line], layout: str) -> np.ndarray:
    """Return (tokens, fields) of what the visual tokens of a scene show, in FIELDS' order.

    IGNORED where a token shows no thing, or where what it shows is
    unclear.
    """
    cells = layout.replace("/", "")
    labels = np.full((len(cells), len(FIELDS)), IGNORED)
    for token, cell in enumerate(cells):
        if cell == EMPTY_CELL:
            labels[token, -1] = 0
        elif cell != UNCLEAR_CELL:
            labels[token] = (*_thing_labels(lines[int(cell) - 1]), 1)
    return labels


def _thing_labels(line: Line) -> tuple[int, ...]:
    _, color, category = line.phrase.split()
    return (
        list(PALETTE).index(color),
        SEEN.index(category),
        line.column - 1,
        line.level - 1,
        SIDES.index(line.side),
    )


class SceneHead(nn.Module):
    """Reads from each visual token its row and column, and what it shows.

    Color, category, half and nearness are also read by the products with
    the language model's embeddings of their words, so that its attention
    finds a thing by its name, as it finds a word told in text.
    embeddings: group of WORDS -> (words, width).
    """

    def __init__(self, width: int, side: int, embeddings: dict[str, Tensor]) -> None:
        super().__init__()
        self.side, self.embeddings = side, embeddings
        self.positions = nn.Linear(width, 2 * side)
        self.things = nn.Linear(width, sum(FIELDS.values()))

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, and the share of right answers to each question.

        features: (N, side * side, width).
        labels: (N, side * side, fields), see `token_labels`.
        """
        count, side = len(features), self.side
        number = torch.arange(side).repeat(count, side, 1)
        rows, columns = self.positions(features).split(side, dim=-1)
        own = {"own_row": (rows, number.transpose(1, 2)), "own_column": (columns, number)}
        answers = self.things(features).split(list(FIELDS.values()), dim=-1)
        fields = zip(FIELDS, answers, labels.unbind(-1), strict=True)
        questions = own | {name: (logits, label) for name, logits, label in fields}
        loss = features.new_zeros(())
        metrics: dict[str, float] = {}
        for name, (logits, label) in questions.items():
            flat, truth = logits.flatten(0, 1), label.flatten()
            weight = POSITION_WEIGHT if name in own else 1.0
            loss = loss + weight * cross_entropy(flat, truth, ignore_index=IGNORED)
            clear = truth != IGNORED
            right = flat.argmax(-1)[clear] == truth[clear]
            metrics[name] = float(right.float().mean())
        return loss + self._word_loss(features, labels, metrics), metrics

    def _word_loss(
        self, features: Tensor, labels: Tensor, metrics: dict[str, float]
    ) -> Tensor:
        """Return the loss of the words of all tokens that show a thing; add to `metrics`."""
        shows = labels[..., -1] == 1
        things = labels[shows]  # (things, fields)
        color, category, column, level = things[:, :4].unbind(1)
        halves = (column + 0.5) / COLUMNS
        depths = (level + 0.5) / DISTANCES
        targets = {
            "color": one_hot(color, len(PALETTE)).float(),
            "category": one_hot(category, len(SEEN)).float(),
            "half": torch.stack([1 - halves, halves], 1).float(),
            "nearness": torch.stack([1 - depths, depths], 1).float(),
        }
        loss = features.new_zeros(())
        for name, target in targets.items():
            logits = WORD_SCALE * features[shows] @ self.embeddings[name].T
            loss = loss + cross_entropy(logits, target)
            right = logits.argmax(1) == target.argmax(1)
            metrics[f"word_{name}"] = float(right.float().mean())
        return loss


def train_scene_vision(
    policy: Policy,
    tokenizer: Any,
    scenes: Scenes,
    photos: np.ndarray,
    config: SceneVisionConfig,
) -> Iterator[dict[str, float]]:
    """Train the vision encoder and merger of `policy` in place; yield the metrics of each step.

    photos: uint8 (N, H, W, 3) of single objects. "photo_change" is the mean square of the change
    of their features over the variance of the features.
    """
    torch.manual_seed(config.seed)
    width = policy.hf_config.vision_config.out_hidden_size
    core = policy.core.model
    start = copy.deepcopy(core)
    side = math.isqrt(len(scenes.labels[0]))
    _check_size(policy, scenes, side)
    head = SceneHead(width, side, _embeddings(policy, tokenizer))
    parameters = [*core.visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.98))
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * learning_rate_factor(step, config.steps)
        numbers = _drawn(
            f"{config.seed}/scenes",
            step,
            config.batch_size,
            len(scenes.records),
        )
        images = [scenes.shards.images(scenes.records[i])[0] for i in numbers]
        labels = np.stack([scenes.labels[i] for i in numbers])
        features = _features(policy, core, images)
        loss, metrics = head(features, torch.from_numpy(labels))
        drawn = _drawn(
            f"{config.seed}/photos",
            step,
            config.photo_batch,
            len(photos),
        )
        single = shifted(photos[drawn], f"{config.seed}/{step}")
        with torch.no_grad():
            before = _features(policy, start, single)
        change = mse_loss(_features(policy, core, single), before) / before.var()
        optimizer.zero_grad()
        (loss + PHOTO_WEIGHT * change).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield {
            **metrics,
            "loss": float(loss.detach()),
            "photo_change": float(change.detach()),
        }


def _embeddings(policy: Policy, tokenizer: Any) -> dict[str, Tensor]:
    """Return the language model's embeddings of WORDS, (words, width) for each group.

    Raises UserError for a tokenizer that cuts one of them.
    """
    weight = policy.core.model.get_input_embeddings().weight.detach()
    embeddings = {}
    for name, words in WORDS.items():
        ids = [tokenizer.encode(word, add_special_tokens=False) for word in words]
        if cut := [word for word, tokens in zip(words, ids, strict=True) if len(tokens) > 1]:
            raise UserError(
                f"the model's tokenizer cuts the word {cut[0].strip()!r}: start from a model of "
                "`python -m actial.synthetic.tiny_model`."
            )
        embeddings[name] = weight[[tokens[0] for tokens in ids]].clone()
    return embeddings


def ground_in_scenes(
    policy: Policy, tokenizer: Any, scenes: Scenes, config: SceneVisionConfig
) -> float:
    """Teach the language model to find the things of scenes by color and category.

    Returns the share of the attention that falls on the named thing in
    the last tenth of the steps.
    """
    embeddings = _embeddings(policy, tokenizer)
    words = torch.cat([embeddings["color"], embeddings["category"]])
    count = min(GROUNDED_SCENES, len(scenes.records))
    features = []
    for start in range(0, count, config.batch_size):
        records = scenes.records[start : min(start + config.batch_size, count)]
        images = [scenes.shards.images(record)[0] for record in records]
        with torch.no_grad():
            features.append(_features(policy, policy.core.model, images))
    labels = torch.from_numpy(np.stack(scenes.labels[:count]))
    owned = tokens_of_words(labels, (len(PALETTE), len(SEEN)))
    steps = ground_words(
        policy,
        words,
        torch.cat(features),
        owned,
        steps=config.grounding_steps,
        seed=config.seed,
    )
    last = list(steps)[-max(1, config.grounding_steps // 10) :]
    return sum(last) / len(last)


def _check_size(policy: Policy, scenes: Scenes, side: int) -> None:
    """Raise UserError unless a visual token shows one cell of the scenes' layout."""
    image = scenes.shards.images(scenes.records[0])[0]
    with torch.no_grad():
        tokens = _features(policy, policy.core.model, [image]).shape[1]
    if tokens != side * side:
        raise UserError(
            f"scenes={scenes.shards.root} has layouts of {side * side} cells, but the model sees "
            f"{tokens} visual tokens: give a model with visual tokens of 16 pixels."
        )


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the full rate: a warm-up of 50 steps, then half a cosine."""
    warmup = min(1.0, (step + 1) / 50)
    return warmup * 0.5 * (1 + math.cos(math.pi * step / steps))


def _drawn(key: str, step: int, count: int, size: int) -> list[int]:
    """Return `count` numbers below `size`: those of a step in the epochs' order."""
    positions = [divmod(step * count + i, size) for i in range(count)]
    return [int(epoch_order(key, epoch, size)[rank]) for epoch, rank in positions]


def _features(policy: Policy, core: Any, images: list[np.ndarray]) -> Tensor:
    """Return the (N, tokens, width) visual tokens that `core` makes of images of one size."""
    pixels, grid = patchify(images, policy.spec)
    output = core.get_image_features(pixels, grid, return_dict=True)
    return torch.stack(tuple(output.pooler_output))


def run(config: SceneVisionConfig) -> None:
    """python -m actial.synthetic.scene_vision start=DIR scenes=DIR pairs=DIR out=DIR [steps=N]

    Writes the model with its vision encoder trained on scenes;
    +experiment=tiny_base_rules then teaches the language model to speak of
    them.
    """
    model = ModelConfig(path=config.start)
    policy = Policy.load(model)
    scenes = Scenes.load(ShardSet(config.scenes, "train"))
    photos = load_photos(ShardSet(config.pairs, "train")).images
    renderer = PromptRenderer.load(model, PromptConfig())
    tokenizer = renderer.tokenizer
    steps = train_scene_vision(policy, tokenizer, scenes, photos, config)
    with Progress("vision encoder", total=config.steps, unit="steps") as progress:
        for number, metrics in enumerate(steps, 1):
            note = ""
            if number % 50 == 0:
                note = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
            progress.advance(1, note)
    on_thing = ground_in_scenes(policy, tokenizer, scenes, config)
    print(f"attention of a word on the thing that it names: {on_thing:.2f}")
    comparisons = learn_comparisons(
        policy,
        renderer,
        scenes.described(COMPARED_SCENES),
        steps=config.comparison_steps,
        seed=config.seed,
    )
    with Progress("comparisons", total=config.comparison_steps, unit="steps") as progress:
        for number, right in enumerate(comparisons, 1):
            progress.advance(1, f"right {right:.2f}" if number % 20 == 0 else "")
    policy.save_pretrained(Path(config.out))


main = hydra_command("scene_vision", folder_key="out")(run)

if __name__ == "__main__":
    main()
