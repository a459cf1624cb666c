"""The photos and masks of one capture folder, looked up by the names that pose files give them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from actial.core.errors import Rejected
from actial.data.photos import SUFFIXES
from actial.data.sources.base import inside

MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".pgm", ".gif")
MASK_FOLDERS = ("masks", "mask")  # before any other folder with "mask" in its name
# what programs leave beside photos: macOS's copies, thumbnails, cut-outs of the same photos
STRAY_MARKS = ("bg_removed", "_mask", ".mask")


def readable_name(raw: bytes | str) -> str:
    """Return a file name as text: UTF-8 where it is, else Latin-1, which holds any bytes."""
    data = os.fsencode(raw) if isinstance(raw, str) else raw
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def photo_name(raw: bytes) -> str:
    """Return the name of a photo in a COLMAP model, whose folders a Windows tool may part by \\."""
    return readable_name(raw).replace("\\", "/")


def spellings(name: str) -> Iterator[str]:
    """Yield the ways in which a name may be written on disk.

    As it is; in the other Unicode normal forms (macOS decomposes accents); as Latin-1 bytes.
    """
    yield name
    if name.isascii():
        return
    yield unicodedata.normalize("NFC", name)
    yield unicodedata.normalize("NFD", name)
    try:
        yield os.fsdecode(name.encode("latin-1"))
    except UnicodeEncodeError:
        return


def existing(folder: Path, name: str) -> Path:
    """Return the path of `name` below `folder` in the spelling that is there, else as given."""
    for spelling in spellings(name):
        path = folder / spelling
        if os.path.exists(path):  # False for a name that is too long for a file system
            return path
    return folder / name


class PhotoFiles:
    """The photos below one folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise Rejected("no_images", detail=str(folder))
        self.folder = folder
        self.names = sorted(_photo_names(folder))
        self._by_folded = {name.casefold(): name for name in self.names}

    def path(self, name: str) -> Path:
        """Return the file of a photo that a pose file calls `name`; raises Rejected."""
        path = existing(self.folder, _checked(self.folder, name))
        if os.path.exists(path):
            return path
        folded = self._by_folded.get(name.casefold())  # 000.jpg that lies there as 000.JPG
        return path if folded is None else self.folder / folded

    def count(self, registered: set[str]) -> int:
        """Return how many photos there are, registered or not, without what programs left."""
        folded = {name.casefold() for name in registered}
        return sum(
            not _is_stray(name) or name in registered or name.casefold() in folded
            for name in self.names
        )


def _checked(folder: Path, name: str) -> str:
    return str(inside(folder, name).relative_to(folder))


def _photo_names(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.relpath(os.path.join(parent, name), folder)


def _is_stray(name: str) -> bool:
    stem = PurePosixPath(name).stem.lower()
    return stem.endswith(STRAY_MARKS)


class MaskFiles:
    """The masks of one capture: `masks/` in it, or its folder below source.mask_root."""

    def __init__(
        self, folder: Path | None, photo_names: list[str], *, expected: bool = False
    ) -> None:
        self.folder = folder
        self.expected = expected or folder is not None  # to be said of photos without a mask
        names = sorted(_mask_names(folder)) if folder is not None else []
        self._names = {name.casefold(): name for name in names} | {
            name: name for name in names
        }
        self._base_count = Counter(os.path.basename(name) for name in photo_names)

    @classmethod
    def of_source(
        cls, capture: Path, reference: str, photo_names: list[str], root: str | None
    ) -> MaskFiles:
        """Return the masks below source.mask_root, where it is set, else those of the capture."""
        if root is None:
            return cls.of_capture(capture, photo_names)
        below = existing(Path(root), reference)
        return cls(below if below.is_dir() else None, photo_names, expected=True)

    @classmethod
    def of_capture(cls, capture: Path, photo_names: list[str]) -> MaskFiles:
        """Return the masks inside a capture's folder, if there are any."""
        names = sorted(path.name for path in capture.iterdir() if path.is_dir())
        named = [name for name in names if "mask" in name.casefold() and name[0] != "."]
        first = next((name for name in MASK_FOLDERS if name in named), None)
        if first is None and not named:
            return cls(None, photo_names)
        return cls(capture / (first or named[0]), photo_names)

    def path(self, photo: str) -> Path | None:
        """Return the mask of a photo, or None.

        COLMAP's rule comes first (masks/a/000.jpg.png for images/a/000.jpg), then the
        same name with any suffix, with `_mask` behind it or as `mask_` before it, in
        letters of any case. A mask without the photo's subfolder counts only where no
        two photos share that file name.
        """
        if self.folder is None or not self._names:
            return None
        bases = [photo]
        if self._base_count[os.path.basename(photo)] <= 1:
            bases.append(os.path.basename(photo))
        for base in bases:
            for name in _mask_candidates(base):
                written = self._names.get(name) or self._names.get(name.casefold())
                if written is not None:
                    return self.folder / written
        return None


def _mask_names(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in names:
            if name.lower().endswith(MASK_SUFFIXES) and not name.startswith("."):
                yield os.path.relpath(os.path.join(parent, name), folder)


def _mask_candidates(photo: str) -> Iterator[str]:
    stem = os.path.splitext(photo)[0]
    parent, base = os.path.split(stem)
    for suffix in MASK_SUFFIXES:
        yield f"{photo}{suffix}"
        yield f"{stem}{suffix}"
    yield photo
    for suffix in MASK_SUFFIXES:
        yield f"{stem}_mask{suffix}"
        yield f"{stem}.mask{suffix}"
        yield f"{photo}.mask{suffix}"
        yield f"{stem}_seg{suffix}"
        yield os.path.join(parent, f"mask_{base}{suffix}")
        yield os.path.join(parent, f"mask-{base}{suffix}")
