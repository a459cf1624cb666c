"""`python -m actial.build source=named source.name=NAME source.root=DIR out=DIR`.

A published set becomes shards of multiple-choice questions.
"""

from __future__ import annotations

import base64
import io
import os
import re
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
from actial.core.json_stream import records
from actial.core.seeding import hash_unit
from actial.core.text_files import read_utf8
from actial.data.build.origin import origin_of_files
from actial.data.build.resumable import WORK, Task, claimed, run_tasks, worker_pool
from actial.data.build.work_files import write_work
from actial.data.images import encode
from actial.data.photos import FORMATS, is_system_name, photo_rgb
from actial.data.qa.public_sets import NAMED, AdaptedQuestion, SetRecord, adapt
from actial.data.qa.question_shards import (
    HASHES,
    IMAGES,
    Question,
    balanced,
    finish_questions,
    read_lines,
    without_leaks,
    write_shards,
)
from actial.data.qa.released_rows import UnknownColumns
from actial.data.qa.sat_rows import Unusable, encoded_images
from actial.data.sources.base import inside

HELD_OUT = re.compile(r"(?<![a-z])(test|val|validation|eval)(?![a-z])", re.IGNORECASE)
# A data URL, or the beginning of a JPEG, PNG, WebP or GIF in base64: no path is so long.
BASE64 = re.compile(
    r"(?:data:image/[\w.+-]+;base64,|(?=(?:/9j/|iVBORw0K|UklGR|R0lGOD)[\w+/\s]{200}))"
    r"(?P<data>[\w+/=\s]+)"
)
EXAMPLE = 200  # characters of the cause that is counted beside its kind
DESCRIPTIONS = ("dataset_info.json", "state.json")  # of LLaMA-Factory and datasets: no records
SUFFIXES = (".jsonl", ".json", ".parquet")


def find_records(root: Path) -> list[Path]:
    """Return the set's files in `root` and in data/ below it, sorted.

    Raises UserError when there are none, or two of one name.
    """
    folders = [folder for folder in (root, root / "data") if folder.is_dir()]
    paths = []
    for folder in folders:
        files = [path for path in folder.iterdir() if path.suffix in SUFFIXES]
        files = [path for path in files if not is_system_name(path.name)]
        paths += [path for path in files if path.name not in DESCRIPTIONS]
    if not paths:
        raise UserError(
            f"source.root={root} holds no {', '.join(SUFFIXES)} file: give the folder of the set's "
            "annotations and pictures."
        )
    paths.sort()
    by_stem: dict[str, Path] = {}
    for path in paths:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise UserError(
                f"{other} and {path} would give their questions the same ids: keep one, or rename "
                "it."
            )
    return paths


def read_blacklist(path: str | None) -> frozenset[str]:
    """Return the names of scenes that a benchmark uses, one a line; raises UserError."""
    if path is None:
        return frozenset()
    if not Path(path).is_file():
        raise UserError(
            f"qa.blacklist={path} does not exist: give a file of scene names, one a line, or leave "
            "it out."
        )
    lines = read_utf8(Path(path), f"qa.blacklist={path}").splitlines()
    return frozenset(line.strip() for line in lines if line.strip())


def adapt_file(config: BuildConfig, path: Path, out: Path) -> None:
    """Write the usable questions of one file as lines, after a line of counts.

    Their images go, shrunk, into the folder beside `out`.
    """
    counts: Counter[str] = Counter()
    blacklist = read_blacklist(config.qa.blacklist)
    questions = []
    ids: Counter[str] = Counter()
    for number, record in enumerate(records(path)):
        counts["seen"] += 1
        try:
            adapted_questions = _adapted(config, record, number, counts)
        except UnknownColumns as error:
            raise UserError(f"{path}, row {number}, {error}.") from error
        for adapted in adapted_questions:
            # some sets name a record by its scene, and have several of one
            ids[adapted.id] += 1
            repeat = f"~{ids[adapted.id]}" if ids[adapted.id] > 1 else ""
            uid = f"{path.stem}:{adapted.id}{repeat}"
            question = _question(config, adapted, uid, out.parent / IMAGES, blacklist, counts)
            if question is not None:
                question["split"] = _split(config, question["group"], path)
                questions.append(question)
    write_work(out, counts, questions)


def _adapted(
    config: BuildConfig, record: SetRecord, number: int, counts: Counter[str]
) -> list[AdaptedQuestion]:
    """Return the questions of a record; none, counted, of one that cannot be read."""
    try:
        return list(adapt(_name(config), record, number))
    except (KeyError, TypeError, AttributeError) as error:
        counts["a field is missing"] += 1
        counts[f"a field is missing: {error}"] += 1
    except Unusable as reason:
        counts[str(reason)] += 1
    except ValueError:
        counts["answer is not exactly one option"] += 1
    return []


def _name(config: BuildConfig) -> str:
    name = config.source.name or ""
    if name not in NAMED:
        raise UserError(
            f"source.name={config.source.name} is unknown: use one of {', '.join(sorted(NAMED))}."
        )
    return name


def _question(
    config: BuildConfig,
    adapted: AdaptedQuestion,
    uid: str,
    folder: Path,
    blacklist: frozenset[str],
    counts: Counter[str],
) -> Question | None:
    """Store the images of a question and return its fields, or None, counted."""
    kinds = ("mcq", "yesno", "number") if config.source.numbers else ("mcq", "yesno")
    if adapted.answer_kind not in kinds:
        counts[f"{adapted.answer_kind} answer"] += 1
        return None
    if any(isinstance(i, str) and blacklist & set(Path(i).parts) for i in adapted.images):
        counts["scene of a benchmark"] += 1
        return None
    try:
        hashes = [_store(_bytes(config, image), config, folder) for image in adapted.images]
    except (Rejected, Unusable, *UNREADABLE) as error:
        if not counts["picture unreadable"]:
            cause = f"picture unreadable, for example of {uid}: {error}"
            counts[cause[:EXAMPLE]] = 1
        counts["picture unreadable"] += 1
        return None
    if not hashes:
        counts["no picture (a video?)"] += 1
        return None
    group = sha256("".join(hashes).encode()).hexdigest()[:16]
    more: dict[str, Any] = {}
    if len(adapted.types) > 1:
        more["types"] = list(adapted.types)
    if adapted.answer_kind == "number":
        more["number"] = float(adapted.answer)
    if adapted.chain:
        more["chain"] = adapted.chain
    return {
        "uid": f"{_name(config)}:{uid}",
        "kind": "qa",
        "source": _name(config),
        "split": "train",  # decided by the file and the group
        "type": adapted.types[0],
        "subtype": adapted.types[0],
        "raw_type": ", ".join(adapted.types),
        **more,
        "question": adapted.question,
        "options": list(adapted.options),
        "answer_index": adapted.answer_index,
        "group": group,
        HASHES: hashes,
    }


def _split(config: BuildConfig, group: str, path: Path) -> str:
    """Return the split by hash of the images; of a release's test file that of its name."""
    held_out = HELD_OUT.search(path.stem) if NAMED[_name(config)].released else None
    if held_out:
        return "test" if held_out[1] == "test" else "val"
    draw = hash_unit("split", config.pairs.seed, group)
    return "val" if draw < config.pairs.val_fraction else "train"


def _bytes(config: BuildConfig, image: Any) -> bytes:
    """Return an encoded image; a cell names its file, or holds it, in base64 or as it is."""
    if isinstance(image, dict) and not image.get("bytes"):
        image = image.get("path")
    elif isinstance(image, dict) and isinstance(image["bytes"], str):
        image = image["bytes"]
    if not isinstance(image, str):
        return encoded_images({"images": [image]})[0]
    if base64_text := BASE64.fullmatch(image):
        return base64.b64decode(base64_text["data"], validate=False)
    return inside(Path(config.source.root), image.replace("\\", "/")).read_bytes()


def _store(data: bytes, config: BuildConfig, folder: Path) -> str:
    """Write the shrunk image under the hash of its original unless it is there; return the hash."""
    name = sha256(data).hexdigest()
    if not (folder / name).exists():
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            pixels = photo_rgb(opened)  # as stored: an orientation tag is not applied
        with atomic(folder / name) as file:
            file.write(encode(pixels, config.image))
    return name


def named_origin(config: BuildConfig) -> dict[str, str]:
    """Return what tells the files of a build from others; raises UserError without any."""
    return origin_of_files(find_records(Path(config.source.root)))


def build_named(config: BuildConfig, settings: Mapping[str, Any], identity: str) -> None:
    """Run or resume the build of one set; raises UserError and then leaves nothing.

    `settings` and their hash `identity` go into the manifest.
    """
    _name(config)
    read_blacklist(config.qa.blacklist)
    out, files = Path(config.out), find_records(Path(config.source.root))
    claim = {"config_hash": identity, **origin_of_files(files)}
    with claimed(out, claim), worker_pool(config.workers or os.cpu_count() or 1) as pool:
        try:
            (out / WORK / IMAGES).mkdir(exist_ok=True)
            scans = [out / WORK / f"rows-{i:04d}.jsonl" for i in range(len(files))]
            tasks = [
                Task(scan, adapt_file, (config, path, scan), 1)
                for scan, path in zip(scans, files, strict=True)
            ]
            run_tasks(pool, "rows", tasks, "files")
            questions, counts = _selected(config, scans)
            indices = write_shards(config, questions, pool)
            for path in indices:
                counts.update(read_lines(path)[0])
            if not counts["written"]:
                raise UserError(
                    f"no question could be made from {config.source.root}: "
                    f"{dict(counts.most_common(4))}."
                )
        except UserError:
            shutil.rmtree(out)
            raise
        license = config.source.license
        if license == "unknown":
            license = NAMED[_name(config)].license
        finish_questions(config, settings, claim, indices, counts, license)
        shutil.rmtree(out / WORK)
    print(
        f"{out}: {counts['written']} questions of {counts['seen']} records; "
        f"look at {out / 'audit.html'}"
    )


def _selected(
    config: BuildConfig, scans: Sequence[Path]
) -> tuple[list[Question], Counter[str]]:
    counts: Counter[str] = Counter()
    questions: list[Question] = []
    for scan in scans:
        scan_counts, scanned = read_lines(scan)
        counts.update(scan_counts)
        questions += scanned
    clean = without_leaks(questions, counts)
    train = balanced([q for q in clean if q["split"] == "train"], config.qa)
    return [*train, *(q for q in clean if q["split"] != "train")], counts
