"""Shared-prefix packing: the form in which SFT and GRPO score every training example.

A `PrefixGroup` is one shared prefix (system turn, images, question) and its
continuations (SFT: answers) or completions (GRPO: samples). The prefix is
computed once. A continuation attends to its prefix and to itself, never to its
siblings, and its M-RoPE positions restart right after the prefix, as if it had
been appended to the prefix alone. Several groups fill one packed sequence.

Earlier work shares a prompt among completions: PrefixGrouper
(https://arxiv.org/abs/2506.05433) and flash-preference are libraries with
Qwen2.5-VL examples; verl #4368, unsloth #6871, AReaL and NeMo Automodel do so in
trainers, for text. New here is a trainer whose shared prefix holds images, for
SFT and for GRPO, exact, with every first token supervised (it is predicted by the
prefix's last hidden state).

Axes: R packed sequences, L positions of each, N supervised tokens, B
continuations, F image features, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actial.core.records import Prompt
from actial.modeling.image_patches import PackingSpec, num_features, patch_grid, patchify

PAD_SEGMENT = -1
MOST_PADDING = 0.05  # of the positions of a batch


@dataclass(slots=True)
class Continuation:
    """Token ids behind a shared prefix; `loss_mask[j]` says whether token j is supervised."""

    input_ids: list[int]
    loss_mask: list[bool]


@dataclass(slots=True)
class PrefixGroup:
    """A shared prefix and its continuations.

    `input_ids` hold one placeholder per visual token; `images` index the batch's
    image list. Example: input_ids [5, IMG, IMG, 7], images [0] and
    Continuation([8, 2], [True, True]) supervise 8 after 7 and 2 after 8.
    """

    uid: str
    input_ids: list[int]
    images: list[int]
    continuations: list[Continuation]

    @property
    def num_tokens(self) -> int:
        """Tokens of the prefix and of all continuations."""
        behind = sum(len(continuation.input_ids) for continuation in self.continuations)
        return len(self.input_ids) + behind


@dataclass(slots=True, kw_only=True)
class PackedBatch:
    """Packed sequences as tensors.

    A flat position is `r * L + l`. Supervised tokens keep the order in which
    groups, continuations and tokens were given, wherever packing has put them.
    """

    input_ids: Tensor  # (R, L)
    position_ids: Tensor  # (3, R, L) temporal, height, width
    group_of: Tensor  # (R, L) index of the group, PAD_SEGMENT on padding
    continuation_of: Tensor  # (R, L) 0 in the prefix, 1 + index within the group behind it
    feature_slot: Tensor  # (F,) flat positions that take an image feature
    feature_index: Tensor  # (F,) which of the concatenated features of the unique images
    pixel_values: Tensor  # (patches, 3 * temporal * patch * patch)
    grid_thw: Tensor  # (images, 3) patches along time, height, width
    source_position: Tensor  # (N,) flat position whose hidden state predicts the token
    target_ids: Tensor  # (N,) the token's id
    sequence_index: Tensor  # (N,) index of the continuation in the whole batch
    token_index: Tensor  # (N,) position of the token within its continuation
    group_of_sequence: Tensor  # (B,)
    segments: Tensor  # (S, 3) start (flat), length, index of the prefix's segment; on the CPU
    uids: list[str]  # of the groups

    @property
    def num_sequences(self) -> int:
        """Number of continuations."""
        return len(self.group_of_sequence)

    @property
    def num_tokens(self) -> int:
        """Tokens computed, padding excluded."""
        return int((self.group_of != PAD_SEGMENT).sum())

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch with its tensors on `device`; `segments` stay on the CPU."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            if field.name not in ("segments", "uids"):
                moved[field.name] = getattr(self, field.name).to(device)
        return replace(self, **moved)


def as_prefix_groups(prompts: Sequence[Prompt]) -> tuple[list[PrefixGroup], list[np.ndarray]]:
    """Prompts as groups without continuations, and the unique images (by identity of the array)."""
    images: list[np.ndarray] = []
    index_of: dict[int, int] = {}
    groups: list[PrefixGroup] = []
    for prompt in prompts:
        for image in prompt.images:
            if id(image) not in index_of:
                index_of[id(image)] = len(images)
                images.append(image)
        indices = [index_of[id(image)] for image in prompt.images]
        groups.append(PrefixGroup(prompt.uid, prompt.input_ids, indices, []))
    return groups, images


def split_micro_batches(groups: Sequence[PrefixGroup], max_tokens: int) -> list[list[int]]:
    """Consecutive group indices whose tokens fit the budget; a longer group stands alone."""
    micro_batches: list[list[int]] = []
    room = 0
    for index, group in enumerate(groups):
        if group.num_tokens > room:
            micro_batches.append([])
            room = max_tokens
        micro_batches[-1].append(index)
        room -= group.num_tokens
    return micro_batches


def pack(
    groups: Sequence[PrefixGroup],
    images: Sequence[np.ndarray],
    spec: PackingSpec,
    sequence_tokens: int,
    *,
    always_encode_images: bool = False,
    most_padding: float = MOST_PADDING,
) -> PackedBatch:
    """Pack groups into sequences of `sequence_tokens`, or of the longest group's length if larger.

    Where more than a share `most_padding` of the positions would be padding, sequences are fewer
    and longer: no token of a group sees another group, in whatever sequence it lies.

    Each image that a group uses is cut into patches once. `images` are uint8 (H,
    W, 3) at their final size. `always_encode_images` adds one blank image that no
    token refers to where there is none, so that the vision encoder runs on every
    rank.

    Raises ValueError, naming the group, for a number of placeholders that does
    not match the images, an image side that is no multiple of `spec.factor`, or
    an empty prefix.
    """
    if not groups:
        raise ValueError("pack needs at least one group")
    used = _used_images(groups)
    grids = {index: patch_grid(images[index], spec) for index in used}
    first_feature = _first_features(used, grids, spec)
    lengths = [group.num_tokens for group in groups]
    # A batch is a rectangle: all sequences become as long as the longest group,
    # so use that room.
    capacity = max(sequence_tokens, *lengths)
    offsets, num_sequences, length = _first_fit(lengths, capacity)
    while sum(lengths) < (1.0 - most_padding) * num_sequences * length:
        offsets, num_sequences, length = _balanced(lengths, num_sequences - 1)

    # The layout of one group of a prefix P and continuations A, B within its sequence:
    #   token         P0 P1 P2 | A0 A1 | B0          position_ids     0  1  2 |  3  4 |  3
    #   continuation   0  0  0 |  1  1 |  2          source of A0 and B0: the position of P2
    shape = (num_sequences, length)
    input_ids = np.zeros(shape, dtype=np.int64)
    position_ids = np.zeros((3, *shape), dtype=np.int64)
    group_of = np.full(shape, PAD_SEGMENT, dtype=np.int64)
    continuation_of = np.zeros(shape, dtype=np.int64)
    slots: list[np.ndarray] = []
    features: list[np.ndarray] = []
    supervised = _SupervisedTokens()
    for index, (group, (row, start)) in enumerate(zip(groups, offsets, strict=True)):
        layout = _lay_out(group, [grids[i] for i in group.images], spec)
        span = slice(start, start + len(layout.input_ids))
        input_ids[row, span] = layout.input_ids
        position_ids[:, row, span] = layout.position_ids
        group_of[row, span] = index
        continuation_of[row, span] = layout.continuation_of
        # Image features go into the prefix only: a placeholder id that was
        # sampled stays text.
        flat_start = row * length + start
        prefix_ids = layout.input_ids[: len(group.input_ids)]
        slots.append(np.flatnonzero(prefix_ids == spec.image_token_id) + flat_start)
        for image in group.images:
            features.append(np.arange(num_features(grids[image], spec)) + first_feature[image])
        supervised.add(group, index, flat_start)
    encoded = [images[index] for index in used]
    if always_encode_images and not encoded:
        encoded = [np.zeros((spec.factor, spec.factor, 3), dtype=np.uint8)]
    pixel_values, grid_thw = patchify(encoded, spec)
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        group_of=torch.from_numpy(group_of),
        continuation_of=torch.from_numpy(continuation_of),
        feature_slot=_long(slots),
        feature_index=_long(features),
        pixel_values=pixel_values,
        grid_thw=grid_thw,
        source_position=_long(supervised.source_position),
        target_ids=_long(supervised.target_ids),
        sequence_index=_long(supervised.sequence_index),
        token_index=_long(supervised.token_index),
        group_of_sequence=torch.tensor(supervised.group_of_sequence, dtype=torch.long),
        segments=torch.tensor(supervised.segments, dtype=torch.long),
        uids=[group.uid for group in groups],
    )


def mrope_positions(
    input_ids: np.ndarray, grids: Sequence[tuple[int, int]], spec: PackingSpec
) -> np.ndarray:
    """(3, T) positions (time, height, width) of one prefix; `grids` are (height, width) in patches.

    Source: Qwen2-VL, section 2.1 (https://arxiv.org/abs/2409.12191).
    """
    # Text counts on by one in all three axes. The h x w merged tokens of an image
    # share the time c at which it starts, and spread over c + row and c + column;
    # the count goes on at c + max(h, w).
    # Tiled families count tokens, whatever they are.
    if spec.tiled:
        return np.broadcast_to(np.arange(len(input_ids)), (3, len(input_ids)))
    positions = np.empty((3, len(input_ids)), dtype=np.int64)
    placeholders = np.flatnonzero(input_ids == spec.image_token_id)
    cursor = count = 0
    for height, width in grids:
        rows, columns = height // spec.merge_size, width // spec.merge_size
        start = int(placeholders[0])
        positions[:, cursor:start] = np.arange(start - cursor) + count
        count += start - cursor
        cursor = start + rows * columns
        positions[0, start:cursor] = count
        positions[1, start:cursor] = np.repeat(np.arange(rows), columns) + count
        positions[2, start:cursor] = np.tile(np.arange(columns), rows) + count
        count += max(rows, columns)
        placeholders = placeholders[rows * columns :]
    positions[:, cursor:] = np.arange(len(input_ids) - cursor) + count
    return positions


# ---------------------------------------------------------------- details of packing


class _SupervisedTokens:
    """Flat lists of the supervised tokens and of the segments, grown group by group."""

    def __init__(self) -> None:
        self.source_position: list[np.ndarray] = []
        self.target_ids: list[np.ndarray] = []
        self.sequence_index: list[np.ndarray] = []
        self.token_index: list[np.ndarray] = []
        self.group_of_sequence: list[int] = []
        self.segments: list[tuple[int, int, int]] = []

    def add(self, group: PrefixGroup, group_index: int, start: int) -> None:
        """Add one group whose prefix begins at the flat position `start`."""
        prefix_segment = len(self.segments)
        prefix_end = start + len(group.input_ids)
        self.segments.append((start, len(group.input_ids), prefix_segment))
        offset = prefix_end
        for continuation in group.continuations:
            token = np.flatnonzero(np.asarray(continuation.loss_mask, dtype=bool))
            # Token j is predicted at j - 1; the first one by the last token of
            # the prefix.
            source_position = offset + token - 1
            source_position[token == 0] = prefix_end - 1
            self.source_position.append(source_position)
            self.target_ids.append(np.asarray(continuation.input_ids, dtype=np.int64)[token])
            self.sequence_index.append(np.full(len(token), len(self.group_of_sequence)))
            self.token_index.append(token)
            self.group_of_sequence.append(group_index)
            self.segments.append((offset, len(continuation.input_ids), prefix_segment))
            offset += len(continuation.input_ids)


@dataclass(slots=True)
class _GroupLayout:
    """One group before it is put into a sequence."""

    input_ids: np.ndarray  # (T,)
    position_ids: np.ndarray  # (3, T)
    continuation_of: np.ndarray  # (T,)


def _lay_out(
    group: PrefixGroup, grids: list[tuple[int, int]], spec: PackingSpec
) -> _GroupLayout:
    """The prefix, then each continuation with positions that restart right after the prefix."""
    prefix_ids = np.asarray(group.input_ids, dtype=np.int64)
    _check_prefix(group, prefix_ids, grids, spec)
    prefix_positions = mrope_positions(prefix_ids, grids, spec)
    restart = prefix_positions.max() + 1
    input_ids = [prefix_ids]
    position_ids = [prefix_positions]
    continuation_of = [np.zeros(len(prefix_ids), dtype=np.int64)]
    for number, continuation in enumerate(group.continuations, start=1):
        length, marks = len(continuation.input_ids), len(continuation.loss_mask)
        if length != marks:
            raise ValueError(
                f"group {group.uid}, continuation {number - 1}: {length} input_ids but a "
                f"loss_mask of {marks}"
            )
        input_ids.append(np.asarray(continuation.input_ids, dtype=np.int64))
        position_ids.append(np.broadcast_to(restart + np.arange(length), (3, length)))
        continuation_of.append(np.full(length, number))
    return _GroupLayout(
        np.concatenate(input_ids),
        np.concatenate(position_ids, axis=1),
        np.concatenate(continuation_of),
    )


def _check_prefix(
    group: PrefixGroup, prefix_ids: np.ndarray, grids: list[tuple[int, int]], spec: PackingSpec
) -> None:
    if not len(prefix_ids):
        raise ValueError(
            f"group {group.uid} has an empty prefix: nothing would predict the first token of its "
            "continuations"
        )
    expected = sum(num_features(grid, spec) for grid in grids)
    placeholders = int((prefix_ids == spec.image_token_id).sum())
    if placeholders != expected:
        raise ValueError(
            f"group {group.uid} has {placeholders} image placeholders but its {len(grids)} images "
            f"give {expected}"
        )


def _used_images(groups: Sequence[PrefixGroup]) -> list[int]:
    """Indices of the images that groups refer to, each once, in order of first use."""
    used: dict[int, None] = {}
    for group in groups:
        used |= dict.fromkeys(group.images)
    return list(used)


def _first_fit(lengths: list[int], capacity: int) -> tuple[list[tuple[int, int]], int, int]:
    """First-fit decreasing bin packing: (sequence, start) of each group, their number and length.

    The length is that of the fullest sequence.
    """
    offsets = [(0, 0)] * len(lengths)
    filled: list[int] = []
    # The sort is stable, so groups of equal length keep their order.
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = (r for r, tokens in enumerate(filled) if tokens + lengths[index] <= capacity)
        row = next(fitting, len(filled))
        if row == len(filled):
            filled.append(0)
        offsets[index] = (row, filled[row])
        filled[row] += lengths[index]
    return offsets, len(filled), max(filled)


def _balanced(lengths: list[int], count: int) -> tuple[list[tuple[int, int]], int, int]:
    """As `_first_fit`, for a number of sequences: each group goes to the emptiest."""
    offsets = [(0, 0)] * len(lengths)
    filled = [0] * count
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = filled.index(min(filled))
        offsets[index] = (row, filled[row])
        filled[row] += lengths[index]
    return offsets, count, max(filled)


def _first_features(
    used: list[int], grids: dict[int, tuple[int, int]], spec: PackingSpec
) -> dict[int, int]:
    """Index of each image's first feature among the concatenated features of the used images."""
    ends = np.cumsum([0] + [num_features(grids[index], spec) for index in used])
    return dict(zip(used, ends[:-1].tolist(), strict=True))


def _long(arrays: list[np.ndarray]) -> Tensor:
    if not arrays:
        return torch.empty(0, dtype=torch.long)
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))
