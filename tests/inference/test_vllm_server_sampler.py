"""The server engine against processes that die, stall or never start; and, once, against vLLM's own
server.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actial.config import ModelConfig, SamplerConfig, SamplerKind
from actial.core.errors import UserError
from actial.inference import server_process, vllm_server
from actial.inference.engine import EngineFault, Request
from actial.inference.vllm_server import ServerEngine

SCRIPT = Path(__file__).parents[1] / "support" / "scripted_server.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request(seed: int) -> Request:
    return Request(
        uid=f"p{seed}",
        prompt_ids=[1, seed],
        images=[],
        sampling={"n": 2, "seed": seed, "logit_bias": {5: -1e9}},
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("old")
    return folder


@pytest.fixture
def start(tmp_path: Path, source: Path) -> Iterator[Callable[..., ServerEngine]]:
    engines: list[ServerEngine] = []

    def make(
        command: list[str] | None = None, port: int | None = None, **settings
    ) -> ServerEngine:
        port = port or free_port()
        settings = {
            "folder": str(tmp_path / "shared"),
            "start_timeout_s": 60.0,
            "timeout_s": 30.0,
            **settings,
        }
        config = SamplerConfig(
            kind=SamplerKind.vllm_server, url=f"http://127.0.0.1:{port}", **settings
        )
        engines.append(
            ServerEngine(
                config,
                ModelConfig(path=str(source)),
                command or [sys.executable, str(SCRIPT), str(port), str(tmp_path)],
            )
        )
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def samples(engine: ServerEngine, count: int = 6) -> list[list[int]]:
    return [
        output.token_ids
        for reply in engine.run([request(seed) for seed in range(count)])
        for output in reply.outputs
    ]


@pytest.mark.parametrize(
    "sampled", [1, 7], ids=["an asked id is sampled", "another id is sampled"]
)
def test_every_asked_log_probability_comes_back(start, sampled: int) -> None:
    requested = request(sampled)
    requested.sampling |= {"logprobs": 3, "logprob_token_ids": [1, 2, 3]}
    (reply,) = start().run([requested])
    assert {token: reply.first_logprobs[token] for token in (2, 3)} == {2: -2.0, 3: -3.0}
    assert 1 in reply.first_logprobs


def test_a_server_killed_during_generation_is_started_again_and_nothing_is_lost(
    start, tmp_path: Path
) -> None:
    engine = start()
    expected = samples(engine)
    assert (expected[:2], expected[-1]) == ([[0, 1], [0, 1]], [5, 6])
    first = engine.server.process.pid
    (tmp_path / "die").touch()
    assert samples(engine) == expected
    assert engine.server.process.pid != first


def test_as_many_requests_are_in_flight_as_the_setting_says(start, tmp_path: Path) -> None:
    engine = start(concurrency=150)
    (tmp_path / "together").touch()
    assert len(samples(engine, 150)) == 300


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from actial.config import ModelConfig, SamplerConfig, SamplerKind
from actial.config.exit_codes import errors_reported
from actial.inference.engine import Request
from actial.inference.vllm_server import ServerEngine

def generate(folder, port):
    config = SamplerConfig(
        kind=SamplerKind.vllm_server, url=f"http://127.0.0.1:{port}", folder=str(folder)
    )
    engine = ServerEngine(config, ModelConfig(path="m"), sys.argv[3:])
    sampling = {"n": 1, "seed": 1, "logit_bias": {}}
    request = Request(uid="a", prompt_ids=[1], images=[], sampling=sampling)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs of a shell may ignore it
    threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
    engine.background.submit(engine.run, [request]).result()

with errors_reported([]):
    generate(Path(sys.argv[1]), sys.argv[2])
"""


def test_ctrl_c_does_not_wait_for_requests_nor_start_the_server_again(tmp_path: Path) -> None:
    port = str(free_port())
    (tmp_path / "sleep").write_text("300")
    serve = [sys.executable, str(SCRIPT), port, str(tmp_path)]
    words = [sys.executable, "-c", INTERRUPTED, str(tmp_path), port, *serve]
    run = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (run.returncode, "interrupted" in run.stderr) == (130, True)
    assert "Traceback" not in run.stderr
    server_process.refuse_taken_port(f"http://127.0.0.1:{port}")  # waits for its end
    assert (tmp_path / "asked").read_text().count("/generate") == 1


def test_a_joined_server_that_went_away_is_not_asked_again_with_other_weights(
    start, tmp_path: Path
) -> None:
    owner = start()
    owner.lock.close()  # as if started by hand
    joined = ServerEngine(replace(owner.config, start=False), owner.source)
    assert samples(joined) == samples(owner)
    owner.close()
    with pytest.raises(
        UserError,
        match=r"went away; one that comes back has not this run's weights: .* run the same command again",
    ):
        samples(joined)


def test_a_second_run_cannot_join_the_server_of_a_run(start) -> None:
    owner = start()
    port = owner.url.rpartition(":")[2]
    for url in (owner.url, f"http://localhost:{port}/", f"http://127.0.1.1:{port}"):
        with pytest.raises(
            UserError, match="serves another run, whose weights this one would replace"
        ):
            ServerEngine(replace(owner.config, start=False, url=url), owner.source)
    owner.close()
    assert samples(start(port=int(owner.url.rpartition(":")[2]))) == samples(start())


@pytest.mark.parametrize("updates", [1, 3])
def test_trainers_of_two_machines_that_have_sent_equally_often_notice_each_other(
    start, updates: int
) -> None:
    weights = [("model.visual.merger.ln_q.weight", torch.arange(4.0))]
    first = start()
    first.lock.close()  # the lock of a machine, which does not reach another one
    second = ServerEngine(replace(first.config, start=False), first.source)
    for trainer in (first, second):
        for _ in range(updates):
            trainer.load(weights)
    assert first.weights_version == second.weights_version == updates
    assert len(samples(second)) == 12
    with pytest.raises(
        EngineFault,
        match=rf"with weights {second.version_name} where {first.version_name} was sent last: "
        "another trainer sends to .* Give each run a server of its own",
    ):
        samples(first)
    second.close()


def test_a_server_started_again_has_the_version_of_its_trainer(start, tmp_path: Path) -> None:
    engine = start()
    engine.load([("model.visual.merger.ln_q.weight", torch.arange(4.0))])
    (tmp_path / "die").touch()
    assert len(samples(engine)) == 12
    (reply,) = engine.run([request(1)])
    assert reply.weight_versions == [engine.version_name]


def test_a_server_that_dies_again_and_again_is_given_up(start, tmp_path: Path) -> None:
    engine = start(restarts=0)
    (tmp_path / "die").touch()
    with pytest.raises(
        UserError, match=r"died 1 times on the same prompts \(sampler\.restarts\)"
    ):
        samples(engine, 1)


def test_a_taken_port_is_named(start, monkeypatch) -> None:
    monkeypatch.setattr(server_process, "FREED_WITHIN_S", 0.5)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"port {port} is taken by another program; choose another port"
        ):
            start(port=port)


def test_a_server_that_ends_while_starting_shows_its_last_words(start) -> None:
    with pytest.raises(
        UserError,
        match=r"(?s)ended with exit code 3 while starting; its last lines:\nno memory left",
    ):
        start([sys.executable, "-c", "print('no memory left'); raise SystemExit(3)"])


def test_a_server_that_never_gets_healthy_is_stopped(start) -> None:
    with pytest.raises(
        UserError, match=r"not healthy after sampler\.start_timeout_s=2 s: raise it"
    ):
        start([sys.executable, "-c", "import time; time.sleep(600)"], start_timeout_s=2.0)


def test_a_stalled_generation_times_out(start, tmp_path: Path) -> None:
    engine = start(timeout_s=1.0)
    (tmp_path / "sleep").write_text("5")
    with pytest.raises(
        UserError,
        match=r"gave no answer to /inference/v1/generate within sampler\.timeout_s=1 s",
    ):
        samples(engine, 1)


def test_weights_go_through_the_folder_and_a_restart_takes_them(start, tmp_path: Path) -> None:
    engine = start()
    weight = torch.arange(4.0)
    for step in range(2):
        engine.load([("model.visual.merger.ln_q.weight", weight + step)])
    (pushed,) = (tmp_path / "shared").glob("weights-*/*")  # the one before is gone
    assert sorted(file.name for file in pushed.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert load_file(pushed / "model.safetensors")[
        "model.visual.merger.ln_q.weight"
    ].tolist() == [
        1.0,
        2.0,
        3.0,
        4.0,
    ]
    requested = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    checks = [path for path, _ in requested if path == "/weight_checker"]
    assert len(checks) == 1  # two updates: each answer hashes all weights of the server
    paths = [path for path, _ in requested if path != "/weight_checker"]
    assert paths[-5:] == [
        "/collective_rpc",
        "/update_weight_version",
        "/reset_encoder_cache",
        "/reset_mm_cache",
        "/reset_prefix_cache",
    ]
    assert requested[-5][1] == {"weights_path": str(pushed)}
    command = engine._command()
    assert command[command.index("--model") + 1] == str(pushed)
    with pytest.raises(
        EngineFault,
        match=r"1 weights were not sent to the engine, first model\.visual\.merger\.ln_q\.weight",
    ):
        engine.load([])


def test_no_weights_are_left_by_a_run_or_by_a_killed_one_before_it(
    start, tmp_path: Path
) -> None:
    engine = start()
    engine.load([("model.visual.merger.ln_q.weight", torch.arange(4.0))])
    (pushed,) = (tmp_path / "shared").glob("weights-*/*")
    engine.close()
    assert not list((tmp_path / "shared").glob("weights-*"))
    pushed.mkdir(parents=True)  # as a kill would have left it
    start(port=int(engine.url.rpartition(":")[2]))
    assert not pushed.exists()


def test_other_ranks_gather_the_weights_and_copy_none(
    start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of the meta device have nothing to copy: whoever tries, fails."""
    leads = start()
    monkeypatch.setattr(vllm_server, "is_main_process", lambda: False)
    follows = start(port=int(leads.url.rpartition(":")[2]), start=False)
    given = []

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        for name in ("a.weight", "b.weight"):
            given.append(name)
            yield name, torch.empty(3, device="meta")

    before = sorted((tmp_path / "shared").rglob("*"))
    follows.load(gathered())
    assert given == ["a.weight", "b.weight"]
    assert (follows.weights_version, leads.weights_version) == (1, 0)
    assert sorted((tmp_path / "shared").rglob("*")) == before
    with pytest.raises(NotImplementedError, match="meta tensor"):
        leads.load(gathered())


def test_no_room_for_the_weights_is_named_and_the_old_ones_stay(
    start, small_disk: Path
) -> None:
    engine = start(folder=str(small_disk))
    engine.load([("model.visual.merger.ln_q.weight", torch.arange(4.0))])
    (before,) = small_disk.glob("weights-*/*")
    with pytest.raises(
        UserError,
        match=r"weights could not be written to .* No space left on device.*: free space or set sampler.folder",
    ):
        engine.load([("model.visual.merger.ln_q.weight", torch.zeros(64, 1024))])
    assert list(small_disk.glob("weights-*/*")) == [before]
    assert engine.weights == str(before)


TRAINER = """
import os, sys, time
from pathlib import Path
from actial.inference.server_process import ServerProcess
server = ServerProcess.start(sys.argv[3:], os.environ, Path(sys.argv[1]))
Path(sys.argv[2]).write_text(str(server.process.pid))
if os.environ.get("END") == "exit":
    os._exit(1)
time.sleep(600)
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_server_ends_with_its_trainer_however_that_ends(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    serve = [sys.executable, str(SCRIPT), str(port), str(tmp_path)]
    pid_file = tmp_path / "pid"
    words = [sys.executable, "-c", TRAINER, str(tmp_path / "log"), str(pid_file), *serve]
    monkeypatch.setenv("END", end)
    trainer = subprocess.Popen(words)
    try:
        deadline = time.monotonic() + 60
        while not pid_file.exists() or not pid_file.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pid = int(pid_file.read_text())
        if end == "kill":
            os.kill(pid, 0)
            trainer.kill()
    finally:
        trainer.kill()
        trainer.wait()
    server_process.refuse_taken_port(f"http://127.0.0.1:{port}")  # waits for its end
    while time.monotonic() < deadline and _alive(pid):
        time.sleep(0.1)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_our_server_ends_with_its_engine(start) -> None:
    engine = start()
    pid = engine.server.process.pid
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def test_vllm_reads_every_argument_as_it_was_meant() -> None:
    """Switches that are off too: by vLLM's own parser."""
    arg_utils = pytest.importorskip("vllm.engine.arg_utils")
    arguments = {
        "enable_chunked_prefill": False,
        "enable_lora": True,
        "revision": None,
        "max_model_len": 512,
        "limit_mm_per_prompt": {"image": 3},
        "cudagraph_capture_sizes": [1, 2],
    }
    command = server_process.server_command("http://127.0.0.1:8000", arguments)
    parser = arg_utils.AsyncEngineArgs.add_cli_args(arg_utils.FlexibleArgumentParser())
    parsed, _ = parser.parse_known_args(command[3:])
    assert {name: getattr(parsed, name) for name in arguments} == arguments
