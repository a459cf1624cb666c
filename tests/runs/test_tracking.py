"""wandb offline over an interruption: one file that syncs, with the whole history and exit code."""

from __future__ import annotations

import os
import shutil
import time
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import hydra
import numpy as np
import psutil
import pytest

from actial.config import TrainConfig, register
from actial.config.hydra_app import typed
from actial.core.paths import CONF
from actial.evaluation.results import Results, SetResult
from actial.grading.metrics import Cell
from actial.reporting.offline_wandb import OfflineRun, draw_sweep, read_offline, records
from actial.runs.run_dir import open_run
from actial.runs.tracking import tracking, wandb_id


def config(folder: Path) -> TrainConfig:
    register()
    words = ["+experiment=smoke", f"run_dir={folder}", "logger=wandb"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose("train", words))


def exit_codes(path: Path) -> list[int]:
    """Wait until wandb's own process has written how the run ended."""
    for _ in range(300):
        codes = [record.exit.exit_code for record in records(path) if record.HasField("exit")]
        if codes:
            return codes
        time.sleep(0.1)
    return []


def log_two_steps_and_crash(wanted: TrainConfig) -> None:
    with open_run(wanted) as run, tracking(wanted, run) as tracker:
        for step in (1, 2):
            run.metrics.write("sft", step, {"loss": 1.0 / step})
            tracker.log("sft", step, {"loss": 1.0 / step})
        raise RuntimeError("killed")


def test_a_resumed_run_leaves_one_offline_file_with_all_steps(tmp_path: Path) -> None:
    wanted = config(tmp_path / "run")
    with pytest.raises(RuntimeError, match="killed"):
        log_two_steps_and_crash(wanted)
    (crashed,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert exit_codes(crashed) == [1]
    with open_run(wanted) as run, tracking(wanted, run) as tracker:
        tracker.replay(run, "sft")
        tracker.log("sft", 3, {"loss": 0.3})
    (path,) = (run.folder / "wandb").glob("offline-run-*/*.wandb")
    assert exit_codes(path) == [0]
    steps = [
        int(float(item.value_json))
        for record in records(path)
        for item in record.history.item
        if (item.key or "/".join(item.nested_key)) == "sft/step"
    ]
    assert steps == [1, 2, 3]


def offline_ids(folder: Path) -> set[str]:
    """The ids of the wandb runs whose files lie below a run folder."""
    names = [path.name for path in (folder / "wandb").glob("*offline-run-*")]
    return {name.rpartition("-")[2] for name in names}


def test_a_resumed_run_has_the_id_that_it_drew_and_a_folder_begun_anew_another(
    tmp_path: Path,
) -> None:
    wanted = config(tmp_path / "run")
    ids = []
    for _ in range(2):
        with pytest.raises(RuntimeError, match="killed"):
            log_two_steps_and_crash(wanted)
        with open_run(wanted) as run, tracking(wanted, run):
            pass
        (run_id,) = offline_ids(run.folder)
        ids.append(run_id)
        shutil.rmtree(run.folder)
    assert ids[0] != ids[1]


def test_a_run_of_a_version_without_the_file_keeps_the_id_of_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    of_path = sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    (folder / "wandb" / f"offline-run-1-{of_path}").mkdir(parents=True)
    assert wandb_id(folder) == of_path
    shutil.move(folder, tmp_path / "moved")
    assert wandb_id(tmp_path / "moved") == of_path


def finished(run_folder: Path) -> OfflineRun:
    """The only offline run below a run folder, once wandb's own process has written its end."""
    (folder,) = (run_folder / "wandb").glob("offline-run-*")
    (path,) = folder.glob("*.wandb")
    assert exit_codes(path) == [0]
    return read_offline(folder)


def result(hundredths: int) -> SetResult:
    share = Fraction(hundredths, 100)
    cell = Cell(n=100, value=share, low=0.1, high=0.9, unparsed=0.25, truncated=0.0)
    return SetResult(overall=cell, unparsed=0.25, format_compliance=0.5)


def test_final_scores_are_in_the_summary_and_in_one_table(tmp_path: Path) -> None:
    wanted = config(tmp_path / "run")
    sets = {
        "viewpoint": {"base": result(33), "sft": result(80)},
        "sat": {"base": result(40), "sft": result(60)},
    }
    scores = Results(models=["base", "sft"], set_names=list(sets), sets=sets)
    with open_run(wanted) as run, tracking(wanted, run) as tracker:
        tracker.scores(scores)
    logged = finished(run.folder)
    assert logged.summary["scores/viewpoint/base/accuracy"] == 0.33
    assert logged.summary["scores/viewpoint/sft/unparsed"] == 0.25
    assert logged.summary["final/viewpoint/accuracy"] == 0.8
    assert "final/viewpoint/all_correct" not in logged.summary  # a set without pairs
    columns, rows = logged.table("final_scores")
    assert [dict(zip(columns, row, strict=True))["accuracy"] for row in rows] == [
        0.33,
        0.8,
        0.4,
        0.6,
    ]
    draw_sweep({"one": logged}, list(sets), tmp_path / "panels.png")
    assert (tmp_path / "panels.png").read_bytes().startswith(b"\x89PNG")


def test_samples_are_versions_of_one_table_with_photos_inside_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    wanted = config(tmp_path / "run")
    photo = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with open_run(wanted) as run, tracking(wanted, run) as tracker:
        for step in (2, 4):
            axis = {"grpo/step": step}
            tracker.table("grpo/samples", ["photo 1", "reward"], [[photo + step, 0.5]], axis)
    logged = finished(run.folder)
    versions = [line for line in logged.history if "grpo/samples/path" in line]
    assert [line["grpo/step"] for line in versions] == [2, 4]
    tables = {key for line in logged.history for key in line if key.endswith("_type")}
    assert tables == {"grpo/samples/_type"}  # not a key per step
    staged = (run.folder / "wandb" / "artifacts" / "staging").iterdir()
    photos = [file for file in staged if file.read_bytes().startswith(b"\x89PNG")]
    assert len(photos) == 2
    assert not (tmp_path / "home").exists()
    assert "WANDB_DATA_DIR" not in os.environ


def kill_wandb() -> None:
    """Kill the process that writes wandb's files."""
    (service,) = (
        process
        for process in psutil.Process().children(recursive=True)
        if process.name() == "wandb-core"
    )
    service.kill()
    service.wait()


def test_a_run_goes_on_when_the_process_of_wandb_was_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = config(tmp_path / "run")
    with open_run(wanted) as run, tracking(wanted, run) as tracker:
        tracker.log("sft", 1, {"loss": 1.0})
        kill_wandb()
        # The first lines after it may still fit into the socket.
        for step in range(2, 200):
            tracker.log("sft", step, {"loss": 1.0 / step})
            if tracker.wandb is None:
                break
            time.sleep(0.01)
        tracker.table("grpo/samples", ["reward"], [[0.5]])
        tracker.scores(Results(models=["base"], set_names=[], sets={}))
    said = capfd.readouterr().err
    assert said.count("wandb's process has ended (") == 1
    assert "metrics.jsonl" in said


def test_the_end_of_a_run_survives_a_lost_process_of_wandb(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = config(tmp_path / "run")
    with open_run(wanted) as run, tracking(wanted, run):
        kill_wandb()
    assert "wandb's process has ended (" in capfd.readouterr().err
