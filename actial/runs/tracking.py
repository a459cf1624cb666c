"""Metrics and tables of a run sent to Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import numpy as np
import wandb

from actial.config import LoggerConfig, TrainConfig, WandbMode
from actial.core.process import is_main_process
from actial.runs.run_dir import Run, read_settings


class Tracker:
    """Logs to wandb, or to nothing when it is disabled; offline it needs no account or network."""

    def __init__(self, config: TrainConfig, run: Run) -> None:
        self.wandb = _start_wandb(config, run) if _enabled(config.logger) else None
        self.max_table_rows = config.logger.table_rows

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log one step's numbers; each stage has its own step axis."""
        if self.wandb is None:
            return
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self.wandb.log({f"{stage}/step": step, **named})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table; uint8 (H, W, 3) arrays appear as images."""
        if self.wandb is None or not rows:
            return
        cells = [[_cell(value) for value in row] for row in rows[: self.max_table_rows]]
        self.wandb.log({name: wandb.Table(columns=list(columns), data=cells)})


def _cell(value: Any) -> Any:
    return wandb.Image(value) if isinstance(value, np.ndarray) else value


@contextmanager
def tracking(config: TrainConfig, run: Run) -> Iterator[Tracker]:
    """Yield a Tracker; its files are complete when the block ends.

    A block that ends in an exception is recorded as exit code 1, not as a success.
    """
    tracker = Tracker(config, run)
    exit_code = 1
    try:
        yield tracker
        exit_code = 0
    finally:
        if tracker.wandb is not None:
            tracker.wandb.finish(exit_code=exit_code)


def _enabled(config: LoggerConfig) -> bool:
    return config.mode is not WandbMode.disabled and is_main_process()


def _start_wandb(config: TrainConfig, run: Run) -> Any:
    logger = config.logger
    # The id is a function of the folder, so that a resumed run continues the same wandb run.
    run_id = sha256(str(run.folder.resolve()).encode()).hexdigest()[:12]
    started = wandb.init(
        mode=logger.mode.value,
        dir=run.folder,
        project=logger.project,
        group=logger.group,
        tags=logger.tags,
        name=run.folder.name,
        id=run_id,
        resume="allow",
        config=read_settings(run.folder),  # nested, so that panels can group by a setting
        settings=wandb.Settings(silent=True, x_disable_stats=True),
    )
    for stage in config.stages:
        started.define_metric(f"{stage.name}/*", step_metric=f"{stage.name}/step")
    return started
