"""Published sets as shards of multiple-choice rows: `python -m actial.build source=named source.name=NAME source.root=DIR out=DIR`."""

from __future__ import annotations

import io
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from actial.config import BuildConfig
from actial.core.atomic_io import atomic
from actial.core.errors import Rejected, UserError
from actial.core.image_codec import UNREADABLE
from actial.core.json_lines import write_lines
from actial.core.json_stream import records
from actial.core.seeding import hash_unit
from actial.data.build.resumable import WORK, Task, claimed, run_tasks, worker_pool
from actial.data.images import encode
from actial.data.photos import FORMATS, photo_rgb
from actial.data.qa.build_sat import (
    PICTURES,
    balanced,
    finish_questions,
    read_lines,
    without_leaks,
    write_shards,
)
from actial.data.qa.public_sets import NAMED, AdaptedRow, adapt
from actial.data.qa.sat_rows import Unusable, pictures_of
from actial.data.sources.base import inside

SUFFIXES = (".jsonl", ".json", ".parquet")


def find_records(root: Path) -> list[Path]:
    """The set's files in `root` or in data/ below it, sorted; raises UserError when there are none, or two of one name."""
    found = sorted(
        path
        for folder in (root, root / "data")
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix in SUFFIXES
    )
    if not found:
        raise UserError(
            f"source.root={root} holds no {', '.join(SUFFIXES)} file: give the folder of the set's annotations and pictures."
        )
    stems = {path.stem: path for path in found}
    if twice := [path for path in found if stems[path.stem] is not path]:
        raise UserError(
            f"{twice[0]} and {stems[twice[0].stem]} would give their questions the same ids: keep one, or rename it."
        )
    return found


def read_blacklist(path: str | None) -> frozenset[str]:
    """Names of scenes that a benchmark uses, one a line."""
    if path is None:
        return frozenset()
    if not Path(path).is_file():
        raise UserError(
            f"qa.blacklist={path} does not exist: give a file of scene names, one a line, or leave it out."
        )
    return frozenset(
        line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()
    )


def adapt_file(config: BuildConfig, path: Path, out: Path) -> None:
    """Write the usable rows of one file as lines, first the counts, and their pictures, shrunk, into the folder beside them."""
    counts: Counter[str] = Counter()
    barred = read_blacklist(config.qa.blacklist)
    rows = []
    met: Counter[str] = Counter()
    for number, record in enumerate(records(path)):
        counts["seen"] += 1
        try:
            adapted = list(adapt(_name(config), record, number))
        except (KeyError, TypeError, AttributeError) as error:
            counts["a field is missing"] += 1
            counts[f"a field is missing: {error}"] += 1
            continue
        except ValueError:
            counts["answer is not exactly one option"] += 1
            continue
        for row in adapted:
            met[row.id] += 1  # some sets name a record by its scene, and have several of one
            uid = f"{path.stem}:{row.id}" + (f"~{met[row.id]}" if met[row.id] > 1 else "")
            line = _line(config, row, uid, out.parent / PICTURES, barred, counts)
            if line is not None:
                rows.append(line)
    write_lines(out, [counts, *rows])


def _name(config: BuildConfig) -> str:
    name = config.source.name or ""
    if name not in NAMED:
        raise UserError(
            f"source.name={config.source.name} is unknown: use one of {', '.join(sorted(NAMED))}."
        )
    return name


def _line(
    config: BuildConfig,
    row: AdaptedRow,
    uid: str,
    folder: Path,
    barred: frozenset[str],
    counts: Counter[str],
) -> dict | None:
    if row.answer_kind not in ("mcq", "yesno"):
        counts[f"{row.answer_kind} answer"] += 1
        return None
    if barred & {
        part for image in row.images if isinstance(image, str) for part in Path(image).parts
    }:
        counts["scene of a benchmark"] += 1
        return None
    try:
        pictures = [_store(_bytes(config, image), config, folder) for image in row.images]
    except (Rejected, Unusable, *UNREADABLE):
        counts["picture unreadable"] += 1
        return None
    if not pictures:
        counts["no picture (a video?)"] += 1
        return None
    group = sha256("".join(pictures).encode()).hexdigest()[:16]
    return {
        "uid": f"{_name(config)}:{uid}",
        "kind": "qa",
        "source": _name(config),
        "split": _split(config, group),
        "type": row.task,
        "subtype": row.task,
        "raw_type": row.task,
        "question": row.question,
        "options": list(row.options),
        "answer_index": row.answer_index,
        "group": group,
        "pictures": pictures,
    }


def _split(config: BuildConfig, group: str) -> str:
    return (
        "val"
        if hash_unit("split", config.pairs.seed, group) < config.pairs.val_fraction
        else "train"
    )


def _bytes(config: BuildConfig, image: Any) -> bytes:
    if isinstance(image, str):
        return inside(Path(config.source.root), image).read_bytes()
    return pictures_of({"images": [image]})[0]


def _store(data: bytes, config: BuildConfig, folder: Path) -> str:
    """Write the shrunk picture under the hash of its original unless it is there; returns the hash."""
    name = sha256(data).hexdigest()
    if not (folder / name).exists():
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            pixels = photo_rgb(opened)  # as stored: an orientation tag is not applied
        with atomic(folder / name) as file:
            file.write(encode(pixels, config.image))
    return name


def build_named(config: BuildConfig, settings: Mapping[str, Any], identity: str) -> None:
    """Run or resume the build of one set; `settings` and their hash `identity` go into the manifest. UserError: nothing is left."""
    _name(config)
    read_blacklist(config.qa.blacklist)
    out, files = Path(config.out), find_records(Path(config.source.root))
    claim = {
        "config_hash": identity,
        "captures": sha256(repr([(f.name, f.stat().st_size) for f in files]).encode()).hexdigest(),
    }
    with claimed(out, claim), worker_pool(config.workers or os.cpu_count() or 1) as pool:
        try:
            (out / WORK / PICTURES).mkdir(exist_ok=True)
            scans = [out / WORK / f"rows-{i:04d}.jsonl" for i in range(len(files))]
            tasks = [
                Task(scan, adapt_file, (config, path, scan), 1)
                for scan, path in zip(scans, files, strict=True)
            ]
            run_tasks(pool, "rows", tasks, "files")
            chosen, counts = _chosen(config, scans)
            indices = write_shards(config, chosen, pool)
            for path in indices:
                counts.update(read_lines(path)[0])
            if not counts["written"]:
                raise UserError(
                    f"no question could be made from {config.source.root}: {dict(counts.most_common(4))}."
                )
        except UserError:
            shutil.rmtree(out)
            raise
        license = (
            NAMED[_name(config)].license
            if config.source.license == "unknown"
            else config.source.license
        )
        finish_questions(config, settings, identity, indices, counts, license)
        shutil.rmtree(out / WORK)
    print(
        f"{out}: {counts['written']} questions of {counts['seen']} records; look at {out / 'audit.html'}"
    )


def _chosen(config: BuildConfig, scans: Sequence[Path]) -> tuple[list[dict], Counter[str]]:
    counts: Counter[str] = Counter()
    rows: list[dict] = []
    for scan in scans:
        seen, found = read_lines(scan)
        counts.update(seen)
        rows += found
    clean = without_leaks(rows, counts)
    train = balanced([row for row in clean if row["split"] == "train"], config.qa)
    return [*train, *(row for row in clean if row["split"] != "train")], counts
