"""Every shipped config composes and validates; every bad key or value ends in one sentence that
names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import hydra
import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from actial.config import SCHEMAS, GRPOConfig, Reference, StageName, TrainConfig, register
from actial.config.error_messages import CONF, explain
from actial.config.hydra_app import typed
from actial.config.inference import READ_BY, SamplerConfig
from actial.config.renamed_keys import RENAMED_KEYS, with_present_keys
from actial.config.validation import inside, validate
from actial.core.errors import UserError

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def schemas() -> None:
    register()


@pytest.fixture(scope="module")
def composed_smoke() -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", ["+experiment=smoke"])


@pytest.fixture
def smoke(composed_smoke: DictConfig) -> DictConfig:
    return deepcopy(composed_smoke)


def compose(*overrides: str) -> TrainConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose("train", list(overrides)))


def sentence(*overrides: str) -> str:
    """The sentence a bad command line ends with."""
    with pytest.raises((UserError, HydraException)) as caught:
        compose(*overrides)
    error = caught.value
    text = str(error) if isinstance(error, UserError) else explain(error)
    assert "\n" not in text
    return text


def test_every_setting_of_a_sampler_says_which_kinds_read_it() -> None:
    names = {item.name for item in fields(SamplerConfig)}
    assert names == {"kind", "engine", *READ_BY}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_validates(name: str) -> None:
    config = compose(f"+experiment={name}")
    assert config.stages
    assert config.run_dir == f"runs/{name}"
    first, command = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()[:2]
    assert first == "# @package _global_"
    assert re.search(rf"python -m actial\.train( -m)? \+experiment={name}\b", command)


@pytest.mark.parametrize(
    "group",
    [
        "model",
        "data",
        "mix@sft.mix",
        "cold_start",
        "sft",
        "grpo",
        "reward",
        "sampler",
        "trainer",
        "logger",
    ],
)
def test_every_choice_of_a_group_fits_its_schema(group: str) -> None:
    needed = {  # every set of a mix; others to compare; an engine for sharded trainers
        "mix@sft.mix": ["data=base"],
        "reward": ["grpo.all_questions=true"],
        "trainer": ["sampler=vllm"],
    }.get(group, [])
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for path in (CONF / group.partition("@")[0]).glob("*.yaml"):
            if path.stem == "checkpoint":  # a model to evaluate
                continue
            typed(
                hydra.compose(
                    "train",
                    ["run_dir=x", "stages=[sft,grpo]", *needed, f"{group}={path.stem}"],
                )
            )


def test_paper_values() -> None:
    config = compose("+experiment=actial_7b")
    assert config.stages == [StageName.sft, StageName.grpo]
    assert (
        config.sft.optim.lr,
        config.sft.batch_size,
        config.sft.optim.warmup_steps,
        config.cold_start.ratio,
    ) == (5e-6, 128, 50, 0.1)
    grpo = config.grpo
    assert (grpo.steps, grpo.batch_size, grpo.group_size, grpo.optim.lr, grpo.max_tokens) == (
        150,
        1024,
        16,
        1e-6,
        4096,
    )
    assert (
        grpo.clip_low,
        grpo.clip_high,
        grpo.dual_clip,
        grpo.kl.beta,
        grpo.num_mini_batches,
    ) == (0.2, 0.2, 3.0, 0.01, 4)
    assert {name: part.weight for name, part in config.reward.terms.items()} == {
        "format": 0.5,
        "accuracy": 0.5,
    }
    assert config.model.max_pixels == 518_400


def test_the_committed_base_is_found_from_anywhere() -> None:
    assert compose("+experiment=smoke").model.path == str(
        CONF.parent / "actial" / "assets" / "tiny_base"
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "grpo.grup_size=3",
            "grpo.grup_size is not a setting of GRPOConfig (did you mean group_size?)",
        ),
        (
            "+grpo.grup_size=3",
            "grpo.grup_size is not a setting of GRPOConfig (did you mean group_size?)",
        ),
        ("sft.group_size=8", "sft.group_size is not a setting of SFTConfig"),
        ("modl=tiny", "modl is not a setting of TrainConfig (did you mean model?)"),
        ("+anything=1", "anything is not a setting of TrainConfig"),
        ("model=tinny", "no model named 'tinny' (did you mean tiny?); there are checkpoint,"),
        (
            "grpo.loss=gppo",
            "grpo.loss cannot be set: Invalid value 'gppo', expected one of [grpo, dr_grpo,",
        ),
        (
            "stages=[dpo]",
            "stages[0] cannot be set: Invalid value 'dpo', expected one of [sft, grpo]",
        ),
        (
            "sampler.kind=scripted",
            "Invalid value 'scripted', expected one of [hf, vllm, vllm_server]",
        ),
        (
            "trainer.strategy=deepspeed",
            "Invalid value 'deepspeed', expected one of [auto, ddp,",
        ),
        (
            "sft.batch_size=many",
            "sft.batch_size cannot be set: Value 'many' of type 'str' could not be",
        ),
        ("+data.sets.more={task: clock}", "name it in a YAML file"),
        ("seed=[1", "no viable alternative at input"),
    ],
)
def test_what_does_not_compose_is_one_sentence(override: str, words: str) -> None:
    assert words in sentence("+experiment=smoke", override)


SHARDED = {"trainer.strategy": "fsdp2", "stages": ["sft"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": ["sft", "sft"]}, "stages=['sft', 'sft'] cannot be used"),
        ({"stages": []}, "stages=[] cannot be used"),
        (
            {"cold_start.ratio": 1.5},
            "cold_start.ratio=1.5 cannot be used: give a number in [0, 1]",
        ),
        (
            {"sft.optim.lr": float("nan")},
            "sft.optim.lr=nan cannot be used: give a number in (0, 1]",
        ),
        (
            {"sft.optim.betas": [0.9]},
            "sft.optim.betas=[0.9] cannot be used: AdamW takes two of them",
        ),
        ({"sft.optim.betas": [0.9, 1.0]}, "sft.optim.betas=1.0 cannot be used"),
        (
            {"grpo.group_size": 1},
            "grpo.group_size=1 cannot be used: give a number in [2, 4096]",
        ),
        (
            {"grpo.group_size": 5, "grpo.counterfactual": True},
            "grpo.group_size=5 cannot be used: grpo.counterfactual halves a group",
        ),
        (
            {"grpo.all_questions": True, "data.questions_per_pair": 1},
            "grpo.all_questions=True cannot be used: pairs have one question",
        ),
        (
            {"reward.terms.accuracy.kind": "joint"},
            "reward.terms.accuracy.kind=joint cannot be used: it compares answers about the same",
        ),
        ({"grpo.dual_clip": 1.0}, "grpo.dual_clip=1.0 cannot be used"),
        ({"data.questions_per_pair": 4}, "data.questions_per_pair=4 cannot be used"),
        ({"seed": -1}, "seed=-1 cannot be used"),
        (
            {"grpo.num_mini_batches": 5},
            "grpo.num_mini_batches=5 cannot be used: it must divide grpo.batch_size=2",
        ),
        (
            {"grpo.kl.reference": "none"},
            "grpo.kl.beta=0.01 cannot be used: a KL penalty needs a reference",
        ),
        (
            {"grpo.kl.estimator": "none"},
            "grpo.kl.beta=0.01 cannot be used: a KL penalty needs an estimator",
        ),
        (
            {"grpo.kl.reference": "adapter_off"},
            "grpo.kl.reference=adapter_off cannot be used: a model without adapters",
        ),
        (
            {"model.lora.enabled": True},
            "grpo.kl.reference=frozen_copy cannot be used: with model.lora.enabled",
        ),
        (
            {"sft.mix.weights": {"viewpint": 1.0}},
            "sft.mix.weights.viewpint=1.0 cannot be used: data.sets has only viewpoint",
        ),
        ({"sft.mix.weights.viewpoint": -1.0}, "sft.mix.weights.viewpoint=-1.0 cannot be used"),
        ({"sft.mix.weights.viewpoint": 0.0}, "give a set of data.sets a weight above 0"),
        ({"sft.mix.epoch_rule": "draws"}, "sft.mix.epoch_draws=0 cannot be used"),
        (
            {"benchmark.sets.other": "nothing:test"},
            "benchmark.sets.other=nothing:test cannot be used",
        ),
        (
            {"reward.terms.format.weight": 0, "reward.terms.accuracy.weight": 0},
            "cannot be used: name a reward term",
        ),
        ({"sampler.kind": "vllm_server"}, "sampler.url=None cannot be used"),
        (
            {"trainer.devices": 2},
            "trainer.strategy=auto cannot be used: name one for 2 devices",
        ),
        (
            {"model.min_pixels": 20000},
            "model.min_pixels=20000 cannot be used: it must not exceed model.max_pixels=16384",
        ),
        (
            {"model.sequence_tokens": 10000},
            "model.sequence_tokens=10000 cannot be used: a packed sequence must fit in ",
        ),
        (
            {"reward.terms.accuracy.kind": "exactness"},
            "reward.terms.accuracy.kind=exactness cannot be used: use one of format, accuracy,",
        ),
        (
            {"reward.terms.format.kind": "accuracy", "reward.gated": True},
            "reward.gated=True cannot be used: no term of kind format says",
        ),
        (
            {"sampler.engine": {"logprobs_mode": "raw_logprobs"}},
            "sampler.engine.logprobs_mode=raw_logprobs cannot be used: the trainer",
        ),
        (
            {"sampler.kind": "vllm", "sampler.batch_size": 8},
            "sampler.batch_size=8 cannot be used: only sampler.kind=hf reads it, and ",
        ),
        (
            {"sampler.url": "http://127.0.0.1:9"},
            "sampler.url=http://127.0.0.1:9 cannot be used: only sampler.kind=vllm_server reads",
        ),
        ({"sampler.start": False}, "sampler.start=False cannot be used: only sampler.kind="),
        (
            {"sampler.probe_prompts": 8},
            "sampler.probe_prompts=8 cannot be used: only sampler.kind=vllm or sampler.kind=vllm_",
        ),
        (
            {"trainer.strategy": "fsdp2"},
            "sampler.kind=hf cannot be used: with trainer.strategy=fsdp2 a rank cannot decode",
        ),
        (
            {**SHARDED, "model.lora.enabled": True},
            "trainer.strategy=fsdp2 cannot be used: adapters are small",
        ),
        (
            {**SHARDED, "sft.eval_every": 5},
            "sft.eval_every=5 cannot be used: with trainer.strategy=fsdp2 sampler.kind=hf cannot score",
        ),
        (
            {**SHARDED, "trainer.devices": 8},
            "sft.batch_size=4 cannot be used: each of 8 ranks needs an example of its own",
        ),
        ({"data.sets.viewpoint.root": ""}, "data.sets.viewpoint.root='' cannot be used"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    smoke: DictConfig, changes: dict[str, Any], words: str
) -> None:
    for key, value in changes.items():
        OmegaConf.update(smoke, key, value, force_add=True)
    with pytest.raises(UserError) as caught:
        typed(smoke)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_stage_needs_is_asked_for() -> None:
    assert sentence() == "run_dir is not set: add run_dir=VALUE to the command."
    assert sentence("run_dir=x") == "stages is not set: add stages=VALUE to the command."


def test_unused_stages_are_not_held_to_their_cross_checks() -> None:
    assert (
        compose(
            "+experiment=smoke",
            "stages=[sft]",
            "~reward.terms.format",
            "~reward.terms.accuracy",
        ).reward.terms
        == {}
    )


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (0, "(0, 1]", False),
        (1, "(0, 1]", True),
        (0, "[0, 1)", True),
        (1, "[0, 1)", False),
        (float("nan"), "[0, inf)", False),
    ],
)
def test_intervals(value: float, interval: str, expected: bool) -> None:
    assert inside(value, interval) is expected


def test_validate_names_the_full_key_of_a_built_config() -> None:
    config = GRPOConfig(steps=1, batch_size=2)
    validate(config, "grpo.")
    config.kl.reference = Reference.none
    with pytest.raises(UserError, match=r"^grpo\.kl\.beta=0\.01 cannot be used"):
        validate(config, "grpo.")


# ---------------------------------------------------------------- renamed keys


@pytest.mark.parametrize(
    ("override", "new_key"),
    [
        ("share=runs", "stage_cache_dir"),
        ("model.row_tokens=512", "model.sequence_tokens"),
        ("grpo.over_long=mask", "grpo.overlong"),
        ("+grpo.max_refills=3", "grpo.dynamic_sampling.max_rounds"),
        ("reward.parts.format.weight=0.3", "reward.terms"),
        ("data.sets.sat.pass_between=[0.1,0.9]", "data.sets.sat.pass_rate_range"),
    ],
)
def test_old_key_on_the_command_line_names_the_new_key(override: str, new_key: str) -> None:
    text = sentence("+experiment=smoke", override)
    assert text.endswith(f" is now called {new_key}: write {new_key} instead.")


def test_every_renamed_key_is_gone_and_its_new_name_exists() -> None:
    commands = [path.stem for path in CONF.glob("*.yaml") if path.stem != "command"]
    present = {key for name in commands for key in setting_names(SCHEMAS[f"{name}_schema"])}
    assert present.issuperset(RENAMED_KEYS.values())
    assert present.isdisjoint(RENAMED_KEYS)


def setting_names(schema: type, prefix: str = "") -> Iterator[str]:
    """Full keys of a schema; "*" stands for the names of a mapping's entries."""
    hints = get_type_hints(schema)
    for item in fields(schema):
        yield prefix + item.name
        hint = hints[item.name]
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner):
                star = "" if inner is hint else "*."
                yield from setting_names(inner, f"{prefix}{item.name}.{star}")


def test_old_run_settings_are_read_under_the_present_keys() -> None:
    old = {
        "share": None,
        "grpo": {"filter_zero_variance": True, "max_refills": 2, "kl": {"beta": 0.01}},
        "reward": {"parts": {"format": {"kind": "format", "weight": 0.5}}},
        "data": {"sets": {"sat": {"pass_between": [0.1, 0.9]}, "clock": {}}},
    }
    assert with_present_keys(old) == {
        "stage_cache_dir": None,
        "grpo": {"dynamic_sampling": {"enabled": True, "max_rounds": 2}, "kl": {"beta": 0.01}},
        "reward": {"terms": {"format": {"kind": "format", "weight": 0.5}}},
        "data": {"sets": {"sat": {"pass_rate_range": [0.1, 0.9]}, "clock": {}}},
    }
