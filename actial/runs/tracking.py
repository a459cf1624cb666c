"""Metrics and tables of a run sent to Weights & Biases."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

from actial.config import LoggerConfig, TrainConfig, WandbMode
from actial.core.atomic_io import write_text
from actial.core.errors import UserError
from actial.core.process import is_main_process
from actial.evaluation.results import Results, SetResult
from actial.runs.run_dir import Run, read_settings

WANDB_ID = "wandb_id.txt"  # in the run folder
# What wandb raises when its own process, which writes and sends, has ended or was killed.
LOST_PROCESS = (ConnectionError, MailboxClosedError, HandleAbandonedError)
SCORE_COLUMNS = (
    "model",
    "set",
    "questions",
    "accuracy",
    "low",
    "high",
    "all_correct",
    "unparsed",
    "truncated",
    "format_compliance",
)


class Tracker:
    """Logs to wandb, or to nothing when it is disabled; offline it needs no account or network."""

    def __init__(self, config: TrainConfig, run: Run) -> None:
        self.wandb = _start_wandb(config, run) if _enabled(config.logger) else None
        # Offline, a resumed run is a new file of wandb: it gets the history of the old one too.
        self.replays = run.resumed and config.logger.mode is WandbMode.offline
        self.max_table_rows = config.logger.table_rows

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log one step's numbers; each stage has its own step axis."""
        if self.wandb is None:
            return
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self._log({f"{stage}/step": step, **named})

    def replay(self, run: Run, stage: str) -> None:
        """Log what metrics.jsonl and timings.jsonl hold of a stage, where the run was resumed."""
        if self.wandb is None or not self.replays:
            return
        timings = {entry["step"]: entry for entry in run.timings.entries(stage)}
        for entry in run.metrics.entries(stage):
            step = entry["step"]
            values = {**entry, **timings.pop(step, {})}
            numbers = {k: v for k, v in values.items() if k not in ("stage", "step")}
            self.log(
                stage,
                step,
                {k: v for k, v in numbers.items() if v is not None},
            )

    def table(
        self,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        axis: Mapping[str, int] | None = None,
    ) -> None:
        """Log a table; uint8 (H, W, 3) arrays appear as images.

        A name logged again is a new version of one table; `axis`, such as {"grpo/step": 40}, tells
        the versions apart.
        """
        if self.wandb is None or not rows:
            return
        cells = [[_cell(value) for value in row] for row in rows[: self.max_table_rows]]
        table = wandb.Table(columns=list(columns), data=cells)
        self._log({name: table, **(axis or {})})

    def scores(self, results: Results) -> None:
        """Log the final scores: one table `final_scores`, and figures in the run's summary.

        The summary has scores/SET/MODEL/FIGURE of every model, and
        final/SET/FIGURE of the last one, which has the same name in every run
        of a sweep.
        """
        rows = []
        figures: dict[str, float] = {}
        for name, by_model in results.sets.items():
            for model, result in by_model.items():
                cells = _score_cells(model, name, result)
                rows.append([cells[column] for column in SCORE_COLUMNS])
                figures |= _summary_figures(f"scores/{name}/{model}", cells)
                if model == results.models[-1]:
                    figures |= _summary_figures(f"final/{name}", cells)
        self.table("final_scores", SCORE_COLUMNS, rows)
        with self._sending():
            if self.wandb is not None:
                self.wandb.summary.update(figures)

    def finish(self, exit_code: int) -> None:
        """End the wandb run; its files are complete afterwards."""
        with self._sending():
            if self.wandb is not None:
                self.wandb.finish(exit_code=exit_code)

    def _log(self, values: Mapping[str, Any]) -> None:
        with self._sending():
            if self.wandb is not None:
                self.wandb.log(values)

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Say so once, and log nothing more, when wandb's process is gone.

        The run goes on: its numbers are in metrics.jsonl.
        """
        try:
            yield
        except LOST_PROCESS as error:
            self.wandb = None
            # else wandb tries the lost connection once more at the end of Python
            with suppress(*LOST_PROCESS):
                wandb.teardown()
            name = type(error).__name__
            print(
                f"wandb's process has ended ({name}): nothing more is sent to it. The run goes on, "
                "and its numbers are in metrics.jsonl.",
                file=sys.stderr,
                flush=True,
            )


def _score_cells(model: str, name: str, result: SetResult) -> dict[str, Any]:
    """Return the values of one line of the table `final_scores` by column."""
    overall, pairs = result.overall, result.all_correct
    return {
        "model": model,
        "set": name,
        "questions": overall.n,
        "accuracy": float(overall.value),
        "low": overall.low,
        "high": overall.high,
        "all_correct": None if pairs is None else float(pairs.value),
        "unparsed": result.unparsed,
        "truncated": result.truncated,
        "format_compliance": result.format_compliance,
    }


def _summary_figures(prefix: str, cells: Mapping[str, Any]) -> dict[str, float]:
    """Return {"PREFIX/accuracy": 0.81, ...} of the shares that the set has."""
    shares = (
        "accuracy",
        "all_correct",
        "unparsed",
        "truncated",
        "format_compliance",
    )
    return {f"{prefix}/{name}": cells[name] for name in shares if cells[name] is not None}


def _cell(value: Any) -> Any:
    return wandb.Image(value) if isinstance(value, np.ndarray) else value


@contextmanager
def tracking(config: TrainConfig, run: Run) -> Iterator[Tracker]:
    """Yield a Tracker; its files are complete when the block ends.

    A block that ends in an exception is recorded as exit code 1, not as a success.
    """
    with _artifacts_in(run.folder / "wandb"):
        tracker = Tracker(config, run)
        exit_code = 1
        try:
            yield tracker
            exit_code = 0
        finally:
            tracker.finish(exit_code)


@contextmanager
def _artifacts_in(folder: Path) -> Iterator[None]:
    """Have wandb keep the tables' photos below `folder`, not in the user's home.

    A WANDB_DATA_DIR of the user's own is respected. wandb reads it at every table.
    """
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def _enabled(config: LoggerConfig) -> bool:
    return config.mode is not WandbMode.disabled and is_main_process()


def _start_wandb(config: TrainConfig, run: Run) -> Any:
    logger = config.logger
    if logger.mode is WandbMode.offline:
        _set_earlier_files_aside(run.folder / "wandb")
    try:
        return _init(config, run, wandb_id(run.folder))
    except wandb.errors.UsageError as error:
        raise UserError(
            f"logger.mode={logger.mode.value}: wandb cannot log in ({error}). Run wandb login, set "
            "WANDB_API_KEY, or use logger=wandb (offline)."
        ) from error


def wandb_id(folder: Path) -> str:
    """Return the id of the wandb run of a run folder, drawn and kept there at its first start.

    A resumed run continues the same wandb run; a folder that was removed and begun anew, or one of
    the same path on another machine, has another. Versions without the file took a hash of the
    path, which their runs keep.
    """
    path = folder / WANDB_ID
    if path.exists():
        return path.read_text().strip()
    if (folder / "wandb").exists():  # begun by such a version
        run_id = sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    else:
        run_id = secrets.token_hex(6)
    write_text(path, f"{run_id}\n")
    return run_id


def _set_earlier_files_aside(folder: Path) -> None:
    """Rename the offline files of an interrupted run, so that `wandb sync` sends one per run.

    Their numbers are logged again; their tables of images stay in them.
    """
    for path in folder.glob("offline-run-*"):
        path.rename(path.with_name(f"interrupted-{path.name}"))


def _init(config: TrainConfig, run: Run, run_id: str) -> Any:
    logger = config.logger
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
