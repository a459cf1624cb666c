"""What a set was built from, told by its captures' names and files: the root may be moved."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from actial.config import BuildConfig
from actial.data.sources.photo_files import existing

SAMPLED = 16  # captures whose files are listed: a root may hold millions


def origin_of_captures(config: BuildConfig, references: Sequence[str]) -> dict[str, str]:
    """Return "captures", a hash of all names, and "files", one of the files of some captures."""
    root, out = Path(config.source.root), Path(config.out)
    return {
        "captures": sha256("\n".join(references).encode()).hexdigest(),
        "files": _files_hash(root, references, out),
    }


def origin_of_files(paths: Sequence[Path]) -> dict[str, str]:
    """Return "captures", a hash of the names and sizes of all files of questions."""
    contents = repr([(path.name, path.stat().st_size) for path in paths])
    return {"captures": sha256(contents.encode()).hexdigest()}


def _files_hash(root: Path, references: Sequence[str], out: Path) -> str:
    """Return a hash of the files of up to SAMPLED captures, spread over all: names and sizes.

    The root's own name counts where the root is the capture, which is called by it. Hidden files
    and the output folder do not count.
    """
    digest = sha256()
    step = -(-len(references) // SAMPLED)
    for reference in references[::step]:
        folder = existing(root, reference)
        digest.update(os.fsencode(root.resolve().name if reference == "." else reference))
        for path, size in sorted(_files(folder, out.resolve())):
            digest.update(os.fsencode(f"\0{os.path.relpath(path, folder)}\0{size}"))
    return digest.hexdigest()


def _files(folder: Path, out: Path) -> Iterator[tuple[str, int]]:
    for parent, folders, names in os.walk(folder):
        inside = Path(parent).resolve()
        folders[:] = [name for name in folders if name[0] != "." and inside / name != out]
        for name in names:
            path = os.path.join(parent, name)
            if name[0] != "." and os.path.isfile(path):
                yield path, os.path.getsize(path)
