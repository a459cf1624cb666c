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


def as_prefix_groups(prompts: Sequence[Prompt]) -> tuple[list[PrefixGroup], list]:
    """Prompts as trunks without branches; an array that several prompts share stands once among the images."""
    images: list = []
    place: dict[int, int] = {}
    prefix_groups = []
    for prompt in prompts:
        chosen = []
        for image in prompt.images:
            if id(image) not in place:
                place[id(image)] = len(images)
                images.append(image)
            chosen.append(place[id(image)])
        prefix_groups.append(PrefixGroup(prompt.uid, prompt.input_ids, chosen, []))
    return prefix_groups, images


PAD_SEGMENT = -1


@dataclass(slots=True)
class Continuation:
    """Token ids behind a trunk; `scored[j]` says whether token j's log-probability is wanted."""

    input_ids: list[int]
    loss_mask: list[bool]


@dataclass(slots=True)
class PrefixGroup:
    """A prompt whose image placeholders are expanded to one id per visual token; `images` index the batch's image list.

    Example: ids [5, IMG, IMG, 7], images [0], branches [Branch([8, 2], [True, True])] scores 8 after 7 and 2 after 8.
    """

    uid: str
    input_ids: list[int]
    images: list[int]
    continuations: list[Continuation]

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids) + sum(
            len(continuation.input_ids) for continuation in self.continuations
        )


@dataclass(slots=True, frozen=True, kw_only=True)
class PackingSpec:
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
class PackedBatch:
    """Packed rows as tensors. Scored tokens are ordered by trunk, branch and token as they were given, whatever the rows."""

    input_ids: torch.Tensor  # (R, L)
    position_ids: torch.Tensor  # (3, R, L) temporal, height, width
    group_of: torch.Tensor  # (R, L) trunk index, PAD_SEGMENT on padding
    continuation_of: (
        torch.Tensor
    )  # (R, L) 0 on trunk and padding, 1 + index within the trunk on branches
    feature_slot: torch.Tensor  # (F,) flat row positions (r * L + l) that take an image feature
    feature_index: (
        torch.Tensor
    )  # (F,) which feature: rows of the concatenated features of the unique images
    pixel_values: torch.Tensor  # (patches, 3 * temporal * patch * patch)
    grid_thw: torch.Tensor  # (images, 3) patches along time, height, width
    source_position: torch.Tensor  # (N,) flat row position whose hidden state predicts the token
    target_ids: torch.Tensor  # (N,) the token's id
    sequence_index: torch.Tensor  # (N,) index of the branch in the whole batch
    token_index: torch.Tensor  # (N,) position of the token within its branch
    group_of_sequence: torch.Tensor  # (B,)
    segments: torch.Tensor  # (S, 3) of each trunk and branch: flat start, length, index of its trunk's segment; stays on the CPU
    uids: list[str]

    @property
    def num_sequences(self) -> int:
        return len(self.group_of_sequence)

    @property
    def num_tokens(self) -> int:
        """Tokens computed, padding excluded."""
        return int((self.group_of != PAD_SEGMENT).sum())

    def to(self, device: torch.device | str) -> PackedBatch:
        tensors = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("segments", "uids")
        }
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(self, **moved)


def pack(
    prefix_groups: Sequence[PrefixGroup],
    images: Sequence[np.ndarray],
    spec: PackingSpec,
    sequence_tokens: int,
    *,
    always_encode_images: bool = False,
) -> PackedBatch:
    """Pack groups into rows of `sequence_tokens`, or of the longest group's length where that is more; each image used is patchified once.

    `always_see` adds one blank image that no token refers to where there is none, so that the tower runs on every rank.
    `images` are uint8 (H, W, 3) at their final size. Raises ValueError, naming the trunk, on a placeholder count that does
    not match its images, an image side that is no multiple of `spec.factor`, or an empty trunk.
    """
    if not prefix_groups:
        raise ValueError("pack needs at least one trunk")
    used = list(
        dict.fromkeys(index for prefix_group in prefix_groups for index in prefix_group.images)
    )
    grids = {index: _grid(images[index], spec) for index in used}
    feature_start = _feature_starts(used, grids, spec)
    lengths = [prefix_group.num_tokens for prefix_group in prefix_groups]
    place, num_rows, length = _first_fit(
        lengths, max(sequence_tokens, *lengths)
    )  # all rows get as long as the longest: fill them

    input_ids = np.zeros((num_rows, length), dtype=np.int64)
    position_ids = np.zeros((3, num_rows, length), dtype=np.int64)
    group_of = np.full((num_rows, length), PAD_SEGMENT, dtype=np.int64)
    continuation_of = np.zeros((num_rows, length), dtype=np.int64)
    slots, features, scored = [], [], _ScoredTokens()
    for index, (prefix_group, (row, start)) in enumerate(zip(prefix_groups, place, strict=True)):
        group_ids, group_positions, group_continuation = _lay_out(
            prefix_group, [grids[i] for i in prefix_group.images], spec
        )
        span = slice(start, start + len(group_ids))
        input_ids[row, span], continuation_of[row, span], group_of[row, span] = (
            group_ids,
            group_continuation,
            index,
        )
        position_ids[:, row, span] = group_positions
        slots.append(
            np.flatnonzero(group_ids[: len(prefix_group.input_ids)] == spec.image_token_id)
            + row * length
            + start
        )
        features += [
            np.arange(_num_features(grids[i], spec)) + feature_start[i] for i in prefix_group.images
        ]
        scored.add(prefix_group, index, row * length + start)
    shown = [images[index] for index in used]
    if always_encode_images and not shown:
        shown = [np.zeros((spec.factor, spec.factor, 3), dtype=np.uint8)]
    pixel_values, grid_thw = patchify(shown, spec)
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        group_of=torch.from_numpy(group_of),
        continuation_of=torch.from_numpy(continuation_of),
        feature_slot=_long(slots),
        feature_index=_long(features),
        pixel_values=pixel_values,
        grid_thw=grid_thw,
        source_position=_long(scored.source_position),
        target_ids=_long(scored.target_ids),
        sequence_index=_long(scored.continuation),
        token_index=_long(scored.token),
        group_of_sequence=torch.tensor(scored.group_of_sequence, dtype=torch.long),
        segments=torch.tensor(scored.segments, dtype=torch.long),
        uids=[prefix_group.uid for prefix_group in prefix_groups],
    )


def split_micro(prefix_groups: Sequence[PrefixGroup], micro_batch_tokens: int) -> list[list[int]]:
    """Consecutive trunk indices whose tokens fit the budget; a trunk longer than the budget stands alone."""
    parts: list[list[int]] = []
    room = 0
    for index, prefix_group in enumerate(prefix_groups):
        if prefix_group.num_tokens > room:
            parts.append([])
            room = micro_batch_tokens
        parts[-1].append(index)
        room -= prefix_group.num_tokens
    return parts


def mrope_positions(
    ids: np.ndarray, grids: Sequence[tuple[int, int]], spec: PackingSpec
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


def patchify(images: Sequence[np.ndarray], spec: PackingSpec) -> tuple[torch.Tensor, torch.Tensor]:
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
        self.source_position: list[np.ndarray] = []
        self.target_ids: list[np.ndarray] = []
        self.continuation: list[np.ndarray] = []
        self.token: list[np.ndarray] = []
        self.group_of_sequence: list[int] = []
        self.segments: list[tuple[int, int, int]] = []

    def add(self, prefix_group: PrefixGroup, group_index: int, start: int) -> None:
        """`start`: flat row position of the trunk's first token."""
        before = start + len(prefix_group.input_ids)
        own_segment = len(self.segments)
        self.segments.append((start, len(prefix_group.input_ids), own_segment))
        for continuation in prefix_group.continuations:
            token = np.flatnonzero(np.asarray(continuation.loss_mask, dtype=bool))
            source_position = before + token - 1
            source_position[token == 0] = (
                start + len(prefix_group.input_ids) - 1
            )  # the trunk's last token predicts every branch's first
            self.source_position.append(source_position)
            self.target_ids.append(np.asarray(continuation.input_ids, dtype=np.int64)[token])
            self.continuation.append(np.full(len(token), len(self.group_of_sequence)))
            self.token.append(token)
            self.group_of_sequence.append(group_index)
            self.segments.append((before, len(continuation.input_ids), own_segment))
            before += len(continuation.input_ids)


def _lay_out(
    prefix_group: PrefixGroup, grids: list[tuple[int, int]], spec: PackingSpec
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids (T,), positions (3, T) and branch number (T,) of one group."""
    if not prefix_group.input_ids:
        raise ValueError(
            f"trunk {prefix_group.uid} is empty: nothing would predict its branches' first tokens"
        )
    input_ids = np.asarray(prefix_group.input_ids, dtype=np.int64)
    expected = sum(_num_features(grid, spec) for grid in grids)
    found = int((input_ids == spec.image_token_id).sum())
    if found != expected:
        raise ValueError(
            f"trunk {prefix_group.uid} has {found} image placeholders but its {len(grids)} images give {expected}"
        )
    positions = mrope_positions(input_ids, grids, spec)
    after = positions.max() + 1
    ids, all_positions, numbers = (
        [input_ids],
        [positions],
        [np.zeros(len(input_ids), dtype=np.int64)],
    )
    for number, continuation in enumerate(prefix_group.continuations, start=1):
        if len(continuation.input_ids) != len(continuation.loss_mask):
            raise ValueError(
                f"trunk {prefix_group.uid}, branch {number - 1}: {len(continuation.input_ids)} ids, {len(continuation.loss_mask)} marks"
            )
        count = len(continuation.input_ids)
        ids.append(np.asarray(continuation.input_ids, dtype=np.int64))
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


def _grid(image: np.ndarray, spec: PackingSpec) -> tuple[int, int]:
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


def _num_features(grid: tuple[int, int], spec: PackingSpec) -> int:
    return grid[0] * grid[1] // spec.merge_size**2


def _feature_starts(
    used: list[int], grids: dict[int, tuple[int, int]], spec: PackingSpec
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
