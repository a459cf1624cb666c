"""A run killed at any step and resumed computes bit-identical losses; a checkpoint of another
prompt is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import lightning
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.processes import exit_code
from support.tiny_models import tiny_policy
from support.training import Recorder, fit_sft, make_trainer, sft_batch, sft_module

from actial.config import LoraConfig, ModuleGroupConfig
from actial.core.errors import UserError
from actial.runs.stop_request import stop_requested
from actial.training.checkpoint import CheckpointCallback, latest, resume
from actial.training.loaders import step_loader

STEPS = 7
FINGERPRINT = {"chat_template": "abc", "pixel_limits": "16:256:4096"}


def new_module(folder, dropout: float = 0.0):
    lora = LoraConfig(enabled=dropout > 0, rank=4, dropout=dropout)
    return sft_module(folder, steps=STEPS, policy=tiny_policy(lora=lora))


class KillAt(lightning.Callback):
    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if pl_module.completed_steps == self.step:
            os.kill(os.getpid(), self.number)


def run(
    folder, kill_step: int = -1, number: int = signal.SIGKILL, dropout: float = 0.0
) -> None:
    """One process's life: resume, train, write losses; the signal comes from itself after
    `kill_step`.
    """
    torch.manual_seed(1)
    torch.set_num_threads(1)
    with stop_requested() as stop, (folder / "losses.txt").open("a") as file:
        module = new_module(folder, dropout)
        resume(folder / "checkpoints", module, FINGERPRINT)

        def note(done) -> None:
            file.write(f"{done.completed_steps} {done.metrics['loss'].hex()}\n")
            file.flush()

        loader = step_loader(
            lambda step: sft_batch(step, module.policy), module.completed_steps, STEPS
        )
        saver = CheckpointCallback(folder / "checkpoints", 2, FINGERPRINT, stop)
        make_trainer(Recorder(note), KillAt(kill_step, number), saver).fit(module, loader)


def losses(folder) -> dict[int, str]:
    """Last loss written for each step."""
    return dict(line.split() for line in (folder / "losses.txt").read_text().splitlines())


# With dropout, so that the random state is restored too.
@pytest.fixture(scope="module", params=[0.2])
def uninterrupted(request, tmp_path_factory):
    """(dropout, losses) of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    new_module(folder, request.param)  # so that children find every import done
    assert exit_code(run, folder, -1, signal.SIGKILL, request.param) == 0
    step_losses = losses(folder)
    assert len(set(step_losses.values())) == len(step_losses) == STEPS
    return request.param, step_losses


@pytest.mark.parametrize("kill_step", [1, 3, 4])
def test_killed_and_resumed_losses_are_bit_identical(tmp_path, uninterrupted, kill_step):
    dropout, expected = uninterrupted
    assert exit_code(run, tmp_path, kill_step, signal.SIGKILL, dropout) == -signal.SIGKILL
    assert exit_code(run, tmp_path, -1, signal.SIGKILL, dropout) == 0
    assert losses(tmp_path) == expected


def test_sigterm_saves_the_step_it_falls_into(tmp_path):
    code = exit_code(run, tmp_path, 3, signal.SIGTERM)
    assert code != -signal.SIGTERM
    assert latest(tmp_path / "checkpoints").name == "step-00000003"
    assert exit_code(run, tmp_path) == 0
    assert sorted(map(int, losses(tmp_path))) == list(range(1, STEPS + 1))


def test_only_the_newest_two_are_kept_and_nothing_is_pickled(tmp_path):
    fit_sft(new_module(tmp_path), CheckpointCallback(tmp_path, 2, FINGERPRINT))
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [
        "step-00000006",
        "step-00000007",
    ]
    files = sorted(path.name for path in latest(tmp_path).iterdir())
    assert files == ["SHA256SUMS", "state.json", "state.safetensors"]


def test_copies_and_archives_beside_the_checkpoints_are_left_alone(tmp_path, two_checkpoints):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints, folder)
    copied = folder / "step-00000004-keep"
    shutil.copytree(folder / "step-00000004", copied)
    archive = folder / "step-00000004.tar.gz"
    archive.write_bytes(b"archive")
    assert latest(folder).name == "step-00000004"
    module = sft_module(tmp_path, steps=8)
    assert resume(folder, module, FINGERPRINT) == 4
    fit_sft(module, CheckpointCallback(folder, 2, FINGERPRINT))
    ours = ["step-00000006", "step-00000008"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [copied.name, archive.name, *ours]
    )
    assert latest(folder).name == ours[-1]


def test_a_half_written_checkpoint_is_not_taken(tmp_path):
    fit_sft(new_module(tmp_path), CheckpointCallback(tmp_path, 7, FINGERPRINT))
    (tmp_path / ".step-00000009.1.tmp").mkdir()
    assert resume(tmp_path, new_module(tmp_path), FINGERPRINT) == 7


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a checkpoint and give it the checksum of the changed file."""
    tensors = load_file(path / "state.safetensors")
    change(tensors)
    save_file(tensors, path / "state.safetensors")
    digest = sha256((path / "state.safetensors").read_bytes()).hexdigest()
    lines = (path / "SHA256SUMS").read_text().splitlines()
    (path / "SHA256SUMS").write_text(f"{digest}  state.safetensors\n{lines[1]}\n")


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def changed(path: Path, key: str, value: object) -> None:
    """Give an entry of state.json another value; None removes it."""
    state = json.loads((path / "state.json").read_text()) | {key: value}
    entries = {name: entry for name, entry in state.items() if entry is not None}
    (path / "state.json").write_text(json.dumps(entries))


def drop_moments(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("optimizer/exp_avg_sq/")]:
        del tensors[name]


def drop_optimizer(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("optimizer/")]:
        del tensors[name]


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if name.startswith("model/"))
    tensors[name] = tensors[name].flatten().clone()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "tensors cut": (
        lambda p: os.truncate(p / "state.safetensors", 1000),
        "differs from its check",
    ),
    "tensors empty": (
        lambda p: os.truncate(p / "state.safetensors", 0),
        "differs from its check",
    ),
    "bit flipped": (lambda p: flip_bit(p / "state.safetensors"), "differs from its checksum"),
    "state cut": (lambda p: os.truncate(p / "state.json", 40), "cannot be read"),
    "state of other JSON": (lambda p: (p / "state.json").write_text("{}"), "has no step"),
    "state is a list": (lambda p: (p / "state.json").write_text("[1]"), "has no step"),
    "state is a number": (lambda p: (p / "state.json").write_text("7"), "cannot be read"),
    "state of an older form": (lambda p: changed(p, "format", None), "differs from its check"),
    "state of another step": (lambda p: changed(p, "step", 3), "differs from its checksum"),
    "state of another run": (lambda p: flip_bit(p / "state.json"), "state.json"),
    "tensors deleted": (
        lambda p: (p / "state.safetensors").unlink(),
        "safetensors is missing",
    ),
    "state deleted": (lambda p: (p / "state.json").unlink(), "state.json is missing"),
    "checksums deleted": (lambda p: (p / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    "checksums empty": (
        lambda p: os.truncate(p / "SHA256SUMS", 0),
        "differs from its checksum",
    ),
    "moments missing": (lambda p: rewritten(p, drop_moments), "exp_avg_sq"),
    "optimizer missing": (lambda p: rewritten(p, drop_optimizer), "no optimizer state"),
    "another shape": (lambda p: rewritten(p, reshape), "has shape"),
}


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    fit_sft(
        sft_module(folder, steps=4), CheckpointCallback(folder / "checkpoints", 2, FINGERPRINT)
    )
    return folder / "checkpoints"


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    tmp_path, two_checkpoints, capsys, damage
):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints, folder)
    apply, reason = DAMAGES[damage]
    apply(folder / "step-00000004")
    module = sft_module(tmp_path, steps=4)
    assert resume(folder, module, FINGERPRINT) == 2
    printed = capsys.readouterr().out
    assert f"{folder / 'step-00000004'} is damaged: " in printed
    assert reason in printed
    assert sorted(path.name for path in folder.iterdir()) == [
        "damaged-step-00000004",
        "step-00000002",
    ]
    intact = sft_module(tmp_path, steps=4)
    shutil.copytree(two_checkpoints / "step-00000002", tmp_path / "intact" / "step-00000002")
    resume(tmp_path / "intact", intact, FINGERPRINT)
    expected = dict(intact.policy.named_parameters())
    assert all(p.equal(expected[name]) for name, p in module.policy.named_parameters())


def test_without_an_intact_checkpoint_a_stage_starts_again(tmp_path, two_checkpoints):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints, folder)
    for path in list(folder.iterdir()):
        (path / "state.safetensors").unlink()
    assert resume(folder, sft_module(tmp_path, steps=4), FINGERPRINT) == 0


def test_a_checkpoint_of_the_format_without_checksums_is_read(tmp_path, two_checkpoints):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints, folder)
    newest = folder / "step-00000004"
    state = json.loads((newest / "state.json").read_text())
    del state["format"]
    (newest / "state.json").write_text(json.dumps(state))
    (newest / "SHA256SUMS").unlink()
    assert resume(folder, sft_module(tmp_path, steps=4), FINGERPRINT) == 4


def test_what_a_kill_in_a_save_left_is_removed(tmp_path, two_checkpoints):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints, folder)
    (folder / ".k3jd92" / "step-00000006").mkdir(parents=True)
    resume(folder, sft_module(tmp_path, steps=4), FINGERPRINT)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("key", list(FINGERPRINT))
def test_a_checkpoint_of_another_prompt_is_refused_by_name(tmp_path, key):
    fit_sft(new_module(tmp_path), CheckpointCallback(tmp_path, 7, FINGERPRINT))
    with pytest.raises(
        UserError, match=f"made with {key}={FINGERPRINT[key]}, but this run has other"
    ):
        resume(tmp_path, new_module(tmp_path), {**FINGERPRINT, key: "other"})


def test_a_checkpoint_of_other_trainable_parts_is_refused(tmp_path):
    fit_sft(new_module(tmp_path), CheckpointCallback(tmp_path, 7, FINGERPRINT))
    frozen = sft_module(tmp_path, policy=tiny_policy(vision=ModuleGroupConfig(train=False)))
    with pytest.raises(UserError, match="disagree on whether"):
        resume(tmp_path, frozen, FINGERPRINT)


def test_frozen_weights_are_not_stored(tmp_path):
    module = sft_module(
        tmp_path, steps=2, policy=tiny_policy(vision=ModuleGroupConfig(train=False))
    )
    fit_sft(module, CheckpointCallback(tmp_path, 2, FINGERPRINT))
    saved_state = json.loads((latest(tmp_path) / "state.json").read_text())
    assert saved_state["step"] == 2
    header = (latest(tmp_path) / "state.safetensors").read_bytes()
    assert b"lm_head" in header
    assert b"visual.blocks" not in header
