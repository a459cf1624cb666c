"""FSDP2 from a checkpoint that the first rank alone reads, on two gloo ranks."""

from __future__ import annotations

import ctypes
import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.processes import become_rank, run_processes
from support.tiny_models import tiny_config, tiny_model
from support.training import Recorder, make_trainer, sft_batch, sft_module
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import AutoModelForImageTextToText

from actial.config import (
    LoraConfig,
    ModelConfig,
    ModuleGroupConfig,
    Precision,
    Reference,
    Strategy,
    TrainerConfig,
)
from actial.core.errors import UserError
from actial.modeling.dtensor import whole
from actial.modeling.policy import Policy
from actial.training.checkpoint import CheckpointCallback, resume, save
from actial.training.distributed import lightning_strategy, load_on_first_rank, shard
from actial.training.loaders import step_loader

MIB = 2**20
M_MMAP_THRESHOLD = -3  # of malloc.h


@dataclass
class Case:
    """A model folder and how it is loaded."""

    name: str
    settings: ModelConfig
    reference: Reference = Reference.none


@dataclass
class Folders:
    """What the ranks read and where they write."""

    large: Path
    damaged: Path
    start: Path
    out: Path


# ---------------------------------------------------------------- on each rank


def on_rank(cases: list[Case], folders: Folders, rank: int, ranks: int, port: int) -> None:
    """All that the tests read; the ranks are joined as torchrun joins them."""
    become_rank(rank, ranks, port)
    os.environ["TORCHELASTIC_RUN_ID"] = "test"
    settings = ModelConfig(path=str(folders.large), precision=Precision.bf16)
    measure(settings, folders.out, rank)  # first, in a fresh process
    for case in cases:
        policy = load_on_first_rank(case.settings, reference=case.reference)
        assert policy.device.type == ("cpu" if rank == 0 else "meta")
        shard(policy, mesh())
        compare(policy, Policy.load(case.settings, reference=case.reference))
        for name, one in (("sharded", policy), ("alone", Policy.load(case.settings))):
            one.save_pretrained(folders.out / case.name / name)
    policy = load_on_first_rank(ModelConfig(path=str(folders.damaged)))
    try:
        shard(policy, mesh())
    except UserError as error:
        text = f"{type(error).__name__}: {error}"
        (folders.out / f"error-{rank}.txt").write_text(text)
    for name, stop in (("through", 3), ("resumed", 2), ("resumed", 3)):
        train(folders.start, folders.out / name, stop, rank, ranks)


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (torch.distributed.get_world_size(),))


def measure(settings: ModelConfig, folder: Path, rank: int) -> None:
    """Write by how much the process grows at most while it starts, saves and resumes."""
    # Freed blocks above 64 KiB go back to the system, so that what is resident is in use.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    # what a first use of the libraries takes is not the model's
    Policy.without_weights(settings, reference=Reference.frozen_copy)
    torch.distributed.init_process_group("gloo")
    figures: dict[str, int] = {}
    with grown("start", figures):
        policy = load_on_first_rank(settings, reference=Reference.frozen_copy)
        shard(policy, mesh())
    parameters = list(policy.parameters())
    figures["whole"] = sum(p.numel() * p.element_size() for p in parameters)
    figures["shards"] = sum(p.to_local().numel() * p.element_size() for p in parameters)
    figures["largest"] = max(p.numel() * p.element_size() for p in parameters)
    with grown("save", figures):
        policy.save_pretrained(folder / "large")
    module = sft_module(folder, policy=policy)
    trained = [p for p in parameters if p.requires_grad]
    figures["trained"] = sum(p.to_local().numel() * 4 for p in trained)
    optimizer = module.configure_optimizers()
    for parameter in trained:
        moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(1.0), **moments}
    module.completed_steps = 1
    module._trainer = SimpleNamespace(global_rank=rank)
    with grown("checkpoint", figures):
        save(folder / "large-checkpoints", module, optimizer, {})
    torch.distributed.barrier()
    del policy, parameters, trained, parameter, moments, module, optimizer
    gc.collect()
    with grown("resume", figures):
        policy = load_on_first_rank(settings, reference=Reference.frozen_copy)
        module = sft_module(folder, policy=policy)
        assert resume(folder / "large-checkpoints", module, {}) == 1
        shard(policy, mesh())
        optimizer = module.configure_optimizers()
    assert len(optimizer.state) == sum(p.requires_grad for p in policy.parameters())
    (folder / f"memory-{rank}.json").write_text(json.dumps(figures))


@contextmanager
def grown(name: str, figures: dict[str, int]) -> Iterator[None]:
    """Note the peak of resident memory within the block, above that before it."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    yield
    figures[name] = resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (at the peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def compare(policy: Policy, alone: Policy) -> None:
    expected = dict(alone.named_parameters(remove_duplicate=False))
    actual = dict(policy.named_parameters(remove_duplicate=False))
    assert actual.keys() == expected.keys()
    for name, parameter in actual.items():
        assert parameter.requires_grad == expected[name].requires_grad, name
        gathered = whole(parameter)
        assert gathered.dtype == expected[name].dtype, name
        assert torch.equal(gathered, expected[name]), name
    shared = {id(parameter) for parameter in actual.values()}
    assert len(shared) == len({id(parameter) for parameter in expected.values()})
    buffers = dict(policy.named_buffers())
    assert buffers.keys() == dict(alone.named_buffers()).keys()
    for name, buffer in alone.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    assert [m.training for m in policy.modules()] == [m.training for m in alone.modules()]
    assert policy.spec == alone.spec


def train(model: Path, folder: Path, stop: int, rank: int, ranks: int) -> None:
    policy = load_on_first_rank(ModelConfig(path=str(model), sequence_tokens=96))
    module = sft_module(folder, steps=3, policy=policy)
    first = resume(folder / "checkpoints", module, {})
    losses: list[float] = []
    strategy = lightning_strategy(TrainerConfig(devices=ranks, strategy=Strategy.fsdp2))
    recorder = Recorder(lambda done: losses.append(done.metrics["loss"]))
    saver = CheckpointCallback(folder / "checkpoints", stop, {})
    loader = step_loader(lambda step: sft_batch(2 * step + rank, policy), first, stop)
    make_trainer(recorder, saver, devices=ranks, strategy=strategy).fit(module, loader)
    policy.save_pretrained(folder / "model")
    if rank == 0:
        (folder / f"losses-{first}.json").write_text(json.dumps(losses))


# ---------------------------------------------------------------- what they read, and the tests


def save_tiny(folder: Path, family: str = "qwen2_5_vl", *, tied: bool = False) -> Path:
    config = tiny_config(family)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path) -> Path:
    settings = ModelConfig(path=str(base), lora=LoraConfig(enabled=True, rank=2, alpha=4))
    policy = Policy.load(settings)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    policy.save_adapter(folder)
    return folder


def save_large(folder: Path) -> Path:
    """24 M parameters in bf16: 95 MB in float32."""
    config = tiny_config()
    sizes = {"vocab_size": 8_000, "hidden_size": 512, "intermediate_size": 2048}
    layers = {"num_hidden_layers": 4, "layer_types": 4 * ["full_attention"]}
    config.text_config.update(sizes | layers)
    config.vision_config.out_hidden_size = 512
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two ranks have filled."""
    root = tmp_path_factory.mktemp("sharded")
    plain = save_tiny(root / "plain")
    tied = save_tiny(root / "tied", tied=True)
    adapter = save_adapter(root / "adapter", tied)
    hybrid = save_tiny(root / "hybrid", "qwen3_5")
    bf16 = {"precision": Precision.bf16, "vision": ModuleGroupConfig(train=False)}
    cases = [
        Case("frozen", ModelConfig(path=str(plain), **bf16), Reference.frozen_copy),
        Case("adapter", ModelConfig(path=str(adapter))),
        Case("hybrid", ModelConfig(path=str(hybrid), **bf16)),
    ]
    folders = Folders(
        large=save_large(root / "large"),
        damaged=save_tiny(root / "damaged"),
        start=root / "start",
        out=root / "out",
    )
    weights = folders.damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    tiny_model().save_pretrained(folders.start)
    for name in ("through", "resumed"):
        (folders.out / name).mkdir(parents=True)
    run_processes(on_rank, [(cases, folders, rank, 2) for rank in range(2)], fresh=True)
    return folders.out


@pytest.mark.parametrize("case", ["frozen", "adapter", "hybrid"])
def test_every_rank_gets_the_weights_that_it_would_have_read(written, case):
    """Frozen blocks and the reference in bf16; a tied head, an adapter merged into its base.

    The ranks have compared every tensor; what they save is what one process saves.
    """
    alone, sharded = (
        {file.name: file.read_bytes() for file in (written / case / name).iterdir()}
        for name in ("alone", "sharded")
    )
    assert {"config.json", "generation_config.json", "model.safetensors"} <= alone.keys()
    assert sharded == alone


@pytest.fixture(scope="module")
def memory(written: Path) -> list[dict[str, int]]:
    """Bytes of each rank."""
    files = [written / f"memory-{rank}.json" for rank in range(2)]
    figures = [json.loads(file.read_text()) for file in files]
    for rank in figures:
        print({name: round(value / MIB) for name, value in rank.items()})
    return figures


def test_ranks_without_the_weights_hold_their_shards_and_one_tensor(memory):
    """In host memory, at the peak of the start; the first rank holds one whole model."""
    first, second = memory
    assert second["whole"] > 100 * MIB
    assert second["start"] < second["shards"] + second["largest"] + 20 * MIB
    assert first["start"] < 1.4 * first["whole"]


@pytest.mark.parametrize("saved", ["save", "checkpoint"])
def test_other_ranks_grow_by_few_tensors_while_the_first_one_saves(memory, saved):
    """The gathered one, gloo's own room for it, and one not yet freed, however large the model."""
    second = memory[1]
    assert second[saved] < 3 * second["largest"] + 10 * MIB < second["shards"]


def test_other_ranks_resume_in_the_room_of_their_shards(memory):
    """Of weights and both moments; not of the whole checkpoint, which the first one reads."""
    second = memory[1]
    room = second["shards"] + 2 * second["trained"]
    assert second["resume"] < room + 2 * second["largest"] + 20 * MIB


def test_weights_that_the_first_rank_cannot_read_are_an_error_of_all(written):
    first, second = ((written / f"error-{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert first.startswith("UserError: ")


def test_a_resumed_sharded_run_is_an_uninterrupted_one_bit_for_bit(written):
    """Ranks without weights get those of a checkpoint, and its moments, from the first one."""
    through, resumed = written / "through", written / "resumed"
    losses = json.loads((through / "losses-0.json").read_text())
    assert len(set(losses)) == 3
    assert losses[2:] == json.loads((resumed / "losses-2.json").read_text())
    models = [folder / "model" / "model.safetensors" for folder in (through, resumed)]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_missing_folder_is_named_by_every_rank(tmp_path, monkeypatch):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(UserError, match=r"model\.path=.*absent cannot be loaded"):
            load_on_first_rank(ModelConfig(path=str(tmp_path / "absent")))
