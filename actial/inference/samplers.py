"""Samplers: prompts in, sampled token ids and their log-probabilities out. Rollouts and evaluation know only the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

import torch

from actial.core.errors import UserError
from actial.core.records import Completion, FinishReason, Prompt, SamplingParams
from actial.core.seeding import hash_int
from actial.modeling.group_decoding import GroupCache, decode_step, prefill
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import as_prefix_groups, pack, split_micro_batches
from actial.modeling.token_scoring import SamplingDistribution


class Sampler(Protocol):
    """n completions of each prompt, in order. Log-probabilities are those of the law sampled from, banned ids excluded."""

    def generate(
        self, prompts: list[Prompt], n: int, params: SamplingParams
    ) -> list[list[Completion]]: ...


Groups = list[list[Completion]]


class RolloutSampler(Sampler, Protocol):
    def begin(self, prompts: list[Prompt], n: int, params: SamplingParams) -> Future[Groups]:
        """`generate` with the weights as they are now, beside what the caller does next where the sampler can."""


class SynchronousSampler:
    """A sampler that is done when `begin` returns: the next update would change the weights under its hands."""

    def begin(
        self: Sampler, prompts: list[Prompt], n: int, params: SamplingParams
    ) -> Future[Groups]:
        return finished(self.generate(prompts, n, params))


def finished(groups: Groups) -> Future[Groups]:
    future: Future[Groups] = Future()
    future.set_result(groups)
    return future


class HFSampler(SynchronousSampler):
    """Decodes with the policy's own weights, so there is nothing to synchronise.

    Each prompt is computed once; its n samples share its keys and values. A sample's randomness depends on the seed, the
    prompt's uid and the sample's number, not on what is decoded beside it.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        stop_ids: Sequence[int],
        banned_ids: Sequence[int],
        batch_size: int = 256,
    ) -> None:
        self.policy = policy
        self.stop_ids = tuple(stop_ids)
        self.banned_ids = tuple(banned_ids)
        self.batch_size = batch_size

    @torch.no_grad()
    def generate(
        self, prompts: list[Prompt], n: int, params: SamplingParams
    ) -> list[list[Completion]]:
        """Raises UserError for top_p or top_k, whose cut law the trainer could not score."""
        if params.top_p != 1.0 or params.top_k != 0:
            raise UserError(
                f"top_p={params.top_p}, top_k={params.top_k}: this sampler draws from the whole law; set top_p=1 and top_k=0."
            )
        training = self.policy.training
        self.policy.eval()
        size = max(1, self.batch_size // n)
        try:
            with self.policy.autocast():
                chunks = [prompts[i : i + size] for i in range(0, len(prompts), size)]
                return [
                    group for chunk in chunks for group in self._generate_chunk(chunk, n, params)
                ]
        finally:
            self.policy.train(training)

    def _generate_chunk(
        self, prompts: list[Prompt], n: int, params: SamplingParams
    ) -> list[list[Completion]]:
        prefix_groups, images = as_prefix_groups(prompts)
        config = self.policy.config
        groups: list[list[Completion]] = []
        for part in split_micro_batches(
            prefix_groups, max(config.micro_batch_tokens, config.sequence_tokens)
        ):
            batch = pack(
                [prefix_groups[i] for i in part], images, self.policy.spec, config.sequence_tokens
            ).to(self.policy.device)
            cache, hidden, positions = prefill(self.policy.core, batch, n, params.max_tokens)
            noise = _noise([prompts[i].uid for i in part], n, params, self.policy.device)
            groups += self._decode(cache, hidden, positions, noise, params)
        return groups

    def _decode(
        self,
        cache: GroupCache,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        noise: torch.Tensor,
        params: SamplingParams,
    ) -> list[list[Completion]]:
        """Sample until every sequence has stopped; finished ones leave the batch whenever that makes it a quarter smaller."""
        prompts, group, limit = noise.shape
        distribution = SamplingDistribution(params.temperature or 1.0, self.banned_ids)
        token_ids = torch.zeros((prompts, group, limit), dtype=torch.long, device=noise.device)
        logprobs = torch.zeros((prompts, group, limit), device=noise.device)
        lengths = torch.full((prompts, group), limit, device=noise.device)
        stops = torch.tensor(self.stop_ids, device=noise.device)
        rows = torch.arange(prompts, device=noise.device)[:, None].expand(
            prompts, group
        )  # where each live sequence is kept
        columns = torch.arange(group, device=noise.device).expand(prompts, group)
        live = torch.ones((prompts, group), dtype=torch.bool, device=noise.device)
        states = hidden[:, None].expand(-1, group, -1)
        for step in range(limit):
            log_probs = distribution.process_logits(self.policy.core.lm_head(states)).log_softmax(
                -1
            )
            tokens = _draw(log_probs, noise[rows, columns, step], greedy=params.temperature == 0)
            token_ids[rows, columns, step] = tokens
            logprobs[rows, columns, step] = log_probs.gather(-1, tokens[..., None])[..., 0]
            stopped = live & torch.isin(tokens, stops)
            lengths[rows[stopped], columns[stopped]] = step + 1
            live &= ~stopped
            if not live.any() or step + 1 == limit:
                break
            most = int(live.sum(1).max())
            if int(live.any(1).sum()) * most <= 0.75 * live.numel():
                kept = live.any(1).nonzero()[:, 0]
                members = live[kept].int().argsort(dim=1, descending=True, stable=True)[:, :most]
                cache.keep(kept, members)
                rows, columns, live, tokens = (
                    x[kept[:, None], members] for x in (rows, columns, live, tokens)
                )
                positions = positions[kept]
            states = decode_step(self.policy.core, cache, tokens, positions)
        return _completions(token_ids, logprobs, lengths, self.stop_ids)


def _noise(uids: list[str], n: int, params: SamplingParams, device: torch.device) -> torch.Tensor:
    """(P, G, max_tokens) uniform draws, one generator per sequence."""
    if params.temperature == 0:
        return torch.zeros((len(uids), n, params.max_tokens), device=device)
    generator = torch.Generator()

    def draw(uid: str, member: int) -> torch.Tensor:
        generator.manual_seed(hash_int("sample", params.seed, uid, member) >> 1)
        return torch.rand(params.max_tokens, generator=generator, dtype=torch.float64)

    return (
        torch.stack([draw(uid, member) for uid in uids for member in range(n)])
        .view(len(uids), n, -1)
        .to(device)
    )


def _draw(log_probs: torch.Tensor, uniform: torch.Tensor, *, greedy: bool) -> torch.Tensor:
    """(P, G) ids by inverting the cumulative law (.., V), in double precision so that no token of a large vocabulary is lost."""
    if greedy:
        return log_probs.argmax(-1)
    cumulative = log_probs.double().exp().cumsum(-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=log_probs.shape[-1] - 1)


def _completions(
    token_ids: torch.Tensor,
    logprobs: torch.Tensor,
    lengths: torch.Tensor,
    stop_ids: tuple[int, ...],
) -> list[list[Completion]]:
    def one(ids: list[int], scores: list[float], length: int) -> Completion:
        finish = FinishReason.STOP if ids[length - 1] in stop_ids else FinishReason.LENGTH
        return Completion(token_ids=ids[:length], logprobs=scores[:length], finish=finish)

    groups = zip(token_ids.tolist(), logprobs.tolist(), lengths.tolist(), strict=True)
    return [[one(*member) for member in zip(*group, strict=True)] for group in groups]
