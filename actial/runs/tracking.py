"""Metrics of a run sent to Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, cast

import numpy as np
import wandb
from omegaconf import OmegaConf

from actial.config import LoggerConfig, TrainConfig, WandbMode
from actial.core.process import is_main_process
from actial.runs.run_dir import Run


class Tracker:
    """wandb, or nothing when it is disabled; offline it needs no account and no network."""

    def __init__(self, config: TrainConfig, run: Run) -> None:
        self.wandb = _start_wandb(config.logger, config, run) if _wanted(config.logger) else None
        self.table_rows = config.logger.table_rows

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One step's numbers, each stage on its own step axis."""
        if self.wandb is not None:
            self.wandb.log(
                {
                    f"{stage}/step": step,
                    **{f"{stage}/{name}": value for name, value in values.items()},
                }
            )

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table whose uint8 (H, W, 3) cells are shown as pictures."""
        if self.wandb is None or not rows:
            return

        shown = [
            [wandb.Image(cell) if isinstance(cell, np.ndarray) else cell for cell in row]
            for row in rows[: self.table_rows]
        ]
        self.wandb.log({name: wandb.Table(columns=list(columns), data=shown)})


@contextmanager
def tracking(config: TrainConfig, run: Run) -> Iterator[Tracker]:
    """A Tracker whose files are complete when the block ends."""
    tracker = Tracker(config, run)
    try:
        yield tracker
    finally:
        if tracker.wandb is not None:
            tracker.wandb.finish()


def _wanted(config: LoggerConfig) -> bool:
    return config.mode is not WandbMode.disabled and is_main_process()


def _start_wandb(logger: LoggerConfig, config: TrainConfig, run: Run) -> Any:

    started = wandb.init(
        mode=logger.mode.value,
        dir=run.folder,
        project=logger.project,
        group=logger.group,
        tags=logger.tags,
        name=run.folder.name,
        id=sha256(str(run.folder.resolve()).encode()).hexdigest()[
            :12
        ],  # the same for a resumed run
        resume="allow",
        config=cast(
            "dict[str, Any]", OmegaConf.to_container(OmegaConf.create(run.config_text))
        ),  # nested: so panels group by a setting
        settings=wandb.Settings(silent=True, x_disable_stats=True),
    )
    for stage in config.stages:
        started.define_metric(f"{stage.name}/*", step_metric=f"{stage.name}/step")
    return started
