"""Reads the file that wandb keeps of an offline run, and draws what its pages will show.

The file is a log of records (protocol buffers) in blocks of 32 KiB, as LevelDB writes them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from actial.core.atomic_io import atomic
from actial.core.errors import UserError

HEADER, BLOCK, CHUNK = (
    7,
    32768,
    struct.Struct("<IHB"),
)  # bytes; checksum, length, kind
FULL, LAST = 1, 4  # kinds of chunk that end a record
CURVES = (
    ("sft/step", "sft/loss"),
    ("grpo/step", "grpo/reward"),
    ("grpo/step", "grpo/reward/format/mean"),
)


@dataclass(frozen=True, slots=True)
class OfflineRun:
    """What one run logged: a dict per call of log, and the summary as it ended.

    Keys are flat: a table `answers` is described by `answers/path`, `answers/nrows` and others.
    """

    folder: Path
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int | None  # None while wandb's own process is still writing

    def table(self, name: str) -> tuple[list[str], list[list[Any]]]:
        """Return columns and rows of the last version of a table."""
        paths = [line[f"{name}/path"] for line in self.history if f"{name}/path" in line]
        content = json.loads((self.folder / "files" / paths[-1]).read_text())
        return content["columns"], content["data"]


PROTOCOL: Any = wandb_internal_pb2  # its classes are made at run time


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file; a record that is still being written is left out."""
    content, at, data = path.read_bytes(), HEADER, b""
    while at + CHUNK.size <= len(content):
        block_rest = BLOCK - at % BLOCK
        if block_rest < CHUNK.size:
            at += block_rest
            continue
        _, length, kind = CHUNK.unpack_from(content, at)
        at += CHUNK.size
        data += content[at : at + length]
        at += length
        if kind in (FULL, LAST):
            record = PROTOCOL.Record()
            record.ParseFromString(data)
            yield record
            data = b""


def read_offline(folder: Path) -> OfflineRun:
    """Return what a folder wandb/offline-run-* holds. Raises UserError where it is none."""
    files = sorted(folder.glob("*.wandb"))
    if not files:
        raise UserError(f"{folder} holds no *.wandb: give a folder RUN/wandb/offline-run-*.")
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    exit_code = None
    for record in records(files[0]):
        if record.HasField("history"):
            history.append(_values(record.history.item))
        elif record.HasField("summary"):
            summary |= _values(record.summary.update)
        elif record.HasField("exit"):
            exit_code = record.exit.exit_code
    return OfflineRun(folder, history, summary, exit_code)


def _values(items: Any) -> dict[str, Any]:
    names = [item.key or "/".join(item.nested_key) for item in items]
    values = [json.loads(item.value_json) for item in items]
    return dict(zip(names, values, strict=True))


def draw_sweep(runs: Mapping[str, OfflineRun], sets: list[str], out: Path) -> None:
    """Draw panels of actial.dashboard for labeled runs: scores on two sets, curves by step."""
    # matplotlib is imported only where something is drawn.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), dpi=110, layout="constrained")
    axes = figure.subplots(2, 3)
    colors = {label: f"C{number}" for number, label in enumerate(runs)}
    bars = [(f"final/{name}/accuracy", f"accuracy on {name}") for name in sets[:2]]
    bars.append(
        (
            f"final/{sets[0]}/format_compliance",
            f"format compliance on {sets[0]}",
        )
    )
    for axis, (metric, title) in zip(axes[0], bars, strict=True):
        scores = [run.summary[metric] for run in runs.values()]
        axis.barh(list(runs), scores, color=list(colors.values()))
        axis.set_title(title, fontsize=9)
        axis.set_xlim(0, 1)
        axis.invert_yaxis()
    for axis, (step, metric) in zip(axes[1], CURVES, strict=True):
        for label, run in runs.items():
            points = [(line[step], line[metric]) for line in run.history if metric in line]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    color=colors[label],
                    label=label,
                )
        axis.set_title(metric, fontsize=9)
        axis.set_xlabel(step, fontsize=8)
    axes[1][0].legend(fontsize=7)
    with atomic(out) as file:
        figure.savefig(file, format="png")
