"""FSDP2 from a checkpoint that the first rank alone reads, on two gloo ranks."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
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
from actial.training.checkpoint import CheckpointCallback, resume
from actial.training.distributed import lightning_strategy, load_on_first_rank, shard
from actial.training.loaders import step_loader

MIB = 2**20


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
    measure(settings, folders.out / f"memory-{rank}.json")  # first, in a fresh process
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
    except SafetensorError as error:
        text = f"{type(error).__name__}: {error}"
        (folders.out / f"error-{rank}.txt").write_text(text)
    for name, stop in (("through", 3), ("resumed", 2), ("resumed", 3)):
        train(folders.start, folders.out / name, stop, rank, ranks)


def mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (torch.distributed.get_world_size(),))


def measure(settings: ModelConfig, file: Path) -> None:
    """Write by how much the process grows at most while a model is loaded and sharded."""
    # what a first use of the libraries takes is not the model's
    Policy.without_weights(settings, reference=Reference.frozen_copy)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    policy = load_on_first_rank(settings, reference=Reference.frozen_copy)
    torch.distributed.init_process_group("gloo")
    shard(policy, mesh())
    parameters = list(policy.parameters())
    figures = {
        "peak": resident("VmHWM") - before,
        "whole": sum(p.numel() * p.element_size() for p in parameters),
        "shards": sum(p.to_local().numel() * p.element_size() for p in parameters),
        "largest": max(p.numel() * p.element_size() for p in parameters),
    }
    file.write_text(json.dumps(figures))


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
    """50 M parameters in bf16: 200 MB in float32."""
    config = tiny_config()
    sizes = {"vocab_size": 16_000, "hidden_size": 512, "intermediate_size": 2048}
    layers = {"num_hidden_layers": 8, "layer_types": 8 * ["full_attention"]}
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
    run_processes(on_rank, [(cases, folders, rank, 2) for rank in range(2)])
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


def test_ranks_without_the_weights_hold_their_shards_and_one_tensor(written):
    """In host memory, at the peak of the start; the first rank holds one whole model."""
    first, second = (
        json.loads((written / f"memory-{rank}.json").read_text()) for rank in range(2)
    )
    for figures in (first, second):
        print({name: round(value / MIB) for name, value in figures.items()})
    assert second["whole"] > 200 * MIB
    assert second["peak"] < second["shards"] + second["largest"] + 30 * MIB
    assert first["peak"] < 1.4 * first["whole"]


def test_weights_that_the_first_rank_cannot_read_are_an_error_of_all(written):
    first, second = ((written / f"error-{rank}.txt").read_text() for rank in range(2))
    assert first == second
    assert first.startswith("SafetensorError: ")


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
