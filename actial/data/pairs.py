"""Which pairs of a capture become rows, in which order their photos stand, and what a row says.

Every choice is a hash of the capture, the photos and the seed, so it is the same for any number of processes, and no label is tied to time.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import numpy as np

from actial import geometry as g
from actial.config import GateConfig, PairConfig
from actial.data.gates import CaptureGeometry, judge_pairs
from actial.data.order import splitmix64
from actial.hashing import hash_choice, hash_int, hash_unit
from actial.types import Capture, QuestionType

SCHEMA = 1
SPLITS = ("train", "val", "test", "test_unseen")
DIGITS = 4  # of stored angles and ratios


def capture_key(capture: Capture) -> str:
    """Name of the capture's sample in a shard: hexadecimal, as WebDataset keys must hold no dot or slash."""
    return f"{hash_int(capture.source, capture.class_id, capture.object_id):016x}"


def split_of(capture: Capture, config: PairConfig) -> str:
    """Split by hash of the physical object, so that no object is in two; listed classes form a split of their own."""
    if {capture.class_id, capture.class_name} & set(config.unseen_classes):
        return "test_unseen"
    place = hash_unit("split", config.seed, capture.source, capture.group_id)
    if place < config.test_fraction:
        return "test"
    return "val" if place < config.test_fraction + config.val_fraction else "train"


def pair_rows(capture: Capture, geometry: CaptureGeometry, gates: GateConfig, config: PairConfig) -> tuple[list[dict], Counter[str]]:
    """At most `per_object` rows, spread evenly over the angle; and counts of judged, accepted and failed pairs."""
    first, second, key = _ordered_pairs(capture, geometry, config.seed)
    motion, accepted, counts = judge_pairs(geometry, first, second, gates)
    counts["judged"], counts["accepted"] = len(first), int(accepted.sum())
    chosen = _spread(np.flatnonzero(accepted), np.abs(motion.alpha), key, gates, config)
    rows = [_row(capture, geometry, motion, int(m), int(first[m]), int(second[m]), config) for m in chosen]
    return rows, counts


def _ordered_pairs(capture: Capture, geometry: CaptureGeometry, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each unordered pair once, its first photo drawn by hash: (first, second, key), each (m,)."""
    photo = np.array([hash_int(capture.source, capture.class_id, capture.object_id, f.name) for f in geometry.frames], dtype=np.uint64)
    i, j = np.triu_indices(len(photo), k=1)
    key = splitmix64(photo[i] ^ photo[j], seed)
    forward = (key & np.uint64(1)).astype(bool)
    return np.where(forward, i, j), np.where(forward, j, i), key


def _spread(accepted: np.ndarray, angle: np.ndarray, key: np.ndarray, gates: GateConfig, config: PairConfig) -> np.ndarray:
    """Round robin over the angle bins: pairs by (rank of the key within the bin, key)."""
    low, high = gates.min_angle + gates.angle_margin, gates.max_angle - gates.angle_margin
    bins = np.clip(((angle[accepted] - low) / (high - low) * config.angle_bins).astype(int), 0, config.angle_bins - 1)
    order = np.lexsort((key[accepted], bins))
    starts = np.searchsorted(bins[order], bins[order])
    rank = np.arange(len(order)) - starts
    return accepted[order][np.lexsort((key[accepted][order], rank))][: config.per_object]


def _row(capture: Capture, geometry: CaptureGeometry, motion: g.PairGeometry, m: int, first: int, second: int, config: PairConfig) -> dict:
    """One row of the index, without its place in a shard."""
    both = [first, second]
    names = [geometry.frames[k].name for k in both]
    uid = _pair_id(capture, names)
    view, up = geometry.view, geometry.up
    azimuths = [None, None] if geometry.azimuth is None else _rounded(geometry.azimuth[both])
    return {
        "schema": SCHEMA,
        "uid": uid,
        "kind": "pair",
        "split": split_of(capture, config),
        "source": capture.source,
        "class_id": capture.class_id,
        "class_name": capture.class_name,
        "object_id": capture.object_id,
        "group": capture.group_id,
        "frame_names": names,
        "geom": {
            "alpha_deg": _round(motion.alpha[m]),
            "yaw_right_deg": _round(motion.yaw[m]),
            "yaw_cam_axis_deg": _round(motion.yaw_camera_axis[m]),
            "rot_full_deg": _round(motion.rotation_full[m]),
            "s_rel": _round(motion.s[m]),
            "t_rel": _rounded(motion.t[m]),
            "elev_deg": _rounded(view.elevation[both]),
            "roll_deg": _rounded(view.roll[both]),
            "offaxis_deg": _rounded(view.off_axis[both]),
            "heading_off_deg": _rounded(view.heading_off[both]),
            "rho_ratio": _round(view.rho[second] / view.rho[first]),
            "up_method": "svd_right",
            "up_rms_deg": _round(up.rms_roll),
            "up_sv2": _round(up.sv2),
            "centre_method": geometry.centre_method,
            "angle_ok": geometry.angle_ok,
        },
        "labels": {
            "ego_translation": g.side(motion.s[m]),
            "object_translation": g.side(motion.s_object[m]),
            "ego_rotation": g.side(motion.yaw[m]),
            "ego_rotation_deg": _round(abs(motion.yaw[m])) if geometry.angle_ok else None,
        },
        "question_type": hash_choice(tuple(QuestionType), "type", uid).value,
        "views": [{"azimuth_deg": a, "elevation_deg": e} for a, e in zip(azimuths, _rounded(view.elevation[both]), strict=True)],
        "attributes": capture.attributes,
    }


def _pair_id(capture: Capture, names: list[str]) -> str:
    text = "|".join((capture.source, capture.class_id, capture.object_id, *names))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _round(value: float) -> float:
    return round(float(value), DIGITS) + 0.0  # + 0.0: no negative zero in the files


def _rounded(values: np.ndarray) -> list[float]:
    return [_round(v) for v in values]
