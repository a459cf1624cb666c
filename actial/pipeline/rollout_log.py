"""rollouts.parquet: every N-th step's completions with the photos, the question, each reward part and the advantage.

A folder with one file per logged step, which `pandas.read_parquet(run/"rollouts.parquet")` reads as one table.
"""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from actial.core.atomic_io import atomic
from actial.core.errors import UserError
from actial.core.process import is_main_process
from actial.rl.rollouts import RolloutBatch
from actial.training.train_module import StepModule


class RolloutLog(lightning.Callback):
    """Writes `folder`/<stage>-<step>.parquet after every `every`-th step of a GRPO stage; the main process's share of the prompts."""

    def __init__(self, folder: Path, stage: str, every: int) -> None:
        self.folder = folder
        self.stage = stage
        self.every = every

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: object,
        batch: Any,
        batch_index: int,
    ) -> None:
        assert isinstance(module, StepModule)
        step = module.completed_steps
        if step % self.every == 0 and is_main_process():
            write_rollouts(self.folder / f"{self.stage}-{step:06d}.parquet", step, batch)


def write_rollouts(path: Path, step: int, batch: RolloutBatch) -> None:
    """One row per completion; `images` (PNG bytes, all views in order) stand in the row of member 0.

    Raises UserError when the disk cannot take the file, of which then nothing is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            pq.write_table(_table(step, batch), file, compression="zstd")
    except OSError as error:
        raise UserError(
            f"rollouts could not be written to {path} ({error.strerror or error}): free space there, or start the run again in a run_dir "
            "on another disk."
        ) from error


def _table(step: int, batch: RolloutBatch) -> pa.Table:
    owners = [
        prefix_group for prefix_group in batch.prefix_groups for _ in prefix_group.continuations
    ]
    continuations = [
        continuation
        for prefix_group in batch.prefix_groups
        for continuation in prefix_group.continuations
    ]
    rows = []
    for sample, prefix_group, continuation, logprobs in zip(
        batch.samples, owners, continuations, batch.sampler_logprobs, strict=True
    ):
        images = (
            [_png(batch.images[index]) for index in prefix_group.images]
            if sample.member == 0
            else []
        )
        facts = {**asdict(sample), "terms": list(sample.terms.items())}
        rows.append(
            {
                "step": step,
                **facts,
                "token_ids": continuation.input_ids,
                "sampler_logprobs": logprobs,
                "images": images,
            }
        )
    fields = {
        "step": pa.int64(), "uid": pa.string(), "member": pa.int64(), "type": pa.string(), "question": pa.string(),
        "answer": pa.string(), "text": pa.string(), "letter": pa.string(), "finish": pa.string(), "length": pa.int64(),
        "terms": pa.map_(pa.string(), pa.float64()), "reward": pa.float64(), "advantage": pa.float64(),
        "token_ids": pa.list_(pa.int64()), "sampler_logprobs": pa.list_(pa.float64()), "images": pa.list_(pa.binary()),
    }  # fmt: skip
    return pa.Table.from_pylist(rows, schema=pa.schema(list(fields.items())))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
