"""The wandb workspace is built without an account and names metrics that runs have."""

from __future__ import annotations

from pathlib import Path

from actial import records
from actial.config import DashboardConfig
from actial.dashboard import PANELS, workspace

SAMPLE = Path(__file__).resolve().parent.parent / "notebooks" / "sample"


def test_the_workspace_holds_every_panel_and_groups_by_a_setting() -> None:
    view = workspace(DashboardConfig(entity="team", group="cold_start.ratio"))._to_model().model_dump()
    sections = view["spec"]["section"]["panel_bank_config"]["sections"]
    assert [section["name"] for section in sections] == list(PANELS)
    assert [len(section["panels"]) for section in sections] == [3, 6, 2]
    assert sections[1]["panels"][2]["config"]["metrics"] == ["grpo/kl"]
    grouping = view["spec"]["section"]["run_sets"][0]["grouping"]
    assert grouping == [{"section": "config", "name": "cold_start.value.ratio"}]  # wandb keeps a setting as {value: ..} under its first key


def test_every_metric_of_the_panels_is_one_that_runs_log() -> None:
    logged = {"sft/tokens_per_second", "grpo/tokens_per_second"}  # in timings.jsonl
    for run in records.load_runs(SAMPLE):
        logged |= {f"{stage}/{name}" for stage in ("sft", "grpo") for name in run.metrics(stage).columns}
    named = {metric for panels in PANELS.values() for _, metrics, _ in panels for metric in metrics}
    assert named <= logged
