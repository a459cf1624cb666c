"""The run folder: resumed, refused, locked; its rows continue as if never interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from actial.config import TrainConfig, register
from actial.config.hydra_app import typed
from actial.core.atomic_io import atomic, write_json
from actial.core.errors import UserError
from actial.core.paths import CONF
from actial.runs.provenance import read_provenance, software_versions
from actial.runs.run_dir import Run, flatten, open_run, read_settings
from actial.runs.step_log import StepLog
from actial.runs.stop_request import stop_requested


def config_text(run: Run) -> str:
    return (run.folder / "config.yaml").read_text()


def config(folder: Path, *overrides: str) -> TrainConfig:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(
            hydra.compose("train", ["+experiment=smoke", f"run_dir={folder}", *overrides])
        )


def test_a_new_folder_holds_the_resolved_config(tmp_path: Path) -> None:
    wanted = config(tmp_path / "a" / "run", "seed=3")
    with open_run(wanted) as run:
        assert not run.resumed
        assert not run.finished
    written = OmegaConf.load(tmp_path / "a" / "run" / "config.yaml")
    assert written.seed == 3
    assert "${" not in config_text(run)
    assert (
        OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), written))
        == wanted
    )


def test_the_same_config_resumes(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run")) as run:
        before = config_text(run)
    with open_run(
        config(tmp_path / "run", "logger.mode=offline")
    ) as run:  # who watches does not matter
        assert run.resumed
        assert config_text(run) == before


def test_a_run_older_than_a_setting_is_resumed_under_its_default(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run")):
        pass
    path = tmp_path / "run" / "config.yaml"
    stored = OmegaConf.load(path)
    del stored["questions"]
    del stored["data"]["wording"]
    path.write_text(OmegaConf.to_yaml(stored))
    with open_run(config(tmp_path / "run")) as run:
        assert run.resumed


def test_another_config_is_refused_with_the_key(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run")):
        pass
    with pytest.raises(
        UserError,
        match=r"holds a run with seed=0 where this command has 1: give another run_dir",
    ):
        open_run(config(tmp_path / "run", "seed=1"))
    with pytest.raises(
        UserError,
        match=r"grpo\.kl\.beta=0\.01 where this command has 0\.5 and 1 more settings differ",
    ):
        open_run(config(tmp_path / "run", "grpo.kl.beta=0.5", "seed=1"))


@pytest.mark.parametrize(
    "override",
    [
        "model.micro_batch_tokens=4096",
        "model.head_chunk_tokens=128",
        "model.gradient_checkpointing=true",
        "sampler.batch_size=32",
        "sampler.timeout_s=60.0",
        "data.workers=2",
        "trainer.memory_gib=24.0",
        "sft.save_every=7",
        "grpo.save_every=7",
        "benchmark.batch_size=4",
        "+sampler.engine.max_num_seqs=8",
        "+sampler.engine.max_num_batched_tokens=2048",
        "+sampler.engine.enforce_eager=true",
    ],
)
def test_memory_settings_may_differ_on_resume_and_are_recorded(
    tmp_path: Path, override: str
) -> None:
    at_a_server = ("sampler.kind=vllm_server", "sampler.url=http://127.0.0.1:9")
    others = at_a_server if override == "sampler.timeout_s=60.0" else ()
    with open_run(config(tmp_path / "run", *others)):
        pass
    started = (tmp_path / "run" / "config.yaml").stat().st_mtime_ns
    with open_run(config(tmp_path / "run", *others, override)) as run:
        assert run.resumed
    key, _, value = override.removeprefix("+").partition("=")
    assert str(flatten(read_settings(run.folder))[key]).lower() == value
    (changes,) = run.provenance["changed_settings"]
    assert str(changes[key][1]).lower() == value
    assert (tmp_path / "run" / "config.yaml").stat().st_mtime_ns == started


@pytest.mark.parametrize(
    "override",
    [
        "model.sequence_tokens=256",  # packs other sequences
        "sft.log_every=3",  # metrics.jsonl is checked by it
        "trainer.threads=2",
        "+sampler.engine.max_model_len=512",
        "+sampler.engine={max_num_seqs: 8, seed: 3}",
    ],
)
def test_settings_that_decide_numbers_or_logs_may_not_differ_on_resume(
    tmp_path: Path, override: str
) -> None:
    with open_run(config(tmp_path / "run")):
        pass
    key = override.removeprefix("+").partition("=")[0]
    with pytest.raises(UserError, match=rf"holds a run with {key}.*: give another run_dir"):
        open_run(config(tmp_path / "run", override))


def test_what_a_kill_left_is_removed_by_the_next_start(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run")) as run:
        folder = run.folder
    before = sorted(folder.rglob("*"))
    files = [
        ".results.json.12.tmp",
        "rollouts.parquet/.grpo-000002.parquet.12.tmp",
        "scores/sft/viewpoint/.settings.json.12.tmp",
        "sft/.model.k3jd92/model/config.json",
        ".sft.9dj2/sft/first_batch.txt",
        "checkpoints/sft/.x8s/step-00000004/state.json",
    ]
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("half")
    with open_run(config(folder)):
        pass
    left = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert left == [path for path in before if path.is_file()]


def test_a_configuration_in_a_run_folder_is_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    with open_run(config(tmp_path / "run")) as run:
        text = config_text(run).partition("\n")[2]  # without its checksum
    (run.folder / "config.yaml").write_text(
        text.replace("seed: 0", "seed: ${oc.env:SECRET}") + "_target_: os.system\n"
    )
    settings = read_settings(run.folder)
    assert settings["seed"] == "${oc.env:SECRET}"
    assert settings["_target_"] == "os.system"
    assert "hunter2" not in str(settings)


def test_settings_of_a_stage_that_is_not_run_may_differ(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run", "stages=[sft]")):
        pass
    with open_run(
        config(tmp_path / "run", "stages=[sft]", "grpo.steps=77", "reward.gated=true")
    ) as run:
        assert run.resumed
    with pytest.raises(
        UserError, match=r"sft\.steps=\d+ where this command has 77: give another run_dir"
    ):
        open_run(config(tmp_path / "run", "stages=[sft]", "sft.steps=77"))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("keep me")
    with pytest.raises(UserError, match="holds files but no config"):
        open_run(config(tmp_path))
    with pytest.raises(UserError, match="is a file"):
        open_run(config(tmp_path / "thesis.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    with (
        open_run(config(tmp_path / "run")),
        pytest.raises(UserError, match="being written by another process"),
    ):
        open_run(config(tmp_path / "run"))
    with open_run(config(tmp_path / "run")) as run:
        assert run.resumed


def test_entries_after_a_rewind_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    straight, resumed = (
        StepLog(tmp_path / "straight.jsonl"),
        StepLog(tmp_path / "resumed.jsonl"),
    )
    for log in (straight, resumed):
        log.write("sft", 1, {"loss": 1.5})
        log.write("grpo", 1, {"reward": 0.1})
        log.write("grpo", 2, {"reward": 1 / 3})
    straight.write("grpo", 3, {"reward": float("nan")})
    resumed.write("grpo", 3, {"reward": 0.9})
    with resumed.path.open("ab") as file:
        file.write(b'{"stage": "grpo", "st')  # killed while writing
    resumed.rewind("grpo", 2)
    resumed.write("grpo", 3, {"reward": float("nan")})
    assert resumed.path.read_bytes() == straight.path.read_bytes()
    assert straight.entries()[-1] == {"stage": "grpo", "step": 3, "reward": None}


def test_rewinding_one_stage_keeps_the_others(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "rows.jsonl")
    for step in (1, 2, 3):
        log.write("sft", step, {"loss": float(step)})
    log.rewind("grpo", 0)
    assert [row["step"] for row in log.entries()] == [1, 2, 3]
    log.rewind("sft", 1)
    assert [row["step"] for row in log.entries()] == [1]


def test_provenance_values_are_added_and_replaced(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run")) as run:
        run.add_provenance({"seed": 0, "gap": 1.0})
        run.add_provenance({"gap": 1e-6})
    assert read_provenance(tmp_path / "run") == {"seed": 0, "gap": 1e-6}


def test_the_provenance_of_an_old_run_is_read_and_carried_over(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run")) as run:
        (run.folder / "passport.json").write_text('{"seed": 3}')
        assert run.provenance == {"seed": 3}
        run.add_provenance({"commit": None})
        assert read_provenance(run.folder) == {"seed": 3, "commit": None}


def test_provenance_names_what_decides_the_numbers() -> None:
    versions = software_versions()
    assert versions["packages"]["torch"].startswith("2.14")
    assert versions["commit"] is None or len(versions["commit"]) == 40


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"a": 1})
    with suppress(RuntimeError), atomic(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["facts.json"]


def test_sigterm_only_sets_a_flag_inside_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_requested() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, 'tests/runs');"
        "from test_run_dir import config; from actial.runs.run_dir import open_run;"
        f"open_run(config(Path({str(tmp_path / 'run')!r}))); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CONF.parent, check=False)
    assert done.returncode == 9
    with open_run(config(tmp_path / "run")) as run:
        assert run.resumed
