"""python -m actial.train +experiment=NAME run_dir=DIR: the stages of an experiment, then every model scored side by side."""

from __future__ import annotations

from actial.cli import hydra_command
from actial.config import TrainConfig
from actial.inputs import check_data_sets, check_model_path
from actial.runs import open_run


def train(config: TrainConfig) -> None:
    """Run what is left of the experiment in `config.run_dir`.

    Raises UserError for wrong input; Exit(143) when stopped by a signal, with everything saved.
    """
    check_data_sets(config)
    check_model_path(config)
    with open_run(config) as run:
        if run.finished:
            print(f"{run.folder} is finished: its results are in {run.folder / 'report.html'}.")
            return
        from actial import scoreboard, stages  # torch and Lightning come in only once the input is known to be right
        from actial.callbacks import tracking
        from actial.report import write_report

        stages.prepare(config, run)
        models = {"base": config.model.path}
        with tracking(config, run) as tracker:
            for stage in config.stages:
                source = list(models.values())[-1]
                models[stage.name] = stages.train_stage(stage, config, source, run, tracker)
            scoreboard.score_models(models, config, run, tracker)
        write_report(run.folder)
        print(f"finished: {run.folder / 'report.html'}")


@hydra_command("train", folder_key="run_dir", plus=("experiment",))
def main(config: TrainConfig) -> None:
    """python -m actial.train +experiment=NAME [run_dir=DIR] [group=name ...] [key=value ...]

    Trains the stages of an experiment one after the other and scores each model; the same command again resumes.
    """
    train(config)


if __name__ == "__main__":
    main()
