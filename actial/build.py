"""`python -m actial.build source=KIND source.root=DIR out=DIR`: a folder of posed photos becomes viewpoint pairs in shards.

Two passes of independent parts, so a killed build goes on where it stopped and ends with the same bytes:
labels (poses only, a chunk of captures each), then shards (pictures, one tar each). The manifest is written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any

from actial.cli import hydra_command
from actial.config import BuildConfig, SourceKind
from actial.data.audit import write_audit
from actial.data.captures import Source, open_source
from actial.data.colmap import Rejected
from actial.data.gates import judge_capture
from actial.data.pairs import capture_key, pair_rows
from actial.data.parts import PARTS, claimed, processes, refuse_other, run_parts
from actial.data.pictures import encode
from actial.data.shards import MANIFEST, Sample, finish_set, shard_name, write_json, write_lines, write_shard
from actial.errors import UserError

CHUNK = 64  # captures labelled by one task
EXAMPLES = 5  # captures named per reason in rejects.json
FREE_SETTINGS = ("out", "workers", "audit_pairs", "audit_classes")  # they change no byte of the shards


# ---------------------------------------------------------------- pass 1: labels


def label_chunk(config: BuildConfig, references: Sequence[str], path: Path) -> None:
    """Judge some captures and write their rows: first line = counts, then one line per capture that has pairs."""
    source = open_source(config.source)
    counts = Rejects()
    lines = []
    for reference in references:
        line = _label_capture(config, source, reference, counts)
        if line is not None:
            lines.append(line)
    write_lines(path, [counts.as_dict(), *lines])


def _label_capture(config: BuildConfig, source: Source, reference: str, counts: Rejects) -> dict | None:
    counts.captures["seen"] += 1
    try:
        capture, dropped = source.read(reference)
        counts.frames.update(dropped)
        counts.frames["usable"] += len(capture.frames)
        geometry = judge_capture(capture, config.gates, ordered=config.source.ordered)
        rows, judged = pair_rows(capture, geometry, config.gates, config.pairs)
        counts.pairs.update(judged)
        if not rows:
            raise Rejected("no_pair")
    except Rejected as rejected:
        counts.reject(reference, rejected.reasons)
        return None
    counts.captures["accepted"] += 1
    counts.pairs["chosen"] += len(rows)
    return {"reference": reference, "key": capture_key(capture), "split": rows[0]["split"], "class_id": capture.class_id, "rows": rows}


class Rejects:
    """What was seen, kept and turned away, by reason."""

    def __init__(self) -> None:
        self.captures: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.pairs: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def reject(self, reference: str, reasons: Sequence[str]) -> None:
        self.captures.update(reasons)
        for reason in reasons:
            named = self.examples.setdefault(reason, [])
            if len(named) < EXAMPLES:
                named.append(reference)

    def add(self, part: Mapping[str, Any]) -> None:
        for kind in ("captures", "frames", "pairs"):
            getattr(self, kind).update(part[kind])
        for reason, named in part["examples"].items():
            self.examples[reason] = [*self.examples.get(reason, []), *named][:EXAMPLES]

    def as_dict(self) -> dict[str, Any]:
        counters = {kind: dict(sorted(getattr(self, kind).items())) for kind in ("captures", "frames", "pairs")}
        return {**counters, "examples": dict(sorted(self.examples.items()))}


# ---------------------------------------------------------------- between: which capture goes into which shard


@dataclass(slots=True)
class Place:
    """A capture's line in a label file, and which of its rows stay under the class cap."""

    key: str
    path: Path
    offset: int
    size: int
    kept: list[int]


def plan_shards(config: BuildConfig, labels: Sequence[Path], counts: Rejects) -> dict[str, list[Place]]:
    """Shard name -> its captures in order of their keys, so that every shard is a mixture of classes; keeps no rows in memory."""
    groups: dict[tuple[str, str], list[tuple[str, Place, int]]] = {}
    for path in labels:
        with path.open("rb") as file:
            counts.add(json.loads(file.readline()))
            while line := file.readline():
                capture = json.loads(line)
                place = Place(capture["key"], path, file.tell() - len(line), len(line), [])
                rows = groups.setdefault((capture["split"], capture["class_id"]), [])
                rows += [(row["uid"], place, i) for i, row in enumerate(capture["rows"])]
    by_split: dict[str, dict[str, Place]] = {}
    for (split, _), rows in sorted(groups.items()):
        cap = config.pairs.max_per_class or len(rows)
        counts.pairs["over_class_cap"] += max(0, len(rows) - cap)
        for _, place, i in sorted(rows, key=lambda item: item[0])[:cap]:
            place.kept.append(i)
            by_split.setdefault(split, {})[place.key] = place
    n = config.groups_per_shard
    return {
        shard_name(split, start // n): [places[key] for key in sorted(places)[start : start + n]]
        for split, places in sorted(by_split.items())
        for start in range(0, len(places), n)
    }


# ---------------------------------------------------------------- pass 2: shards


def write_part(config: BuildConfig, places: Sequence[Place], shard: Path, part: Path) -> None:
    """Write one tar and, once it stands, its part of the index: first line = counts, then the rows."""
    source, counts = open_source(config.source), Rejects()
    index = write_shard(shard, (sample for place in places if (sample := _sample(config, source, place, counts)) is not None))
    counts.pairs["written"] = len(index)
    if not index:
        shard.unlink()
    write_lines(part, [counts.as_dict(), *index])


def _sample(config: BuildConfig, source: Source, place: Place, counts: Rejects) -> Sample | None:
    """The capture's pictures and rows; a photo that cannot be decoded takes its pairs with it."""
    with place.path.open("rb") as file:
        file.seek(place.offset)
        capture = json.loads(file.read(place.size))
    rows = [capture["rows"][i] for i in sorted(place.kept)]
    names = sorted({name for row in rows for name in row["frame_names"]})
    member = {name: f"f{i:03d}.{config.image.format.value}" for i, name in enumerate(names)}
    images = {}
    for name in names:
        try:
            images[member[name]] = encode(source.pixels(capture["reference"], name), config.image)
        except Rejected as rejected:
            counts.frames.update(rejected.reasons)
    written = [{**row, "images": [member[name] for name in row["frame_names"]]} for row in rows]
    written = [row for row in written if all(name in images for name in row["images"])]
    counts.pairs["photo_unreadable"] += len(rows) - len(written)
    used = {name for row in written for name in row["images"]}
    return Sample(key=place.key, images={name: images[name] for name in used}, rows=written) if written else None


# ---------------------------------------------------------------- the whole build


def build(config: BuildConfig) -> None:
    """Run or resume a build; raises UserError for what the user can mend."""
    out = Path(config.out)
    identity = config_hash(config)
    if (out / MANIFEST).is_file():
        refuse_other(json.loads((out / MANIFEST).read_text()), identity, out, "finished")
        shutil.rmtree(out / PARTS, ignore_errors=True)  # left by a kill between the manifest and this
        print(f"{out} is already built with this configuration; nothing to do.")
        return
    if config.source.kind is SourceKind.sat:
        from actial.data.sat_build import build_sat  # brings the benchmarks' readers along

        build_sat(config, fixed_settings(config), identity)
        return
    references = open_source(config.source).captures()
    claim = {"config_hash": identity, "captures": sha256("\n".join(references).encode()).hexdigest()}
    with claimed(out, claim), processes(config.workers or os.cpu_count() or 1) as pool:
        labels = _label_all(config, references, pool)
        counts = Rejects()
        indices = _write_all(config, plan_shards(config, labels, counts), pool)
        for part in indices:
            with part.open("rb") as file:
                counts.add(json.loads(file.readline()))
        if not counts.pairs["written"]:
            shutil.rmtree(out)
            raise UserError(f"no pair could be made from the {len(references)} captures of {config.source.root}: {_most_common(counts)}.")
        write_json(out / "rejects.json", counts.as_dict())
        _finish(config, identity, indices, counts)
        shutil.rmtree(out / PARTS)
    print(f"{out}: {counts.pairs['written']} pairs of {counts.captures['accepted']} captures; look at {out / 'audit.html'}")


def _label_all(config: BuildConfig, references: Sequence[str], pool: ProcessPoolExecutor | None) -> list[Path]:
    chunks = [references[i : i + CHUNK] for i in range(0, len(references), CHUNK)]
    paths = [Path(config.out) / PARTS / f"labels-{i:06d}.jsonl" for i in range(len(chunks))]
    tasks = [(path, (label_chunk, (config, chunk, path)), len(chunk)) for path, chunk in zip(paths, chunks, strict=True)]
    run_parts(pool, "labels", tasks, "captures")
    return paths


def _write_all(config: BuildConfig, plan: Mapping[str, Sequence[Place]], pool: ProcessPoolExecutor | None) -> list[Path]:
    out = Path(config.out)
    parts = {name: out / PARTS / f"{name}.jsonl" for name in plan}
    tasks = [(parts[name], (write_part, (config, places, out / name, parts[name])), len(places)) for name, places in plan.items()]
    run_parts(pool, "shards", tasks, "captures")
    return list(parts.values())


def _finish(config: BuildConfig, identity: str, indices: Sequence[Path], counts: Rejects) -> None:
    out = Path(config.out)
    facts = {
        "config_hash": identity,
        "config": fixed_settings(config),
        "source": config.source.kind.value,
        "licence": config.source.licence,
        "rejects": {k: v for k, v in counts.as_dict().items() if k != "examples"},
    }
    write_audit(out, _rows(indices), counts.as_dict(), per_class=config.audit_pairs, classes=config.audit_classes)
    finish_set(out, _rows(indices), facts)


def _rows(indices: Sequence[Path]) -> Iterator[dict]:
    for path in indices:
        with path.open("rb") as file:
            file.readline()
            yield from map(json.loads, file)


def _most_common(counts: Rejects) -> str:
    reasons = Counter({k: n for k, n in counts.captures.items() if k not in ("seen", "accepted")})
    failed = Counter({k: n for k, n in counts.pairs.items() if k not in ("judged", "accepted", "chosen", "written") and n})
    return ", ".join(f"{name} {n} times" for name, n in [*reasons.most_common(3), *failed.most_common(3)])


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


main: Callable[[], None] = hydra_command("build", folder_key="out")(build)

if __name__ == "__main__":
    main()
