"""Captures to a data set of view pairs: label, plan, write, audit.

Two passes of independent tasks, so a killed build goes on where it stopped and
ends with the same bytes: labels (poses only), then shards (images). A divided
build (`build.shard=I build.num_shards=N`) labels and packs every N-th chunk of
captures; the command without them joins what the shards left. The manifest is
written last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from actial.config import BuildConfig
from actial.core.atomic_io import write_json
from actial.core.errors import UserError
from actial.core.set_records import ViewPair
from actial.data.build.audit_page import write_audit
from actial.data.build.origin import origin_of_captures
from actial.data.build.rejects import Rejects
from actial.data.build.resumable import WORK, Task, claimed, run_tasks, worker_pool
from actial.data.build.settings import config_hash, fixed_settings
from actial.data.build.shard_plan import Plan, make_plan
from actial.data.build.tasks import label_chunk, pack_chunk, packed_path, write_part
from actial.data.build.work_files import read_counts, read_records
from actial.data.shards import finish_set, shard_name
from actial.data.sources.open_source import open_source

CHUNK = 64  # captures labeled by one task


def build_pairs(config: BuildConfig) -> None:
    """Run or resume a build, or one shard of it; raises UserError for what the user can mend."""
    out = Path(config.out)
    references = open_source(config.source).captures()
    claim = {"config_hash": config_hash(config), **origin_of_captures(config, references)}
    divided = config.build.num_shards > 1
    with (
        claimed(out, claim, shard=config.build.shard if divided else None),
        worker_pool(config.workers or os.cpu_count() or 1) as pool,
    ):
        labels = _label_all(config, references, pool)
        if divided:
            _pack_all(config, labels, pool)
            print(
                f"{out}: shard {config.build.shard} of {config.build.num_shards} is done; the same "
                "command without build.shard and build.num_shards joins them."
            )
            return
        rejects = Rejects()
        indices = _write_all(config, labels, pool, rejects)
        _add_counts(rejects, indices)
        if not rejects.pairs["written"]:
            shutil.rmtree(out)
            raise UserError(
                f"no pair could be made from the {len(references)} captures of "
                f"{config.source.root}: {rejects.summary()}."
            )
        for note in rejects.frame_notes():
            print(f"{out}: {note}")
        write_json(out / "rejects.json", rejects.as_dict())
        _finish(config, claim, indices, rejects)
        shutil.rmtree(out / WORK)
    print(
        f"{out}: {rejects.pairs['written']} pairs of {rejects.captures['accepted']} captures; "
        f"look at {out / 'audit.html'}"
    )


def pairs_origin(config: BuildConfig) -> dict[str, str]:
    """Return what tells the captures of a build from others; raises UserError without any."""
    return origin_of_captures(config, open_source(config.source).captures())


def _label_all(
    config: BuildConfig, references: Sequence[str], pool: ProcessPoolExecutor | None
) -> list[Path]:
    """Return the label files of all chunks, or of every num_shards-th chunk of a divided build.

    So all shards of a divided build get the same mixture of classes.
    """
    work = Path(config.out) / WORK
    starts = range(0, len(references), CHUNK)[config.build.shard :: config.build.num_shards]
    tasks = []
    for start in starts:
        path = work / f"labels-{start // CHUNK:06d}.jsonl"
        chunk = references[start : start + CHUNK]
        tasks.append(Task(path, label_chunk, (config, chunk, path), len(chunk)))
    run_tasks(pool, "labels", tasks, "captures")
    return [task.file for task in tasks]


def _pack_all(
    config: BuildConfig, labels: Sequence[Path], pool: ProcessPoolExecutor | None
) -> None:
    tasks = [Task(packed_path(path), pack_chunk, (config, path), 1) for path in labels]
    run_tasks(pool, "images", tasks, "chunks")


def _write_all(
    config: BuildConfig,
    labels: Sequence[Path],
    pool: ProcessPoolExecutor | None,
    rejects: Rejects,
) -> list[Path]:
    """Plan and write the shards; return the parts of the index, in order."""
    out = Path(config.out)
    _add_counts(rejects, labels)
    plan = Plan(out / WORK / "pair_plan.sqlite")
    # Planned anew by every process that resumes: the plan follows from the labels, and one that a
    # faulty disk has changed would do so too late to be noticed.
    make_plan(
        plan.base,
        labels,
        per_class=config.pairs.max_per_class,
        per_split=config.pairs.max_rows,
        per_shard=config.groups_per_shard,
    )
    rejects.pairs["over_cap"] += plan.dropped()
    tasks = []
    for split, number, captures in plan.shards():
        index = out / WORK / f"{shard_name(split, number)}.jsonl"
        tasks.append(Task(index, write_part, (config, plan, split, number, index), captures))
    run_tasks(pool, "shards", tasks, "captures")
    return [task.file for task in tasks]


def _add_counts(rejects: Rejects, files: Sequence[Path]) -> None:
    """Add the counts of each file of finished work, and check the file."""
    for path in files:
        rejects.add(read_counts(path))


def _finish(
    config: BuildConfig, claim: Mapping[str, str], indices: Sequence[Path], rejects: Rejects
) -> None:
    out = Path(config.out)
    write_audit(
        out,
        lambda: map(ViewPair.from_json, _index_entries(indices)),
        rejects.as_dict(),
        per_class=config.audit_pairs,
        classes=config.audit_classes,
    )
    description = {
        **claim,
        "config": fixed_settings(config),
        "source": config.source.kind.value,
        "licence": config.source.license,
        "rejects": rejects.counts(),
    }
    finish_set(out, _index_entries(indices), description)


def _index_entries(indices: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in indices:
        yield from read_records(path)
