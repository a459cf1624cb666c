"""wandb offline over an interruption: one file that syncs, with the whole history and exit code."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
from wandb.proto import wandb_internal_pb2

from actial.config import TrainConfig, register
from actial.config.hydra_app import typed
from actial.core.paths import CONF
from actial.runs.run_dir import open_run
from actial.runs.tracking import tracking

HEADER, BLOCK, CHUNK = 7, 32768, struct.Struct("<IHB")
FULL, LAST = 1, 4


def config(folder: Path) -> TrainConfig:
    register()
    words = ["+experiment=smoke", f"run_dir={folder}", "logger=wandb"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose("train", words))


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Read wandb's file: chunks in blocks of 32 KiB, each after (checksum, length, kind)."""
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
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            yield record
            data = b""


def exit_codes(path: Path) -> list[int]:
    """Wait until wandb's own process has written how the run ended."""
    for _ in range(300):
        codes = [record.exit.exit_code for record in records(path) if record.HasField("exit")]
        if codes:
            return codes
        time.sleep(0.1)
    return []


def log_two_steps_and_crash(wanted: TrainConfig) -> None:
    with open_run(wanted) as run, tracking(wanted, run) as tracker:
        for step in (1, 2):
            run.metrics.write("sft", step, {"loss": 1.0 / step})
            tracker.log("sft", step, {"loss": 1.0 / step})
        raise RuntimeError("killed")


def test_a_resumed_run_leaves_one_offline_file_with_all_steps(tmp_path: Path) -> None:
    wanted = config(tmp_path / "run")
    with pytest.raises(RuntimeError, match="killed"):
        log_two_steps_and_crash(wanted)
    (crashed,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert exit_codes(crashed) == [1]
    with open_run(wanted) as run, tracking(wanted, run) as tracker:
        tracker.replay(run, "sft")
        tracker.log("sft", 3, {"loss": 0.3})
    (path,) = (run.folder / "wandb").glob("offline-run-*/*.wandb")
    assert exit_codes(path) == [0]
    steps = [
        int(float(item.value_json))
        for record in records(path)
        for item in record.history.item
        if (item.key or "/".join(item.nested_key)) == "sft/step"
    ]
    assert steps == [1, 2, 3]
