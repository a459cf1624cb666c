"""A run of two ranks of which one is killed or meets an error: both end, and the cause is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

END_S = 60
START_S = 500  # to the first checkpoint, on a busy machine


def train_command(run: Path, data: str) -> list[str]:
    return [
        "actial.train",
        "+experiment=smoke",
        f"run_dir={run}",
        "stages=[sft]",
        "sft.steps=100000",
        "sft.save_every=2",
        "mix@sft.mix=viewpoint",
        "benchmark=viewpoint",
        f"data.sets.viewpoint.root={data}",
        "data.workers=0",
        "trainer.devices=2",
        "trainer.strategy=fsdp2",
    ]


class Ranks:
    """The process that starts the ranks of a run; all that they print, line by line."""

    def __init__(self, arguments: list[str], run: Path) -> None:
        self.mark = f"run_dir={run}".encode()
        self.process = subprocess.Popen(
            arguments,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def members(self) -> list[int]:
        """Pids of the processes with the run's command line."""
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if self.mark in words:
                pids.append(int(folder.name))
        return pids

    def rank(self, number: int) -> int:
        """Pid of a rank."""
        wanted = f"LOCAL_RANK={number}".encode()
        for pid in self.members():
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
        raise AssertionError(f"no rank {number}: {self.output[-2000:]}")

    def assert_all_end(self) -> None:
        """Within END_S no process of the run is left."""
        deadline = time.monotonic() + END_S
        while (self.members() or self.process.poll() is None) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not self.members(), self.output[-3000:]
        assert self.process.poll() not in (None, 0), self.output[-3000:]
        self.reader.join(10)


@pytest.fixture
def started() -> Iterator[list[Ranks]]:
    running: list[Ranks] = []
    yield running
    for ranks in running:
        for pid in {ranks.process.pid, *ranks.members()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_rank_ends_the_run(tiny_set: Path, tmp_path: Path, started) -> None:
    """Ranks started by Lightning; killed in the middle of training."""
    run = tmp_path / "run"
    ranks = Ranks([sys.executable, "-m", *train_command(run, str(tiny_set))], run)
    started.append(ranks)
    deadline = time.monotonic() + START_S
    while not list((run / "checkpoints").glob("sft/step-*")):
        assert ranks.process.poll() is None, ranks.output[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(ranks.rank(1), signal.SIGKILL)
    ranks.assert_all_end()
    causes = ("a remote worker", "code -9")  # gloo's, or that of Lightning's observer
    assert any(cause in ranks.output for cause in causes), ranks.output[-3000:]


@pytest.mark.slow
def test_an_error_of_one_rank_ends_the_run(tiny_set: Path, tmp_path: Path, started) -> None:
    """Ranks started by torchrun, each in a folder with its own copy of the data, as on two nodes;
    the second one's has a damaged shard.
    """
    for rank in range(2):
        shutil.copytree(tiny_set, tmp_path / f"node-{rank}" / "set")
    for shard in (tmp_path / "node-1" / "set").glob("train-*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size))
    run = tmp_path / "run"
    words = " ".join(json.dumps(word) for word in train_command(run, "set"))
    shell = f"cd {tmp_path}/node-$RANK && exec {sys.executable} -m {words}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ranks = Ranks([*torchrun, "--nproc-per-node", "2", "--no-python", "sh", "-c", shell], run)
    started.append(ranks)
    deadline = time.monotonic() + START_S
    while "error: " not in ranks.output:
        assert ranks.process.poll() is None, ranks.output[-3000:]
        assert time.monotonic() < deadline, ranks.output[-3000:]
        time.sleep(0.1)
    ranks.assert_all_end()
    (line, *_) = [line for line in ranks.lines if "error: " in line]
    assert "train-0" in line, ranks.output[-3000:]
