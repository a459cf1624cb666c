"""Old run folders are read with today's metric names."""

from __future__ import annotations

import json
from pathlib import Path

from actial.runs.renamed_metrics import RENAMED_METRICS, with_current_names
from actial.runs.step_log import StepLog

OLD = {
    "ratio": 1.0,
    "logprob_gap": 0.1,
    "logprob_gap/length<=64": 0.2,
    "reward": 0.5,
    "reward/accuracy": 0.3,
    "accuracy": 0.4,
    "accuracy/static": 0.6,
    "loss/static": 0.7,
}


def test_metrics_of_an_old_run_have_todays_names(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"stage": "grpo", "step": 1, **OLD}) + "\n")
    assert StepLog(path).entries() == [
        {
            "stage": "grpo",
            "step": 1,
            "importance_ratio/mean": 1.0,
            "sampling/sampling_logp_difference/mean": 0.1,
            "sampling/sampling_logp_difference/length<=64": 0.2,
            "reward": 0.5,
            "reward/accuracy/mean": 0.3,
            "reward/accuracy/mean/static": 0.6,
            "loss/static": 0.7,
        }
    ]


def test_todays_names_stay_as_they_are() -> None:
    today = dict.fromkeys(
        [*RENAMED_METRICS.values(), "reward/format/mean", "kl", "tokens"], 1.0
    )
    assert with_current_names(today) == today
