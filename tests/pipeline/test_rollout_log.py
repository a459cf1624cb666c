"""rollouts.parquet: what a reader finds in it, and what a full disk does."""

from __future__ import annotations

import io
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from actial.core.errors import UserError
from actial.modeling.prefix_packing import Continuation, PrefixGroup
from actial.pipeline.rollout_log import write_rollouts
from actial.rl.rollout_metrics import CompletionRecord
from actial.rl.rollouts import RolloutBatch

VIEWS = [
    np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
    np.full((4, 8, 3), 7, np.uint8),
    np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8),
]


def sample(uid: str, member: int, reward: float) -> CompletionRecord:
    return CompletionRecord(
        uid=uid,
        member=member,
        type="ego_rotation",
        question="Which way?",
        answer="A",
        text="<answer>A</answer>",
        letter="A",
        finish="stop",
        length=2,
        terms={"accuracy": reward, "format": None},
        reward=reward,
        advantage=reward - 0.5,
    )


@pytest.fixture
def batch() -> RolloutBatch:
    """Two prompts of two completions; the second prompt shares its second view with the first."""
    continuations = [Continuation([5, 6], [True, True]), Continuation([7, 8], [True, True])]
    prefix_groups = [
        PrefixGroup("a", [1, 2], [0, 1], list(continuations)),
        PrefixGroup("b", [1, 3], [2, 1], list(continuations)),
    ]
    return RolloutBatch(
        prefix_groups=prefix_groups,
        images=VIEWS,
        tags=["ego_rotation"] * 4,
        advantages=[0.5, -0.5, 0.5, -0.5],
        sums={},
        position=2,
        mini_batch_sizes=[2],
        sampler_logprobs=[[-0.1, -0.2], [-0.3, -0.4], [-0.5, -0.6], [-0.7, -0.8]],
        samples=[
            sample("a", 0, 1.0),
            sample("a", 1, 0.0),
            sample("b", 0, 1.0),
            sample("b", 1, 0.0),
        ],
    )


def test_logged_steps_read_as_one_table(batch: RolloutBatch, tmp_path: Path) -> None:
    for step in (10, 20):
        write_rollouts(tmp_path / "rollouts.parquet" / f"grpo-{step:06d}.parquet", step, batch)
    table = pd.read_parquet(tmp_path / "rollouts.parquet")
    assert table["step"].tolist() == [10] * 4 + [20] * 4
    row = table.iloc[2]
    assert (row.uid, row.member, row.reward, row.advantage, row.letter) == (
        "b",
        0,
        1.0,
        0.5,
        "A",
    )
    assert dict(row.terms) == {"accuracy": 1.0, "format": None}
    assert (row.token_ids.tolist(), row.sampler_logprobs.tolist()) == ([5, 6], [-0.5, -0.6])
    views = [np.asarray(Image.open(io.BytesIO(png))) for png in row.images]
    assert all(
        np.array_equal(view, VIEWS[index]) for view, index in zip(views, (2, 1), strict=True)
    )
    assert len(table.iloc[3].images) == 0


@pytest.fixture
def small_files() -> Iterator[None]:
    """The kernel refuses to let files of this process grow beyond 8 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named_and_what_was_written_before_stays(
    batch: RolloutBatch, small_disk: Path
) -> None:
    """About 14 KB a step on 64 KiB."""
    written = []

    def write() -> None:
        for step in range(10):
            path = small_disk / f"grpo-{step:06d}.parquet"
            write_rollouts(path, step, batch)
            written.append(path)

    with pytest.raises(
        UserError,
        match=r"rollouts could not be written to .*parquet \(No space left on device\): free space there",
    ):
        write()
    assert 2 <= len(written) < 9
    assert sorted(small_disk.iterdir()) == written
    assert pd.read_parquet(small_disk)["step"].nunique() == len(written)


def test_a_limit_on_files_is_named_and_nothing_is_left(
    batch: RolloutBatch, tmp_path: Path, small_files: None
) -> None:
    with pytest.raises(
        UserError,
        match=r"rollouts could not be written to .*grpo-000010\.parquet \(.+\): free space",
    ):
        write_rollouts(tmp_path / "grpo-000010.parquet", 10, batch)
    assert list(tmp_path.iterdir()) == []
