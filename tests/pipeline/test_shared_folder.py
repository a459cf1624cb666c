"""Nodes that do not share the run folder are told so, on every rank."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.processes import run_processes

from actial.core.errors import UserError
from actial.pipeline.callbacks import SharedFolderCheck
from actial.runs.run_dir import CONFIG, Run
from actial.training.train_module import StepModule


class Module(StepModule):
    """A module of which the check reads the completed steps alone."""

    def __init__(self, completed_steps: int) -> None:
        torch.nn.Module.__init__(self)
        self.completed_steps = completed_steps


def check(cases: list[tuple[str, int, bool]], rank: int, port: int) -> None:
    """One rank's view of each case: run folder, completed steps, whether it is refused."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    for folder, steps, refused in cases:
        callback = SharedFolderCheck(Run(Path(folder), None, resumed=False))
        message = f"run_dir={folder} is not the same folder on every node"
        with pytest.raises(UserError, match=message) if refused else nullcontext():
            callback.on_train_start(SimpleNamespace(), Module(steps))
    torch.distributed.destroy_process_group()


def test_a_run_folder_that_nodes_do_not_share_is_refused_on_every_rank(tmp_path: Path) -> None:
    shared, own = str(tmp_path / "shared"), str(tmp_path / "own")
    for folder in (shared, own):
        Path(folder).mkdir()
    (Path(shared) / CONFIG).write_text("")
    # two folders; one folder; one folder that another node sees in an older state
    first = [(shared, 0, True), (shared, 4, False), (shared, 4, True)]
    second = [(own, 0, True), (shared, 4, False), (shared, 2, True)]
    run_processes(check, [(first, 0), (second, 1)])
