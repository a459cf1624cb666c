"""Questions of any set -> shards: which records stay, how they are divided, what a set leaves.

Between the passes of a build a question is a dict of `QuestionRecord`'s fields, with
the hashes of its original images under "pictures"; the shrunk images lie in files named
by these hashes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from actial.config import BuildConfig, QuestionConfig
from actial.core.atomic_io import write_json, write_text
from actial.core.errors import UserError
from actial.core.html_page import Card, Section, image_url, render_sections
from actial.core.seeding import hash_int
from actial.core.set_records import QuestionRecord
from actial.data.build.resumable import WORK, Task, run_tasks
from actial.data.build.work_files import read_counts, read_records, write_work
from actial.data.shards import Sample, ShardFiles, finish_set, shard_name, write_shard

SPLITS = ("train", "val", "test")
IMAGES = "pictures"  # folder of shrunk images, in WORK
HASHES = "pictures"  # key of a question: the hashes of its original images

Question = dict[str, Any]  # a QuestionRecord's fields, and HASHES


def read_lines(path: Path) -> tuple[dict[str, Any], list[Question]]:
    """Return the counts and the questions of a file of unfinished work.

    Raises UserError for a damaged file.
    """
    return read_counts(path), list(read_records(path))


# ---------------------------------------------------------------- which questions stay


def without_leaks(questions: Sequence[Question], counts: Counter[str]) -> list[Question]:
    """Return the questions whose images occur in no later split of train, val, test.

    One image serves many questions and carries no id, so its hash is its identity.
    """
    held_out: set[str] = set()
    clean: list[Question] = []
    for split in reversed(SPLITS):
        of_split = [question for question in questions if question["split"] == split]
        free = [question for question in of_split if not held_out & set(question[HASHES])]
        counts["picture also in a held-out split"] += len(of_split) - len(free)
        for question in free:
            held_out.update(question[HASHES])
        clean = free + clean
    return clean


def balanced(questions: Sequence[Question], config: QuestionConfig) -> list[Question]:
    """Return training questions drawn by hash so that their types stand in the given shares.

    The type that runs out first decides how many there are.
    """
    drawn = sorted(questions, key=lambda q: hash_int("sat draw", config.seed, q["uid"]))
    if not config.shares:
        return drawn[: config.max_rows or None]
    by_type: dict[str, list[Question]] = {}
    for question in drawn:
        by_type.setdefault(question["type"], []).append(question)
    positive = {kind: share for kind, share in config.shares.items() if share > 0}
    if missing := sorted(positive.keys() - by_type.keys()):
        raise UserError(
            f"qa.shares={missing} cannot be met: the training rows have the types "
            f"{', '.join(sorted(by_type))}."
        )
    sum_of_shares = sum(config.shares.values())
    shares = {kind: share / sum_of_shares for kind, share in positive.items()}
    total = min(len(by_type[kind]) / share for kind, share in shares.items())
    total = min(total, config.max_rows or total)
    balanced_questions = []
    for kind, share in shares.items():
        balanced_questions += by_type[kind][: int(total * share + 1e-9)]
    return balanced_questions


# ---------------------------------------------------------------- shards


def plan(questions: Sequence[Question], per_shard: int) -> dict[str, list[list[Question]]]:
    """Return shard name -> groups of questions about the same images.

    Groups stand in the order of their hash, so each shard is a mixture whatever the file's order.
    """
    shards: dict[str, list[list[Question]]] = {}
    for split in SPLITS:
        groups: dict[str, list[Question]] = {}
        for question in questions:
            if question["split"] == split:
                groups.setdefault(question["group"], []).append(question)
        ordered = [groups[key] for key in sorted(groups)]
        for start in range(0, len(ordered), per_shard):
            shards[shard_name(split, start // per_shard)] = ordered[start : start + per_shard]
    return shards


def write_part(
    config: BuildConfig, groups: Sequence[Sequence[Question]], shard: Path, part: Path
) -> None:
    """Write one tar and its part of the index; questions without their images are counted."""
    counts: Counter[str] = Counter()
    index = write_shard(shard, _samples(config, groups, shard.parent / WORK / IMAGES, counts))
    counts["written"] = len(index)
    write_work(part, counts, index)


def _samples(
    config: BuildConfig,
    groups: Sequence[Sequence[Question]],
    folder: Path,
    counts: Counter[str],
) -> Iterator[Sample]:
    suffix = config.image.format.value
    for questions in groups:
        hashes = questions[0][HASHES]
        if not all((folder / name).exists() for name in hashes):
            counts["rows without a readable picture"] += len(questions)
            continue
        members = {name: f"f{i:03d}.{suffix}" for i, name in enumerate(dict.fromkeys(hashes))}
        records = []
        for question in questions:
            record = {key: value for key, value in question.items() if key != HASHES}
            records.append({**record, "images": [members[name] for name in hashes]})
        yield Sample(
            key=questions[0]["group"],
            images={member: (folder / name).read_bytes() for name, member in members.items()},
            rows=records,
        )


def write_shards(
    config: BuildConfig, questions: Sequence[Question], pool: ProcessPoolExecutor | None
) -> list[Path]:
    """Write all shards that are not there yet; return their parts of the index."""
    out, shards = Path(config.out), plan(questions, config.groups_per_shard)
    indices = {name: out / WORK / f"{name}.jsonl" for name in shards}
    tasks = [
        Task(
            indices[name], write_part, (config, groups, out / name, indices[name]), len(groups)
        )
        for name, groups in shards.items()
    ]
    run_tasks(pool, "shards", tasks, "groups")
    return list(indices.values())


def finish_questions(
    config: BuildConfig,
    settings: Mapping[str, Any],
    claim: Mapping[str, str],
    indices: Sequence[Path],
    counts: Counter[str],
    license: str,
) -> None:
    """Write rejects.json, the audit page, the index and the manifest, which holds the claim."""
    out = Path(config.out)
    entries: list[dict[str, Any]] = []
    for path in indices:
        entries += read_lines(path)[1]
    rejects = {"questions": dict(sorted(counts.items()))}
    write_json(out / "rejects.json", rejects)
    write_audit(out, entries, counts, config.audit_pairs)
    description: dict[str, Any] = {
        **claim,
        "config": dict(settings),
        "source": config.source.name or "sat",
        "licence": license,
        "rejects": rejects,
    }
    if chains := sum("chain" in entry for entry in entries):
        description["chains"] = chains  # questions with a chain of thought of the set's own
    finish_set(out, entries, description)


# ---------------------------------------------------------------- audit page


def write_audit(
    out: Path, entries: Sequence[dict[str, Any]], counts: Mapping[str, int], per_type: int
) -> None:
    """Write out/audit.html: counts, and some questions of every type and split with their images.

    The correct option is in bold.
    """
    shards = ShardFiles(out)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["split"], entry["subtype"]), []).append(entry)
    totals = dict(sorted(counts.items()))
    totals |= {
        f"{split} {kind}": len(members) for (split, kind), members in sorted(groups.items())
    }
    sections = [Section(rows=list(totals.items()))]
    for (split, kind), members in sorted(groups.items()):
        drawn = sorted(members, key=lambda entry: hash_int("audit", entry["uid"]))[:per_type]
        cards = [_card(entry, shards) for entry in drawn]
        sections.append(Section(heading=f"{split}: {kind}", cards=cards))
    write_text(out / "audit.html", render_sections("Audit of the built questions", sections))


def _card(entry: Mapping[str, Any], shards: ShardFiles) -> Card:
    images = [
        Image.fromarray(pixels) for pixels in shards.images(QuestionRecord.from_json(entry))
    ]
    numbered = "number" in entry
    text = entry["question"]
    if "chain" in entry:
        text += f"\n\n{entry['chain']}"
    return Card(
        images=[image_url(image, quality=90) for image in images],
        text=text,
        choices=[f"{entry['number']:g}"] if numbered else entry["options"],
        highlighted=0 if numbered else entry["answer_index"],
    )
