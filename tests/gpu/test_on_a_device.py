"""What only a CUDA device can show, with the tiny base: ten minutes on one card.

ACTIAL_GPU_MODEL=FOLDER adds the checks of a real checkpoint (Qwen2.5-VL-3B or 7B).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.engine_world import load_policy, open_renderer, prompts_of, shake
from support.oracle import assert_same_gradients, gradients
from support.processes import free_port
from support.random_batches import FAMILIES, random_batch
from support.tiny_models import tiny_policy

from actial.config import (
    Attention,
    FrozenWeights,
    LoraConfig,
    ModelConfig,
    Precision,
    SamplerConfig,
    SamplerKind,
    WeightTransfer,
)
from actial.core.paths import CHECKOUT
from actial.core.records import SamplingParams
from actial.inference.open_sampler import open_engine_sampler
from actial.inference.weight_probe import WeightProbe
from actial.modeling.cost_model import load_of, step_memory
from actial.modeling.four_bit import FourBitLinear, unpack_all
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import Continuation, PrefixGroup, pack

pytestmark = pytest.mark.gpu

TINY_BASE = CHECKOUT / "actial" / "assets" / "tiny_base"
REAL = os.environ.get("ACTIAL_GPU_MODEL")


@pytest.fixture(autouse=True)
def exact_float32():
    """No TF32: comparisons with the CPU are to 1e-4."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


@pytest.mark.parametrize("family", FAMILIES)
def test_flex_equals_the_cpu_form_forward_and_backward(family, measured):
    policy = tiny_policy(family)
    groups, images = random_batch(5, policy, counts=(2, 0, 1, 2))
    batch = pack(groups, images, policy.spec, 96)
    weights = torch.randn(len(batch.target_ids), generator=torch.Generator().manual_seed(0))
    logprobs = policy.token_logprobs(batch).logprobs
    expected = gradients(policy.core, logprobs, weights)
    on_device = tiny_policy(family, attention=Attention.flex).to("cuda")
    actual = on_device.token_logprobs(batch.to("cuda")).logprobs
    gap = float((actual.detach().cpu() - logprobs.detach()).abs().max())
    measured[f"flex against CPU, {family}: largest log-probability difference"] = gap
    assert gap < 1e-4
    device_gradients = gradients(on_device.core, actual, weights.to("cuda"))
    assert_same_gradients({n: g.cpu() for n, g in device_gradients.items()}, expected, 1e-3)


def test_lengths_and_gradient_modes_need_few_kernels(measured):
    policy = tiny_policy(attention=Attention.flex).to("cuda")
    torch._dynamo.utils.counters.clear()
    for count in (60, 128, 129, 400, 900, 1500, 90, 3000):
        group = PrefixGroup("x", [1] * count, [], [Continuation([2] * 9, [True] * 9)])
        batch = pack([group] * 2, [], policy.spec, 1).to("cuda")
        policy.token_logprobs(batch).logprobs.sum().backward()
        with torch.no_grad():
            policy.token_logprobs(batch)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    measured["compiled variants over 8 lengths with and without gradients"] = float(graphs)
    assert graphs <= 8


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_predicted_memory_is_near_the_measured_peak(precision, measured):
    """Weights and gradients by their sizes, the rest as it rises in a pass.

    What earlier tests and cuBLAS hold is in neither.
    """
    policy = tiny_policy(attention=Attention.flex, precision=precision).to("cuda").train()
    groups, images = random_batch(5, policy, counts=(2, 1, 3, 2, 3) * 20)
    batch = pack(groups, images, policy.spec, 10_000).to("cuda")
    policy.token_logprobs(batch).logprobs.sum().backward()  # compiles, makes the gradients
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    policy.token_logprobs(batch).logprobs.sum().backward()
    rise = torch.cuda.max_memory_allocated() - held
    stored = sum(p.numel() * p.element_size() for p in policy.parameters())
    gradients_stored = 4 * sum(p.numel() for p in policy.parameters() if p.requires_grad)
    memory = step_memory(policy, load_of(groups, images, policy))
    predicted = memory.total - memory.optimizer * 2 / 3  # no moments yet
    ratio = predicted / (rise + stored + gradients_stored)
    measured[f"memory predicted over measured, {precision.value}"] = ratio
    assert 0.7 < ratio < 1.3


def test_four_bit_layers_compute_with_their_unpacked_matrices(measured):
    """Packed on the CPU, moved, unpacked on the device: the same numbers, forward and backward."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: extra four_bit")
    policy = tiny_policy(
        attention=Attention.flex,
        frozen_weights=FrozenWeights.nf4,
        lora=LoraConfig(enabled=True, rank=4, alpha=8),
    )
    layers = [m for m in policy.modules() if isinstance(m, FourBitLinear)]
    on_cpu = [layer.unpacked() for layer in layers]
    policy.to("cuda")
    for layer, expected in zip(layers, on_cpu, strict=True):
        torch.testing.assert_close(layer.unpacked().cpu(), expected, rtol=1e-3, atol=1e-5)
    groups, images = random_batch(5, policy, counts=(2, 0, 1, 2))
    batch = pack(groups, images, policy.spec, 96).to("cuda")
    results = []
    for _ in range(2):
        policy.zero_grad(set_to_none=True)
        logprobs = policy.token_logprobs(batch).logprobs
        logprobs.sum().backward()
        trained = [p for p in policy.parameters() if p.requires_grad]
        gradients_of = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        results.append((logprobs.detach(), torch.cat([g.flatten() for g in gradients_of])))
        unpack_all(policy.model)  # the second pass multiplies with plain matrices
    (packed, packed_gradients), (plain, plain_gradients) = results
    gap = float((packed - plain).abs().max())
    measured["4-bit layers against their unpacked matrices: largest difference"] = gap
    assert gap < 1e-4
    difference = (packed_gradients - plain_gradients).norm()
    assert difference < 1e-3 * plain_gradients.norm()


def engine_sampler(folder: Path, precision: Precision, **engine):
    policy = load_policy(folder, precision=precision, attention=Attention.flex).to("cuda")
    settings = {"max_model_len": 512, "gpu_memory_utilization": 0.3, **engine}
    config = SamplerConfig(kind=SamplerKind.vllm, engine=settings)
    return open_engine_sampler(config, policy, open_renderer(folder))


def test_a_bf16_engine_passes_100_probes_sleeps_and_wakes(measured):
    sampler = engine_sampler(TINY_BASE, Precision.bf16, enable_sleep_mode=True)
    renderer = open_renderer(TINY_BASE)
    prompts = prompts_of(renderer, 100, seed=3)
    sampler.sync(prompts[:4])
    gaps = []
    for start in range(0, len(prompts), 4):
        probe = WeightProbe(sampler.source.policy, sampler.requests, tolerance=10.0)
        probe.choose(prompts[start : start + 4])
        gaps.append(probe.check(sampler.engine)["probe_gap"])
    measured["bf16 probe, mean of 25"] = float(np.mean(gaps))
    measured["bf16 probe, largest of 25"] = float(np.max(gaps))
    measured["sampler.probe_tolerance that follows"] = 3 * float(np.max(gaps))
    assert np.max(gaps) < 0.1  # the tolerance of a run
    for seed in (1, 2):
        shake(sampler.source.policy.cpu(), seed=seed, scale=0.01)
        sampler.source.policy.to("cuda")
        sampler.generate(prompts[:8], 4, SamplingParams(max_tokens=16, seed=seed))
        for stage, gib in sampler.engine.memory.items():
            measured[f"device memory, {stage}, GiB"] = gib
    assert sampler.engine.memory["asleep"] < sampler.engine.memory["kv_cache_awake"]


def train(run: Path, data: Path, *settings: str) -> subprocess.Popen[bytes]:
    roots = [f"data.sets.{name}.root={data}" for name in ("viewpoint", "sat")]
    common = [
        "trainer=gpu",
        "mix@grpo.mix=viewpoint",
        "benchmark=viewpoint",
        "benchmark.limit=4",
    ]
    arguments = [
        "+experiment=smoke",
        f"run_dir={run}",
        *common,
        "logger=none",
        *roots,
        *settings,
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "actial.train", *arguments], start_new_session=True
    )


def test_a_killed_run_resumes_with_its_fused_optimizer(tiny_set, tmp_path):
    run = tmp_path / "run"
    settings = ["stages=[sft]", "sft.steps=60", "sft.save_every=2", "model.attention=flex"]
    first = train(run, tiny_set, *settings)
    checkpoints = run / "checkpoints" / "sft"
    while not list(checkpoints.glob("step-*")) and first.poll() is None:
        time.sleep(0.05)
    assert first.poll() is None, f"ended with {first.returncode} before it could be killed"
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    resumed_from = max(checkpoints.glob("step-*")).name
    assert resumed_from < "step-00000060"
    assert train(run, tiny_set, *settings).wait(timeout=300) == 0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    steps = [entry["step"] for entry in map(json.loads, lines) if entry["stage"] == "sft"]
    assert set(steps) == set(range(1, 61))


def test_fsdp2_on_one_rank_trains_and_saves(tiny_set, tmp_path):
    settings = ["stages=[sft]", "trainer.strategy=fsdp2", "model.precision=bf16"]
    run = train(tmp_path / "run", tiny_set, *settings, "model.attention=flex")
    assert run.wait(timeout=300) == 0


def test_a_grpo_step_with_the_engine_beside_the_trainer(tiny_set, tmp_path, measured):
    run = tmp_path / "run"
    settings = ["stages=[grpo]", "grpo.steps=3", "sampler=vllm", "model.precision=bf16"]
    engine = ["sampler.engine.max_model_len=1024", "sampler.engine.gpu_memory_utilization=0.3"]
    process = train(run, tiny_set, *settings, *engine, "model.attention=flex")
    assert process.wait(timeout=500) == 0
    last = json.loads((run / "timings.jsonl").read_text().splitlines()[-1])
    for name, value in last.items():
        if isinstance(value, float):
            measured[f"GRPO step of the tiny base, {name}"] = value


def test_a_server_on_the_same_card_takes_weights_by_ipc(tmp_path, measured):
    """vLLM's own transfer: handles of the trainer's memory, no file."""
    policy = load_policy(TINY_BASE, precision=Precision.bf16).to("cuda")
    config = SamplerConfig(
        kind=SamplerKind.vllm_server,
        url=f"http://127.0.0.1:{free_port()}",
        folder=str(tmp_path),
        transfer=WeightTransfer.ipc,
        engine={"max_model_len": 512, "gpu_memory_utilization": 0.3},
    )
    sampler = open_engine_sampler(config, policy, open_renderer(TINY_BASE))
    prompts = prompts_of(open_renderer(TINY_BASE), 8, seed=3)
    try:
        sampler.sync(prompts)
        shake(policy.cpu(), seed=1, scale=0.01)
        policy.to("cuda")
        sampler.sync(prompts)
    finally:
        sampler.engine.close()
    assert not list(tmp_path.glob("weights-*/*"))
    for name in ("sync_seconds", "probe_gap", "weights_version"):
        measured[f"weights by ipc, {name}"] = float(sampler.figures[name])
    assert sampler.figures["probe_gap"] < 0.1


def test_trl_beside_us_on_the_device(tmp_path, measured):
    """Seconds and parity of one GRPO step of both, same weights and tokens."""
    pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[bench]'")
    bench = CHECKOUT / "experiments" / "bench" / "run.py"
    out = tmp_path / "out"
    arguments = [str(tmp_path / "models"), str(out), "--quick", "--only", "grpo"]
    environment = {**os.environ, "ACTIAL_BENCH_ACCELERATOR": "cuda"}
    subprocess.run([sys.executable, str(bench), *arguments], env=environment, timeout=400)
    (run, *_) = json.loads((out / "results.json").read_text())["grpo"]["runs"]
    for side in ("peer", "ours"):
        seconds = [step["update"] for block in run["rows"][side] for step in block]
        measured[f"GRPO step beside TRL, {side}, s"] = float(np.median(seconds))
    for name, difference in run["parity"].items():
        measured[f"GRPO step beside TRL, parity of {name}"] = float(difference)


@pytest.mark.skipif(REAL is None, reason="ACTIAL_GPU_MODEL names no checkpoint")
def test_a_real_checkpoint_scores_alike_by_flex_and_by_sdpa(measured):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 20_000, (2000,), generator=generator).tolist()
    continuations = [Continuation(ids[k : k + 200], [True] * 200) for k in range(0, 800, 200)]
    scores = {}
    for attention in (Attention.sdpa, Attention.flex):
        config = ModelConfig(path=str(REAL), attention=attention, precision=Precision.bf16)
        policy = Policy.load(config).to("cuda").eval()
        groups = [PrefixGroup("x", ids[800:], [], continuations)]
        batch = pack(groups, [], policy.spec, 4096).to("cuda")
        with torch.no_grad():
            scores[attention] = policy.token_logprobs(batch).logprobs
        del policy
        torch.cuda.empty_cache()
    gap = float((scores[Attention.flex] - scores[Attention.sdpa]).abs().mean())
    measured[f"{Path(str(REAL)).name}: mean difference of flex and SDPA in bf16"] = gap
    assert gap < 0.05
