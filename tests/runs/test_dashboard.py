"""The wandb workspace is built without an account and names metrics that runs have."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import hydra

from actial.config import DashboardConfig, register
from actial.config.hydra_app import typed
from actial.core.paths import CONF
from actial.reporting.wandb_workspace import PANELS, SCORES, workspace
from actial.runs import run_index
from actial.runs.run_dir import open_run
from actial.runs.tracking import tracking

SAMPLE = Path(__file__).resolve().parents[2] / "notebooks" / "sample"


def test_the_workspace_holds_every_panel_and_groups_by_a_setting() -> None:
    view = (
        workspace(DashboardConfig(entity="team", group="cold_start.ratio"))
        ._to_model()
        .model_dump()
    )
    sections = view["spec"]["section"]["panel_bank_config"]["sections"]
    assert [section["name"] for section in sections] == [SCORES, *PANELS]
    assert [len(section["panels"]) for section in sections] == [4, 3, 6, 2]
    bars, parallel = sections[0]["panels"][0]["config"], sections[0]["panels"][3]["config"]
    assert bars["metrics"] == ["final/viewpoint/accuracy"]
    assert [column["accessor"] for column in parallel["columns"]] == [
        "config:cold_start.value.ratio",
        "summary:final/viewpoint/accuracy",
        "summary:final/perception/accuracy",
    ]
    assert sections[2]["panels"][2]["config"]["metrics"] == ["grpo/kl"]
    grouping = view["spec"]["section"]["run_sets"][0]["grouping"]
    assert grouping == [
        {"section": "config", "name": "cold_start.value.ratio"}
    ]  # wandb keeps a setting as {value: ..} under its first key


def test_without_an_account_it_says_what_to_do_and_leaves_nothing(tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-m", "actial.dashboard", "entity=nobody"],
        cwd=tmp_path,
        env=bare | {"HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: entity=nobody: wandb did not save the workspace (")
    assert "run `wandb login`" in last
    assert not list(tmp_path.rglob("error.txt"))
    assert not (CONF.parent / "actial" / "error.txt").exists()


def test_runs_are_logged_with_settings_below_their_groups(tmp_path: Path) -> None:
    """As the workspace looks for them: {"cold_start": {"ratio": ..}}, not "cold_start.ratio"."""
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = typed(
            hydra.compose(
                "train", ["+experiment=smoke", f"run_dir={tmp_path / 'run'}", "logger=wandb"]
            )
        )
    with open_run(config) as run, tracking(config, run):
        pass
    (logged,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    ends = time.monotonic() + 60
    while b"cold_start" not in logged.read_bytes() and time.monotonic() < ends:
        time.sleep(0.1)  # wandb's own process may still be writing
    assert b'"ratio":0.1' in logged.read_bytes()
    assert b"cold_start.ratio" not in logged.read_bytes()


def test_every_metric_of_the_panels_is_one_that_runs_log() -> None:
    logged = {"sft/tokens_per_second", "grpo/tokens_per_second"}  # in timings.jsonl
    for run in run_index.load_runs(SAMPLE):
        logged |= {
            f"{stage}/{name}"
            for stage in ("sft", "grpo")
            for name in run.metrics(stage).columns
        }
    named = {
        metric for panels in PANELS.values() for _, metrics, _ in panels for metric in metrics
    }
    assert named <= logged
