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


def check(folder: str, steps: int, refused: bool, rank: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    callback = SharedFolderCheck(Run(Path(folder), None, resumed=False))
    message = f"run_dir={folder} is not the same folder on every node"
    with pytest.raises(UserError, match=message) if refused else nullcontext():
        callback.on_train_start(SimpleNamespace(), Module(steps))
    torch.distributed.destroy_process_group()


def test_a_run_folder_that_nodes_do_not_share_is_refused_on_every_rank(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    for folder in (shared, own):
        folder.mkdir()
    (shared / CONFIG).write_text("")
    run_processes(check, [(str(shared), 0, True, 0), (str(own), 0, True, 1)])
    run_processes(check, [(str(shared), 4, False, 0), (str(shared), 4, False, 1)])
    # one folder that another node sees in an older state
    run_processes(check, [(str(shared), 4, True, 0), (str(shared), 2, True, 1)])
