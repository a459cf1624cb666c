"""Sweeps: every point of every ablation composes, builds and takes two steps; a failed job does not
lose the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path

import hydra
import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from safetensors.torch import load_file
from support.training import make_trainer

from actial.config import StageName, Task, TrainConfig, register
from actial.config.hydra_app import typed
from actial.config.job_slots import jobs_at_once
from actial.core.paths import CONF
from actial.pipeline.jobs import make_job
from actial.runs import run_index
from actial.runs.run_dir import Run
from actial.training.loaders import step_loader

ROOT = CONF.parent
SETS = ("viewpoint", "sat", "scenes")  # what a stage of an ablation can draw from a folder
ABLATIONS = sorted(path.stem for path in (CONF / "experiment").glob("ablate_*.yaml"))


@cache
def points(experiment: str) -> tuple[tuple[str, ...], ...]:
    """The overrides of each job of `-m +experiment=NAME`, one seed."""
    params = compose_hydra(experiment)["sweeper"]["params"]
    words = [f"{key}={value}" for key, value in params.items() if key != "seed"] + ["seed=1"]
    (jobs,) = BasicSweeper.split_arguments(
        OverridesParser.create().parse_overrides(words), None
    )
    return tuple(tuple(job) for job in jobs)


@cache
def compose_hydra(experiment: str) -> dict:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return dict(
            hydra.compose(
                "train", [f"+experiment={experiment}"], return_hydra_config=True
            ).hydra
        )


@cache
def compose(experiment: str, *overrides: str) -> TrainConfig:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose("train", [*overrides, f"+experiment={experiment}"]))


@pytest.fixture(scope="module")
def chains(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a teacher might have said about the pairs of the small set."""
    path = tmp_path_factory.mktemp("chains") / "chains.jsonl"
    rows = [json.loads(line) for line in (tiny_set / "index.jsonl").open()]
    chain_rows = [
        {"uid": row["uid"], "type": "ego_rotation", "chain": "I see it."}
        for row in rows
        if row["split"] == "train"
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in chain_rows))
    return path


def small(config: TrainConfig, data: Path, model: Path, chains: Path) -> TrainConfig:
    """The same run on the small set and model: two questions a batch, two short answers each."""
    config = deepcopy(config)
    for name in SETS:
        config.data.sets[name].root, config.data.sets[name].task = str(data), Task.viewpoint
    config.model.path = str(model)
    config.sft.batch_size = config.grpo.batch_size = 2
    config.grpo.group_size, config.grpo.max_tokens = min(config.grpo.group_size, 4), 4
    if config.cold_start.source != "grounded":
        assert config.cold_start.source == "data/chains/chains.jsonl"
        config.cold_start.source = str(chains)
    return config


def every_point() -> Iterator[tuple[str, tuple[str, ...]]]:
    return ((experiment, job) for experiment in ABLATIONS for job in points(experiment))


def test_every_ablation_sweeps_what_its_name_says() -> None:
    counts = {experiment: len(points(experiment)) for experiment in ABLATIONS}
    assert counts == {
        "ablate_angle_range": 4,
        "ablate_beyond": 6,
        "ablate_cold_start": 7,
        "ablate_cot_source": 2,
        "ablate_direct_grpo": 2,
        "ablate_group_size": 5,
        "ablate_kl": 6,
        "ablate_mix": 5,
        "ablate_question_types": 4,
        "ablate_reward": 6,
        "ablate_stages": 4,
        "ablate_start": 1,
    }
    for experiment in ABLATIONS:
        text = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
        assert f"python -m actial.train -m +experiment={experiment}" in text[1]
        assert compose_hydra(experiment)["sweeper"]["params"]["seed"] == "1,2,3"


def test_the_points_are_what_they_are_called() -> None:
    ratios = [
        compose("ablate_cold_start", *job).cold_start.ratio
        for job in points("ablate_cold_start")
    ]
    assert ratios == [0, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    rewards = [compose("ablate_reward", *job).reward for job in points("ablate_reward")]
    weights = [
        (reward.terms["format"].weight, reward.terms["accuracy"].weight, reward.gated)
        for reward in rewards
    ]
    assert weights[:5] == [
        (0, 1, False),
        (0.25, 0.75, False),
        (0.5, 0.5, False),
        (0.75, 0.25, False),
        (1, 0, False),
    ]
    assert weights[5] == (0.5, 0.5, True)
    conditions = [compose("ablate_stages", *job) for job in points("ablate_stages")]
    assert [[stage.name for stage in config.stages] for config in conditions] == [
        ["sft"],
        ["grpo"],
        ["sft", "grpo"],
        ["sft"],
    ]
    rehearsal = {"scenes": 0.1, "rules": 0.1}  # of the quickstart's SFT, in each condition
    assert conditions[3].sft.mix.weights == {"viewpoint": 0.5, "sat": 0.5, **rehearsal}
    groups = [compose("ablate_group_size", *job).grpo for job in points("ablate_group_size")]
    assert {grpo.batch_size * grpo.group_size for grpo in groups} == {192}
    forms = {
        json.dumps([c.beta, c.estimator.value, c.place.value, c.gradient.value])
        for c in (compose("ablate_kl", *j).grpo.kl for j in points("ablate_kl"))
    }
    assert len(forms) == 6
    beyond = [compose("ablate_beyond", *job) for job in points("ablate_beyond")]
    kinds = [[part.kind for part in config.reward.terms.values()][2:] for config in beyond]
    assert kinds == [[], [], ["consistency"], ["joint"], ["verified"], []]
    assert [config.grpo.all_questions for config in beyond] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert [config.grpo.counterfactual for config in beyond] == [False] * 5 + [True]
    prompts = [
        c.grpo.batch_size
        * (0.5 + 0.5 * (c.data.questions_per_pair if c.grpo.all_questions else 1))
        for c in beyond
    ]
    assert set(prompts) == {16.0}  # on average, pairs being half of the mix
    direct = [compose("ablate_direct_grpo", *job) for job in points("ablate_direct_grpo")]
    assert [(config.stages, list(config.grpo.mix.weights)) for config in direct] == [
        ([StageName.grpo], [s]) for s in ("sat", "viewpoint")
    ]
    assert compose("ablate_kl", "seed=2").model.path == "runs/ablate_start/seed=2/sft/model"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "job"),
    list(every_point()),
    ids=lambda part: part if isinstance(part, str) else ",".join(part),
)
def test_every_point_takes_two_steps(
    experiment: str,
    job: tuple[str, ...],
    tiny_set: Path,
    untrained_model: Path,
    chains: Path,
    tmp_path: Path,
) -> None:
    config = small(compose(experiment, *job), tiny_set, untrained_model, chains)
    for stage in config.stages:
        torch.manual_seed(config.seed)
        made = make_job(stage, config, config.model.path, Run(tmp_path, None, False))
        made.module.train()
        make_trainer().fit(made.module, step_loader(made.make_batch, 0, 2))
        assert made.module.completed_steps == 2


# ---------------------------------------------------------------- as processes


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "actial.train", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.slow
def test_a_failed_job_does_not_lose_the_others_and_a_second_try_runs_what_is_missing(
    tiny_set: Path, untrained_model: Path, chains: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "chains.jsonl"
    words = [
        "-m",
        "+experiment=smoke",
        "stages=[sft]",
        "sft.steps=2",
        "benchmark=none",
        f"model.path={untrained_model}",
    ]
    words += [f"data.sets.{name}.root={tiny_set}" for name in ("viewpoint", "sat")]
    words += [
        f"cold_start.source={missing},grounded",
        "cold_start.ratio=1.0",
        f"run_dir={tmp_path / 'sweep'}",
    ]
    first = train(*words)
    assert first.returncode == 1, first.stderr
    by_state = {run.state: run for run in run_index.load_runs(tmp_path / "sweep")}
    assert by_state.keys() == {"failed", "finished"}
    assert by_state["failed"].reason.startswith(f"cold_start.source={missing} does not exist")
    assert by_state["finished"].settings["cold_start.source"] == "grounded"
    done = by_state["finished"].folder
    before = (done / "results.json").stat().st_mtime_ns

    missing.write_bytes(chains.read_bytes())
    second = train(*words)
    assert second.returncode == 0, second.stderr
    assert f"{done} is finished" in second.stdout
    assert (done / "results.json").stat().st_mtime_ns == before
    again = run_index.load_runs(tmp_path / "sweep")
    assert [run.state for run in again] == ["finished", "finished"]
    assert not list((tmp_path / "sweep").glob("*/error.txt"))
    one, other = (
        load_file(run.folder / "sft" / "model" / "model.safetensors") for run in again
    )
    assert any(
        not one[name].equal(other[name]) for name in one
    )  # another source of chains is another model


def test_an_experiment_that_sweeps_says_so_without_m() -> None:
    done = train("+experiment=ablate_reward", "seed=1")
    assert done.returncode == 1
    assert done.stderr == "error: reward is swept by this experiment: add -m, or set reward.\n"


def test_several_experiments_are_one_sweep_each(tiny_set: Path, tmp_path: Path) -> None:
    """In folders of their own; that the first one's jobs fail does not keep the second from being
    run.
    """
    settings = ["model.path=nowhere/sft/model", "benchmark=none", f"run_dir={tmp_path}/both"]
    settings += [f"data.sets.{name}.root={tiny_set}" for name in SETS]
    done = train(
        "-m",
        "+experiment=ablate_reward,ablate_stages",
        "seed=choice(1)",
        "reward=actial,gated",
        *settings,
    )
    assert done.returncode == 1
    swept = {folder.parent.name: [] for folder in tmp_path.glob("both/*/*")}
    for note in sorted(tmp_path.glob("both/*/*/error.txt")):
        assert note.read_text().startswith(
            "error: model.path=nowhere/sft/model does not exist"
        )
        swept[note.parent.parent.name].append(note.parent.name)
    assert swept["ablate_reward"] == ["reward=actial,seed=1", "reward=gated,seed=1"]
    assert len(swept["ablate_stages"]) == 8  # four stages, as its file says, at two rewards


def test_a_wrong_name_among_several_experiments_is_refused_before_any_is_run(
    tmp_path: Path,
) -> None:
    done = train(
        "-m",
        "+experiment=ablate_reward,ablate_stage",
        "model.path=nowhere",
        f"run_dir={tmp_path}/both",
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: there is no experiment named 'ablate_stage' (did you mean ablate_stages?); there are "
    )
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- how many at once


@pytest.mark.parametrize(
    ("cores", "memory", "threads", "expected"),
    [
        (16, 64, 1, 16),
        (16, 64, 4, 4),
        (16, 10, 1, 4),
        (2, 64, 8, 1),
        (1, 0.5, 1, 1),
        (8, 64, 0, 1),
    ],
)
def test_jobs_at_once_keep_to_cores_and_memory(
    cores: int, memory: float, threads: int, expected: int
) -> None:
    """2.5 GB a job; threads=0 is torch's own choice, all cores."""
    assert jobs_at_once(threads, 2.5, cores=cores, memory_gb=memory) == expected
