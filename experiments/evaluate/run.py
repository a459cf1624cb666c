"""What actial.evaluate costs beyond the engine: the same questions through the command and as
prepared requests to the same engine.

    python experiments/evaluate/run.py WORK_FOLDER [--requests 1000] [--max-tokens 64] [--model
    FOLDER] [--engine server|vllm]

`server`: vLLM's own OpenAI-compatible server on loopback, started here, without caches of prompts
or pictures, so that every pass costs it the same. Engine-bound: all request bodies are made
beforehand and sent by a bare HTTP client at the same concurrency. Measured: the whole `evaluate`,
from reading the benchmark's file to report.html. `vllm`: the engine in this process; engine-bound
is one call of its own `generate` with prepared prompts, measured is asking, grading, logging and
scoring. Passes run in the order A B B A.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from actial.config import (
    BenchmarkConfig,
    EvaluateConfig,
    ModelConfig,
    SamplerConfig,
    SamplerKind,
    ServerConfig,
)
from actial.core.atomic_io import write_json
from actial.evaluate import evaluate
from actial.evaluation.benchmarks.base import Item
from actial.evaluation.harness_io import export_vlmeval
from actial.evaluation.runners import LocalRunner, open_runner
from actial.evaluation.server_client import chat_messages
from actial.evaluation.tasks import open_tasks
from actial.grading.predictions import PredictionLog

SIDES = ("left", "right", "ahead", "behind")
WARM_UP = 64
TINY = Path(__file__).parents[2] / "actial/assets/tiny_base"


def write_questions(root: Path, count: int, side: int) -> None:
    """A VLMEvalKit TSV of questions about two photos each: smooth noise of side x side pixels."""

    def photo(seed: int) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(
            buffer, "PNG"
        )
        return buffer.getvalue()

    photos = [photo(seed) for seed in range(64)]
    items = [
        Item(
            uid=f"{i}",
            images=[photos[i % 64], photos[i // 64 % 64]],
            question=f"Where is thing {i}?",
            options=SIDES,
            answer_index=i % 4,
        )
        for i in range(count)
    ]
    export_vlmeval(items, root / "sides.tsv")


@contextlib.contextmanager
def serving(model: str, work: Path) -> Iterator[str]:
    """The address of a vLLM server of `model`; it ends with the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        "--model",
        model,
        "--served-model-name",
        "m",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--generation-config",
        "vllm",
    ]
    words += [
        "--limit-mm-per-prompt",
        '{"image":2,"video":0}',
        "--no-enable-prefix-caching",
        "--mm-processor-cache-gb",
        "0",
    ]
    words += [] if shutil.which("nvidia-smi") else ["--dtype", "float32", "--enforce-eager"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ}
    with (work / "server.log").open("wb") as log:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            while not healthy(port):
                if server.poll() is not None:
                    sys.exit(f"the server ended: see {work / 'server.log'}")
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


async def send(url: str, bodies: list[bytes], concurrency: int) -> None:
    """Every body once, `concurrency` at a time; the answers are only counted."""
    waiting = iter(bodies)
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:

        async def worker() -> None:
            for body in waiting:
                reply = await client.post(
                    f"{url}/chat/completions",
                    content=body,
                    headers={"Content-Type": "application/json"},
                )
                reply.raise_for_status()

        await asyncio.gather(*[worker() for _ in range(concurrency)])


def fresh(config: EvaluateConfig, work: Path, number: int) -> EvaluateConfig:
    out = work / f"out{number}"
    shutil.rmtree(out, ignore_errors=True)
    return replace(config, out=str(out))


def server_passes(
    config: EvaluateConfig, url: str, work: Path
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """(engine-bound pass, evaluate pass)."""
    runner = open_runner(config)
    (task,) = open_tasks(config, runner.limits)
    system = runner.settings["system_prompt"]
    request_fields = {
        "model": "m",
        "temperature": config.temperature,
        "top_p": 1.0,
        "max_tokens": config.benchmark.max_tokens,
        "seed": config.seed,
    }
    bodies = [
        json.dumps(
            request_fields | {"messages": chat_messages(e, e.questions[0], system)}
        ).encode()
        for e in task.examples
    ]
    asyncio.run(send(url, bodies[:WARM_UP], config.server.concurrency))
    return lambda _: asyncio.run(
        send(url, bodies, config.server.concurrency)
    ), lambda number: evaluate(fresh(config, work, number))


def vllm_passes(
    config: EvaluateConfig, work: Path
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    runner = open_runner(config)
    assert isinstance(runner, LocalRunner)
    (task,) = open_tasks(config, runner.limits)
    prompts = [runner.renderer.prompt(e, e.questions[0]) for e in task.examples]
    runner.sampler.generate(prompts[:WARM_UP], 1, runner.params)  # sends the weights, too
    engine = runner.sampler.engine
    sampling = [
        engine.sampling_params(
            **runner.sampler._sampling(p, 1, runner.params), output_kind=engine.final_only
        )
        for p in prompts
    ]
    requests = [
        {
            "prompt_token_ids": p.engine_ids,
            "multi_modal_data": {"image": [Image.fromarray(image) for image in p.images]},
        }
        for p in prompts
    ]

    def bound(_: int) -> None:
        engine.llm.generate(requests, sampling, use_tqdm=False)

    def ours(number: int) -> None:
        out = fresh(config, work, number).out
        task.score(runner.ask(task.examples, "asking", PredictionLog(out, runner.settings)))

    return bound, ours


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--side", type=int, default=48, help="of the photos, in pixels")
    parser.add_argument("--model", default=str(TINY))
    parser.add_argument("--engine", choices=["server", "vllm"], default="server")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    write_questions(given.work, given.requests, given.side)
    benchmark = BenchmarkConfig(
        name="tsv",
        root=str(given.work),
        split="sides",
        max_tokens=given.max_tokens,
        style="think",
    )
    tiny = Path(given.model) == TINY
    model = (
        ModelConfig(path=given.model, min_pixels=256, max_pixels=16384)
        if tiny
        else ModelConfig(path=given.model)
    )
    config = EvaluateConfig(out="", model=model, benchmark=benchmark)
    with contextlib.ExitStack() as stack:
        if given.engine == "server":
            url = stack.enter_context(serving(given.model, given.work))
            config.server = ServerConfig(url=url, model="m", multiple=16 if tiny else 28)
            passes = server_passes(config, url, given.work)
        else:
            settings = {
                "max_model_len": 1024,
                "enable_prefix_caching": False,
                "mm_processor_cache_gb": 0,
            }
            config.sampler = SamplerConfig(kind=SamplerKind.vllm, engine=settings)
            passes = vllm_passes(config, given.work)
        seconds: list[list[float]] = [[], []]
        for number, kind in enumerate((0, 1, 1, 0)):
            started = time.perf_counter()
            passes[kind](number)
            seconds[kind].append(time.perf_counter() - started)
    result = {
        "engine": given.engine,
        "requests": given.requests,
        "max_tokens": given.max_tokens,
        "engine-bound seconds": seconds[0],
        "evaluate seconds": seconds[1],
        "ratio": sum(seconds[0]) / sum(seconds[1]),
    }
    write_json(given.work / f"{given.engine}.json", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
