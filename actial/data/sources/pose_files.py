"""Readers of posed captures with their own pose files: WildRGB-D, nerfstudio, instant-ngp, Blender; and what all such readers share.

Each hands over OpenCV cameras, so the same cameras give the same labels whatever axes the files are written in.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from actial.core.errors import Rejected, UserError
from actial.core.records import Capture, Frame, Lens
from actial.data.sources.base import SUFFIXES, Source, decode, inside, stored_size, usable_frames
from actial.viewpoint import geometry as g
from actial.viewpoint.lens import calibration

Pose = tuple[np.ndarray, np.ndarray]  # R, t


def make_frame(
    name: str,
    path: Path | None,
    size: tuple[int, int],
    lens: Lens,
    pose: Pose,
    mask: Path | None = None,
) -> Frame:
    width, height = size
    return Frame(
        name=name,
        path=path,
        width=width,
        height=height,
        K=calibration(lens),
        distortion=lens,
        R=pose[0],
        t=pose[1],
        time_index=0,
        mask_path=mask,
    )


class PosedSource(Source):
    """What these readers share: a missing or malformed field of one capture is a counted rejection."""

    layout: str  # what is expected below the root

    def captures(self) -> list[str]:
        found = sorted(self.references())
        if not found:
            raise UserError(
                f"source.root={self.root} holds no capture: expected {self.layout} below it (source={self.config.kind.value})."
            )
        return found

    def references(self) -> Iterator[str]:
        raise NotImplementedError

    def read(self, reference: str) -> tuple[Capture, Counter[str]]:
        try:
            return self.read_fields(reference)
        except FileNotFoundError as error:
            raise Rejected("no_poses", detail=str(error)) from error
        except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
            raise Rejected("poses_corrupt", detail=f"{reference}: {error!r}") from error

    def read_fields(self, reference: str) -> tuple[Capture, Counter[str]]:
        raise NotImplementedError

    def pixels(self, reference: str, name: str) -> np.ndarray:
        return decode(inside(self.root / reference, name))

    def capture(
        self,
        class_id: str,
        object_id: str,
        candidates: list[Frame],
        *,
        stored: bool = True,
        dropped: Counter[str] | None = None,
        **known: Any,
    ) -> tuple[Capture, Counter[str]]:
        dropped = dropped or Counter()
        frames = usable_frames(candidates, dropped, stored=stored)
        facts = {"class_name": class_id.replace("_", " "), "files_total": len(candidates), **known}
        group = f"{class_id}/{object_id}"
        made = Capture(
            source=self.config.kind.value,
            class_id=class_id,
            object_id=object_id,
            group_id=group,
            frames=frames,
            license=self.config.license,
            **facts,
        )
        return made, dropped

    def _enough(self, score: float | None) -> bool:
        return self.config.min_quality is None or (
            score is not None and score >= self.config.min_quality
        )


# ---------------------------------------------------------------- WildRGB-D


class WildRgbdSource(PosedSource):
    """ROOT/category/scenes/SCENE/{rgb,masks}/NNNNN.png, cam_poses.txt, metadata; only scenes of one object (types.json)."""

    layout = "CATEGORY/scenes/SCENE/rgb and CATEGORY/scenes/SCENE/cam_poses.txt"

    def references(self) -> Iterator[str]:
        for scenes in self.root.glob("*/scenes"):
            single = _single_scenes(scenes.parent / "types.json")
            for folder in scenes.iterdir():
                if (folder / "rgb").is_dir() and (single is None or folder.name in single):
                    yield f"{scenes.parent.name}/scenes/{folder.name}"

    def read_fields(self, reference: str) -> tuple[Capture, Counter[str]]:
        folder = self.root / reference
        known = json.loads((folder / "metadata").read_text(encoding="utf-8"))
        fx, fy, (cx, cy) = known["K"][0], known["K"][4], known["K"][6:8]  # written column by column
        lens: Lens = ("PINHOLE", (float(fx), float(fy), float(cx), float(cy)))
        photos = _by_number(folder / "rgb")
        masks = _by_number(folder / "masks") if (folder / "masks").is_dir() else {}
        lines = [
            line.split()
            for line in (folder / "cam_poses.txt").read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
        frames = []
        for number, *numbers in sorted(lines, key=lambda line: int(float(line[0]))):
            i = int(float(number))
            pose = g.from_camera_to_world(np.array(numbers, dtype=np.float64).reshape(4, 4))
            path = photos.get(i, folder / "rgb" / f"{i:05d}.png")
            frames.append(
                make_frame(
                    f"rgb/{path.name}",
                    path,
                    (int(known["w"]), int(known["h"])),
                    lens,
                    pose,
                    masks.get(i),
                )
            )
        category, _, scene = reference.split("/")
        return self.capture(category, scene, frames, files_total=len(photos))


def _by_number(folder: Path) -> dict[int, Path]:
    return {
        int(path.stem): path
        for path in folder.iterdir()
        if path.stem.isdigit() and path.suffix.lower() in SUFFIXES
    }


def _single_scenes(path: Path) -> set[str] | None:
    """Names of the scenes of one object; None where the list is missing. Written either way round: scene -> type or type -> scenes."""
    if not path.is_file():
        return None
    try:
        types = json.loads(path.read_text(encoding="utf-8"))
        return (
            set(types["single"])
            if "single" in types
            else {scene for scene, kind in types.items() if kind == "single"}
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no JSON object of scenes and types ({error}): fetch it again."
        ) from error


# ---------------------------------------------------------------- nerfstudio, instant-ngp, Blender


class TransformsSource(PosedSource):
    """ROOT/NAME/transforms.json (nerfstudio, instant-ngp) or transforms_{train,val,test}.json (Blender); camera-to-world, OpenGL axes."""

    layout = "NAME/transforms.json (or transforms_train.json)"
    FILES = ("transforms.json", "transforms_train.json")

    def references(self) -> Iterator[str]:
        for name in self.FILES:
            if (self.root / name).is_file():
                yield "."
                return
        yield from {path.parent.name for name in self.FILES for path in self.root.glob(f"*/{name}")}

    def read_fields(self, reference: str) -> tuple[Capture, Counter[str]]:
        folder = self.root / reference
        name = next((name for name in self.FILES if (folder / name).is_file()), self.FILES[0])
        shared = json.loads((folder / name).read_text(encoding="utf-8"))
        frames, dropped = [], Counter[str]()
        for entry in shared["frames"]:
            try:
                frames.append(self._frame(folder, {**shared, **entry}))
            except Rejected as rejected:
                dropped.update(rejected.reasons)
        label = self.root.resolve().name if reference == "." else reference
        frames.sort(key=lambda frame: frame.name)
        return self.capture(
            label, label, frames, dropped=dropped, files_total=len(shared["frames"])
        )

    def _frame(self, folder: Path, fields: Mapping) -> Frame:
        name = os.path.normpath(str(PurePosixPath(fields["file_path"])))
        name = name if name.lower().endswith(SUFFIXES) else f"{name}.png"
        path = inside(folder, name)
        size = (int(fields["w"]), int(fields["h"])) if "w" in fields else stored_size(path)
        pose = g.from_camera_to_world(
            np.array(fields["transform_matrix"], dtype=np.float64), g.OPENGL_AXES
        )
        mask = inside(folder, fields["mask_path"]) if fields.get("mask_path") else None
        return make_frame(name, path, size, _transforms_lens(fields, size), pose, mask)


def _transforms_lens(fields: Mapping, size: tuple[int, int]) -> Lens:
    width, height = size
    angle = fields.get("camera_angle_x")
    fx = float(fields["fl_x"]) if "fl_x" in fields else width / 2 / math.tan(float(angle) / 2)  # type: ignore[arg-type]
    focal = (
        fx,
        float(fields.get("fl_y", fx)),
        float(fields.get("cx", width / 2)),
        float(fields.get("cy", height / 2)),
    )
    fish = "FISHEYE" in str(fields.get("camera_model", ""))
    bent = tuple(
        float(fields.get(name, 0.0))
        for name in (("k1", "k2", "k3", "k4") if fish else ("k1", "k2", "p1", "p2"))
    )
    return (
        ("OPENCV_FISHEYE" if fish else "OPENCV", (*focal, *bent))
        if any(bent) or fish
        else ("PINHOLE", focal)
    )
