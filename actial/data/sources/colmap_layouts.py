"""Where captures lie below a root, and where in a capture its photos and its COLMAP model lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from actial.core.errors import Rejected
from actial.data.sources.colmap_model import ModelFiles, find_models, incomplete_model

MAX_DEPTH = 5  # folders between a root and its captures
# (photos, models) of a capture's folder: COLMAP, MVImgNet, image_undistorter, VGGT; nerfstudio;
# the undistorted and the original photos of 3DGS's convert.py; photos kept in smaller copies only
LAYOUTS = (
    ("images", "sparse"),
    ("images", "colmap/sparse"),
    ("images", "distorted/sparse"),
    ("input", "sparse"),
    ("input", "distorted/sparse"),
    ("images_2", "sparse"),
    ("images_4", "sparse"),
    ("images_8", "sparse"),
)
# folders of a capture that hold no captures themselves
PARTS = {
    *("images", "images_2", "images_4", "images_8", "input", "sparse", "stereo", "distorted"),
    *("masks", "mask", "depth", "depths", "colmap"),
}
UNDISTORTED = "dense"  # image_undistorter's folder: a capture in it is named by the one above


@dataclass(slots=True, frozen=True)
class Layout:
    """Photos and model of one capture."""

    photos: Path
    model: ModelFiles


def read_layout(capture: Path) -> Layout:
    """Return the largest model of a capture with its photos; raises Rejected naming the cause."""
    layout = _find_layout(capture)
    if layout is not None:
        return layout
    photos = [name for name, _ in LAYOUTS if (capture / name).is_dir()]
    models = [name for _, name in LAYOUTS if (capture / name).is_dir()]
    if models and any(True for name in models for _ in find_models(capture / name)):
        raise Rejected("no_images", detail=f"{capture}: no folder images/ beside {models[0]}/")
    if not models:
        raise Rejected("no_sparse", detail=f"{capture}: no folder sparse/")
    empty = capture / models[0]
    if lacking := incomplete_model(empty):
        raise Rejected("no_sparse", detail=lacking)
    listed = sorted(os.listdir(empty))[:5]
    raise Rejected(
        "no_sparse",
        detail=f"{empty}: neither cameras, images and points3D as .bin nor as .txt in it or in a "
        f"folder 0, 1, ... below it; it holds {', '.join(listed) or 'nothing'}"
        + ("" if photos else "; images/ is missing too"),
    )


def _find_layout(capture: Path) -> Layout | None:
    for photos, models in LAYOUTS:
        if (capture / photos).is_dir() and (capture / models).is_dir():
            candidates = list(find_models(capture / models))
            if candidates:
                # max takes the first of equals, and COLMAP numbers its models from 0
                return Layout(capture / photos, max(candidates, key=lambda m: m.num_images()))
    return None


def capture_folders(root: Path, depth: int = MAX_DEPTH) -> list[str]:
    """Return the captures below `root` (or "." for itself), relative, in order of their names.

    A folder with photos and a model is a capture, and what lies below it belongs to it.
    A folder with only one of the two is listed where nothing below it is a capture, so
    that it is counted.
    """
    return sorted(os.path.relpath(folder, root) for folder in _captures(root, depth))


def _captures(folder: Path, depth: int) -> Iterator[Path]:
    names = subfolder_names(folder)
    candidate = any(
        photos in names and models.partition("/")[0] in names for photos, models in LAYOUTS
    )
    # Reading the model's folder is left for later where the answer cannot change the listing:
    # there may be hundreds of thousands of captures on a slow file system.
    others = [name for name in names if name not in PARTS]
    if candidate and (not others or _find_layout(folder) is not None):
        yield folder
        return
    below = []
    if depth > 0:
        for name in others:
            below += list(_captures(folder / name, depth - 1))
    if below:
        yield from below
    elif "images" in names or "sparse" in names:
        yield folder


def subfolder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones and loops.

    A link to a folder that holds it would list every capture again, as other objects.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_folder(entry)]
    return sorted(name for name in names if not name.startswith((".", "__MACOSX")))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return entry.is_dir()
    target, place = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
    return os.path.isdir(entry.path) and os.path.commonpath([target, place]) != target


def object_name(root: Path, reference: str) -> str:
    """Return what a capture is called: its path without the folders of its tools' layout."""
    parts = PurePosixPath(reference).parts
    if parts and parts[-1] == UNDISTORTED:
        parts = parts[:-1]
    return "/".join(parts) or root.resolve().name
