"""An index of the runs below a folder, by the keys of their finished stages and answers.

A lookup looks at each run folder, and never into one: it reads the provenance
of the runs that have changed since the last lookup, and takes the others from
`.key_index.json`. That file is a cache; deleting it costs one slow lookup.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actial.config import StageName
from actial.core.atomic_io import write_json
from actial.runs.provenance import OLD_PROVENANCE, PROVENANCE, read_provenance

INDEX = ".key_index.json"


def runs_with_key(root: Path, key: str) -> list[Path]:
    """Return the run folders below `root` that have a stage or answers under `key`, by path."""
    path = root / INDEX
    indexed = _read(path)
    fresh: dict[str, Any] = {}
    for folder, stamp in _run_folders(root):
        name = os.path.relpath(folder, root)
        entry = indexed.get(name)
        if entry is None or entry["stamp"] != stamp:
            entry = {"stamp": stamp, "keys": _keys(read_provenance(folder))}
        fresh[name] = entry
    if fresh != indexed:
        write_json(path, fresh)
    return sorted(root / name for name, entry in fresh.items() if key in entry["keys"])


def _read(path: Path) -> dict[str, Any]:
    """Return the stored index; an empty one where there is none or it is damaged."""
    if not path.exists():
        return {}
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError:
        return {}  # rebuilt and written anew by the caller
    return values


def _run_folders(root: Path) -> Iterator[tuple[Path, list[int]]]:
    """Yield each run folder below `root`, with what changes whenever its provenance is written."""
    pending = [root]
    while pending:
        folder = pending.pop()
        if not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            inside = {entry.name: entry for entry in entries}
        provenance = inside.get(PROVENANCE) or inside.get(OLD_PROVENANCE)
        if provenance is None:
            subfolders = [one for one in inside.values() if one.is_dir(follow_symlinks=False)]
            pending += [Path(one.path) for one in subfolders]
            continue
        status = provenance.stat()
        # Provenance is replaced as a whole, so a new version has another inode or time.
        yield folder, [status.st_mtime_ns, status.st_ino, status.st_size]


def _keys(provenance: dict[str, Any]) -> list[str]:
    """Return the keys of the finished stages and of the answers of a run."""
    stages = [provenance.get(stage.name, {}) for stage in StageName]
    keys = {stage["key"] for stage in stages if stage.get("key")}
    return sorted(keys | set(provenance.get("answers", {}).values()))
