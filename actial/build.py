"""`python -m actial.build source=KIND source.root=DIR out=DIR`: a folder of posed photos becomes viewpoint pairs in shards.

Two passes of independent tasks, so a killed build goes on where it stopped and ends with the same bytes: labels (poses only), then
shards (pictures). `build.shard=I build.num_shards=N` prepares one part of N in the same `out`, on any machine that sees it; the command
without them joins what the parts left. The manifest is written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any

from actial.config import BuildConfig, SourceKind
from actial.config.hydra_app import hydra_command
from actial.core.atomic_io import write_json
from actial.core.errors import UserError
from actial.core.records import ViewPair
from actial.data.build.audit_page import write_audit
from actial.data.build.resumable import PARTS, claimed, processes, refuse_other, run_parts
from actial.data.build.shard_plan import Plan, make_plan
from actial.data.build.tasks import Rejects, label_chunk, pack_chunk, packed_path, write_part
from actial.data.shards import MANIFEST, finish_set, shard_name
from actial.data.sources.open_source import open_source

CHUNK = 64  # captures labelled by one task
FREE_SETTINGS = (
    "out",
    "workers",
    "audit_pairs",
    "audit_classes",
    "build",
)  # they change no byte of the shards


def build(config: BuildConfig) -> None:
    """Run or resume a build, or one part of it; raises UserError for what the user can mend."""
    out = Path(config.out)
    identity = config_hash(config)
    if (out / MANIFEST).is_file():
        refuse_other(json.loads((out / MANIFEST).read_text()), identity, out, "finished")
        shutil.rmtree(
            out / PARTS, ignore_errors=True
        )  # left by a kill between the manifest and this
        print(f"{out} is already built with this configuration; nothing to do.")
        return
    if config.source.kind is SourceKind.sat:
        from actial.data.qa.build_sat import build_sat  # brings the benchmarks' readers along

        build_sat(config, fixed_settings(config), identity)
        return
    if config.source.kind is SourceKind.named:
        from actial.data.qa.build_public_set import build_named

        build_named(config, fixed_settings(config), identity)
        return
    references = open_source(config.source).captures()
    claim = {
        "config_hash": identity,
        "captures": sha256("\n".join(references).encode()).hexdigest(),
    }
    divided = config.build.num_shards > 1
    with (
        claimed(out, claim, part=config.build.shard if divided else None),
        processes(config.workers or os.cpu_count() or 1) as pool,
    ):
        labels = _label_all(config, references, pool)
        if divided:
            _pack_all(config, labels, pool)
            done = f"part {config.build.shard} of {config.build.num_shards} is done"
            print(
                f"{out}: {done}; the same command without build.shard and build.num_shards joins them."
            )
            return
        counts = Rejects()
        indices = _write_all(config, labels, pool, counts)
        for part in indices:
            with part.open("rb") as file:
                counts.add(json.loads(file.readline()))
        if not counts.pairs["written"]:
            shutil.rmtree(out)
            raise UserError(
                f"no pair could be made from the {len(references)} captures of {config.source.root}: {counts.most_common()}."
            )
        for note in counts.frame_notes():
            print(f"{out}: {note}")
        write_json(out / "rejects.json", counts.as_dict())
        _finish(config, identity, indices, counts)
        shutil.rmtree(out / PARTS)
    print(
        f"{out}: {counts.pairs['written']} pairs of {counts.captures['accepted']} captures; look at {out / 'audit.html'}"
    )


def _label_all(
    config: BuildConfig, references: Sequence[str], pool: ProcessPoolExecutor | None
) -> list[Path]:
    """Label files of all chunks, or of this part's: every parts-th chunk, so that parts meet the same mixture of classes."""
    starts = range(0, len(references), CHUNK)[config.build.shard :: config.build.num_shards]
    paths = [Path(config.out) / PARTS / f"labels-{start // CHUNK:06d}.jsonl" for start in starts]
    chunks = [references[start : start + CHUNK] for start in starts]
    tasks = [
        (path, (label_chunk, (config, chunk, path)), len(chunk))
        for path, chunk in zip(paths, chunks, strict=True)
    ]
    run_parts(pool, "labels", tasks, "captures")
    return paths


def _pack_all(
    config: BuildConfig, labels: Sequence[Path], pool: ProcessPoolExecutor | None
) -> None:
    run_parts(
        pool,
        "pictures",
        [(packed_path(path), (pack_chunk, (config, path)), 1) for path in labels],
        "chunks",
    )


def _write_all(
    config: BuildConfig, labels: Sequence[Path], pool: ProcessPoolExecutor | None, counts: Rejects
) -> list[Path]:
    parts = Path(config.out) / PARTS
    for path in labels:
        with path.open("rb") as file:
            counts.add(json.loads(file.readline()))
    plan = Plan(parts / "pair_plan.sqlite")
    if not plan.base.is_file():
        pairs = config.pairs
        make_plan(
            plan.base,
            labels,
            per_class=pairs.max_per_class,
            per_split=pairs.max_rows,
            per_shard=config.groups_per_shard,
        )
    counts.pairs["over_cap"] += plan.dropped()
    shards = list(plan.shards())
    indices = [parts / f"{shard_name(split, number)}.jsonl" for split, number, _ in shards]
    tasks = [
        (index, (write_part, (config, plan, split, number, index)), size)
        for index, (split, number, size) in zip(indices, shards, strict=True)
    ]
    run_parts(pool, "shards", tasks, "captures")
    return indices


def _finish(config: BuildConfig, identity: str, indices: Sequence[Path], counts: Rejects) -> None:
    out = Path(config.out)
    facts = {
        "config_hash": identity,
        "config": fixed_settings(config),
        "source": config.source.kind.value,
        "licence": config.source.license,
        "rejects": {k: v for k, v in counts.as_dict().items() if k != "examples"},
    }
    write_audit(
        out,
        lambda: map(ViewPair.from_json, _rows(indices)),
        counts.as_dict(),
        per_class=config.audit_pairs,
        classes=config.audit_classes,
    )
    finish_set(out, _rows(indices), facts)


def _rows(indices: Sequence[Path]) -> Iterator[dict]:
    for path in indices:
        with path.open("rb") as file:
            file.readline()
            yield from map(json.loads, file)


def fixed_settings(config: BuildConfig) -> dict[str, Any]:
    """The settings that decide the bytes; places on this machine are no part of them."""
    settings = {key: value for key, value in asdict(config).items() if key not in FREE_SETTINGS}
    settings["source"] = {key: value for key, value in settings["source"].items() if key != "root"}
    return _plain(settings)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.value if isinstance(value, Enum) else value


def config_hash(config: BuildConfig) -> str:
    return sha256(json.dumps(fixed_settings(config), sort_keys=True).encode()).hexdigest()


main: Callable[[], None] = hydra_command(
    "build", folder_key="out", shared=lambda raw: raw.build.num_shards > 1
)(build)

if __name__ == "__main__":
    main()
