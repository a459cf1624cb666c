"""The photos and masks of one capture folder, looked up by the names that pose files give them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from actial.core.errors import Rejected
from actial.data.photos import SUFFIXES, is_system_name
from actial.data.sources.base import inside

MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".pgm", ".gif")
MASK_FOLDERS = ("masks", "mask")  # before any other folder with "mask" in its name
ABSOLUTE = re.compile(r"/|[A-Za-z]:/")
FILE_URL = re.compile(r"file:/+(?=[A-Za-z]:/)|file:(//)?(?=/)")
UNDISTORTED = "dense"  # image_undistorter's folder: a capture in it is named by the one above
# what programs leave beside photos: cut-outs, masks and maps of the same photos
STRAY_MARKS = ("bg_removed", "_mask", ".mask", "_depth", ".depth", "_normal", "_seg")


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


def find_photo(folder: Path, written: str) -> Path:
    """Return the file below `folder` that an exporter meant by `written`.

    Exporters write backslashes, paths of the machine or from the folder they ran
    in, no suffix, and that of photos which were converted later. The longest end of
    a path that exists in the folder counts; of a path inside the folder, an end
    with a folder. Raises Rejected("frame_name") for one that leaves it and is not
    there.
    """
    text = FILE_URL.sub("", written.replace("\\", "/"))
    if "\0" in text or not text.strip("./"):
        raise Rejected("frame_name", detail=written)
    base = Path(os.path.abspath(folder))
    meant = Path(os.path.normpath(text if ABSOLUTE.match(text) else base / text))
    inside = meant.is_relative_to(base)
    below = meant.relative_to(base).parts if inside else meant.parts
    parts = [part for part in below if part not in ("/", "//", "..")]
    ends = [parts[start:] for start in range(max(1, len(parts) - inside))]
    for find in (_with_suffix, _spelled_otherwise):
        for end in ends:
            if photo := find(base, end):
                return folder / photo.relative_to(base)
    if inside:
        return folder / meant.relative_to(base)
    raise Rejected("frame_name", detail=f"{written} leaves {folder}")


def _with_suffix(base: Path, parts: Sequence[str]) -> Path | None:
    """Return the path, or the path with the suffix of a photo, whichever is a file."""
    path = base.joinpath(*parts)
    if os.path.isfile(path):  # False for a name that is too long for a file system
        return path
    for suffix in (".png", *SUFFIXES):
        for spelling in (suffix, suffix.upper()):
            candidate = path.with_name(path.name + spelling)
            if os.path.isfile(candidate):
                return candidate
    return None


def _spelled_otherwise(base: Path, parts: Sequence[str]) -> Path | None:
    """Return the one photo at a path, whatever the case of its letters and its suffix."""
    folders = [base]
    for part in parts[:-1]:
        folders = [
            inner
            for folder in folders
            for inner in folder.iterdir()
            if inner.name.casefold() == part.casefold() and inner.is_dir()
        ]
    stem = _without_suffix(parts[-1])
    photos = [
        path
        for folder in folders
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and _without_suffix(path.name) == stem
    ]
    return photos[0] if len(photos) == 1 else None


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name.casefold())
    return stem if suffix in SUFFIXES else name.casefold()


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
        """Return how many photos there are, registered or not, without what programs left.

        A photo that is not registered is a copy where it has the stem of one that is.
        """
        folded = {name.casefold() for name in registered}
        stems = {_stem(name) for name in registered}
        return sum(
            name.casefold() in folded or not (_is_stray(name) or _is_copy(name, stems))
            for name in self.names
        )

    def originals(self) -> list[str]:
        """Return the names without what programs left: of photos with one stem, the first.

        That is the one in fewer folders, then the one whose suffix comes first in SUFFIXES.
        """
        plain = [name for name in self.names if not _is_stray(name)]
        stems: set[str] = set()
        originals = []
        for name in sorted(plain, key=_preference):
            if not _is_copy(name, stems):
                originals.append(name)
                stems.add(_stem(name))
        return sorted(originals)


def _checked(folder: Path, name: str) -> str:
    return str(inside(folder, name).relative_to(folder))


def _photo_names(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_system_name(name))
        for name in names:
            if name.lower().endswith(SUFFIXES) and not is_system_name(name):
                yield os.path.relpath(os.path.join(parent, name), folder)


def _is_stray(name: str) -> bool:
    stem = PurePosixPath(name).stem.lower()
    return stem.endswith(STRAY_MARKS)


def _stem(name: str) -> str:
    """Return a photo's path without suffixes, in folded case: a/000 of a/000.JPG.png too."""
    return _without_suffix(_without_suffix(name))


def _is_copy(name: str, stems: set[str]) -> bool:
    """Return whether a file has one of the stems, in its folder or without one of its folders."""
    *folders, base = _stem(name).split("/")
    outer = [folders[:i] + folders[i + 1 :] for i in range(len(folders))]
    return any("/".join([*path, base]) in stems for path in (folders, *outer))


def _preference(name: str) -> tuple[int, int, str]:
    suffix = os.path.splitext(name.lower())[1]
    return name.count("/"), SUFFIXES.index(suffix), name


class MaskFiles:
    """The masks of one capture: `masks/` in it, or its folder below source.mask_root.

    Those of a capture in dense/ may lie beside dense/.
    """

    def __init__(
        self, folder: Path | None, photo_names: list[str], *, expected: bool = False
    ) -> None:
        self.folder = folder
        self.expected = expected or folder is not None  # to be said of photos without a mask
        names = sorted(_mask_names(folder)) if folder is not None else []
        self._names = {name.casefold(): name for name in names} | {
            name: name for name in names
        }
        self._end_count = Counter(end for name in photo_names for end in _path_ends(name))

    @classmethod
    def of_source(
        cls, capture: Path, reference: str, photo_names: list[str], root: str | None
    ) -> MaskFiles:
        """Return the masks below source.mask_root, where it is set, else those of the capture."""
        captures, references = [capture], [reference]
        if PurePosixPath(reference).name == UNDISTORTED:
            captures.append(capture.parent)
            references.append(str(PurePosixPath(reference).parent))
        if root is None:
            folders = [_mask_folder(folder) for folder in captures]
            return cls(next(filter(None, folders), None), photo_names)
        places = [existing(Path(root), name) for name in references]
        below = next((place for place in places if place.is_dir()), None)
        if below is not None:
            inner = [below / name for name in MASK_FOLDERS]
            below = next((place for place in inner if place.is_dir()), below)
        return cls(below, photo_names, expected=True)

    def path(self, photo: str) -> Path | None:
        """Return the mask of a photo, or None.

        COLMAP's rule comes first (masks/a/000.jpg.png for images/a/000.jpg), then
        the same name with any suffix, with `_mask` behind it or as `mask_` before
        it, in letters of any case. A mask without the photo's folder, or without
        the first of them (images/), counts only where no two photos share that end
        of their path.
        """
        if self.folder is None or not self._names:
            return None
        whole, *ends = _path_ends(photo)
        for base in [whole, *(end for end in ends if self._end_count[end] <= 1)]:
            for name in _mask_candidates(base):
                written = self._names.get(name) or self._names.get(name.casefold())
                if written is not None:
                    return self.folder / written
        return None


def _mask_folder(capture: Path) -> Path | None:
    """Return the folder of masks in a capture's folder, if there is one."""
    names = sorted(path.name for path in capture.iterdir() if path.is_dir())
    named = [name for name in names if "mask" in name.casefold() and not is_system_name(name)]
    named = [name for name in MASK_FOLDERS if name in named] + named
    return capture / named[0] if named else None


def _path_ends(name: str) -> list[str]:
    """Return a path and what remains of it without its first folders, the longest first."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _mask_names(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_system_name(name)]
        for name in names:
            if name.lower().endswith(MASK_SUFFIXES) and not is_system_name(name):
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
