"""Posed photos on disk -> Capture. One Source per layout; geometry and gates see only Capture.

A Source lists its captures as short text references (what work is divided by), reads one, and opens one photo's pixels.
Anything wrong with one capture or photo is a counted rejection, so that one bad folder among thousands costs only itself.
"""

from __future__ import annotations

import json
import os
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from actial.config import SourceConfig, SourceKind
from actial.data.colmap import Rejected, View, read_model
from actial.data.pictures import UNREADABLE, header_size, rgb
from actial.errors import UserError
from actial.geometry import are_rotations
from actial.types import Capture, Frame

FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SIDECAR = "object.json"
PIXELS_MAX = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow's own limit for a decompression bomb


class Source(ABC):
    """`captures` is cheap; `read` touches poses and picture headers only; `pixels` decodes."""

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.root = Path(config.root)
        self._names: dict[str, str] | None = None
        if not self.root.is_dir():
            raise UserError(f"source.root={self.root} is not a folder: give the folder that holds the captures.")

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
        with _opened(path) as file, Image.open(file, formats=FORMATS) as image:
            return rgb(image)
    except UNREADABLE as error:
        raise Rejected("frame_unreadable", detail=f"{path}: {error}") from error


def _opened(path: Path, buffering: int = -1) -> IO[bytes]:
    """A regular file, opened; a pipe or device under a photo's name raises OSError instead of making the build wait forever."""
    file = open(path, "rb", buffering, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is no regular file")
    return file


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header alone; raises Rejected("frame_missing" | "frame_unreadable")."""
    try:
        with _opened(path, buffering=0) as file:
            size = header_size(file)
            if size is None:
                with Image.open(file, formats=FORMATS) as image:
                    size = image.size
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Rejected("frame_missing", detail=str(path)) from error
    except (*UNREADABLE, UnidentifiedImageError) as error:
        raise Rejected("frame_unreadable", detail=f"{path}: {error}") from error
    if size[0] * size[1] > PIXELS_MAX:
        raise Rejected("frame_unreadable", detail=f"{path}: {size[0]}x{size[1]} pixels")
    return size


def inside(folder: Path, name: str) -> Path:
    """folder / name, when name stays inside; raises Rejected("frame_name")."""
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise Rejected("frame_name", detail=name)
    return folder / name


def usable_frames(candidates: Iterable[Frame], dropped: Counter[str], *, stored: bool = True) -> list[Frame]:
    """The frames with a rotation as pose and, where `stored`, with a readable photo of the camera's size; the others are counted."""
    kept = []
    for frame in candidates:
        try:
            if stored and frame.path is not None and stored_size(frame.path) != (frame.width, frame.height):
                raise Rejected("frame_size", detail=f"{frame.path} is not {frame.width}x{frame.height}")
            kept.append(frame)
        except Rejected as rejected:
            dropped.update(rejected.reasons)
    if not kept:
        return []
    posed = are_rotations(np.stack([f.R for f in kept])) & np.isfinite([f.t for f in kept]).all(axis=1)
    if not posed.all():
        dropped["frame_pose"] += int((~posed).sum())
        kept = [frame for frame, ok in zip(kept, posed, strict=True) if ok]
    for i, frame in enumerate(kept):
        frame.time_index = i
    return kept


class FolderSource(Source):
    """Captures as folders with images/ and sparse/0: MVImgNet's ROOT/class/object, or ROOT/NAME (or ROOT itself) for any COLMAP run."""

    def captures(self) -> list[str]:
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
        frames = usable_frames(self._frames(reference, model.views, dropped), dropped)
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
        if self.config.category_file is None:
            return {}
        if self._names is None:
            self._names = read_categories(Path(self.config.category_file))
        return self._names

    def _frames(self, reference: str, views: Sequence[View], dropped: Counter[str]) -> Iterator[Frame]:
        images = self.root / reference / "images"
        masks = self.root / reference / "masks" if self.config.mask_root is None else Path(self.config.mask_root) / reference
        masked = {path.name for path in masks.iterdir()} if masks.is_dir() else set()
        for view in views:
            base = os.path.basename(view.name)
            mask = next((masks / name for name in (f"{base}.png", f"{os.path.splitext(base)[0]}.png") if name in masked), None)
            try:
                path = inside(images, view.name)
            except Rejected as rejected:
                dropped.update(rejected.reasons)
                continue
            yield Frame(
                name=view.name,
                path=path,
                width=view.width,
                height=view.height,
                K=view.K,
                distortion=view.distortion,
                R=view.R,
                t=view.t,
                time_index=0,
                mask_path=mask,
            )


def read_categories(path: Path) -> dict[str, str]:
    """Class id -> name from MVImgNet's lines `id,name` (names come with stray spaces) or MVImgNet 2.0's JSON, whichever way round."""
    if not path.is_file():
        raise UserError(f"source.category_file={path} does not exist: give the list of lines `id,name` or the JSON, or leave it out.")
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        pairs = (line.partition(",") for line in text.splitlines() if line.strip())
        return {number.strip(): name.strip() for number, _, name in pairs}
    try:
        found = {str(key).strip(): str(value).strip() for key, value in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"source.category_file={path} is not a JSON object of class ids and names: give another list.") from error
    return found if all(key.isdigit() for key in found) else {value: key for key, value in found.items()}


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
    if config.kind in (SourceKind.mvimgnet, SourceKind.mvimgnet2, SourceKind.procedural, SourceKind.colmap):
        return FolderSource(config)
    from actial.data import co3d, posed_sources  # they import this module

    readers: dict[SourceKind, type[Source]] = {
        SourceKind.co3d: co3d.Co3dSource,
        SourceKind.uco3d: co3d.Uco3dSource,
        SourceKind.wildrgbd: posed_sources.WildRgbdSource,
        SourceKind.nerfstudio: posed_sources.TransformsSource,
        SourceKind.blender: posed_sources.TransformsSource,
    }
    return readers[config.kind](config)
