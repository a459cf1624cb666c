"""Which photos of a capture become a ViewPair, in which order, and what is recorded of them.

Every choice is a hash of the capture, the photos and the seed, so it is the same for any number of
processes, and no label is tied to time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from actial.config import GateConfig, PairConfig
from actial.core.records import Capture
from actial.core.seeding import hash_choice, hash_int, hash_shuffle, hash_unit, splitmix64
from actial.core.set_records import (
    PAPER_QUESTIONS,
    Motion,
    MotionLabels,
    PairGeometry,
    QuestionType,
    ViewDirection,
    ViewPair,
)
from actial.viewpoint import geometry as g
from actial.viewpoint.quality_gates import (
    CaptureGeometry,
    JudgedPairs,
    judge_pairs,
    usable_views,
)

SPLITS = ("train", "val", "test", "test_unseen")
DIGITS = 4  # of stored angles and ratios
CROPPED = "@crop"  # behind the name of a frame: the same photo, cropped a little
ABOUT_DEGREES = (QuestionType.ROTATION_DEGREES, QuestionType.ROTATION_NUMBER)
ANSWERABLE = {  # motion -> what may be asked; degrees only where they are sure
    Motion.HORIZONTAL: (*PAPER_QUESTIONS, *ABOUT_DEGREES),
    Motion.VERTICAL: (QuestionType.EGO_VERTICAL,),
    Motion.DEPTH: (QuestionType.EGO_DEPTH,),
    Motion.STILL: (*PAPER_QUESTIONS, QuestionType.EGO_VERTICAL, QuestionType.EGO_DEPTH),
}
STILL_LABELS = MotionLabels(
    ego_translation="none",
    object_translation="none",
    ego_rotation="none",
    ego_vertical="none",
    ego_depth="none",
)


def capture_key(capture: Capture) -> str:
    """Return the name of the capture's sample in a shard.

    It is hexadecimal, as WebDataset keys must hold no dot or slash.
    """
    return f"{hash_int(capture.source, capture.class_id, capture.object_id):016x}"


def split_of(capture: Capture, config: PairConfig) -> str:
    """Return the split by hash of the physical object, so that no object is in two.

    Unseen classes form a split of their own.
    """
    drawn = hash_unit("unseen class", config.seed, capture.source, capture.class_id)
    named = {capture.class_id, capture.class_name} & set(config.unseen_classes)
    if drawn < config.unseen_class_fraction or named:
        return "test_unseen"
    position = hash_unit("split", config.seed, capture.source, capture.group_id)
    if position < config.test_fraction:
        return "test"
    return "val" if position < config.test_fraction + config.val_fraction else "train"


def view_pairs(
    capture: Capture, geometry: CaptureGeometry, gates: GateConfig, config: PairConfig
) -> tuple[list[ViewPair], Counter[str]]:
    """Return the pairs of one capture, and counts of judged, accepted and failed pairs.

    Horizontal pairs are spread evenly over angle and side, the others over their two directions.
    """
    first, second, key = _ordered_pairs(capture, geometry, config.seed)
    judged = judge_pairs(geometry, first, second, gates)
    counts = judged.failed
    counts["judged"], counts["accepted"] = len(first), int(judged.horizontal.sum())
    motion = judged.motion
    selection = {
        Motion.HORIZONTAL: _spread(
            np.flatnonzero(judged.horizontal), np.abs(motion.alpha), key, gates, config
        ),
        Motion.VERTICAL: _both_sides(
            np.flatnonzero(judged.vertical), motion.vertical, key, config.vertical_per_object
        ),
        Motion.DEPTH: _both_sides(
            np.flatnonzero(judged.depth), motion.t[:, 2], key, config.depth_per_object
        ),
    }
    writer = _PairWriter(capture, geometry, config)
    pairs: list[ViewPair] = []
    for kind, index in selection.items():
        pairs += writer.pairs(judged, index, kind)
    pairs += _still_pairs(writer, gates)
    return [pair for pair in pairs if pair.questions], counts


def _ordered_pairs(
    capture: Capture, geometry: CaptureGeometry, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each unordered pair once, its first photo drawn by hash: (first, second, key) (m,)."""
    names = [frame.name for frame in geometry.frames]
    identity = (capture.source, capture.class_id, capture.object_id)
    photo = np.array([hash_int(*identity, name) for name in names], dtype=np.uint64)
    i, j = np.triu_indices(len(photo), k=1)
    key = splitmix64(photo[i] ^ photo[j], seed)
    forward = (key & np.uint64(1)).astype(bool)
    return np.where(forward, i, j), np.where(forward, j, i), key


def angle_bin(angle: np.ndarray, gates: GateConfig, bins: int) -> np.ndarray:
    """Return the bin 0 .. bins - 1 of unsigned angles within the accepted range."""
    low, high = gates.min_angle + gates.angle_margin, gates.max_angle - gates.angle_margin
    clipped: np.ndarray = np.clip(
        ((angle - low) / (high - low) * bins).astype(int), 0, bins - 1
    )
    return clipped


def _spread(
    accepted: np.ndarray,
    angle: np.ndarray,
    key: np.ndarray,
    gates: GateConfig,
    config: PairConfig,
) -> np.ndarray:
    """Return at most `per_object` accepted pairs, by turns from each angle bin."""
    bins = angle_bin(angle[accepted], gates, config.angle_bins)
    return _by_turns(accepted, bins, key)[: config.per_object]


def _both_sides(
    accepted: np.ndarray, signed: np.ndarray, key: np.ndarray, count: int
) -> np.ndarray:
    """Return at most `count` accepted pairs, by turns positive and negative."""
    return _by_turns(accepted, (signed[accepted] > 0).astype(int), key)[:count]


def _by_turns(accepted: np.ndarray, bins: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return the accepted pairs so that bins take turns: by (rank of the key in its bin, key).

    Sorted by (bin, key), a pair's rank is its distance to the first pair of the same bin.
    """
    order = np.lexsort((key[accepted], bins))
    starts = np.searchsorted(bins[order], bins[order])
    rank = np.arange(len(order)) - starts
    by_turns: np.ndarray = accepted[order][np.lexsort((key[accepted][order], rank))]
    return by_turns


def stratum(pair: ViewPair, gates: GateConfig, bins: int) -> str:
    """Return what a cap on the pairs of a class or split balances: motion, angle bin, side."""
    side = pair.labels.first_side()
    if pair.motion is not Motion.HORIZONTAL:
        return f"{pair.motion.value}/{side}"
    angle = int(angle_bin(np.abs(np.array(pair.geometry.alpha_deg)), gates, bins))
    return f"{pair.motion.value}/{angle}/{side}"


# ---------------------------------------------------------------- records


@dataclass(slots=True)
class _PairWriter:
    """Turns judged pairs of one capture into records."""

    capture: Capture
    geometry: CaptureGeometry
    config: PairConfig

    def pairs(self, judged: JudgedPairs, index: np.ndarray, motion: Motion) -> list[ViewPair]:
        """Return the records of the judged pairs at `index`, which all show `motion`."""
        if not len(index):
            return []
        ends = zip(judged.first[index].tolist(), judged.second[index].tolist(), strict=True)
        measured = _pair_geometries(self.geometry, judged, index)
        labels = _labels(self.geometry, judged.motion, index, motion)
        return [
            self.pair(motion, both, geometry, label)
            for both, geometry, label in zip(ends, measured, labels, strict=True)
        ]

    def pair(
        self,
        motion: Motion,
        ends: tuple[int, int],
        geometry: PairGeometry,
        labels: MotionLabels,
    ) -> ViewPair:
        """Return one record; `ends` are the indices of the first and the last frame."""
        capture = self.capture
        frames = [ends[0], *self._frames_between(ends), ends[1]]
        names = [self.geometry.frames[k].name for k in frames]
        if motion is Motion.STILL:
            names[-1] += CROPPED
        uid = _pair_id(capture, names)
        questions = self._questions(motion)
        question_type = None
        if questions:
            drawn = hash_choice([kind.value for kind in questions], "type", uid)
            question_type = QuestionType(drawn)
        return ViewPair(
            uid=uid,
            split=split_of(capture, self.config),
            source=capture.source,
            class_id=capture.class_id,
            class_name=capture.class_name,
            object_id=capture.object_id,
            group=capture.group_id,
            motion=motion,
            frame_names=tuple(names),
            geometry=geometry,
            labels=labels,
            questions=questions,
            question_type=question_type,
            views=self._views(frames),
            attributes=capture.attributes,
        )

    def _frames_between(self, ends: tuple[int, int]) -> list[int]:
        """Return further photos of the same walk, shown between the two that are asked about."""
        if self.config.views == 2:
            return []
        capture = self.capture
        others = [k for k in range(len(self.geometry.frames)) if k not in ends]
        identity = (capture.source, capture.class_id, capture.object_id)
        drawn = hash_shuffle(others, "between", self.config.seed, *identity, *ends)
        return drawn[: self.config.views - 2]

    def _questions(self, motion: Motion) -> tuple[QuestionType, ...]:
        answerable = ANSWERABLE[motion]
        if not self.geometry.angle_ok:
            answerable = tuple(kind for kind in answerable if kind not in ABOUT_DEGREES)
        return tuple(kind for kind in answerable if kind.value in self.config.questions)

    def _views(self, frames: list[int]) -> tuple[ViewDirection, ...]:
        azimuths: list[float | None] = [None] * len(frames)
        if self.geometry.azimuth is not None:
            azimuths = _rounded(self.geometry.azimuth[frames])
        elevations = _rounded(self.geometry.view.elevation[frames])
        return tuple(
            ViewDirection(azimuth_deg=azimuth, elevation_deg=elevation)
            for azimuth, elevation in zip(azimuths, elevations, strict=True)
        )


def _still_pairs(writer: _PairWriter, gates: GateConfig) -> list[ViewPair]:
    """Return pairs of the same photo twice: nothing moved, though the images differ by a crop."""
    capture, config = writer.capture, writer.config
    if not config.still_per_object:
        return []
    usable = np.logical_and.reduce(list(usable_views(writer.geometry, gates).values()))
    identity = (capture.source, capture.class_id, capture.object_id)
    drawn = hash_shuffle(np.flatnonzero(usable).tolist(), "still", config.seed, *identity)
    drawn = drawn[: config.still_per_object]
    same = np.array(drawn, dtype=int)
    judged = judge_pairs(writer.geometry, same, same, gates)
    measured = _pair_geometries(writer.geometry, judged, np.arange(len(same)))
    return [
        writer.pair(Motion.STILL, (k, k), geometry, STILL_LABELS)
        for k, geometry in zip(drawn, measured, strict=True)
    ]


def _pair_geometries(
    geometry: CaptureGeometry, judged: JudgedPairs, index: np.ndarray
) -> list[PairGeometry]:
    """Return the measurements of the judged pairs at `index` (k,), rounded for storage."""
    view, up, p = geometry.view, geometry.up, judged.motion
    ends = np.stack([judged.first[index], judged.second[index]], axis=1)  # (k, 2)
    columns = {
        "alpha_deg": p.alpha[index],
        "yaw_right_deg": p.yaw[index],
        "yaw_cam_axis_deg": p.yaw_camera_axis[index],
        "rot_full_deg": p.rotation_full[index],
        "s_rel": p.s[index],
        "t_rel": p.t[index],
        "elev_deg": view.elevation[ends],
        "roll_deg": view.roll[ends],
        "offaxis_deg": view.off_axis[ends],
        "heading_off_deg": view.heading_off[ends],
        "rho_ratio": view.rho[ends[:, 1]] / view.rho[ends[:, 0]],
    }
    shared = {
        "up_method": "svd_right",
        "up_rms_deg": round(up.rms_roll, DIGITS),
        "up_sv2": round(up.sv2, DIGITS),
        "centre_method": geometry.center_method,
        "angle_ok": geometry.angle_ok,
    }
    lists = [_rounded(column) for column in columns.values()]
    per_pair = (dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True))
    return [PairGeometry.from_json(measured | shared) for measured in per_pair]


def _labels(
    geometry: CaptureGeometry, motion: g.PairMotion, index: np.ndarray, kind: Motion
) -> list[MotionLabels]:
    if kind is Motion.VERTICAL:
        rises = ["up" if rise > 0 else "down" for rise in motion.vertical[index]]
        return [MotionLabels(ego_vertical=rise) for rise in rises]
    if kind is Motion.DEPTH:
        ways = ["forward" if ahead > 0 else "backward" for ahead in motion.t[index, 2]]
        return [MotionLabels(ego_depth=way) for way in ways]
    degrees: list[float | None] = [None] * len(index)
    if geometry.angle_ok:
        degrees = _rounded(np.abs(motion.yaw[index]))
    return [
        MotionLabels(
            ego_translation=g.side(motion.s[m]),
            object_translation=g.side(motion.s_object[m]),
            ego_rotation=g.side(motion.yaw[m]),
            ego_rotation_deg=turned,
        )
        for m, turned in zip(index, degrees, strict=True)
    ]


def _pair_id(capture: Capture, names: Sequence[str]) -> str:
    text = "|".join((capture.source, capture.class_id, capture.object_id, *names))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _rounded(values: np.ndarray) -> list[Any]:
    # + 0.0: no negative zero in the files
    rounded: list[Any] = (np.round(values, DIGITS) + 0.0).tolist()
    return rounded
