"""What the EXIF orientations of a capture's photos mean for its poses.

A photo taken with the phone on its side is stored sideways with a tag that
tells viewers to turn it. Whoever made the poses either used the stored pixels
(most versions of COLMAP) or turned them first (OpenCV's imread, ffmpeg, some
versions of COLMAP). The three readings:

`stored`  poses belong to the stored pixels and the tag is stale: nothing is
turned; `both`    poses belong to the stored pixels and the tag is right: photo
and pose are turned; `photos`  poses belong to turned pixels: only the photo is
turned.

Sizes tell `photos` apart for photos on their side, and the cameras' measured
roll tells the rest: under the right reading all cameras stand upright.
Upside-down photos of a whole capture are known by what the cameras look down
on. Where neither decides, the photos are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np

from actial.config import ExifRule
from actial.core.records import Frame
from actial.data.photos import QUARTER_TURNS, UPRIGHT, PhotoHeader
from actial.viewpoint import geometry as g
from actial.viewpoint.lens import turned

MAX_ROLL = 45.0  # degrees: beyond it a camera does not stand upright
UPRIGHT_SHARE = 0.9  # of the cameras
MIN_LOOK_DOWN = 5.0  # degrees of mean elevation that tell above from below
MIN_CAMERAS = 3


class Reading(Enum):
    """How poses and stored pixels of tagged photos belong together."""

    STORED = "stored"
    BOTH = "both"
    PHOTOS = "photos"


def fits(photo: tuple[int, int], camera: tuple[int, int]) -> bool:
    """Return whether a photo has the camera's shape, at any scale, up to a pixel of rounding."""
    (width, height), (camera_width, camera_height) = photo, camera
    return (
        abs(width - height * camera_width / camera_height) <= 1
        or abs(height - width * camera_height / camera_width) <= 1
    )


def decide(
    frames: Sequence[Frame], headers: Sequence[PhotoHeader], rule: ExifRule
) -> Reading | None:
    """Return the reading of a capture's tagged photos, or None where nothing decides it."""
    if rule is not ExifRule.auto:
        return Reading(rule.value)
    turns = np.array([QUARTER_TURNS[header.orientation] for header in headers])
    possible = _readings_by_size(frames, headers, turns)
    if len(possible) == 1 or len(frames) < MIN_CAMERAS:
        return possible.pop() if len(possible) == 1 else None
    stored = np.stack([frame.R for frame in frames])
    both = np.stack([turn_pose(R, int(k)) for R, k in zip(stored, turns, strict=True)])
    given_upright, turned_upright = _upright(stored), _upright(both)
    if turned_upright and not given_upright:
        return Reading.BOTH if Reading.BOTH in possible else None
    if given_upright and not turned_upright:
        return _given_poses_stand(turns, possible)
    if given_upright and turned_upright:
        return _all_upside_down(frames, stored)
    return None


def _readings_by_size(
    frames: Sequence[Frame], headers: Sequence[PhotoHeader], turns: np.ndarray
) -> set[Reading]:
    """Return the readings under which most photos on their side have their camera's shape."""
    on_side = [i for i, k in enumerate(turns) if k % 2]
    if not on_side:
        return set(Reading)
    stored_fits, turned_fits = 0, 0
    for i in on_side:
        header, camera = headers[i], (frames[i].width, frames[i].height)
        stored_fits += fits((header.width, header.height), camera)
        turned_fits += fits((header.height, header.width), camera)
    if stored_fits == turned_fits:
        return set(Reading)
    if turned_fits > stored_fits:
        return {Reading.PHOTOS}
    return {Reading.STORED, Reading.BOTH}


def _given_poses_stand(turns: np.ndarray, possible: set[Reading]) -> Reading | None:
    """Choose between a stale tag and turned photos, where the poses stand upright as given."""
    if Reading.PHOTOS not in possible:
        return Reading.STORED
    some_are_turned = 0 < np.count_nonzero(turns) < len(turns)
    return Reading.PHOTOS if some_are_turned else None


def _all_upside_down(frames: Sequence[Frame], R: np.ndarray) -> Reading | None:
    """Decide where every photo is upside down, so that all readings give level cameras.

    People look down at an object. Cameras that seem to look up at it were posed on the stored,
    upside-down pixels. Cameras that look down were posed on turned pixels, or have a stale tag:
    the two cannot be told apart.
    """
    return Reading.BOTH if _mean_elevation(frames, R) < -MIN_LOOK_DOWN else None


def look_down(frames: Sequence[Frame]) -> bool | None:
    """Return whether upright cameras look down on the object (True) or up at it (False).

    None stands for level cameras, for too few, and for those that stand about no vertical.
    """
    if len(frames) < MIN_CAMERAS:
        return None
    R = np.stack([frame.R for frame in frames])
    elevation = _mean_elevation(frames, R)
    if abs(elevation) < MIN_LOOK_DOWN or not _upright(R):
        return None
    return elevation > 0


def lie_on_side(frames: Sequence[Frame]) -> bool:
    """Return whether the cameras stand upright about no vertical."""
    R = np.stack([frame.R for frame in frames]) if frames else np.empty((0, 3, 3))
    R = R[g.are_rotations(R)]
    return len(R) >= MIN_CAMERAS and not _upright(R)


def _mean_elevation(frames: Sequence[Frame], R: np.ndarray) -> float:
    """Return degrees of the cameras above what they look at, 0 where they stand still."""
    centers = np.stack([frame.center for frame in frames])
    if np.allclose(centers, centers[0]):
        return 0.0
    up = g.estimate_up(R).up
    focus = g.focus_of_rays(centers, R[:, 2])
    return float(g.view_geometry(R, centers, focus.point, up).elevation.mean())


def _upright(R: np.ndarray) -> bool:
    """Return whether nearly all cameras (n, 3, 3) stand upright about one vertical."""
    axis = g.up_rotation_axis(R)
    # angle in the photo from its upward direction to the vertical's image
    roll = np.degrees(np.arctan2(R[:, 0] @ axis, -(R[:, 1] @ axis)))
    standing = np.mean(np.abs(roll) <= MAX_ROLL)
    upside_down = np.mean(np.abs(roll) >= 180 - MAX_ROLL)
    return bool(max(standing, upside_down) >= UPRIGHT_SHARE)


def turn_pose(rows: np.ndarray, quarter_turns: int) -> np.ndarray:
    """Turn camera axes (3, ...) with a photo that is turned counter-clockwise.

    One turn makes the old down direction the new right, and the old left the new down.
    """
    for _ in range(quarter_turns % 4):
        rows = np.stack([rows[1], -rows[0], rows[2]])
    return rows


def apply(frame: Frame, header: PhotoHeader, reading: Reading) -> None:
    """Turn the frame's record as `reading` says; its pixels are turned when they are decoded."""
    if header.orientation == UPRIGHT or reading is Reading.STORED:
        return
    frame.quarter_turns = QUARTER_TURNS[header.orientation]
    if reading is Reading.PHOTOS:
        return
    size = (frame.width, frame.height)
    frame.R = turn_pose(frame.R, frame.quarter_turns)
    frame.t = turn_pose(frame.t, frame.quarter_turns)
    frame.distortion = turned(frame.distortion, size, frame.quarter_turns)
    if frame.quarter_turns % 2:
        frame.width, frame.height = frame.height, frame.width
    frame.mask_quarter_turns = frame.quarter_turns
