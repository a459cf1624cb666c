"""`python -m actial.build source=sat source.root=DIR out=DIR`: SAT and its relatives as shards.

Files are streamed twice: once for texts and image hashes, once for the images of the questions
that stay. Only texts are held in memory.
"""

from __future__ import annotations

import io
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from actial.config import BuildConfig, ImageConfig, QuestionConfig
from actial.core.atomic_io import atomic
from actial.core.errors import UserError
from actial.core.image_codec import UNREADABLE
from actial.core.parquet import open_parquet, stream
from actial.data.build.origin import origin_of_files
from actial.data.build.resumable import WORK, Task, claimed, run_tasks, worker_pool
from actial.data.build.work_files import write_work
from actial.data.images import encode
from actial.data.photos import photo_rgb
from actial.data.qa.question_shards import (
    HASHES,
    IMAGES,
    SPLITS,
    Question,
    balanced,
    finish_questions,
    read_lines,
    without_leaks,
    write_shards,
)
from actial.data.qa.sat_rows import (
    IMAGE_COLUMNS,
    Unusable,
    encoded_images,
    find_files,
    parse_row,
)


class SplitFile(NamedTuple):
    """One parquet file of a split."""

    split: str
    path: Path
    first: int  # number of its first row within the split
    rows: int


# ---------------------------------------------------------------- pass 1: texts and image hashes


def scan_file(path: Path, split: str, first: int, out: Path) -> None:
    """Write the usable questions of one file as lines, after a line of counts.

    `first` is the number of the file's first row within the split.
    """
    counts: Counter[str] = Counter()
    questions = []
    for number, row in enumerate(stream(path), start=first):
        counts["seen"] += 1
        try:
            questions.append(_question(row, split, number))
        except Unusable as reason:
            counts[str(reason)] += 1
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path}, row {number}, has the columns {', '.join(sorted(row))} ({error!r}): "
                "give files with SAT's columns or verl's."
            ) from error
    write_work(out, counts, questions)


def _question(row: Mapping[str, Any], split: str, number: int) -> Question:
    parsed = parse_row(row)
    hashes = [sha256(data).hexdigest() for data in encoded_images(row)]
    return {
        "uid": f"sat:{split}:{number}",
        "kind": "qa",
        "source": "sat",
        "split": split,
        "type": parsed.type,
        "subtype": parsed.subtype,
        "raw_type": parsed.raw_type,
        "question": parsed.question,
        "options": list(parsed.options),
        "answer_index": parsed.answer_index,
        "group": sha256("".join(hashes).encode()).hexdigest()[:16],
        HASHES: hashes,
    }


def select(
    scans: Sequence[Path], config: QuestionConfig
) -> tuple[list[Question], Counter[str]]:
    """Return the questions to write, in the order of the files, and the counts so far."""
    counts: Counter[str] = Counter()
    questions: list[Question] = []
    for path in scans:
        scan_counts, scanned = read_lines(path)
        counts.update(scan_counts)
        questions += scanned
    clean = without_leaks(questions, counts)
    train = [question for question in clean if question["split"] == "train"]
    drawn = {question["uid"] for question in balanced(train, config)}
    selected = [q for q in clean if q["split"] != "train" or q["uid"] in drawn]
    counts["beyond the shares or max_rows"] = len(clean) - len(selected)
    return selected, counts


# ---------------------------------------------------------------- pass 2: images, then shards


def extract_file(
    path: Path, wanted: frozenset[str], image: ImageConfig, folder: Path, done: Path
) -> None:
    """Write each wanted image of one file under its hash, shrunk and without metadata.

    The first line of `done` holds the counts.
    """
    counts: Counter[str] = Counter()
    for row in stream(path, IMAGE_COLUMNS):
        try:
            images = encoded_images(row)
        except Unusable:
            continue  # counted in the first pass
        for data in images:
            target = folder / sha256(data).hexdigest()
            if target.name not in wanted or target.exists():
                continue
            try:
                with Image.open(io.BytesIO(data)) as opened:
                    pixels = photo_rgb(opened)  # as stored: an orientation tag is not applied
            except UNREADABLE:
                counts["picture unreadable"] += 1
                continue
            with atomic(target) as file:
                file.write(encode(pixels, image))
    write_work(done, counts, [])


def sat_origin(config: BuildConfig) -> dict[str, str]:
    """Return what tells the files of a build from others; raises UserError without any."""
    files = _split_files(find_files(Path(config.source.root)))
    return origin_of_files([file.path for file in files])


def build_sat(config: BuildConfig, settings: Mapping[str, Any], identity: str) -> None:
    """Run or resume the build of one folder; raises UserError and then leaves nothing.

    `settings` and their hash `identity` go into the manifest.
    """
    out = Path(config.out)
    files = _split_files(find_files(Path(config.source.root)))
    claim = {"config_hash": identity, **origin_of_files([file.path for file in files])}
    with claimed(out, claim), worker_pool(config.workers or os.cpu_count() or 1) as pool:
        try:
            questions, counts = _scan(config, files, pool)
            extracted = _extract(config, files, questions, pool)
            indices = write_shards(config, questions, pool)
            for path in (*extracted, *indices):
                counts.update(read_lines(path)[0])
            if not counts["written"]:
                raise UserError(
                    f"no question could be made from {config.source.root}: "
                    f"{dict(counts.most_common(4))}."
                )
        except UserError:
            shutil.rmtree(out)
            raise
        finish_questions(config, settings, claim, indices, counts, config.source.license)
        shutil.rmtree(out / WORK)
    print(
        f"{out}: {counts['written']} questions of {counts['seen']} rows; "
        f"look at {out / 'audit.html'}"
    )


def _split_files(paths_by_split: Mapping[str, Sequence[Path]]) -> list[SplitFile]:
    files: list[SplitFile] = []
    for split, paths in paths_by_split.items():
        first = 0
        for path in paths:
            rows = open_parquet(path).metadata.num_rows
            files.append(SplitFile(split, path, first, rows))
            first += rows
    return files


def _scan(
    config: BuildConfig, files: Sequence[SplitFile], pool: ProcessPoolExecutor | None
) -> tuple[list[Question], Counter[str]]:
    parts = Path(config.out) / WORK
    scans = [parts / f"rows-{i:04d}.jsonl" for i in range(len(files))]
    tasks = [
        Task(scan, scan_file, (file.path, file.split, file.first, scan), file.rows)
        for scan, file in zip(scans, files, strict=True)
    ]
    run_tasks(pool, "texts", tasks, "rows")
    return select(scans, config.qa)


def _extract(
    config: BuildConfig,
    files: Sequence[SplitFile],
    questions: Sequence[Question],
    pool: ProcessPoolExecutor | None,
) -> list[Path]:
    """Extract the images of the questions; return the files of counts."""
    parts = Path(config.out) / WORK
    (parts / IMAGES).mkdir(exist_ok=True)
    wanted: dict[str, set[str]] = {split: set() for split in SPLITS}
    for question in questions:
        wanted[question["split"]].update(question[HASHES])
    marks = [parts / f"pictures-{i:04d}.json" for i in range(len(files))]
    tasks = []
    for mark, file in zip(marks, files, strict=True):
        hashes = frozenset(wanted[file.split])
        arguments = (file.path, hashes, config.image, parts / IMAGES, mark)
        tasks.append(Task(mark, extract_file, arguments, file.rows))
    run_tasks(pool, "pictures", tasks, "rows")
    return marks
