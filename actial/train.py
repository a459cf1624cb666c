"""Command that trains the stages of an experiment and scores every model of it."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig

from actial.config import TrainConfig
from actial.config.hydra_app import hydra_command
from actial.core.errors import UserError
from actial.inference.vllm_version import check_vllm
from actial.pipeline.preflight import check_inputs, refuse_changed_data
from actial.runs.run_dir import Run, open_run


def train(config: TrainConfig) -> float | None:
    """Run what remains of the experiment in `config.run_dir` and return `objective` of its results.

    Raises UserError for wrong input and Exit(143), with everything saved, when a signal stops it.
    """
    check_inputs(config)
    check_vllm(config.sampler)
    if not all(getattr(config, stage.name).steps for stage in config.stages):
        from actial.pipeline.jobs import resolve_steps

        config = resolve_steps(config)
    with open_run(config) as run:
        if run.finished:
            if not (run.folder / "report.html").exists():  # ended between results and report
                from actial.reporting.html_report import write_report

                write_report(run.folder)
            print(
                f"{run.folder} is finished: its results are in {run.folder / 'report.html'}."
            )
            return objective(run)
        refuse_changed_data(config, run.folder)
        # torch and Lightning take seconds to import, so wrong input is reported before.
        from actial.pipeline import score_models, stages
        from actial.pipeline.launch import launched, teardown_distributed
        from actial.reporting.html_report import summary, write_report
        from actial.runs.tracking import tracking

        stages.prepare(config, run)
        models = {"base": config.model.path}
        source = config.model.path
        with launched(config), tracking(config, run) as tracker:
            for stage in config.stages:
                source = stages.train_stage(stage, config, source, run, tracker)
                models[stage.name] = source
            if not teardown_distributed(config):
                return None
            score_models.score_models(models, config, run, tracker)
        write_report(run.folder)
        print(summary(run.folder))
        print(f"finished: {run.folder / 'report.html'}")
        return objective(run)


def objective(run: Run) -> float | None:
    """Return what a search over settings maximizes, or None where nothing is scored.

    It is the accuracy of the last model, averaged over the benchmark sets.
    """
    from actial.evaluation.results import Results

    results = Results.read(run.folder)
    last = results.models[-1]
    accuracies = [float(models[last].overall.value) for models in results.sets.values()]
    return sum(accuracies) / len(accuracies) if accuracies else None


def refuse_unswept() -> None:
    """Raise UserError where an experiment names settings to sweep that this job was not given.

    The -m was forgotten then.
    """
    hydra = HydraConfig.get()
    given = {override.partition("=")[0] for override in hydra.overrides.task}
    if unswept := sorted(set(hydra.sweeper.get("params") or {}) - given):
        raise UserError(
            f"{unswept[0]} is swept by this experiment: add -m, or set {', '.join(unswept)}."
        )


@hydra_command("train", folder_key="run_dir", plus=("experiment",))
def main(config: TrainConfig) -> float | None:
    """python -m actial.train +experiment=NAME [run_dir=DIR] [group=name ...] [key=value ...]

    Trains the stages of an experiment one after the other and scores each model; the same command
    again resumes.
    """
    refuse_unswept()
    return train(config)


if __name__ == "__main__":
    main()
