"""Exact training state on disk: safetensors and JSON, nothing that is unpickled.

    checkpoints/step-00000120/state.safetensors   trained weights, optimiser moments, torch's random states, samples drawn ahead
    checkpoints/step-00000120/state.json          step, other random states, counters, fingerprints

Frozen weights are not stored: they are those of the model the stage started from. A folder appears under its name only when
complete, so a kill loses at most the steps since the last one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from actial.core.atomic_io import write_json
from actial.core.errors import NonFiniteError, UserError
from actial.modeling.dtensor import whole
from actial.training.train_module import StepModule

KEPT = 2


class CheckpointCallback(lightning.Callback):
    """Saves every `every` steps and when `stop` turns true, then ends the run; restores the random states at the start.

    `stop` is looked at before each update too, since a rollout may take longer than the grace that a scheduler gives.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        fingerprint: Mapping[str, str],
        stop: Callable[[], bool] = bool,
    ) -> None:
        self.folder = folder
        self.every = every
        self.fingerprint = dict(fingerprint)
        self.stop = stop
        self.saved_step = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.saved_step = pl_module.completed_steps
        if pl_module.completed_steps and (path := latest(self.folder)):
            _restore_random_states(path)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.stop():
            self._save(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stopping = self.stop()
        if (
            stopping
            or pl_module.completed_steps % self.every == 0
            or pl_module.completed_steps == pl_module.stage.steps
        ):
            self._save(trainer, pl_module)
        trainer.should_stop |= stopping

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException
    ) -> None:
        """A loss or gradient that is not finite: the state before its step joins the batch, to replay the two."""
        if isinstance(exception, NonFiniteError):
            save(pl_module.crash_folder, pl_module, trainer.optimizers[0], self.fingerprint)

    def _save(self, trainer: lightning.Trainer, module: StepModule) -> None:
        if module.completed_steps != self.saved_step:
            save(self.folder, module, trainer.optimizers[0], self.fingerprint)
            self.saved_step = module.completed_steps


def save(
    folder: Path,
    module: StepModule,
    optimizer: torch.optim.Optimizer,
    fingerprint: Mapping[str, str],
) -> Path:
    """Write the state of `module` after its completed steps; keeps the newest two."""
    tensors: dict[str, torch.Tensor] = {"rng/torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    for name, parameter in _trained(module).items():
        tensors[f"model/{name}"] = whole(parameter.detach())
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = whole(value)
    tensors |= {f"kept/{name}": tensor for name, tensor in module.extra_state().items()}
    facts = {
        "step": module.completed_steps,
        "counters": module.counters(),
        "fingerprint": dict(fingerprint),
        "random": {
            "python": _nested_list(random.getstate()),
            "numpy": _nested_list(np.random.get_state()),
        },
    }
    path = folder / f"step-{module.completed_steps:08d}"
    if module.global_rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder, prefix="."
        ) as name:  # gone again if the disk is full
            fresh = Path(name) / path.name
            fresh.mkdir()
            save_file(
                {name: tensor.contiguous().cpu() for name, tensor in tensors.items()},
                fresh / "state.safetensors",
            )
            write_json(fresh / "state.json", facts)
            if path.exists():  # the same step again: a stop that met a regular save
                shutil.rmtree(path)
            os.replace(fresh, path)
        for old in sorted(folder.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old)
    return path


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    return max(folder.glob("step-*"), default=None)


def resume(folder: Path, module: StepModule, fingerprint: Mapping[str, str]) -> int:
    """Load the newest checkpoint into `module`, before the trainer starts; returns the number of completed steps, 0 if none.

    Raises UserError when the checkpoint was made with another prompt template, system prompt, tokenizer or pixel limit, or for
    other parameters than those that train now.
    """
    path = latest(folder)
    if path is None:
        return 0
    facts = json.loads((path / "state.json").read_text())
    for key in facts["fingerprint"].keys() | dict(fingerprint).keys():
        old, new = facts["fingerprint"].get(key), fingerprint.get(key)
        if old != new:
            raise UserError(
                f"checkpoint {path} was made with {key}={old}, but this run has {new}: give another run_dir."
            )
    tensors = load_file(path / "state.safetensors")
    trained = _trained(module)
    stored = {name.removeprefix("model/") for name in tensors if name.startswith("model/")}
    if stored != set(trained):
        odd = sorted(stored ^ set(trained))[0]
        raise UserError(
            f"checkpoint {path} and this run disagree on whether {odd} trains: give another run_dir."
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"model/{name}"])
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            key, _, parameter_name = rest.partition("/")
            module.optimizer_state.setdefault(parameter_name, {})[key] = tensor
    module.completed_steps = facts["step"]
    module.load_counters(facts["counters"])
    module.load_extra_state(
        {
            name.removeprefix("kept/"): tensor
            for name, tensor in tensors.items()
            if name.startswith("kept/")
        }
    )
    return module.completed_steps


def _trained(module: StepModule) -> dict[str, torch.nn.Parameter]:
    return {
        name: parameter
        for name, parameter in module.policy.named_parameters()
        if parameter.requires_grad
    }


def _restore_random_states(path: Path) -> None:
    tensors = load_file(path / "state.safetensors")
    torch.set_rng_state(tensors["rng/torch"])
    if "rng/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng/cuda"])
    states = json.loads((path / "state.json").read_text())["random"]
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))


def _nested_list(state: Any) -> Any:
    if isinstance(state, tuple):
        return [_nested_list(item) for item in state]
    return state.tolist() if isinstance(state, np.ndarray) else state
