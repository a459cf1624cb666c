"""Trunk and branches: the packed form in which every training example is scored.

One trunk (system turn, images, question) is followed by its branches (answers, or sampled completions); a branch sees its
trunk and itself only, and its M-RoPE positions restart right after the trunk, exactly as if it had been appended to the
trunk alone. Several such groups share a row. Axes: R rows, L row positions, N scored tokens, B branches, F image features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from actial.core.records import Prompt


def as_trunks(prompts: Sequence[Prompt]) -> tuple[list[Trunk], list]:
    """Prompts as trunks without branches; an array that several prompts share stands once among the images."""
    images: list = []
    place: dict[int, int] = {}
    trunks = []
    for prompt in prompts:
        chosen = []
        for image in prompt.images:
            if id(image) not in place:
                place[id(image)] = len(images)
                images.append(image)
            chosen.append(place[id(image)])
        trunks.append(Trunk(prompt.uid, prompt.trunk_ids, chosen, []))
    return trunks, images


PAD_SEGMENT = -1


@dataclass(slots=True)
class Branch:
    """Token ids behind a trunk; `scored[j]` says whether token j's log-probability is wanted."""

    ids: list[int]
    scored: list[bool]


@dataclass(slots=True)
class Trunk:
    """A prompt whose image placeholders are expanded to one id per visual token; `images` index the batch's image list.

    Example: ids [5, IMG, IMG, 7], images [0], branches [Branch([8, 2], [True, True])] scores 8 after 7 and 2 after 8.
    """

    uid: str
    ids: list[int]
    images: list[int]
    branches: list[Branch]

    @property
    def num_tokens(self) -> int:
        return len(self.ids) + sum(len(branch.ids) for branch in self.branches)


@dataclass(slots=True, frozen=True, kw_only=True)
class TrunkSpec:
    """What packing must know about a model: its placeholder id, patch geometry and pixel normalisation."""

    image_token_id: int
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    @property
    def factor(self) -> int:
        """Image sides must be multiples of this many pixels."""
        return self.patch_size * self.merge_size

    def num_image_tokens(self, height: int, width: int) -> int:
        return (height // self.factor) * (width // self.factor)


@dataclass(slots=True, kw_only=True)
class TrunkBatch:
    """Packed rows as tensors. Scored tokens are ordered by trunk, branch and token as they were given, whatever the rows."""

    ids: torch.Tensor  # (R, L)
    positions: torch.Tensor  # (3, R, L) temporal, height, width
    trunk_of: torch.Tensor  # (R, L) trunk index, PAD_SEGMENT on padding
    branch_of: torch.Tensor  # (R, L) 0 on trunk and padding, 1 + index within the trunk on branches
    feature_slot: torch.Tensor  # (F,) flat row positions (r * L + l) that take an image feature
    feature_index: (
        torch.Tensor
    )  # (F,) which feature: rows of the concatenated features of the unique images
    pixel_values: torch.Tensor  # (patches, 3 * temporal * patch * patch)
    grid_thw: torch.Tensor  # (images, 3) patches along time, height, width
    predictor: torch.Tensor  # (N,) flat row position whose hidden state predicts the token
    target: torch.Tensor  # (N,) the token's id
    branch_index: torch.Tensor  # (N,) index of the branch in the whole batch
    token_index: torch.Tensor  # (N,) position of the token within its branch
    trunk_of_branch: torch.Tensor  # (B,)
    segments: torch.Tensor  # (S, 3) of each trunk and branch: flat start, length, index of its trunk's segment; stays on the CPU
    uids: list[str]

    @property
    def num_branches(self) -> int:
        return len(self.trunk_of_branch)

    @property
    def num_tokens(self) -> int:
        """Tokens computed, padding excluded."""
        return int((self.trunk_of != PAD_SEGMENT).sum())

    def to(self, device: torch.device | str) -> TrunkBatch:
        tensors = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("segments", "uids")
        }
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, **moved)


def pack(
    trunks: Sequence[Trunk],
    images: Sequence[np.ndarray],
    spec: TrunkSpec,
    row_tokens: int,
    *,
    always_see: bool = False,
) -> TrunkBatch:
    """Pack groups into rows of `row_tokens`, or of the longest group's length where that is more; each image used is patchified once.

    `always_see` adds one blank image that no token refers to where there is none, so that the tower runs on every rank.
    `images` are uint8 (H, W, 3) at their final size. Raises ValueError, naming the trunk, on a placeholder count that does
    not match its images, an image side that is no multiple of `spec.factor`, or an empty trunk.
    """
    if not trunks:
        raise ValueError("pack needs at least one trunk")
    used = list(dict.fromkeys(index for trunk in trunks for index in trunk.images))
    grids = {index: _grid(images[index], spec) for index in used}
    feature_start = _feature_starts(used, grids, spec)
    lengths = [trunk.num_tokens for trunk in trunks]
    place, num_rows, length = _first_fit(
        lengths, max(row_tokens, *lengths)
    )  # all rows get as long as the longest: fill them

    ids = np.zeros((num_rows, length), dtype=np.int64)
    positions = np.zeros((3, num_rows, length), dtype=np.int64)
    trunk_of = np.full((num_rows, length), PAD_SEGMENT, dtype=np.int64)
    branch_of = np.zeros((num_rows, length), dtype=np.int64)
    slots, features, scored = [], [], _ScoredTokens()
    for index, (trunk, (row, start)) in enumerate(zip(trunks, place, strict=True)):
        group_ids, group_positions, group_branch = _lay_out(
            trunk, [grids[i] for i in trunk.images], spec
        )
        span = slice(start, start + len(group_ids))
        ids[row, span], branch_of[row, span], trunk_of[row, span] = group_ids, group_branch, index
        positions[:, row, span] = group_positions
        slots.append(
            np.flatnonzero(group_ids[: len(trunk.ids)] == spec.image_token_id)
            + row * length
            + start
        )
        features += [
            np.arange(_num_features(grids[i], spec)) + feature_start[i] for i in trunk.images
        ]
        scored.add(trunk, index, row * length + start)
    shown = [images[index] for index in used]
    if always_see and not shown:
        shown = [np.zeros((spec.factor, spec.factor, 3), dtype=np.uint8)]
    pixel_values, grid_thw = patchify(shown, spec)
    return TrunkBatch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        trunk_of=torch.from_numpy(trunk_of),
        branch_of=torch.from_numpy(branch_of),
        feature_slot=_long(slots),
        feature_index=_long(features),
        pixel_values=pixel_values,
        grid_thw=grid_thw,
        predictor=_long(scored.predictor),
        target=_long(scored.target),
        branch_index=_long(scored.branch),
        token_index=_long(scored.token),
        trunk_of_branch=torch.tensor(scored.trunk_of_branch, dtype=torch.long),
        segments=torch.tensor(scored.segments, dtype=torch.long),
        uids=[trunk.uid for trunk in trunks],
    )


def split_micro(trunks: Sequence[Trunk], micro_tokens: int) -> list[list[int]]:
    """Consecutive trunk indices whose tokens fit the budget; a trunk longer than the budget stands alone."""
    parts: list[list[int]] = []
    room = 0
    for index, trunk in enumerate(trunks):
        if trunk.num_tokens > room:
            parts.append([])
            room = micro_tokens
        parts[-1].append(index)
        room -= trunk.num_tokens
    return parts


def mrope_positions(
    ids: np.ndarray, grids: Sequence[tuple[int, int]], spec: TrunkSpec
) -> np.ndarray:
    """(3, T) positions of one trunk; `grids` are (height, width) in patches.

    Text counts on in all three axes; an image's tokens share the time of its start, spread over height and width, and the
    count goes on after the longer side (https://arxiv.org/abs/2409.12191, section 2.1).
    """
    positions = np.empty((3, len(ids)), dtype=np.int64)
    starts = np.flatnonzero(ids == spec.image_token_id)
    cursor = count = 0
    for height, width in grids:
        rows, columns = height // spec.merge_size, width // spec.merge_size
        begin = int(starts[0])
        positions[:, cursor:begin] = np.arange(begin - cursor) + count
        count += begin - cursor
        cursor = begin + rows * columns
        positions[0, begin:cursor] = count
        positions[1, begin:cursor] = np.repeat(np.arange(rows), columns) + count
        positions[2, begin:cursor] = np.tile(np.arange(columns), rows) + count
        count += max(rows, columns)
        starts = starts[rows * columns :]
    positions[:, cursor:] = np.arange(len(ids) - cursor) + count
    return positions


def patchify(images: Sequence[np.ndarray], spec: TrunkSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixel_values, grid_thw) bit-equal to Qwen2VLImageProcessor(do_resize=False), about 20 times cheaper on small images."""
    p, m, t = spec.patch_size, spec.merge_size, spec.temporal_patch_size
    mean, std = (
        torch.tensor(v).mul(255.0).view(3, 1, 1) for v in (spec.image_mean, spec.image_std)
    )
    patches: list[torch.Tensor] = [torch.empty(0)] * len(images)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    for (height, width, _), members in by_shape.items():
        pixels = torch.from_numpy(np.stack([images[i] for i in members]))
        blocks = pixels.view(len(members), height // (p * m), m, p, width // (p * m), m, p, 3)
        blocks = blocks.permute(0, 1, 4, 2, 5, 7, 3, 6).contiguous().float().sub_(mean).div_(std)
        frames = (
            blocks.unsqueeze(-3)
            .expand(*blocks.shape[:-2], t, p, p)
            .reshape(len(members), -1, 3 * t * p * p)
        )
        for member, frame in zip(members, frames, strict=True):
            patches[member] = frame
    grid = [(1, image.shape[0] // p, image.shape[1] // p) for image in images]
    empty = torch.empty(0, 3 * t * p * p)
    return torch.cat(patches) if patches else empty, torch.tensor(grid, dtype=torch.long).view(
        -1, 3
    )


# ---------------------------------------------------------------- details of packing


class _ScoredTokens:
    """Flat lists of the scored tokens and of the segments, grown trunk by trunk."""

    def __init__(self) -> None:
        self.predictor: list[np.ndarray] = []
        self.target: list[np.ndarray] = []
        self.branch: list[np.ndarray] = []
        self.token: list[np.ndarray] = []
        self.trunk_of_branch: list[int] = []
        self.segments: list[tuple[int, int, int]] = []

    def add(self, trunk: Trunk, trunk_index: int, start: int) -> None:
        """`start`: flat row position of the trunk's first token."""
        before = start + len(trunk.ids)
        own_segment = len(self.segments)
        self.segments.append((start, len(trunk.ids), own_segment))
        for branch in trunk.branches:
            token = np.flatnonzero(np.asarray(branch.scored, dtype=bool))
            predictor = before + token - 1
            predictor[token == 0] = (
                start + len(trunk.ids) - 1
            )  # the trunk's last token predicts every branch's first
            self.predictor.append(predictor)
            self.target.append(np.asarray(branch.ids, dtype=np.int64)[token])
            self.branch.append(np.full(len(token), len(self.trunk_of_branch)))
            self.token.append(token)
            self.trunk_of_branch.append(trunk_index)
            self.segments.append((before, len(branch.ids), own_segment))
            before += len(branch.ids)


def _lay_out(
    trunk: Trunk, grids: list[tuple[int, int]], spec: TrunkSpec
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids (T,), positions (3, T) and branch number (T,) of one group."""
    if not trunk.ids:
        raise ValueError(
            f"trunk {trunk.uid} is empty: nothing would predict its branches' first tokens"
        )
    trunk_ids = np.asarray(trunk.ids, dtype=np.int64)
    expected = sum(_num_features(grid, spec) for grid in grids)
    found = int((trunk_ids == spec.image_token_id).sum())
    if found != expected:
        raise ValueError(
            f"trunk {trunk.uid} has {found} image placeholders but its {len(grids)} images give {expected}"
        )
    positions = mrope_positions(trunk_ids, grids, spec)
    after = positions.max() + 1
    ids, all_positions, numbers = (
        [trunk_ids],
        [positions],
        [np.zeros(len(trunk_ids), dtype=np.int64)],
    )
    for number, branch in enumerate(trunk.branches, start=1):
        if len(branch.ids) != len(branch.scored):
            raise ValueError(
                f"trunk {trunk.uid}, branch {number - 1}: {len(branch.ids)} ids, {len(branch.scored)} marks"
            )
        count = len(branch.ids)
        ids.append(np.asarray(branch.ids, dtype=np.int64))
        all_positions.append(np.broadcast_to(after + np.arange(count), (3, count)))
        numbers.append(np.full(count, number))
    return np.concatenate(ids), np.concatenate(all_positions, axis=1), np.concatenate(numbers)


def _first_fit(lengths: list[int], capacity: int) -> tuple[list[tuple[int, int]], int, int]:
    """First-fit decreasing: (row, start) of each group, number of rows, row length (that of the fullest row)."""
    place = [(0, 0)] * len(lengths)
    filled: list[int] = []
    for index in sorted(
        range(len(lengths)), key=lambda i: -lengths[i]
    ):  # stable, so ties keep their order
        row = next(
            (r for r, used in enumerate(filled) if used + lengths[index] <= capacity), len(filled)
        )
        if row == len(filled):
            filled.append(0)
        place[index] = (row, filled[row])
        filled[row] += lengths[index]
    return place, len(filled), max(filled)


def _grid(image: np.ndarray, spec: TrunkSpec) -> tuple[int, int]:
    height, width = image.shape[:2]
    if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or height % spec.factor
        or width % spec.factor
    ):
        raise ValueError(
            f"image of shape {image.shape} and type {image.dtype}: need uint8 (H, W, 3) with sides a multiple of {spec.factor}"
        )
    return height // spec.patch_size, width // spec.patch_size


def _num_features(grid: tuple[int, int], spec: TrunkSpec) -> int:
    return grid[0] * grid[1] // spec.merge_size**2


def _feature_starts(
    used: list[int], grids: dict[int, tuple[int, int]], spec: TrunkSpec
) -> dict[int, int]:
    """Row of each image's first feature in the concatenated features."""
    ends = np.cumsum([0] + [_num_features(grids[index], spec) for index in used])
    return dict(zip(used, ends[:-1].tolist(), strict=True))


def _long(parts: list[np.ndarray]) -> torch.Tensor:
    return (
        torch.from_numpy(np.concatenate(parts).astype(np.int64))
        if parts
        else torch.empty(0, dtype=torch.long)
    )
