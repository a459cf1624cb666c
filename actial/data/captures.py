"""Posed photos on disk -> Capture. One Source per layout; geometry and gates see only Capture.

A Source lists its captures as short text references (what work is divided by), reads one, and opens one photo's pixels.
Anything wrong with one capture or photo is a counted rejection, so that one bad folder among thousands costs only itself.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from actial.config import SourceConfig, SourceKind
from actial.data.colmap import Rejected, View, read_model
from actial.errors import UserError
from actial.geometry import is_rotation
from actial.types import Capture, Frame

FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SIDECAR = "object.json"
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises on broken files


class Source(ABC):
    """`captures` is cheap; `read` touches poses and picture headers only; `pixels` decodes."""

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.root = Path(config.root)

    @abstractmethod
    def captures(self) -> list[str]:
        """References of all captures, sorted; raises UserError when there are none."""

    @abstractmethod
    def read(self, reference: str) -> tuple[Capture, Counter[str]]:
        """The capture with its usable frames, and how many frames were dropped by reason; raises Rejected."""

    @abstractmethod
    def pixels(self, reference: str, name: str) -> np.ndarray:
        """uint8 (H, W, 3) of one photo as stored: EXIF orientation is never applied (poses do not know of it); raises Rejected."""


def decode(path: Path) -> np.ndarray:
    """RGB pixels as stored; raises Rejected("frame_unreadable") for a broken or truncated file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return np.asarray(image.convert("RGB"))
    except UNREADABLE as error:
        raise Rejected("frame_unreadable", detail=f"{path}: {error}") from error


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header alone; raises Rejected("frame_missing" | "frame_unreadable")."""
    if not path.is_file():
        raise Rejected("frame_missing", detail=str(path))
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except (*UNREADABLE, UnidentifiedImageError) as error:
        raise Rejected("frame_unreadable", detail=f"{path}: {error}") from error


def inside(folder: Path, name: str) -> Path:
    """folder / name, when name stays inside; raises Rejected("frame_name")."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or "\\" in name or PurePosixPath(name).is_absolute():
        raise Rejected("frame_name", detail=name)
    return folder.joinpath(*parts)


class FolderSource(Source):
    """Captures as folders with images/ and sparse/0: MVImgNet's ROOT/class/object, or ROOT/NAME (or ROOT itself) for any COLMAP run."""

    def captures(self) -> list[str]:
        if not self.root.is_dir():
            raise UserError(f"source.root={self.root} is not a folder: give the folder that holds the captures.")
        nested = self.config.kind is not SourceKind.colmap
        found = sorted(_capture_folders(self.root, depth=2 if nested else 1))
        if not found and not nested and _is_capture(self.root):
            found = ["."]
        if not found:
            layout = "CLASS/OBJECT/images and CLASS/OBJECT/sparse/0" if nested else "NAME/images and NAME/sparse/0"
            raise UserError(f"source.root={self.root} holds no capture: expected {layout} below it (source={self.config.kind.value}).")
        return found

    def read(self, reference: str) -> tuple[Capture, Counter[str]]:
        folder = self.root / reference
        model = read_model(folder / "sparse" / "0")
        dropped: Counter[str] = Counter()
        frames: list[Frame] = []
        for view in model.views:
            try:
                frames.append(self._frame(reference, view, time_index=len(frames)))
            except Rejected as rejected:
                dropped.update(rejected.reasons)
        sidecar = _read_sidecar(folder / SIDECAR)
        class_id, object_id = self._ids(reference)
        capture = Capture(
            source=self.config.kind.value,
            class_id=class_id,
            class_name=sidecar.get("class_name") or self._class_name(class_id),
            object_id=object_id,
            group_id=f"{class_id}/{object_id}",
            frames=frames,
            files_total=_count_photos(folder / "images"),
            points=model.points,
            point_tracks=model.tracks,
            reprojection_error_px=model.reprojection_error_px,
            front_prior=sidecar.get("front"),
            centre_prior=sidecar.get("centre"),
            attributes=sidecar.get("attributes", {}),
            licence=self.config.licence,
        )
        return capture, dropped

    def pixels(self, reference: str, name: str) -> np.ndarray:
        return decode(inside(self.root / reference / "images", name))

    def _ids(self, reference: str) -> tuple[str, str]:
        if self.config.kind is SourceKind.colmap:
            name = self.root.resolve().name if reference == "." else reference
            return name, name
        class_id, object_id = reference.split("/")
        return class_id, object_id

    def _class_name(self, class_id: str) -> str:
        return self._categories().get(class_id, class_id.replace("_", " "))

    def _categories(self) -> dict[str, str]:
        """MVImgNet's list `id,name`; names come with stray spaces."""
        if self.config.category_file is None:
            return {}
        path = Path(self.config.category_file)
        if not path.is_file():
            raise UserError(f"source.category_file={path} does not exist: give the list of lines `id,name`, or leave it out.")
        pairs = (line.partition(",") for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        return {number.strip(): name.strip() for number, _, name in pairs}

    def _frame(self, reference: str, view: View, time_index: int) -> Frame:
        path = inside(self.root / reference / "images", view.name)
        if stored_size(path) != (view.width, view.height):
            raise Rejected("frame_size", detail=f"{path} is not {view.width}x{view.height}")
        if not is_rotation(view.R) or not np.isfinite(view.t).all():
            raise Rejected("frame_pose", detail=str(path))
        return Frame(
            name=view.name,
            path=path,
            width=view.width,
            height=view.height,
            K=view.K,
            distortion=view.distortion,
            R=view.R,
            t=view.t,
            time_index=time_index,
            mask_path=self._mask(reference, view.name),
        )

    def _mask(self, reference: str, name: str) -> Path | None:
        folder = self.root / reference / "masks" if self.config.mask_root is None else Path(self.config.mask_root) / reference
        candidates = (folder / f"{name}.png", folder / PurePosixPath(name).with_suffix(".png"))
        return next((path for path in candidates if path.is_file()), None)


def _is_capture(folder: Path) -> bool:
    return (folder / "images").is_dir() or (folder / "sparse").is_dir()


def _capture_folders(root: Path, depth: int) -> list[str]:
    with os.scandir(root) as entries:
        folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if depth > 1:
        return [f"{name}/{below}" for name in folders for below in _capture_folders(root / name, depth - 1)]
    return [name for name in folders if _is_capture(root / name)]


def _count_photos(folder: Path) -> int:
    if not folder.is_dir():
        raise Rejected("no_images", detail=str(folder))
    return sum(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def _read_sidecar(path: Path) -> dict:
    """What the procedural world knows of its object: class_name, front and centre (world frame), attributes."""
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        vectors = {key: np.array(known[key], dtype=np.float64) for key in ("front", "centre") if key in known}
        if any(v.shape != (3,) or not np.isfinite(v).all() for v in vectors.values()):
            raise ValueError("front and centre are three numbers each")
        return {"class_name": str(known["class_name"]), "attributes": dict(known.get("attributes", {})), **vectors}
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected("sidecar", detail=f"{path}: {error}") from error


def open_source(config: SourceConfig) -> Source:
    """The reader of config.kind."""
    return FolderSource(config)
