"""The length of a stage in epochs, and the module groups that a stage trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actial.config import (
    ColdStartConfig,
    DataConfig,
    EpochRule,
    MixConfig,
    ModelConfig,
    SetConfig,
    SFTConfig,
    StageName,
    Task,
    TrainConfig,
)
from actial.data.shards import ShardSet
from actial.modeling.policy import Policy
from actial.pipeline.jobs import resolve_steps, stage_model


@pytest.fixture
def config(tiny_set: Path) -> TrainConfig:
    source = SetConfig(task=Task.viewpoint, root=str(tiny_set))
    return TrainConfig(
        run_dir="unused",
        stages=[StageName.sft],
        model=ModelConfig(path="unused"),
        data=DataConfig(sets={"pairs": source}),
        cold_start=ColdStartConfig(ratio=0.0),
        sft=SFTConfig(epochs=2.0, batch_size=5, mix=MixConfig(weights={"pairs": 1.0})),
    )


def test_epochs_become_steps_of_whole_batches(
    config: TrainConfig, tiny_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = len(ShardSet(str(tiny_set), "train").records)
    steps = -(-2 * pairs // 5)
    assert resolve_steps(config).sft.steps == steps
    assert capsys.readouterr().out == (
        f"sft: 2 epochs of {pairs} draws are {steps} steps of 5\n"
    )


def test_epoch_rule_changes_the_number_of_steps(config: TrainConfig) -> None:
    mix = replace(config.sft.mix, epoch_rule=EpochRule.draws, epoch_draws=30)
    assert resolve_steps(replace(config, sft=replace(config.sft, mix=mix))).sft.steps == 12


def test_steps_win_over_epochs(config: TrainConfig) -> None:
    assert resolve_steps(replace(config, sft=replace(config.sft, steps=7))).sft.steps == 7


def test_stage_trains_the_module_groups_it_names(
    config: TrainConfig, untrained_model: Path
) -> None:
    config = replace(config, sft=replace(config.sft, train_modules=["merger"]))
    policy = Policy.load(stage_model(config, StageName.sft, str(untrained_model)))
    trained = [name for name, weight in policy.core.named_parameters() if weight.requires_grad]
    assert trained
    assert all("merger" in name for name in trained)
