"""Posed photos on disk -> Capture. One Source per layout; geometry and gates see only Capture.

A Source lists its captures as short text references (what work is divided by), reads one, and opens one photo's pixels.
Anything wrong with one capture or photo is a counted rejection, so that one bad folder among thousands costs only itself.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from actial.config import SourceKind
from actial.core.errors import Rejected, UserError
from actial.core.records import Capture, Frame
from actial.data.sources.base import SUFFIXES, Source, decode, inside, usable_frames
from actial.data.sources.colmap_reader import View, read_model

SIDECAR = "object.json"


class FolderSource(Source):
    """Captures as folders with images/ and sparse/0: MVImgNet's ROOT/class/object, or ROOT/NAME (or ROOT itself) for any COLMAP run."""

    def captures(self) -> list[str]:
        nested = self.config.kind is not SourceKind.colmap
        found = sorted(_capture_folders(self.root, depth=2 if nested else 1))
        if not found and not nested and _is_capture(self.root):
            found = ["."]
        if not found:
            layout = (
                "CLASS/OBJECT/images and CLASS/OBJECT/sparse/0"
                if nested
                else "NAME/images and NAME/sparse/0"
            )
            raise UserError(
                f"source.root={self.root} holds no capture: expected {layout} below it (source={self.config.kind.value})."
            )
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
            center_prior=sidecar.get("centre"),
            attributes=sidecar.get("attributes", {}),
            license=self.config.license,
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

    def _frames(
        self, reference: str, views: Sequence[View], dropped: Counter[str]
    ) -> Iterator[Frame]:
        images = self.root / reference / "images"
        masks = (
            self.root / reference / "masks"
            if self.config.mask_root is None
            else Path(self.config.mask_root) / reference
        )
        masked = {path.name for path in masks.iterdir()} if masks.is_dir() else set()
        for view in views:
            base = os.path.basename(view.name)
            mask = next(
                (
                    masks / name
                    for name in (f"{base}.png", f"{os.path.splitext(base)[0]}.png")
                    if name in masked
                ),
                None,
            )
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
        raise UserError(
            f"source.category_file={path} does not exist: give the list of lines `id,name` or the JSON, or leave it out."
        )
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        pairs = (line.partition(",") for line in text.splitlines() if line.strip())
        return {number.strip(): name.strip() for number, _, name in pairs}
    try:
        found = {str(key).strip(): str(value).strip() for key, value in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"source.category_file={path} is not a JSON object of class ids and names: give another list."
        ) from error
    return (
        found
        if all(key.isdigit() for key in found)
        else {value: key for key, value in found.items()}
    )


def _is_capture(folder: Path) -> bool:
    return (folder / "images").is_dir() or (folder / "sparse").is_dir()


def _capture_folders(root: Path, depth: int) -> list[str]:
    with os.scandir(root) as entries:
        folders = [
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        ]
    if depth > 1:
        return [
            f"{name}/{below}"
            for name in folders
            for below in _capture_folders(root / name, depth - 1)
        ]
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
        vectors = {
            key: np.array(known[key], dtype=np.float64)
            for key in ("front", "centre")
            if key in known
        }
        if any(v.shape != (3,) or not np.isfinite(v).all() for v in vectors.values()):
            raise ValueError("front and centre are three numbers each")
        return {
            "class_name": str(known["class_name"]),
            "attributes": dict(known.get("attributes", {})),
            **vectors,
        }
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected("sidecar", detail=f"{path}: {error}") from error
