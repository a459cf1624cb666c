"""python -m actial.train +experiment=NAME run_dir=DIR: the stages of an experiment, then every model scored side by side."""

from __future__ import annotations

import json
from typing import Any

from hydra.core.hydra_config import HydraConfig

from actial.config import TrainConfig
from actial.config.hydra_app import hydra_command
from actial.core.errors import UserError
from actial.inference.vllm_version import check_vllm
from actial.pipeline.preflight import check_data_sets, check_model_path, refuse_changed_data
from actial.runs.run_dir import Run, open_run


def train(config: TrainConfig) -> float | None:
    """Run what is left of the experiment in `config.run_dir`; returns `objective` of its results.

    Raises UserError for wrong input; Exit(143) when stopped by a signal, with everything saved.
    """
    check_data_sets(config)
    check_model_path(config)
    check_vllm(config.sampler)
    with open_run(config) as run:
        if run.finished:
            print(f"{run.folder} is finished: its results are in {run.folder / 'report.html'}.")
            return objective(run)
        refuse_changed_data(config, run.folder)
        from actial.pipeline import (
            score_models as scoreboard,
        )  # torch and Lightning come in only once the input is known to be right
        from actial.pipeline import stages
        from actial.reporting.html_report import summary, write_report
        from actial.runs.tracking import tracking

        stages.prepare(config, run)
        models = {"base": config.model.path}
        with tracking(config, run) as tracker:
            for stage in config.stages:
                source = list(models.values())[-1]
                models[stage.name] = stages.train_stage(stage, config, source, run, tracker)
            if not stages.teardown_distributed(config):
                return None
            scoreboard.score_models(models, config, run, tracker)
        write_report(run.folder)
        print(summary(run.folder))
        print(f"finished: {run.folder / 'report.html'}")
        return objective(run)


def objective(run: Run) -> float | None:
    """What a search over settings maximises: the last model's accuracy, averaged over the benchmark sets; None where nothing is scored."""
    results: dict[str, Any] = json.loads((run.folder / "results.json").read_text())
    found = [
        models[results["models"][-1]]["overall"]["value"] for models in results["sets"].values()
    ]
    return sum(found) / len(found) if found else None


def refuse_unswept() -> None:
    """Raise UserError where an experiment names settings to sweep and this job was not given all of them: the -m was forgotten."""
    hydra = HydraConfig.get()
    given = {override.partition("=")[0] for override in hydra.overrides.task}
    if unswept := sorted(set(hydra.sweeper.get("params") or {}) - given):
        raise UserError(
            f"{unswept[0]} is swept by this experiment: add -m, or set {', '.join(unswept)}."
        )


@hydra_command("train", folder_key="run_dir", plus=("experiment",))
def main(config: TrainConfig) -> float | None:
    """python -m actial.train +experiment=NAME [run_dir=DIR] [group=name ...] [key=value ...]

    Trains the stages of an experiment one after the other and scores each model; the same command again resumes.
    """
    refuse_unswept()
    return train(config)


if __name__ == "__main__":
    main()
