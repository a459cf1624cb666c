"""rollouts.parquet: the completions of every N-th step with images, reward terms and advantages.

It is a folder with one file per logged step, which `pandas.read_parquet(run/"rollouts.parquet")`
reads as one table.
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

SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "uid": pa.string(),
        "member": pa.int64(),
        "type": pa.string(),
        "question": pa.string(),
        "answer": pa.string(),
        "text": pa.string(),
        "letter": pa.string(),
        "finish": pa.string(),
        "length": pa.int64(),
        "terms": pa.map_(pa.string(), pa.float64()),
        "reward": pa.float64(),
        "advantage": pa.float64(),
        "token_ids": pa.list_(pa.int64()),
        "sampler_logprobs": pa.list_(pa.float64()),
        "images": pa.list_(pa.binary()),
    }
)


class RolloutLog(lightning.Callback):
    """Writes `folder`/<stage>-<step>.parquet after every `every`-th step of a GRPO stage.

    It holds the prompts of the main process.
    """

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
    """Write one line per completion; PNG bytes of all `images` stand in the line of member 0.

    Raises UserError when the disk cannot take the file, and leaves nothing of it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            pq.write_table(
                _table(step, batch), file, compression="zstd", write_page_checksum=True
            )
    except OSError as error:
        raise UserError(
            f"rollouts could not be written to {path} ({error.strerror or error}): free space "
            "there, or start the run again in a run_dir on another disk."
        ) from error


def _table(step: int, batch: RolloutBatch) -> pa.Table:
    groups = batch.prefix_groups
    continuations = [
        (group, continuation) for group in groups for continuation in group.continuations
    ]
    lines = []
    for sample, (group, continuation), logprobs in zip(
        batch.samples, continuations, batch.sampler_logprobs, strict=True
    ):
        images = [_png(batch.images[i]) for i in group.images] if sample.member == 0 else []
        lines.append(
            {
                "step": step,
                **asdict(sample),
                "terms": list(sample.terms.items()),
                "token_ids": continuation.input_ids,
                "sampler_logprobs": logprobs,
                "images": images,
            }
        )
    return pa.Table.from_pylist(lines, schema=SCHEMA)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
