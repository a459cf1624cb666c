"""SFT from streams: the same weights twice and over HTTP, and a resumed run replays its stream."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hydra
import pytest
import torch
from safetensors.torch import load_file

from actial.config import TrainConfig, register
from actial.config.hydra_app import typed
from actial.core.errors import UserError
from actial.core.paths import CONF
from actial.pipeline import jobs
from actial.runs.run_dir import Run
from actial.train import train


@pytest.fixture
def address(tiny_set: Path):
    httpd = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tiny_set))
    )
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


def compose(folder: Path, root: Path | str, model: Path, *overrides: str) -> TrainConfig:
    register()
    fixed = [
        "+experiment=smoke",
        "stages=[sft]",
        "benchmark=none",
        "data.reader=stream",
        "data.sets={viewpoint:{task:viewpoint,root:'" + str(root) + "'}}",
        "mix@sft.mix=viewpoint",
        f"run_dir={folder}",
        f"model.path={model}",
        *overrides,
    ]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose("train", fixed))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "sft" / "model" / "model.safetensors")


@pytest.mark.slow
def test_a_run_streamed_over_http_has_the_weights_of_one_streamed_from_the_folder(
    tmp_path: Path, tiny_set: Path, address: str, untrained_model: Path
) -> None:
    for name, root in (("folder", tiny_set), ("http", address)):
        train(compose(tmp_path / name, root, untrained_model))
    local, remote = weights(tmp_path / "folder"), weights(tmp_path / "http")
    assert local.keys() == remote.keys()
    assert all(torch.equal(local[name], remote[name]) for name in local)


def test_a_resumed_stage_reads_the_batches_that_the_uninterrupted_one_reads(
    tmp_path: Path, tiny_set: Path, untrained_model: Path
) -> None:
    config = compose(tmp_path, tiny_set, untrained_model)
    whole, rest = (
        [batch.prefix_groups for batch in _job(config, tmp_path).loader(start, 6)]
        for start in (0, 4)
    )
    assert len(whole) == 6
    assert [[group.uid for group in batch] for batch in rest] == [
        [group.uid for group in batch] for batch in whole[4:]
    ]


def _job(config: TrainConfig, folder: Path) -> jobs.Job:
    return jobs.sft_job(config, config.model.path, Run(folder, None, False))


def test_more_readers_than_shards_are_refused_before_training(
    tmp_path: Path, tiny_set: Path, untrained_model: Path
) -> None:
    config = compose(tmp_path, tiny_set, untrained_model, "data.workers=4")
    with pytest.raises(UserError, match="has 1 shards of split 'train', but 4 readers"):
        _job(config, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages=[sft,grpo]"], "GRPO draws its prompts by index"),
        (["cold_start.source=chains.jsonl"], "a teacher's chains are read by index"),
        (["data.sets.viewpoint.task=perception"], "its exercises draw on the whole set"),
        (["data.sets.viewpoint.pass_rates=x"], "chosen by pass rate before training"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compose(tmp_path, "data", tmp_path, *overrides)
