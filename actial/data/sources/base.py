"""What a source of captures provides, and which frames of a capture can be used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from actial.config import ExifRule, SourceConfig
from actial.core.errors import Rejected, UserError
from actial.core.records import Capture, Frame
from actial.data.photos import (
    QUARTER_TURNS,
    UPRIGHT,
    PhotoHeader,
    decode,
    gray_depth,
    read_header,
)
from actial.data.sources import orientation
from actial.data.sources.frame_counts import FrameCounts
from actial.viewpoint.geometry import are_rotations, rotation_error, without_rounding
from actial.viewpoint.lens import calibration, rescaled

MAX_LENGTH = 1e9  # of coordinates; beyond it the sums of the geometry lose digits or overflow


class Source(ABC):
    """Captures under one root: `captures` lists them, `read` gives poses, `pixels` decodes.

    `read` touches poses and photo headers only. Whatever is wrong with one capture or
    photo is a counted rejection, so that a bad folder among thousands costs only
    itself.
    """

    takes_mask_root = False

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.root = Path(config.root)
        self._last_frames: tuple[str, dict[str, Frame]] = ("", {})
        self._last_depth: tuple[str, int] = ("", 0)
        if not config.root or not self.root.is_dir():  # Path("") would be the current folder
            raise UserError(
                f"source.root={config.root} is not a folder: give the folder that holds the "
                "captures."
            )
        if config.mask_root is not None:
            self._check_mask_root(config.mask_root)

    def _check_mask_root(self, folder: str) -> None:
        if not self.takes_mask_root:
            raise UserError(
                f"source.mask_root={folder} is not read by source={self.config.kind.value}, whose "
                "masks lie in the layout itself: leave it out."
            )
        if not folder or not Path(folder).is_dir():
            raise UserError(
                f"source.mask_root={folder} is not a folder: give the folder that holds the masks "
                "of each capture, or leave it out."
            )

    @abstractmethod
    def captures(self) -> list[str]:
        """Return references to all captures, sorted; raises UserError when there are none."""

    @abstractmethod
    def read(self, reference: str) -> tuple[Capture, FrameCounts]:
        """Return the capture with its usable frames, and counts of what happened to its frames.

        The counts are frames dropped by reason, and frames "rescaled", "turned" or "with_mask".
        Raises Rejected.
        """

    @abstractmethod
    def photo_path(self, reference: str, name: str) -> Path:
        """Return the file of one frame; raises Rejected."""

    def pixels(self, reference: str, name: str) -> np.ndarray:
        """Return uint8 (H, W, 3) of one frame, in the orientation of its pose; raises Rejected."""
        path = self.photo_path(reference, name)
        pixels, exif = decode(path, lambda: self._gray_depth(reference))
        if exif == UPRIGHT:
            return pixels
        frame = self._frames_by_name(reference).get(name)
        return np.rot90(pixels, frame.quarter_turns if frame else 0)

    def _frames_by_name(self, reference: str) -> dict[str, Frame]:
        if self._last_frames[0] != reference:
            frames = self.read(reference)[0].frames
            self._last_frames = (reference, {frame.name: frame for frame in frames})
        return self._last_frames[1]

    def _gray_depth(self, reference: str) -> int:
        """Return the bits of the capture's gray photos: the same for all, whatever they show."""
        if self._last_depth[0] != reference:
            paths = (frame.path for frame in self._frames_by_name(reference).values())
            self._last_depth = (reference, gray_depth(path for path in paths if path))
        return self._last_depth[1]


def inside(folder: Path, name: str) -> Path:
    """Return folder / name when the name stays inside; raises Rejected("frame_name")."""
    if (
        not name
        or name.startswith("/")
        or "\\" in name
        or "\0" in name
        or ".." in name.split("/")
    ):
        raise Rejected("frame_name", detail=name)
    return folder / name


def usable_frames(
    candidates: Iterable[Frame],
    counts: FrameCounts,
    *,
    exif: ExifRule = ExifRule.auto,
    stored: bool = True,
) -> list[Frame]:
    """Return the frames that have a lens, one pose and, where `stored`, a readable photo.

    Frames are adapted to their photos: turned as their EXIF orientation asks for, and
    with the intrinsics of the photo's size. Those that are dropped are counted in
    `counts`, as the adapted.
    """
    frames = _one_entry_per_photo(_with_lenses(candidates, counts), counts)
    if stored:
        frames = _adapted_to_photos(frames, counts, exif)
    frames = _with_rotations(frames, counts)
    for i, frame in enumerate(frames):
        frame.time_index = i
    return frames


def _with_lenses(candidates: Iterable[Frame], counts: FrameCounts) -> list[Frame]:
    usable = []
    for frame in candidates:
        size, focal = (frame.width, frame.height), (frame.K[0, 0], frame.K[1, 1])
        if min(size) > 0 and min(focal) > 0 and np.isfinite(frame.K).all():
            usable.append(frame)
        else:
            cause = f"{size[0]}x{size[1]} pixels, focal lengths {focal[0]:g} and {focal[1]:g}"
            counts.drop("frame_lens", f"{frame.name}: {cause}")
    return usable


def _one_entry_per_photo(frames: Iterable[Frame], counts: FrameCounts) -> list[Frame]:
    """Return the frames without repeated entries; a photo that has two poses is dropped."""
    entries: dict[Path | str, list[Frame]] = {}
    for frame in frames:
        entries.setdefault(frame.path or frame.name, []).append(frame)
    usable = []
    for first, *others in entries.values():
        poses_agree = all(
            np.array_equal(first.R, other.R) and np.array_equal(first.t, other.t)
            for other in others
        )
        if poses_agree:
            usable.append(first)
        else:
            count = 1 + len(others)
            cause = f"{first.name}: {count} entries lead to it, with different poses"
            counts.drop("frame_repeated", cause, count)
    return usable


def _with_rotations(frames: list[Frame], counts: FrameCounts) -> list[Frame]:
    if not frames:
        return []
    bounded = (np.abs([frame.t for frame in frames]) < MAX_LENGTH).all(axis=1)  # no NaN either
    R = np.stack([frame.R for frame in frames])
    posed = are_rotations(R) & bounded
    if not posed.all():
        counts.drop("frame_pose", _no_pose(frames[int(np.argmin(posed))]), int((~posed).sum()))
    for frame, rotation in zip(frames, without_rounding(R), strict=True):
        frame.R = rotation
    return [frame for frame, valid in zip(frames, posed, strict=True) if valid]


def _no_pose(frame: Frame) -> str:
    with np.errstate(invalid="ignore", over="ignore"):
        determinant = np.linalg.det(frame.R)
    return (
        f"{frame.name}: no rotation and translation: det R = {determinant:.4g}, R R^T is off I by "
        f"up to {rotation_error(frame.R):.2g}, R = {frame.R.round(3).tolist()}, "
        f"t = {frame.t.tolist()}"
    )


def _adapted_to_photos(
    candidates: Sequence[Frame], counts: FrameCounts, exif: ExifRule
) -> list[Frame]:
    frames, headers = [], []
    for frame in candidates:
        assert frame.path is not None
        try:
            header = read_header(frame.path)
            if header.orientation not in QUARTER_TURNS and exif is not ExifRule.stored:
                raise Rejected("frame_mirrored", detail=f"{frame.path}: EXIF orientation")
        except Rejected as rejected:
            counts.reject(rejected)
            continue
        frames.append(frame)
        headers.append(header)
    frames, headers = _turned(frames, headers, counts, exif)
    return _rescaled(frames, headers, counts)


def _turned(
    frames: list[Frame], headers: list[PhotoHeader], counts: FrameCounts, exif: ExifRule
) -> tuple[list[Frame], list[PhotoHeader]]:
    """Apply the EXIF orientations, or drop the tagged photos where their meaning is open."""
    tagged = sum(header.orientation in (3, 6, 8) for header in headers)
    if not tagged:
        return frames, headers
    posed = [
        i
        for i, frame in enumerate(frames)
        if are_rotations(frame.R[None])[0] and (np.abs(frame.t) < MAX_LENGTH).all()
    ]
    reading = orientation.decide([frames[i] for i in posed], [headers[i] for i in posed], exif)
    if reading is None:
        first = next(i for i, header in enumerate(headers) if header.orientation != UPRIGHT)
        example = f"{frames[first].path}: EXIF orientation {headers[first].orientation}"
        counts.drop("frame_orientation", example, tagged)
        upright = [i for i, header in enumerate(headers) if header.orientation == UPRIGHT]
        return [frames[i] for i in upright], [headers[i] for i in upright]
    for frame, header in zip(frames, headers, strict=True):
        orientation.apply(frame, header, reading)
        counts["turned"] += frame.quarter_turns != 0
    return frames, headers


def _shown_size(frame: Frame, header: PhotoHeader) -> tuple[int, int]:
    size = (header.width, header.height)
    return size[::-1] if frame.quarter_turns % 2 else size


def _rescaled(
    frames: Sequence[Frame], headers: Sequence[PhotoHeader], counts: FrameCounts
) -> list[Frame]:
    """Give frames the intrinsics of their photos' size; drop photos of another shape.

    Photos are scaled as a set: for each camera size the most frequent photo
    size counts, and a photo that differs from it (a crop, a thumbnail) is
    dropped.
    """
    sizes = [_shown_size(frame, header) for frame, header in zip(frames, headers, strict=True)]
    votes: dict[tuple[int, int], Counter[tuple[int, int]]] = {}
    for frame, size in zip(frames, sizes, strict=True):
        camera_size = (frame.width, frame.height)
        if orientation.fits(size, camera_size):
            votes.setdefault(camera_size, Counter())[size] += 1
    usable = []
    for frame, size in zip(frames, sizes, strict=True):
        camera_size = (frame.width, frame.height)
        expected = camera_size
        if camera_size in votes:
            expected = _most_frequent(votes[camera_size], camera_size)
        if size != expected or camera_size not in votes:
            whose = "its camera has"
            if orientation.fits(size, camera_size):
                whose = "most photos of its camera have"
            cause = f"{size[0]}x{size[1]} pixels, {whose} {expected[0]}x{expected[1]}"
            counts.drop("frame_size", f"{frame.path}: {cause}")
            continue
        if size != camera_size:
            counts["rescaled"] += 1
            frame.distortion = rescaled(frame.distortion, camera_size, size)
            frame.width, frame.height = size
        frame.K = calibration(frame.distortion)
        usable.append(frame)
    return usable


def _most_frequent(
    votes: Counter[tuple[int, int]], camera_size: tuple[int, int]
) -> tuple[int, int]:
    """Return the photo size of most frames; the camera's own size wins a tie."""
    most = max(votes.values())
    if votes[camera_size] == most:
        return camera_size
    return min(size for size, count in votes.items() if count == most)
