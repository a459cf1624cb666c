"""Where captures lie below a root, and where in a capture its photos and its COLMAP model lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from actial.core.errors import Rejected
from actial.data.photos import is_system_name
from actial.data.sources.colmap_model import ModelFiles, find_models, incomplete_model
from actial.data.sources.photo_files import UNDISTORTED, PhotoFiles

MAX_DEPTH = 16  # folders between a root and its captures, far more than people nest
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
# folders inside a capture that hold its own files; elsewhere they may be captures of that name
PARTS = {
    *("images", "images_2", "images_4", "images_8", "input", "sparse", "stereo", "distorted"),
    *("masks", "mask", "depth", "depths", "colmap"),
}


@dataclass(slots=True, frozen=True)
class Layout:
    """Photos and models of one capture."""

    photos: Path
    models: list[ModelFiles]

    def largest_first(self) -> list[ModelFiles]:
        """Return the models, those of most images first; of equals, in order of their numbers."""
        return sorted(self.models, key=lambda model: -model.num_images())


def read_layout(capture: Path) -> Layout:
    """Return the photos and models of a capture; raises Rejected naming the cause.

    Of several folders of photos that is the first which holds any.
    """
    layouts = list(_layouts(capture))
    if len(layouts) > 1:
        filled = (layout for layout in layouts if PhotoFiles(layout.photos).names)
        return next(filled, layouts[0])
    if layouts:
        return layouts[0]
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


def _layouts(capture: Path) -> Iterator[Layout]:
    for photos, models in LAYOUTS:
        if (capture / photos).is_dir() and (capture / models).is_dir():
            candidates = list(find_models(capture / models))
            if candidates:
                yield Layout(capture / photos, candidates)


def _is_whole(folder: Path) -> bool:
    return next(_layouts(folder), None) is not None


def capture_folders(root: Path, depth: int = MAX_DEPTH) -> list[str]:
    """Return the captures below `root` (or "." for itself), relative, in order of their names.

    A folder with photos and a model is a capture, and what lies below it belongs to it.
    A folder with only one of the two is listed where nothing below it is a capture, so
    that it is counted.
    """
    return sorted(os.path.relpath(folder, root) for folder in _captures(root, depth))


def captures_below(capture: Path) -> list[str]:
    """Return the captures in a capture's folder that are not read, relative, without its parts."""
    below: list[Path] = []
    for name in subfolder_names(capture):
        if name not in PARTS and name != UNDISTORTED:
            folders = _captures(capture / name, MAX_DEPTH)
            below += [folder for folder in folders if _is_whole(folder)]
    return [os.path.relpath(folder, capture) for folder in below]


def _captures(folder: Path, depth: int) -> Iterator[Path]:
    names = subfolder_names(folder)
    candidate = any(
        photos in names and models.partition("/")[0] in names for photos, models in LAYOUTS
    )
    # Reading the model's folder is left for later where the answer cannot change the listing:
    # there may be hundreds of thousands of captures on a slow file system.
    others = [name for name in names if name not in PARTS]
    if candidate and (not others or _is_whole(folder)):
        yield folder
        return
    half = "images" in names or "sparse" in names
    below = []
    if depth > 0:
        for name in others if candidate else names:
            inner = _captures(folder / name, depth - 1)
            if half and name in PARTS:
                inner = (path for path in inner if _is_whole(path))
            below += list(inner)
    if below:
        yield from below
    elif half:
        yield folder


def subfolder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without systems' own and loops.

    A link to a folder that holds it would list every capture again, as other objects.
    """
    with os.scandir(folder) as entries:
        named = [entry for entry in entries if not is_system_name(entry.name)]
    subfolders = [entry for entry in named if _is_folder(entry)]
    above: set[str] = set()
    if any(entry.is_symlink() for entry in subfolders):
        # the folders on the way here, through links too: two links may lead to each other
        here = Path(os.path.abspath(folder))
        above = {os.path.realpath(path) for path in (here, *here.parents)}
    return sorted(
        entry.name
        for entry in subfolders
        if not (entry.is_symlink() and _holds(os.path.realpath(entry.path), above))
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # is_dir raises for a link to itself
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _holds(folder: str, others: set[str]) -> bool:
    return any(os.path.commonpath([folder, other]) == folder for other in others)


def object_name(root: Path, reference: str) -> str:
    """Return what a capture is called: its path without the folders of its tools' layout."""
    parts = PurePosixPath(reference).parts
    if parts and parts[-1] == UNDISTORTED:
        parts = parts[:-1]
    return "/".join(parts) or root.resolve().name
