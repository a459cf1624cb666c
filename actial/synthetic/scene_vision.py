"""`python -m actial.synthetic.scene_vision`: teach a model's vision encoder what stands where.

The encoder has no absolute positions (its rotary embedding is
relative), so "left" has to be worked out from the borders of the photo;
read through the language model, that stays at chance for tens of
thousands of scenes. Here each visual token is supervised at once: its
own row and column, and the color and category of what its column of
tokens shows. Photos of single objects go on beside it, so that the
sides of objects are not forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from actial.config import ModelConfig, SceneVisionConfig
from actial.config.hydra_app import hydra_command
from actial.core.progress import Progress
from actial.core.set_records import QuestionRecord
from actial.data.exercise_sets import DESCRIPTION
from actial.data.sampling_order import epoch_order
from actial.data.shards import ShardSet
from actial.modeling.image_patches import patchify
from actial.modeling.policy import Policy
from actial.synthetic.scenes import FOCAL
from actial.synthetic.vision_pretraining import BINS, Photos, load_photos, photo_loss, shifted
from actial.viewpoint.scene_rules import COLUMNS, HALF_WIDTH, Line, read_description
from actial.viewpoint.vocabulary import PALETTE, SEEN

WORDS = (*PALETTE, *SEEN)
NEAR = 0.75  # of a column of tokens: what stands nearer to it than this is in it
CLEAR = 1.75  # what stands further away is not in it; between both, nothing is supervised


@dataclass(slots=True)
class Scenes:
    """The scenes of a set with their lines, in the order of the index."""

    shards: ShardSet
    records: list[QuestionRecord]
    lines: list[list[Line]]

    @classmethod
    def load(cls, shards: ShardSet) -> Scenes:
        records = [
            record for record in shards.question_records() if record.type == DESCRIPTION
        ]
        lines = [read_description(record.options[record.answer_index]) for record in records]
        return cls(shards, records, lines)


def column_labels(lines: list[Line], columns: int) -> np.ndarray:
    """Return (columns, words) of what the columns of visual tokens show.

    1 where a column shows a word, 0 where it does not, NaN between both.
    The columns of a description are others: they span the places where
    things can stand.
    """
    labels = np.zeros((columns, len(WORDS)), np.float32)
    for line in lines:
        share = (line.column - 0.5) / COLUMNS
        offset = (2 * share - 1) * HALF_WIDTH
        at = (0.5 + FOCAL * offset) * columns - 0.5
        _, color, category = line.phrase.split()
        for column in range(columns):
            distance = abs(column - at)
            if distance < CLEAR:
                words = [WORDS.index(color), WORDS.index(category)]
                labels[column, words] = 1.0 if distance < NEAR else np.nan
    return labels


class SceneHead(nn.Module):
    """Reads the row, the column and the words of each visual token."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.positions = nn.Linear(width, 2 * side)
        self.words = nn.Linear(width, len(WORDS))

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the shares of columns and words that are right.

        features: (N, side * side, width).
        labels: (N, side, words), see `column_labels`.
        """
        count, side = len(features), self.side
        rows, columns = self.positions(features).split(side, dim=-1)
        number = torch.arange(side).repeat(count, side, 1)
        own_column = number.flatten()
        own_row = number.transpose(1, 2).flatten()
        position_loss = cross_entropy(columns.flatten(0, 1), own_column)
        position_loss += cross_entropy(rows.flatten(0, 1), own_row)
        # (N, rows, columns, words): a column shows a word when one of its tokens does
        words = self.words(features).view(count, side, side, -1).logsumexp(1)
        clear = ~labels.isnan()
        word_loss = binary_cross_entropy_with_logits(
            words[clear],
            labels[clear],
        )
        right = columns.argmax(-1).flatten() == own_column
        recalled = words[labels == 1] > 0
        seen = {
            "column": float(right.float().mean()),
            "recall": float(recalled.float().mean()),
        }
        return 20 * word_loss + 0.3 * position_loss, seen


def train_scene_vision(
    policy: Policy, scenes: Scenes, photos: Photos, config: SceneVisionConfig
) -> Iterator[dict[str, float]]:
    """Train the vision encoder and merger of `policy` in place; yield the metrics of each step."""
    torch.manual_seed(config.seed)
    width = policy.hf_config.vision_config.out_hidden_size
    first = scenes.shards.images(scenes.records[0])[0]
    with torch.no_grad():
        side = math.isqrt(_features(policy, [first]).shape[1])
    scene_head = SceneHead(width, side)
    kinds = int(photos.classes.max()) + 1 + int(photos.colors.max()) + 1
    photo_head = nn.Linear(width, BINS + kinds)
    core = policy.core.model
    parameters = [
        *core.visual.parameters(),
        *scene_head.parameters(),
        *photo_head.parameters(),
    ]
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
        labels = np.stack([column_labels(scenes.lines[i], side) for i in numbers])
        features = _features(policy, images)
        loss, metrics = scene_head(features, torch.from_numpy(labels))
        drawn = _drawn(
            f"{config.seed}/photos",
            step,
            config.photo_batch,
            len(photos.images),
        )
        index = torch.tensor(drawn)
        key = f"{config.seed}/{step}"
        single = _features(policy, shifted(photos.images[index], key))
        logits = photo_head(single.mean(1))
        loss_of_photos, azimuth = photo_loss(logits, photos, index)
        optimizer.zero_grad()
        (loss + loss_of_photos).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield {
            **metrics,
            "loss": float(loss.detach()),
            "azimuth_within_one_bin": azimuth,
        }


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the full rate: a warm-up of 50 steps, then half a cosine."""
    warmup = min(1.0, (step + 1) / 50)
    return warmup * 0.5 * (1 + math.cos(math.pi * step / steps))


def _drawn(key: str, step: int, count: int, size: int) -> list[int]:
    """Return `count` numbers below `size`: those of a step in the epochs' order."""
    positions = [divmod(step * count + i, size) for i in range(count)]
    return [int(epoch_order(key, epoch, size)[rank]) for epoch, rank in positions]


def _features(policy: Policy, images: list[np.ndarray]) -> Tensor:
    """Return the (N, tokens, width) visual tokens of images of one size."""
    pixels, grid = patchify(images, policy.spec)
    output = policy.core.model.get_image_features(pixels, grid, return_dict=True)
    return torch.stack(tuple(output.pooler_output))


def run(config: SceneVisionConfig) -> None:
    """python -m actial.synthetic.scene_vision start=DIR scenes=DIR pairs=DIR out=DIR [steps=N]

    Writes the model with its vision encoder trained on scenes; +experiment=tiny_base_rules then
    teaches the language model to read it.
    """
    policy = Policy.load(ModelConfig(path=config.start))
    scenes = Scenes.load(ShardSet(config.scenes, "train"))
    photos = load_photos(ShardSet(config.pairs, "train"))
    steps = train_scene_vision(policy, scenes, photos, config)
    with Progress("vision encoder", total=config.steps, unit="steps") as progress:
        for number, metrics in enumerate(steps, 1):
            note = ""
            if number % 50 == 0:
                note = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
            progress.advance(1, note)
    policy.save_pretrained(Path(config.out))


main = hydra_command("scene_vision", folder_key="out")(run)

if __name__ == "__main__":
    main()
