"""COLMAP reconstructions: MVImgNet's ROOT/class/object, or any folders with photos and a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actial.config import SourceConfig, SourceKind
from actial.core.errors import Rejected, UserError
from actial.core.records import Capture, Frame
from actial.core.text_files import read_utf8
from actial.data.sources.base import Source, usable_frames
from actial.data.sources.colmap_layouts import (
    capture_folders,
    captures_below,
    object_name,
    read_layout,
)
from actial.data.sources.colmap_reader import View, read_largest_model
from actial.data.sources.frame_counts import FrameCounts
from actial.data.sources.photo_files import MaskFiles, PhotoFiles, existing, readable_name

SIDECAR = "object.json"


class FolderSource(Source):
    """Folders with photos and a COLMAP model, at any depth below ROOT, or ROOT itself."""

    takes_mask_root = True

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._class_names: dict[str, str] | None = None
        self._photos: tuple[str, PhotoFiles] | None = None

    def captures(self) -> list[str]:
        references = [readable_name(path) for path in capture_folders(self.root)]
        if not references:
            layout = "NAME" if self.config.kind is SourceKind.colmap else "CLASS/OBJECT"
            raise UserError(
                f"source.root={self.root} holds no capture: expected {layout}/images and "
                f"{layout}/sparse/0 below it (source={self.config.kind.value})."
            )
        self._refuse_twins(references)
        return references

    def _refuse_twins(self, references: Sequence[str]) -> None:
        """Raise UserError where two folders would be the same object of the same class."""
        folders: dict[tuple[str, str], str] = {}
        for reference in references:
            other = folders.setdefault(self._ids(reference), reference)
            if other != reference:
                raise UserError(
                    f"source.root={self.root} holds the object {'/'.join(self._ids(reference))} "
                    f"twice, in {other} and {reference}: remove one, or give a folder below."
                )

    def read(self, reference: str) -> tuple[Capture, FrameCounts]:
        folder = existing(self.root, reference)
        layout = read_layout(folder)
        counts = FrameCounts()
        model = read_largest_model(layout.largest_first(), counts)
        photos = PhotoFiles(layout.photos)
        names = [view.name for view in model.views]
        masks = MaskFiles.of_source(folder, reference, names, self.config.mask_root)
        candidates = self._frames(photos, masks, model.views, counts)
        frames = usable_frames(candidates, counts, exif=self.config.exif)
        with_mask = sum(frame.mask_path is not None for frame in frames)
        counts["with_mask"] += with_mask
        if masks.expected:
            counts["without_mask"] += len(frames) - with_mask
        counts["points_lost"] += model.lost_points
        counts["captures_below"] += len(captures_below(folder))
        sidecar = _read_sidecar(folder / SIDECAR)
        class_id, object_id = self._ids(reference)
        capture = Capture(
            source=self.config.kind.value,
            class_id=class_id,
            class_name=sidecar.get("class_name") or self._class_name(class_id),
            object_id=object_id,
            group_id=f"{class_id}/{object_id}",
            frames=frames,
            files_total=photos.count({view.name for view in model.views}),
            points=model.points,
            point_tracks=model.tracks,
            reprojection_error_px=model.reprojection_error_px,
            front_prior=sidecar.get("front"),
            center_prior=sidecar.get("centre"),
            attributes=sidecar.get("attributes", {}),
            license=self.config.license,
        )
        return capture, counts.without_zeros()

    def photo_path(self, reference: str, name: str) -> Path:
        if self._photos is None or self._photos[0] != reference:
            layout = read_layout(existing(self.root, reference))
            self._photos = (reference, PhotoFiles(layout.photos))
        return self._photos[1].path(name)

    def _ids(self, reference: str) -> tuple[str, str]:
        """Return class and object of a capture."""
        if self.config.kind is SourceKind.colmap:
            name = object_name(self.root, reference)
            return name, name
        parts = (self.root.resolve() / reference).parts
        return readable_name(parts[-2]), readable_name(parts[-1])

    def _class_name(self, class_id: str) -> str:
        if self.config.category_file is not None and self._class_names is None:
            self._class_names = read_categories(Path(self.config.category_file))
        return (self._class_names or {}).get(class_id, class_id.replace("_", " "))

    def _frames(
        self,
        photos: PhotoFiles,
        masks: MaskFiles,
        views: Sequence[View],
        counts: FrameCounts,
    ) -> Iterator[Frame]:
        for view in views:
            try:
                path = photos.path(view.name)
            except Rejected as rejected:
                counts.reject(rejected)
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
                mask_path=masks.path(view.name),
            )


def read_categories(path: Path) -> dict[str, str]:
    """Return class id -> name, from lines `id,name` or from MVImgNet 2.0's JSON, either way round.

    Names come with stray spaces in MVImgNet. Raises UserError.
    """
    if not path.is_file():
        raise UserError(
            f"source.category_file={path} does not exist: give the list of lines `id,name` or the "
            "JSON, or leave it out."
        )
    text = read_utf8(path, f"source.category_file={path}")
    if path.suffix != ".json":
        pairs = (line.partition(",") for line in text.splitlines() if line.strip())
        return {number.strip(): name.strip() for number, _, name in pairs}
    try:
        names = {
            str(key).strip(): str(value).strip() for key, value in json.loads(text).items()
        }
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"source.category_file={path} is not a JSON object of class ids and names: give "
            "another list."
        ) from error
    if all(key.isdigit() for key in names):
        return names
    return {value: key for key, value in names.items()}


def _read_sidecar(path: Path) -> dict[str, Any]:
    """Return what the procedural world says of its object: class_name, front, centre, attributes.

    Front and centre are in the world frame.
    """
    if not path.is_file():
        return {}
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        vectors = {
            key: np.array(sidecar[key], dtype=np.float64)
            for key in ("front", "centre")
            if key in sidecar
        }
        if any(v.shape != (3,) or not np.isfinite(v).all() for v in vectors.values()):
            raise ValueError("front and centre are three numbers each")
        return {
            "class_name": str(sidecar["class_name"]),
            "attributes": dict(sidecar.get("attributes", {})),
            **vectors,
        }
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected("sidecar", detail=f"{path}: {error}") from error
