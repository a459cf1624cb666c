"""The files of a COLMAP model, and its records before they are checked against each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actial.core.errors import Rejected
from actial.core.records import Lens

STEMS = ("cameras", "images", "points3D")
MAX_BYTES = 1 << 30  # of one file; a capture of 1000 photos stays far below
IMAGE_BYTES = 73  # of an image in images.bin, at least
NO_POINT = -1  # of an observation without a 3D point


@dataclass(slots=True, frozen=True)
class ModelFiles:
    """The three files of one model."""

    folder: Path
    suffix: str  # ".bin" or ".txt"

    def path(self, stem: str) -> Path:
        """Return the file of `cameras`, `images` or `points3D`."""
        return self.folder / (stem + self.suffix)

    def num_images(self) -> int:
        """Return how many images are registered; 0 where the file cannot hold what it claims."""
        path = self.path("images")
        if self.suffix == ".txt":
            return sum(1 for _ in data_lines(path)) // 2
        with path.open("rb") as file:
            count = int.from_bytes(file.read(8), "little")
        return count if count * IMAGE_BYTES <= path.stat().st_size else 0


def find_models(folder: Path) -> Iterator[ModelFiles]:
    """Yield the models in the folders 0, 1, ... below `folder`, then those in itself.

    A folder may hold two, of which the binary one comes first.
    """
    below = [path for path in folder.iterdir() if path.is_dir()]
    below.sort(key=lambda path: (not path.name.isdigit(), len(path.name), path.name))
    for place in (*below, folder):
        for suffix in (".bin", ".txt"):
            if all((place / (stem + suffix)).is_file() for stem in STEMS):
                yield ModelFiles(place, suffix)


def incomplete_model(folder: Path) -> str | None:
    """Return what the first model in or below `folder` lacks, where it has some of its files."""
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        for suffix in (".bin", ".txt"):
            files = [stem + suffix for stem in STEMS]
            missing = [name for name in files if not (place / name).is_file()]
            if 0 < len(missing) < len(files):
                return f"{place} has a COLMAP model without {', '.join(missing)}"
    return None


def data_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a text model that are not comments; empty lines are kept.

    An empty line is the list of observations of an image that sees no point.
    """
    with path.open("rb") as file:
        for line in file:
            if not line.lstrip(b"\xef\xbb\xbf \t").startswith(b"#"):
                yield line.strip(b"\r\n\xef\xbb\xbf")


def corrupt(path: Path, what: str) -> Rejected:
    """Return the rejection of a damaged model file."""
    return Rejected("sparse_corrupt", detail=f"{path}: {what}")


@dataclass(slots=True)
class RawImage:
    """A registered image as its file has it."""

    name: str
    pose: tuple[float, ...]  # quaternion (w, x, y, z), translation
    camera: int
    points: np.ndarray  # (m,) point id of each observation, NO_POINT = none


@dataclass(slots=True)
class RawCamera:
    """A camera as its file has it."""

    width: int
    height: int
    lens: Lens


@dataclass(slots=True)
class RawPoints:
    """The points of a model, and which observations each of them has."""

    id: np.ndarray  # (N,) int64
    xyz: np.ndarray  # (N, 3)
    error: np.ndarray  # (N,) pixels; negative = not known
    track_length: np.ndarray  # (N,)
    tracks: np.ndarray  # (sum of track lengths, 2) image id and observation number
