"""Exact training state on disk: safetensors and JSON, nothing that is unpickled.

    checkpoints/step-00000120/state.safetensors   trained weights, optimizer moments, torch's
                                                  random states, completions sampled ahead
    checkpoints/step-00000120/state.json          step, other random states, counters, fingerprints
    checkpoints/step-00000120/SHA256SUMS          of the two files, as `sha256sum -c` reads it

Frozen weights are not stored: they are those of the model that the stage
started from. A folder appears under its name only when complete, so a kill
loses at most the steps since the last one. A damaged checkpoint is named, set
aside as damaged-step-..., and the one before it is used.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from actial.core.atomic_io import file_sha256, write_json, write_text
from actial.core.errors import NonFiniteError, UserError
from actial.core.process import is_main_process
from actial.modeling.dtensor import whole
from actial.training.distributed import gathered
from actial.training.train_module import StepModule

NUM_CHECKPOINTS = 2  # the newest ones, which stay on disk
NAME = re.compile(r"step-\d{8}")  # of a checkpoint
TENSORS, STATE, CHECKSUMS = "state.safetensors", "state.json", "SHA256SUMS"
FORMAT = 2  # 1 had neither this number nor checksums
STATE_KEYS = ("step", "counters", "fingerprint", "random")
EXTRA_STATE = "kept/"  # prefix of the tensors of StepModule.extra_state
ADAMW_STATE = ("step", "exp_avg", "exp_avg_sq")


class CheckpointCallback(lightning.Callback):
    """Saves every `every` steps and when `stop` turns true, then ends the training.

    `stop` is also checked before each update, since a rollout may take longer than the
    grace period of a scheduler. At the start the random states of the checkpoint are
    restored.
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
            _restore_random_states(path, pl_module.global_rank)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.stop():
            self._save(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        stopping = self.stop()
        step = pl_module.completed_steps
        if stopping or step % self.every == 0 or step == pl_module.stage.steps:
            self._save(trainer, pl_module)
        trainer.should_stop |= stopping

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException
    ) -> None:
        """Save the state before a step that was not finite, to replay it with the saved batch."""
        if isinstance(exception, NonFiniteError):
            save(pl_module.crash_folder, pl_module, trainer.optimizers[0], self.fingerprint)

    def _save(self, trainer: lightning.Trainer, module: StepModule) -> None:
        if module.completed_steps != self.saved_step:
            save(self.folder, module, trainer.optimizers[0], self.fingerprint)
            self.saved_step = module.completed_steps


# ---------------------------------------------------------------- writing


def save(
    folder: Path,
    module: StepModule,
    optimizer: torch.optim.Optimizer,
    fingerprint: Mapping[str, str],
) -> Path:
    """Write the state of `module` after its completed steps; the newest two checkpoints stay.

    A collective: with sharded weights all ranks call it, and rank 0 writes.
    """
    tensors = _tensors(module, optimizer)
    state = {
        "format": FORMAT,
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
        _write(path, tensors, state)
        for old in checkpoints(folder)[:-NUM_CHECKPOINTS]:
            shutil.rmtree(old)
    return path


def _tensors(module: StepModule, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the tensors to save, on the CPU; {} on other ranks than 0.

    Sharded tensors are gathered one after the other, so that the device holds
    one whole tensor at a time, and only rank 0 holds all of them, in host
    memory.
    """
    tensors: dict[str, torch.Tensor] = {}

    def add(name: str, tensor: torch.Tensor) -> None:
        gathered = whole(tensor)  # all ranks take part
        if module.global_rank == 0:
            tensors[name] = gathered.contiguous().cpu()

    for rank, states in enumerate(gathered(_torch_random_states())):
        for name, state in states.items():
            add(_of_rank(name, rank), state)
    for name, parameter in _trained(module).items():
        add(f"model/{name}", parameter.detach())
        for key, value in optimizer.state[parameter].items():
            add(f"optimizer/{key}/{name}", value)
    for name, tensor in module.extra_state().items():
        add(f"{EXTRA_STATE}{name}", tensor)
    return tensors


def _write(path: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name and rename it; a full disk leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as name:
        fresh = Path(name) / path.name
        fresh.mkdir()
        save_file(tensors, fresh / TENSORS)
        write_json(fresh / STATE, state)
        sums = [f"{file_sha256(fresh / file)}  {file}\n" for file in (TENSORS, STATE)]
        write_text(fresh / CHECKSUMS, "".join(sums))
        _sync(fresh / TENSORS)
        if path.exists():  # the same step again: a stop that met a regular save
            shutil.rmtree(path)
        os.replace(fresh, path)


def _sync(path: Path) -> None:
    """Wait until the file is on the disk, and give it the permissions of any other new file."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
    with path.open("rb") as file:
        os.fsync(file.fileno())


# ---------------------------------------------------------------- reading


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint."""
    return max(checkpoints(folder), default=None)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first; copies under other names are none."""
    paths = folder.glob("step-*")
    return sorted(path for path in paths if path.is_dir() and NAME.fullmatch(path.name))


def resume(folder: Path, module: StepModule, fingerprint: Mapping[str, str]) -> int:
    """Load the newest intact checkpoint into `module`, before the trainer starts.

    Returns the number of completed steps, 0 without a checkpoint. Damaged checkpoints
    are set aside with a message. Raises UserError when the checkpoint was made with
    another prompt template, system prompt, tokenizer or pixel limit, or for other
    parameters than those trained.
    """
    if is_main_process():
        _remove_leftovers(folder)
    for path in reversed(checkpoints(folder)):
        damage = _damage(path)
        if damage is None:
            state = json.loads((path / STATE).read_text())
            tensors = load_file(path / TENSORS)
            _check_fingerprint(path, state["fingerprint"], fingerprint)
            _check_parameters(path, tensors, module)
            damage = _missing(tensors, module)
            if damage is None:
                _load(module, tensors, state)
                return module.completed_steps
        _set_aside(path, damage)
    return 0


def _remove_leftovers(folder: Path) -> None:
    """Remove what a kill during a save has left."""
    for path in folder.glob(".*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _damage(path: Path) -> str | None:
    """Return what is wrong with the files of a checkpoint; None for an intact one."""
    try:
        state = json.loads((path / STATE).read_text())
        if missing := [name for name in STATE_KEYS if name not in state]:
            return f"{STATE} has no {missing[0]}"
        if "format" not in state and not (path / CHECKSUMS).exists():
            with (path / TENSORS).open("rb"):
                return _unreadable(path / TENSORS)
        lines = (path / CHECKSUMS).read_text().splitlines()
        for file in (TENSORS, STATE):
            if f"{file_sha256(path / file)}  {file}" not in lines:
                return f"{file} differs from its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, TypeError):  # not text, not JSON, not an object
        return f"{STATE} or {CHECKSUMS} cannot be read"
    return None


def _unreadable(path: Path) -> str | None:
    """Return what is wrong with a tensor file that has no checksum."""
    try:
        load_file(path)
    except SafetensorError as error:
        return f"{path.name} cannot be read ({error})"
    return None


def _missing(tensors: Mapping[str, torch.Tensor], module: StepModule) -> str | None:
    """Return which tensor of the training state is missing or has another shape than the model.

    A parameter that no step has used has no optimizer state; others have all of it.
    """
    if not any(name.startswith("optimizer/") for name in tensors):
        return f"{TENSORS} has no optimizer state"
    for name, parameter in _trained(module).items():
        shapes = {f"model/{name}": parameter.shape}
        names = {key: f"optimizer/{key}/{name}" for key in ADAMW_STATE}
        if any(one in tensors for one in names.values()):
            shapes |= dict.fromkeys(names.values(), parameter.shape)
            shapes[names["step"]] = torch.Size()
        for tensor_name, shape in shapes.items():
            if tensor_name not in tensors:
                return f"{tensor_name} is missing from {TENSORS}"
            if tensors[tensor_name].shape != shape:
                stored = tuple(tensors[tensor_name].shape)
                return f"{tensor_name} has shape {stored} where the model has {tuple(shape)}"
    return None


def _set_aside(path: Path, damage: str) -> None:
    """Rename a damaged checkpoint and say so."""
    if not is_main_process():
        return  # the main process renames it; this one goes on to the one before it likewise
    target = path.with_name(f"damaged-{path.name}")
    if target.exists():
        shutil.rmtree(target)
    path.rename(target)
    print(
        f"checkpoint {path} is damaged: {damage}. It is set aside as {target.name}, and training "
        "goes on from the one before it.",
        flush=True,
    )


def _check_fingerprint(
    path: Path, stored: Mapping[str, str], present: Mapping[str, str]
) -> None:
    for key in sorted(stored.keys() | present.keys()):
        if stored.get(key) != present.get(key):
            raise UserError(
                f"checkpoint {path} was made with {key}={stored.get(key)}, but this run has "
                f"{present.get(key)}: give another run_dir."
            )


def _check_parameters(
    path: Path, tensors: Mapping[str, torch.Tensor], module: StepModule
) -> None:
    names = [name.removeprefix("model/") for name in tensors if name.startswith("model/")]
    different = sorted(set(names) ^ set(_trained(module)))
    if different:
        raise UserError(
            f"checkpoint {path} and this run disagree on whether {different[0]} trains: "
            "give another run_dir."
        )


def _load(
    module: StepModule, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]
) -> None:
    with torch.no_grad():
        # Without effect on a rank without weights, which gets those of the first one later.
        for name, parameter in _trained(module).items():
            parameter.copy_(tensors[f"model/{name}"])
    extra_state: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, key, parameter_name = name.split("/", 2)
            module.optimizer_state.setdefault(parameter_name, {})[key] = tensor
        elif name.startswith(EXTRA_STATE):
            extra_state[name.removeprefix(EXTRA_STATE)] = tensor
    module.completed_steps = state["step"]
    module.load_counters(state["counters"])
    module.load_extra_state(extra_state)


def _trained(module: StepModule) -> dict[str, torch.nn.Parameter]:
    parameters = module.policy.named_parameters()
    return {name: parameter for name, parameter in parameters if parameter.requires_grad}


def _torch_random_states() -> dict[str, torch.Tensor]:
    """Return the states of torch's generators in this process, which dropout draws from."""
    states = {"rng/torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["rng/cuda"] = torch.cuda.get_rng_state()
    return states


def _of_rank(name: str, rank: int) -> str:
    """Return the name under which a rank's random state is saved; the first rank's has no number.

    Ranks draw different numbers of random values, for their batches differ in size.
    """
    return f"{name}/{rank}" if rank else name


def _restore_random_states(path: Path, rank: int) -> None:
    """Restore a rank's random states; a rank that the checkpoint does not know gets the first's."""
    tensors = load_file(path / TENSORS)

    setters = {"rng/torch": torch.set_rng_state}
    if torch.cuda.is_available():
        setters["rng/cuda"] = torch.cuda.set_rng_state
    for name, set_state in setters.items():
        if name in tensors:
            set_state(tensors.get(_of_rank(name, rank), tensors[name]))
    states = json.loads((path / STATE).read_text())["random"]
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))


def _nested_list(state: Any) -> Any:
    if isinstance(state, tuple):
        return [_nested_list(item) for item in state]
    return state.tolist() if isinstance(state, np.ndarray) else state
