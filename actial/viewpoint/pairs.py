"""Which pairs of a capture become rows, in which order their photos stand, and what a row says.

Every choice is a hash of the capture, the photos and the seed, so it is the same for any number of processes, and no label is tied to time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from actial.config import GateConfig, PairConfig
from actial.core.records import Capture, QuestionType
from actial.core.seeding import hash_choice, hash_int, hash_shuffle, hash_unit, splitmix64
from actial.viewpoint import geometry as g
from actial.viewpoint.quality_gates import CaptureGeometry, JudgedPairs, judge_pairs, usable_views

SCHEMA = 2
SPLITS = ("train", "val", "test", "test_unseen")
DIGITS = 4  # of stored angles and ratios
CROPPED = "@crop"  # behind the name of a frame: the same photo, cropped a little
Q = QuestionType
HORIZONTAL = (Q.EGO_TRANSLATION, Q.OBJECT_TRANSLATION, Q.EGO_ROTATION)
DEGREES = (Q.ROTATION_DEGREES, Q.ROTATION_NUMBER)
ASKED = {  # motion -> what may be asked; degrees only where they are sure
    "horizontal": (*HORIZONTAL, *DEGREES),
    "vertical": (Q.EGO_VERTICAL,),
    "depth": (Q.EGO_DEPTH,),
    "still": (*HORIZONTAL, Q.EGO_VERTICAL, Q.EGO_DEPTH),
}


def capture_key(capture: Capture) -> str:
    """Name of the capture's sample in a shard: hexadecimal, as WebDataset keys must hold no dot or slash."""
    return f"{hash_int(capture.source, capture.class_id, capture.object_id):016x}"


def split_of(capture: Capture, config: PairConfig) -> str:
    """Split by hash of the physical object, so that no object is in two; unseen classes form a split of their own."""
    drawn = (
        hash_unit("unseen class", config.seed, capture.source, capture.class_id)
        < config.unseen_class_fraction
    )
    if drawn or {capture.class_id, capture.class_name} & set(config.unseen_classes):
        return "test_unseen"
    place = hash_unit("split", config.seed, capture.source, capture.group_id)
    if place < config.test_fraction:
        return "test"
    return "val" if place < config.test_fraction + config.val_fraction else "train"


def pair_rows(
    capture: Capture, geometry: CaptureGeometry, gates: GateConfig, config: PairConfig
) -> tuple[list[dict], Counter[str]]:
    """The rows of one capture, spread evenly over angle and side; and counts of judged, accepted and failed pairs."""
    first, second, key = _ordered_pairs(capture, geometry, config.seed)
    judged = judge_pairs(geometry, first, second, gates)
    counts = judged.failed
    counts["judged"], counts["accepted"] = len(first), int(judged.horizontal.sum())
    chosen = {
        "horizontal": _spread(
            np.flatnonzero(judged.horizontal), np.abs(judged.motion.alpha), key, gates, config
        ),
        "vertical": _both_sides(
            np.flatnonzero(judged.vertical), judged.motion.vertical, key, config.vertical_per_object
        ),
        "depth": _both_sides(
            np.flatnonzero(judged.depth), judged.motion.t[:, 2], key, config.depth_per_object
        ),
    }
    rows = [
        row
        for motion, index in chosen.items()
        for row in _rows(capture, geometry, judged, index, motion, config)
    ]
    rows += _still_rows(capture, geometry, gates, config)
    return [row for row in rows if row["questions"]], counts


def _ordered_pairs(
    capture: Capture, geometry: CaptureGeometry, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each unordered pair once, its first photo drawn by hash: (first, second, key), each (m,)."""
    photo = np.array(
        [
            hash_int(capture.source, capture.class_id, capture.object_id, f.name)
            for f in geometry.frames
        ],
        dtype=np.uint64,
    )
    i, j = np.triu_indices(len(photo), k=1)
    key = splitmix64(photo[i] ^ photo[j], seed)
    forward = (key & np.uint64(1)).astype(bool)
    return np.where(forward, i, j), np.where(forward, j, i), key


def angle_bin(angle: np.ndarray, gates: GateConfig, bins: int) -> np.ndarray:
    low, high = gates.min_angle + gates.angle_margin, gates.max_angle - gates.angle_margin
    return np.clip(((angle - low) / (high - low) * bins).astype(int), 0, bins - 1)


def _spread(
    accepted: np.ndarray, angle: np.ndarray, key: np.ndarray, gates: GateConfig, config: PairConfig
) -> np.ndarray:
    """At most `per_object`, by turns from each angle bin."""
    return _by_turns(accepted, angle_bin(angle[accepted], gates, config.angle_bins), key)[
        : config.per_object
    ]


def _both_sides(
    accepted: np.ndarray, signed: np.ndarray, key: np.ndarray, count: int
) -> np.ndarray:
    return _by_turns(accepted, (signed[accepted] > 0).astype(int), key)[:count]


def _by_turns(accepted: np.ndarray, bins: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Ordered by (rank of the key within the bin, key)."""
    order = np.lexsort((key[accepted], bins))
    starts = np.searchsorted(bins[order], bins[order])
    rank = np.arange(len(order)) - starts
    return accepted[order][np.lexsort((key[accepted][order], rank))]


def stratum(row: dict, gates: GateConfig, bins: int) -> str:
    """What a cap on the rows of a class or split balances: the motion, its angle bin, its side."""
    side = next(iter(row["labels"].values()))
    if row["motion"] != "horizontal":
        return f"{row['motion']}/{side}"
    return f"horizontal/{int(angle_bin(np.abs(np.array(row['geom']['alpha_deg'])), gates, bins))}/{side}"


# ---------------------------------------------------------------- rows


def _rows(
    capture: Capture,
    geometry: CaptureGeometry,
    judged: JudgedPairs,
    index: np.ndarray,
    motion: str,
    config: PairConfig,
) -> list[dict]:
    if not len(index):
        return []
    geoms = _geoms(geometry, judged, index)
    labels = _labels(geometry, judged.motion, index, motion)
    pairs = zip(
        judged.first[index].tolist(), judged.second[index].tolist(), geoms, labels, strict=True
    )
    return [
        _row(capture, geometry, motion, (i, j), geom, label, config) for i, j, geom, label in pairs
    ]


def _still_rows(
    capture: Capture, geometry: CaptureGeometry, gates: GateConfig, config: PairConfig
) -> list[dict]:
    """The same photo twice: nothing moved, though the pictures differ by a crop."""
    if not config.still_per_object:
        return []
    usable = np.flatnonzero(
        np.logical_and.reduce(list(usable_views(geometry, gates).values()))
    ).tolist()
    drawn = hash_shuffle(
        usable, "still", config.seed, capture.source, capture.class_id, capture.object_id
    )[: config.still_per_object]
    same = np.array(drawn, dtype=int)
    labels = {kind.value: "none" for kind in ASKED["still"]} | {"ego_rotation_deg": None}
    geoms = _geoms(geometry, judge_pairs(geometry, same, same, gates), np.arange(len(same)))
    return [
        _row(capture, geometry, "still", (k, k), geom, labels, config)
        for k, geom in zip(drawn, geoms, strict=True)
    ]


def _row(
    capture: Capture,
    geometry: CaptureGeometry,
    motion: str,
    pair: tuple[int, int],
    geom: dict,
    labels: dict,
    config: PairConfig,
) -> dict:
    """One row of the index, without its place in a shard."""
    frames = [pair[0], *_between(capture, geometry, pair, config), pair[1]]
    names = [geometry.frames[k].name for k in frames]
    if motion == "still":
        names[-1] += CROPPED
    uid = _pair_id(capture, names)
    asked = [
        q.value
        for q in ASKED[motion]
        if q.value in config.questions and (geometry.angle_ok or q not in DEGREES)
    ]
    azimuths = (
        [None] * len(frames) if geometry.azimuth is None else _rounded(geometry.azimuth[frames])
    )
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
        "motion": motion,
        "frame_names": names,
        "geom": geom,
        "labels": labels,
        "questions": asked,
        "question_type": hash_choice(asked, "type", uid) if asked else None,
        "views": [
            {"azimuth_deg": a, "elevation_deg": e}
            for a, e in zip(azimuths, _rounded(geometry.view.elevation[frames]), strict=True)
        ],
        "attributes": capture.attributes,
    }


def _between(
    capture: Capture, geometry: CaptureGeometry, pair: tuple[int, int], config: PairConfig
) -> list[int]:
    """Further photos of the same walk between the two that are asked about."""
    if config.views == 2:
        return []
    others = [k for k in range(len(geometry.frames)) if k not in pair]
    return hash_shuffle(
        others, "between", config.seed, capture.source, capture.class_id, capture.object_id, *pair
    )[: config.views - 2]


def _geoms(geometry: CaptureGeometry, judged: JudgedPairs, index: np.ndarray) -> list[dict]:
    """Per pair, the numbers of the row schema; both-view entries are (first, last)."""
    view, up, p = geometry.view, geometry.up, judged.motion
    both = np.stack([judged.first[index], judged.second[index]], axis=1)
    columns = {
        "alpha_deg": p.alpha[index],
        "yaw_right_deg": p.yaw[index],
        "yaw_cam_axis_deg": p.yaw_camera_axis[index],
        "rot_full_deg": p.rotation_full[index],
        "s_rel": p.s[index],
        "t_rel": p.t[index],
        "elev_deg": view.elevation[both],
        "roll_deg": view.roll[both],
        "offaxis_deg": view.off_axis[both],
        "heading_off_deg": view.heading_off[both],
        "rho_ratio": view.rho[both[:, 1]] / view.rho[both[:, 0]],
    }
    shared = {
        "up_method": "svd_right",
        "up_rms_deg": round(up.rms_roll, DIGITS),
        "up_sv2": round(up.sv2, DIGITS),
        "centre_method": geometry.center_method,
        "angle_ok": geometry.angle_ok,
    }
    lists = [_rounded(column) for column in columns.values()]
    return [
        {**dict(zip(columns, values, strict=True)), **shared} for values in zip(*lists, strict=True)
    ]


def _labels(
    geometry: CaptureGeometry, p: g.PairGeometry, index: np.ndarray, motion: str
) -> list[dict]:
    if motion == "vertical":
        return [{"ego_vertical": "up" if rise > 0 else "down"} for rise in p.vertical[index]]
    if motion == "depth":
        return [{"ego_depth": "forward" if ahead > 0 else "backward"} for ahead in p.t[index, 2]]
    degrees = _rounded(np.abs(p.yaw[index])) if geometry.angle_ok else [None] * len(index)
    return [
        {
            "ego_translation": g.side(p.s[m]),
            "object_translation": g.side(p.s_object[m]),
            "ego_rotation": g.side(p.yaw[m]),
            "ego_rotation_deg": turned,
        }
        for m, turned in zip(index, degrees, strict=True)
    ]


def _pair_id(capture: Capture, names: Sequence[str]) -> str:
    text = "|".join((capture.source, capture.class_id, capture.object_id, *names))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _rounded(values: np.ndarray) -> list:
    return (np.round(values, DIGITS) + 0.0).tolist()  # + 0.0: no negative zero in the files
