"""Does the loader keep up with training? The quickstart's own SFT stage, its loader alone and its
steps with their waits, measured.

    python experiments/loader/run.py WORK_FOLDER [key=value ...]

Takes the settings of actial.train (+experiment=quickstart); the data sets must be there (`make
data`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path

import hydra
import lightning

from actial.config import TrainConfig, register
from actial.config.hydra_app import typed
from actial.core.paths import CONF
from actial.pipeline.jobs import Job, sft_job
from actial.pipeline.preflight import check_data_sets
from actial.pipeline.stages import make_trainer, prepare
from actial.runs.run_dir import open_run
from actial.training.loaders import step_loader

WARM_UP = 2  # steps not counted: lazy imports, first pages of the shards


class Waits(lightning.Callback):
    """Seconds between the end of one step and the start of the next (waiting for data), and seconds
    of each step.
    """

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.steps: list[float] = []
        self.mark = time.perf_counter()

    def on_train_batch_start(self, *_: object) -> None:
        now = time.perf_counter()
        self.waits.append(now - self.mark)
        self.mark = now

    def on_train_batch_end(self, *_: object) -> None:
        now = time.perf_counter()
        self.steps.append(now - self.mark)
        self.mark = now


def loader_alone(job: Job, steps: int) -> list[float]:
    """Seconds a batch: rows drawn, pictures read, checked and decoded, prompts rendered, in this
    process.
    """
    seconds = []
    for step in range(steps):
        begun = time.perf_counter()
        job.make_batch(step)
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM_UP:]


def trained(config: TrainConfig, job: Job, folder: Path, steps: int, workers: int) -> Waits:
    """The stage's real loop over `steps` steps."""
    waits = Waits()
    with open_run(config) as run:
        loader = step_loader(
            job.make_batch,
            job.module.completed_steps,
            job.module.completed_steps + steps,
            workers=workers,
        )
        make_trainer(config, run, [waits]).fit(job.module, loader)
    return waits


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("work", type=Path)
    arguments.add_argument("overrides", nargs="*")
    arguments.add_argument("--steps", type=int, default=20)
    given = arguments.parse_intermixed_args()
    register()
    shutil.rmtree(given.work / "run", ignore_errors=True)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = [
            "+experiment=quickstart",
            "stages=[sft]",
            "benchmark=none",
            f"run_dir={given.work / 'run'}",
            *given.overrides,
        ]
        config = typed(hydra.compose("train", words))
    check_data_sets(config)
    with open_run(config) as run:
        prepare(config, run)
        job = sft_job(config, config.model.path, run)
    job.module.train()
    alone = statistics.median(loader_alone(job, given.steps))
    lines = []
    for workers in (0, 1):
        seen = trained(config, job, given.work / "run", given.steps, workers)
        step, wait = (
            statistics.median(seen.steps[WARM_UP:]),
            statistics.median(seen.waits[WARM_UP:]),
        )
        lines.append(
            {
                "workers": workers,
                "batch": config.sft.batch_size,
                "loader_alone_ms": round(1000 * alone, 1),
                "step_ms": round(1000 * step, 1),
                "wait_ms": round(1000 * wait, 1),
                "loader_feeds_times": round(step / alone, 1),
                "share_of_a_step": round(wait / (step + wait), 4),
            }
        )
        print(json.dumps(lines[-1]), flush=True)
    (given.work / "results.json").write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
