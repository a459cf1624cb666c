"""The whole training command on a tiny set: both stages, the files it promises, determinism,
interruption.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import hydra
import pytest
import torch
from safetensors.torch import load_file
from support.processes import exit_code
from transformers import AutoModelForImageTextToText

from actial.config import TrainConfig, register
from actial.config.exit_codes import Exit, errors_reported
from actial.config.hydra_app import typed
from actial.core.atomic_io import file_sha256
from actial.core.errors import UserError
from actial.core.paths import CONF
from actial.data.shards import INDEX, MANIFEST
from actial.pipeline.stages import make_trainer
from actial.reporting.offline_wandb import read_offline
from actial.runs.run_dir import Run
from actial.runs.step_log import StepLog
from actial.train import train


@pytest.fixture
def compose(tiny_set: Path, untrained_model: Path):
    """A smoke config on the tiny set, with further overrides."""

    def make(folder: Path, *overrides: str) -> TrainConfig:
        register()
        fixed = [f"data.sets.{name}.root={tiny_set}" for name in ("viewpoint", "sat")]
        fixed += [
            f"run_dir={folder}",
            f"model.path={untrained_model}",
            "mix@grpo.mix=viewpoint",
            "benchmark=viewpoint",
        ]
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return typed(hydra.compose("train", ["+experiment=smoke", *fixed, *overrides]))

    return make


STRATEGIES = [
    ("auto", "SingleDeviceStrategy"),
    ("ddp", "DDPStrategy"),
    ("fsdp2", "ModelParallelStrategy"),
]


@pytest.mark.parametrize(("strategy", "name"), STRATEGIES)
def test_every_strategy_of_the_config_is_one_of_lightnings(
    compose, tmp_path: Path, strategy: str, name: str
) -> None:
    config = compose(tmp_path, f"trainer.strategy={strategy}", "stages=[sft]")
    assert type(make_trainer(config, Run(tmp_path, None, False), []).strategy).__name__ == name


def test_a_later_stage_s_data_are_looked_at_before_the_first_one_trains(
    compose, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"has no pair .* with a question of \['ego_depth'\]"):
        train(
            compose(
                tmp_path / "run",
                "mix@grpo.mix=sat",
                "data.sets.sat.task=viewpoint",
                "data.sets.sat.types=[ego_depth]",
            )
        )
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_of_several_ranks_all_score_within_training_and_one_at_the_end(
    untrained_model: Path, tiny_set: Path, tmp_path: Path
) -> None:
    words = [
        "+experiment=smoke",
        "stages=[sft]",
        "sft.steps=2",
        "sft.eval_every=2",
        "benchmark=viewpoint",
        f"run_dir={tmp_path / 'run'}",
    ]
    words += [f"data.sets.{name}.root={tiny_set}" for name in ("viewpoint", "sat")] + [
        f"model.path={untrained_model}"
    ]
    words += ["trainer.devices=2", "trainer.strategy=ddp", "trainer.threads=1"]
    done = subprocess.run(
        [sys.executable, "-m", "actial.train", *words],
        capture_output=True,
        text=True,
        cwd=CONF.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished: ") == 1
    for model in ("base", "sft"):
        uids = [
            json.loads(line)["uid"]
            for line in (tmp_path / f"run/scores/{model}/viewpoint/predictions.jsonl").open()
        ]
        assert len(uids) == len(set(uids)) > 0
    scored = [
        row
        for row in StepLog(tmp_path / "run/metrics.jsonl").entries()
        if "scored/viewpoint/accuracy" in row
    ]
    results = json.loads((tmp_path / "run/results.json").read_text())
    final = results["sets"]["viewpoint"]["sft"]["overall"]["value"]
    assert [(row["step"], row["scored/viewpoint/accuracy"]) for row in scored] == [(2, final)]


@pytest.fixture
def threads():
    """Sets how many threads torch uses; what it used before comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.slow
def test_two_stages_leave_what_they_promise_twice_the_same(
    compose, tmp_path: Path, untrained_model: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(compose(first, "logger=wandb", "grpo.eval_every=2"))
    train(compose(second, "logger=none", "grpo.eval_every=2"))
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    assert [
        (row["stage"], row["step"]) for row in StepLog(first / "metrics.jsonl").entries()
    ] == [
        *[("sft", step) for step in (1, 2, 3, 4)],
        *[("grpo", 1), ("grpo", 2), ("grpo", 2)],
    ]
    results = json.loads((first / "results.json").read_text())
    assert results["models"] == ["base", "sft", "grpo"]
    assert set(results["sets"]["viewpoint"]) == {"base", "sft", "grpo"}
    assert results["chance"] == {"viewpoint": pytest.approx(1 / 3)}
    provenance = json.loads((first / "provenance.json").read_text())
    assert provenance["data"]["viewpoint"]["rows"]["train"] > 0
    assert provenance["grpo"]["last_metrics"]["sampling/sampling_logp_difference/mean"] < 1e-5
    described = (first / "sft" / "first_batch.txt").read_text()
    assert described.startswith("4 prompts, 12 continuations, 8 images, ")
    assert described.count("====") == 2
    assert (
        described.count("<|im_start|>assistant\n[[") == described.count("<|im_end|>]]\n") == 6
    )  # answers scored, questions not
    assert "<html" in (first / "report.html").read_text()
    (logged,) = (first / "wandb").glob("offline-run-*")
    summary = read_offline(logged).summary
    for model, figures in results["sets"]["viewpoint"].items():
        key = f"scores/viewpoint/{model}/accuracy"
        assert summary[key] == pytest.approx(figures["overall"]["value"])
    assert summary["final/viewpoint/accuracy"] == summary["scores/viewpoint/grpo/accuracy"]
    assert not (second / "wandb").exists()
    before = load_file(untrained_model / "model.safetensors")
    for stage in ("sft", "grpo"):
        model = AutoModelForImageTextToText.from_pretrained(
            first / stage / "model"
        )  # plain transformers, nothing of ours
        weight = model.state_dict()["model.language_model.norm.weight"]
        assert (
            weight.shape
            == next(
                value
                for name, value in before.items()
                if name.endswith("norm.weight") and "layers" not in name
            ).shape
        )
        assert (first / "checkpoints" / stage).is_dir()


def test_two_threads_give_one_result(compose, tmp_path: Path, threads) -> None:
    threads(2)
    model_bytes = set()
    for number in range(3):
        folder = tmp_path / str(number)
        train(
            compose(
                folder,
                "logger=none",
                "benchmark=none",
                "stages=[sft]",
                "sft.batch_size=16",
                "trainer.threads=2",
            )
        )
        model_bytes.add((folder / "sft/model/model.safetensors").read_bytes())
    assert len(model_bytes) == 1


def test_a_stopped_run_goes_on_as_if_it_had_not_been(compose, tmp_path: Path) -> None:
    overrides = ("stages=[sft]", "sft.steps=8", "sft.save_every=3", "benchmark=none")
    train(compose(tmp_path / "straight", *overrides))
    config = compose(tmp_path / "stopped", *overrides)
    threading.Thread(
        target=terminate_after_row,
        args=(tmp_path / "stopped" / "metrics.jsonl", 2),
        daemon=True,
    ).start()
    with pytest.raises(Exit) as left:
        train(config)
    assert left.value.code == 143
    assert 2 <= len(StepLog(tmp_path / "stopped" / "metrics.jsonl").entries()) < 8
    assert not (tmp_path / "stopped" / "sft" / "model").exists()
    train(config)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert (straight / "metrics.jsonl").read_bytes() == (
        stopped / "metrics.jsonl"
    ).read_bytes()
    one, other = (
        load_file(run / "sft" / "model" / "model.safetensors") for run in (straight, stopped)
    )
    assert all(one[name].equal(other[name]) for name in one)


def interrupted_twice(config: TrainConfig) -> None:
    def press() -> None:
        while not StepLog(Path(config.run_dir) / "metrics.jsonl").entries():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with errors_reported([]):
        train(config)


def test_a_second_ctrl_c_says_that_it_interrupts(compose, tmp_path: Path, capfd) -> None:
    overrides = ("stages=[sft]", "sft.steps=99", "sft.batch_size=64", "benchmark=none")
    config = compose(tmp_path / "run", *overrides, "logger=none")
    assert exit_code(interrupted_twice, config) == 130
    assert "error: interrupted: run the same command again" in capfd.readouterr().err


def terminate_after_row(path: Path, rows: int) -> None:
    while len(StepLog(path).entries()) < rows:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_finished_run_is_left_alone(
    compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose(tmp_path / "run", "stages=[sft]", "sft.steps=1", "benchmark=none")
    train(config)
    files = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    train(config)
    assert "is finished" in capsys.readouterr().out
    assert files == {path: path.stat().st_mtime_ns for path in files}


def test_a_run_that_ended_before_its_report_gets_the_same_one(compose, tmp_path: Path) -> None:
    config = compose(tmp_path / "run", "stages=[sft]", "sft.steps=1", "benchmark=none")
    train(config)
    report = tmp_path / "run" / "report.html"
    content = report.read_bytes()
    report.unlink()  # the disk was full, or a kill came between results.json and the report
    train(config)
    assert report.read_bytes() == content


def test_a_run_is_not_continued_on_other_data(compose, tiny_set: Path, tmp_path: Path) -> None:
    mine = tmp_path / "set"
    shutil.copytree(tiny_set, mine)
    overrides = (
        "stages=[sft]",
        "sft.steps=2",
        "benchmark=viewpoint",
        f"data.sets.viewpoint.root={mine}",
        "mix@sft.mix=viewpoint",
    )
    train(compose(tmp_path / "run", *overrides))
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["sft_mix"]["sets"]["viewpoint"] == {
        "share": 1.0,
        "rows": provenance["data"]["viewpoint"]["rows"]["train"],
        "passes": pytest.approx(
            8 / provenance["data"]["viewpoint"]["rows"]["train"], abs=1e-3
        ),
    }
    (tmp_path / "run" / "results.json").unlink()  # as if it had been stopped before its scores
    lines = (mine / INDEX).read_bytes().splitlines(keepends=True)
    (mine / INDEX).write_bytes(b"".join(reversed(lines)))
    manifest = json.loads((mine / MANIFEST).read_text())
    (mine / MANIFEST).write_text(
        json.dumps(manifest | {"index_sha256": file_sha256(mine / INDEX)})
    )
    with pytest.raises(UserError, match="started with another data set viewpoint"):
        train(compose(tmp_path / "run", *overrides))
    (mine / INDEX).write_bytes(b"".join(lines))
    (mine / MANIFEST).write_text(json.dumps(manifest))
    train(compose(tmp_path / "run", *overrides))
    assert (tmp_path / "run" / "results.json").exists()


def test_the_second_stage_starts_from_the_first(compose, tmp_path: Path) -> None:
    """With a rate too small to move anything, GRPO's model is SFT's."""
    train(
        compose(
            tmp_path / "run",
            "sft.steps=1",
            "grpo.steps=1",
            "grpo.optim.lr=1e-30",
            "sft.optim.lr=0.1",
            "benchmark=none",
        )
    )
    sft, grpo = (
        load_file(tmp_path / "run" / stage / "model" / "model.safetensors")
        for stage in ("sft", "grpo")
    )
    assert all(sft[name].equal(grpo[name]) for name in sft)


@pytest.mark.slow
def test_a_run_reuses_what_another_has_computed_and_ends_with_the_same_bytes(
    compose, tmp_path: Path, capsys
) -> None:
    runs = tmp_path / "runs"
    first, alone, shared, other = (
        runs / "first",
        tmp_path / "alone",
        runs / "shared",
        runs / "other",
    )
    train(compose(first, "logger=none", "stages=[sft]"))
    # The model folders of a run with this stage name its token limit, the first run's another.
    with_grpo = ("logger=none", "grpo.max_tokens=9")
    train(compose(alone, *with_grpo))
    capsys.readouterr()
    train(compose(shared, *with_grpo, f"stage_cache_dir={runs}"))
    said = capsys.readouterr().out
    assert f"sft: reused the same stage, finished in {first}" in said
    assert "grpo: reused" not in said
    assert "scoring base on" not in said  # its answers were reused
    for name in (
        "metrics.jsonl",
        "sft/first_batch.txt",
        "sft/model/model.safetensors",
        "sft/model/actial.json",
        "sft/model/SHA256SUMS",
        "grpo/model/model.safetensors",
    ):
        assert (shared / name).read_bytes() == (alone / name).read_bytes(), name
    for path in alone.glob("scores/*/*/predictions.jsonl"):
        assert (shared / path.relative_to(alone)).read_bytes() == path.read_bytes(), path
    assert json.loads((shared / "provenance.json").read_text())["sft"]["reused_from"] == str(
        first
    )

    train(
        compose(
            other,
            "logger=none",
            f"stage_cache_dir={runs}",
            "sft.optim.lr=2e-3",
            "stages=[sft]",
        )
    )  # another setting: another stage
    assert "reused" not in capsys.readouterr().out
    assert (other / "sft/model/model.safetensors").read_bytes() != (
        first / "sft/model/model.safetensors"
    ).read_bytes()

    train(compose(runs / "both", *with_grpo, f"stage_cache_dir={runs}"))
    said = capsys.readouterr().out
    assert said.count("reused the same stage, finished") == 2
    assert (runs / "both/metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()
    rollouts = sorted(path.name for path in (alone / "rollouts.parquet").glob("*"))
    assert sorted(path.name for path in (runs / "both/rollouts.parquet").glob("*")) == rollouts


def test_sharing_between_jobs_of_several_devices_is_refused(compose, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"stage_cache_dir=.*several devices.*stage_cache_dir=null"
    ):
        compose(
            tmp_path / "run",
            "trainer.devices=2",
            "trainer.strategy=ddp",
            f"stage_cache_dir={tmp_path}",
        )
