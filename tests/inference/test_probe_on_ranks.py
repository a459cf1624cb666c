"""Two ranks whose weights are sharded: a fault of one is raised on both, with its cause."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.processes import become_rank, run_processes
from support.tiny_models import EOS, IMAGE, tiny_policy
from torch.distributed.device_mesh import init_device_mesh

from actial.core.records import Prompt
from actial.inference.engine import EngineFault, Output, Reply
from actial.inference.engine_requests import EngineRequests
from actial.inference.engine_sampler import EngineSampler, PolicyWeights
from actial.inference.weight_probe import WeightProbe
from actial.training.distributed import shard

PROMPTS = [Prompt(uid="a", engine_ids=[5, 6], input_ids=[5, 6], images=[])]


class OffsetEngine:
    """Samples token 7 and reports the trainer's log-probability of it plus `offset`."""

    max_model_len, synced_to, background, pending, shows_weights = (
        4096,
        None,
        None,
        None,
        False,
    )
    weights_version = 0

    def __init__(self, logprob: float, offset: float, expanded: list[int] | None) -> None:
        self.logprob = logprob + offset
        self.expanded = expanded
        self.memory: dict[str, float] = {}

    def load(self, weights) -> None:
        list(weights)

    def run(self, requests) -> list[Reply]:
        replies = []
        for request in requests:
            ids = request.sampling["logprob_token_ids"]
            output = Output(token_ids=[7], logprobs=[self.logprob], stopped=False)
            prompt_ids = self.expanded or request.prompt_ids
            first = dict.fromkeys(ids, 0.0)
            replies.append(
                Reply(prompt_ids=prompt_ids, outputs=[output], first_logprobs=first)
            )
        return replies

    def reset_prefix_cache(self) -> None:
        pass

    def reset_encoder_cache(self) -> None:
        pass


def sync_on_rank(folder: Path, rank: int, ranks: int, fault: str, port: int) -> None:
    become_rank(rank, ranks, port)
    torch.distributed.init_process_group("gloo")
    policy = tiny_policy()
    requests = EngineRequests(image_token_id=IMAGE, stop_ids=[EOS], banned_ids=[])
    alone = WeightProbe(tiny_policy(), requests)
    alone.choose(PROMPTS)
    broken = OffsetEngine(0.0, 0.0, None)
    logprob = float(alone.trainer_logprobs(alone.sample(broken))[0])
    shard(policy, init_device_mesh("cpu", (ranks,)))
    faulty = rank == 1
    offset = 0.5 if faulty and fault == "values" else 0.0
    expanded = [IMAGE, IMAGE] if faulty and fault == "prompt" else None
    engine = OffsetEngine(logprob, offset, expanded)
    probe = WeightProbe(policy, requests)
    sampler = EngineSampler(lambda: engine, PolicyWeights(policy, probe), requests)
    try:
        sampler.sync(PROMPTS if rank or fault != "no prompts" else [])
    except EngineFault as error:
        (folder / f"fault-{rank}").write_text(str(error))
    else:
        (folder / f"fault-{rank}").write_text("none")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("values", "engine and trainer differ by 5.00e-01 per sampled token"),
        ("prompt", "the engine counts 2 image tokens where the trainer counts 0"),
    ],
)
def test_a_fault_of_one_rank_is_raised_on_all(tmp_path, fault, message):
    run_processes(sync_on_rank, [(tmp_path, rank, 2, fault) for rank in range(2)])
    texts = [(tmp_path / f"fault-{rank}").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert message in texts[0]


def test_a_rank_without_prompts_takes_part_in_the_first_check(tmp_path):
    run_processes(sync_on_rank, [(tmp_path, rank, 2, "no prompts") for rank in range(2)])
    texts = [(tmp_path / f"fault-{rank}").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
