"""SAT and its relatives as shards of multiple-choice rows: `python -m actial.build source=sat source.root=DIR out=DIR`.

Files are streamed twice: once for texts and picture hashes, once for the pictures of the rows that stay; only texts are held in memory.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from actial.config import BuildConfig, ImageConfig, QuestionConfig
from actial.core.atomic_io import atomic, write_json, write_text
from actial.core.errors import UserError
from actial.core.html_page import Card, Section, image_url, render_sections
from actial.core.image_codec import UNREADABLE
from actial.core.json_lines import write_lines
from actial.core.parquet import open_parquet, stream
from actial.core.records import QuestionRecord
from actial.core.seeding import hash_int
from actial.data.build.resumable import WORK, Task, claimed, run_tasks, worker_pool
from actial.data.images import encode
from actial.data.photos import photo_rgb
from actial.data.qa.sat_rows import Unusable, find_files, parse_row, pictures_of
from actial.data.shards import Sample, ShardFiles, finish_set, shard_name, write_shard

SPLITS = ("train", "val", "test")
PICTURES = "pictures"


# ---------------------------------------------------------------- pass 1: texts and picture hashes


def scan_file(path: Path, split: str, first: int, out: Path) -> None:
    """Write the usable rows of one file as lines, first the counts; `first` is the number of its first row within the split."""
    counts: Counter[str] = Counter()
    rows = []
    for number, raw in enumerate(stream(path), start=first):
        counts["seen"] += 1
        try:
            asked, pictures = (
                parse_row(raw),
                [sha256(data).hexdigest() for data in pictures_of(raw)],
            )
        except Unusable as reason:
            counts[str(reason)] += 1
            continue
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path}, row {number}: {error!r} is missing: give files with SAT's columns or verl's."
            ) from error
        rows.append(
            {
                "uid": f"sat:{split}:{number}",
                "kind": "qa",
                "source": "sat",
                "split": split,
                "type": asked.type,
                "subtype": asked.subtype,
                "raw_type": asked.raw_type,
                "question": asked.question,
                "options": list(asked.options),
                "answer_index": asked.answer_index,
                "group": sha256("".join(pictures).encode()).hexdigest()[:16],
                "pictures": pictures,
            }
        )
    write_lines(out, [counts, *rows])


def read_lines(path: Path) -> tuple[dict, list[dict]]:
    with path.open("rb") as file:
        return json.loads(file.readline()), [json.loads(line) for line in file]


# ---------------------------------------------------------------- between: which rows stay


def without_leaks(rows: Sequence[dict], counts: Counter[str]) -> list[dict]:
    """Rows whose pictures occur in no later split of train, val, test: a picture serves many questions and carries no id."""
    held: set[str] = set()
    kept: list[dict] = []
    for split in reversed(SPLITS):
        mine = [row for row in rows if row["split"] == split]
        free = [row for row in mine if not held & set(row["pictures"])]
        counts["picture also in a held-out split"] += len(mine) - len(free)
        held |= {picture for row in free for picture in row["pictures"]}
        kept = free + kept
    return kept


def balanced(rows: Sequence[dict], config: QuestionConfig) -> list[dict]:
    """Training rows drawn by hash so that types stand in the given shares; the type that runs out first decides how many."""
    drawn = sorted(rows, key=lambda row: hash_int("sat draw", config.seed, row["uid"]))
    if not config.shares:
        return drawn[: config.max_rows or None]
    by_type: dict[str, list[dict]] = {}
    for row in drawn:
        by_type.setdefault(row["type"], []).append(row)
    if missing := sorted(
        kind for kind, share in config.shares.items() if share > 0 and kind not in by_type
    ):
        raise UserError(
            f"qa.shares={missing} cannot be met: the training rows have the types {', '.join(sorted(by_type))}."
        )
    total = sum(config.shares.values())
    shares = {kind: share / total for kind, share in config.shares.items() if share > 0}
    whole = min(len(by_type[kind]) / share for kind, share in shares.items())
    whole = min(whole, config.max_rows or whole)
    return [
        row for kind, share in shares.items() for row in by_type[kind][: int(whole * share + 1e-9)]
    ]


def select(scans: Sequence[Path], config: QuestionConfig) -> tuple[list[dict], Counter[str]]:
    """The rows to write, in the order of the files, and the counts so far."""
    counts: Counter[str] = Counter()
    rows: list[dict] = []
    for path in scans:
        seen, found = read_lines(path)
        counts.update(seen)
        rows += found
    clean = without_leaks(rows, counts)
    stay = {
        row["uid"] for row in balanced([row for row in clean if row["split"] == "train"], config)
    }
    chosen = [row for row in clean if row["split"] != "train" or row["uid"] in stay]
    counts["beyond the shares or max_rows"] = len(clean) - len(chosen)
    return chosen, counts


# ---------------------------------------------------------------- pass 2: pictures, then shards


def extract_file(
    path: Path, wanted: frozenset[str], image: ImageConfig, folder: Path, done: Path
) -> None:
    """Write each wanted picture of one file under its hash, shrunk and without metadata; first line of `done` = counts."""
    counts: Counter[str] = Counter()
    for row in stream(path, ("image_bytes", "images")):
        try:
            encoded = pictures_of(row)
        except Unusable:
            continue  # counted in the first pass
        for data in encoded:
            name = sha256(data).hexdigest()
            target = folder / name
            if name not in wanted or target.exists():
                continue
            try:
                with Image.open(io.BytesIO(data)) as opened:
                    pixels = photo_rgb(opened)  # as stored: an orientation tag is not applied
            except UNREADABLE:
                counts["picture unreadable"] += 1
                continue
            with atomic(target) as file:
                file.write(encode(pixels, image))
    write_lines(done, [counts])


def write_part(
    config: BuildConfig, groups: Sequence[Sequence[dict]], shard: Path, part: Path
) -> None:
    """Write one tar of picture groups and its part of the index; rows without their pictures are counted."""
    counts: Counter[str] = Counter()
    folder = shard.parent / WORK / PICTURES

    def samples() -> Iterator[Sample]:
        for rows in groups:
            names = rows[0]["pictures"]
            if not all((folder / name).exists() for name in names):
                counts["rows without a readable picture"] += len(rows)
                continue
            members = {
                name: f"f{i:03d}.{config.image.format.value}"
                for i, name in enumerate(dict.fromkeys(names))
            }
            written = [
                {
                    **{k: v for k, v in row.items() if k != "pictures"},
                    "images": [members[n] for n in names],
                }
                for row in rows
            ]
            yield Sample(
                key=rows[0]["group"],
                images={m: (folder / n).read_bytes() for n, m in members.items()},
                rows=written,
            )

    index = write_shard(shard, samples())
    counts["written"] = len(index)
    write_lines(part, [counts, *index])


def plan(rows: Sequence[dict], per_shard: int) -> dict[str, list[list[dict]]]:
    """Shard name -> groups of rows over the same pictures, in order of their hash: each shard is a mixture, whatever the file's order."""
    shards: dict[str, list[list[dict]]] = {}
    for split in SPLITS:
        groups: dict[str, list[dict]] = {}
        for row in rows:
            if row["split"] == split:
                groups.setdefault(row["group"], []).append(row)
        ordered = [groups[key] for key in sorted(groups)]
        for start in range(0, len(ordered), per_shard):
            shards[shard_name(split, start // per_shard)] = ordered[start : start + per_shard]
    return shards


File = tuple[str, Path, int, int]  # split, path, number of its first row within the split, rows


def build_sat(config: BuildConfig, settings: Mapping[str, Any], identity: str) -> None:
    """Run or resume the build of one folder; `settings` and their hash `identity` go into the manifest. UserError: nothing is left."""
    out = Path(config.out)
    files = _numbered(find_files(Path(config.source.root)))
    claim = {
        "config_hash": identity,
        "captures": sha256(
            repr([(f[1].name, f[1].stat().st_size) for f in files]).encode()
        ).hexdigest(),
    }
    with claimed(out, claim), worker_pool(config.workers or os.cpu_count() or 1) as pool:
        try:
            chosen, counts = _texts(config, files, pool)
            marks = _pictures(config, files, chosen, pool)
            indices = write_shards(config, chosen, pool)
            for path in (*marks, *indices):
                counts.update(read_lines(path)[0])
            if not counts["written"]:
                raise UserError(
                    f"no question could be made from {config.source.root}: {dict(counts.most_common(4))}."
                )
        except UserError:
            shutil.rmtree(out)
            raise
        finish_questions(config, settings, identity, indices, counts, config.source.license)
        shutil.rmtree(out / WORK)
    print(
        f"{out}: {counts['written']} questions of {counts['seen']} rows; look at {out / 'audit.html'}"
    )


def _numbered(found: Mapping[str, Sequence[Path]]) -> list[File]:
    files: list[File] = []
    for split, paths in found.items():
        first = 0
        for path in paths:
            rows = open_parquet(path).metadata.num_rows
            files.append((split, path, first, rows))
            first += rows
    return files


def _texts(
    config: BuildConfig, files: Sequence[File], pool: ProcessPoolExecutor | None
) -> tuple[list[dict], Counter[str]]:
    scans = [Path(config.out) / WORK / f"rows-{i:04d}.jsonl" for i in range(len(files))]
    calls = zip(scans, files, strict=True)
    run_tasks(
        pool,
        "texts",
        [
            Task(scan, scan_file, (path, split, first, scan), rows)
            for scan, (split, path, first, rows) in calls
        ],
        "rows",
    )
    return select(scans, config.qa)


def _pictures(
    config: BuildConfig,
    files: Sequence[File],
    chosen: Sequence[dict],
    pool: ProcessPoolExecutor | None,
) -> list[Path]:
    parts = Path(config.out) / WORK
    (parts / PICTURES).mkdir(exist_ok=True)
    wanted = {
        split: frozenset(p for row in chosen if row["split"] == split for p in row["pictures"])
        for split in SPLITS
    }
    marks = [parts / f"pictures-{i:04d}.json" for i in range(len(files))]
    calls = zip(marks, files, strict=True)
    tasks = [
        Task(m, extract_file, (path, wanted[split], config.image, parts / PICTURES, m), rows)
        for m, (split, path, _, rows) in calls
    ]
    run_tasks(pool, "pictures", tasks, "rows")
    return marks


def write_shards(
    config: BuildConfig, chosen: Sequence[dict], pool: ProcessPoolExecutor | None
) -> list[Path]:
    out, shards = Path(config.out), plan(chosen, config.groups_per_shard)
    indices = {name: out / WORK / f"{name}.jsonl" for name in shards}
    tasks = [
        Task(indices[name], write_part, (config, groups, out / name, indices[name]), len(groups))
        for name, groups in shards.items()
    ]
    run_tasks(pool, "shards", tasks, "groups")
    return list(indices.values())


def finish_questions(
    config: BuildConfig,
    settings: Mapping[str, Any],
    identity: str,
    indices: Sequence[Path],
    counts: Counter[str],
    license: str,
) -> None:
    out = Path(config.out)
    rows = [row for path in indices for row in read_lines(path)[1]]
    rejects = {"questions": dict(sorted(counts.items()))}
    write_json(out / "rejects.json", rejects)
    write_audit(out, rows, counts, config.audit_pairs)
    facts = {
        "config_hash": identity,
        "config": dict(settings),
        "source": config.source.name or "sat",
    }
    facts |= {"licence": license, "rejects": rejects}
    finish_set(out, rows, facts)


# ---------------------------------------------------------------- audit page


def write_audit(out: Path, rows: Sequence[dict], counts: Mapping[str, int], per_type: int) -> None:
    """Write out/audit.html: counts, and some questions of every type and split with their images.

    The correct option is in bold.
    """
    shards = ShardFiles(out)
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["split"], row["subtype"]), []).append(row)
    totals = dict(sorted(counts.items()))
    totals |= {f"{split} {kind}": len(members) for (split, kind), members in sorted(groups.items())}
    sections = [Section(rows=list(totals.items()))]
    for (split, kind), members in sorted(groups.items()):
        drawn = sorted(members, key=lambda row: hash_int("audit", row["uid"]))[:per_type]
        cards = [_card(row, shards) for row in drawn]
        sections.append(Section(heading=f"{split}: {kind}", cards=cards))
    write_text(out / "audit.html", render_sections("Audit of the built questions", sections))


def _card(row: Mapping[str, Any], shards: ShardFiles) -> Card:
    images = [Image.fromarray(pixels) for pixels in shards.images(QuestionRecord.from_json(row))]
    return Card(
        images=[image_url(image, quality=90) for image in images],
        text=row["question"],
        choices=row["options"],
        highlighted=row["answer_index"],
    )
