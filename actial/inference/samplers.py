"""Samplers: prompts in, sampled token ids and their log-probabilities out.

Rollouts and evaluation know only the protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

import torch
from torch import Tensor

from actial.core.errors import UserError
from actial.core.records import Completion, FinishReason, Prompt, SamplingParams
from actial.core.seeding import hash_int
from actial.modeling.group_decoding import GroupCache, decode_step, prefill
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import as_prefix_groups, pack, split_micro_batches
from actial.modeling.token_scoring import SamplingDistribution

Groups = list[list[Completion]]  # the completions of each prompt


class Sampler(Protocol):
    """Samples completions."""

    def generate(self, prompts: list[Prompt], n: int, params: SamplingParams) -> Groups:
        """n completions of each prompt, in order.

        Log-probabilities are those of the distribution sampled from, banned ids excluded.
        """


class RolloutSampler(Sampler, Protocol):
    """A sampler that may work beside the trainer."""

    def begin(self, prompts: list[Prompt], n: int, params: SamplingParams) -> Future[Groups]:
        """`generate` with the weights as they are now; the caller goes on where it can."""


class SynchronousSampler:
    """A sampler whose `begin` returns when it is done: an update would change its weights."""

    def begin(
        self: Sampler, prompts: list[Prompt], n: int, params: SamplingParams
    ) -> Future[Groups]:
        """`generate`."""
        return finished(self.generate(prompts, n, params))


def finished(groups: Groups) -> Future[Groups]:
    """A future that is done."""
    future: Future[Groups] = Future()
    future.set_result(groups)
    return future


def refuse_truncated_distribution(params: SamplingParams) -> None:
    """Raise UserError for top_p or top_k, under which the trainer could not score a sample."""
    if params.top_p != 1.0 or params.top_k != 0:
        raise UserError(
            f"top_p={params.top_p}, top_k={params.top_k}: the trainer scores the whole "
            "distribution, a truncated one would bias every probability ratio; set top_p=1 and "
            "top_k=0."
        )


class HFSampler(SynchronousSampler):
    """Decodes with the policy's own weights, so there is nothing to synchronize.

    Each prompt is computed once; its n samples share its keys and values. A sample's randomness
    depends on the seed, the prompt's uid and the sample's number, not on what is decoded beside it.
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
    def generate(self, prompts: list[Prompt], n: int, params: SamplingParams) -> Groups:
        """As `Sampler.generate`. Raises UserError for top_p or top_k."""
        refuse_truncated_distribution(params)
        training = self.policy.training
        self.policy.eval()
        size = max(1, self.batch_size // n)
        groups: Groups = []
        try:
            with self.policy.autocast():
                for start in range(0, len(prompts), size):
                    groups += self._generate_chunk(prompts[start : start + size], n, params)
        finally:
            self.policy.train(training)
        return groups

    def _generate_chunk(self, prompts: list[Prompt], n: int, params: SamplingParams) -> Groups:
        prefixes, images = as_prefix_groups(prompts)
        config, device = self.policy.config, self.policy.device
        budget = max(config.micro_batch_tokens, config.sequence_tokens)
        groups: Groups = []
        for members in split_micro_batches(prefixes, budget):
            micro_batch = [prefixes[i] for i in members]
            batch = pack(micro_batch, images, self.policy.spec, config.sequence_tokens).to(
                device
            )
            cache, hidden, positions = prefill(self.policy.core, batch, n, params.max_tokens)
            noise = _noise([prompts[i].uid for i in members], n, params, device)
            groups += self._decode(cache, hidden, positions, noise, params)
        return groups

    def _decode(
        self,
        cache: GroupCache,
        hidden: Tensor,
        positions: Tensor,
        noise: Tensor,
        params: SamplingParams,
    ) -> Groups:
        """Sample until every sequence has stopped, with `noise` (P, G, max_tokens)."""
        # All results are (P, G, ..). The batch that is decoded shrinks: `rows` and `columns` hold,
        # for each of its sequences, where in the results it belongs. Stopped sequences leave
        # whenever that makes the batch a quarter smaller.
        prompts, group, limit = noise.shape
        device = noise.device
        distribution = SamplingDistribution(params.temperature or 1.0, self.banned_ids)
        token_ids = torch.zeros((prompts, group, limit), dtype=torch.long, device=device)
        logprobs = torch.zeros((prompts, group, limit), device=device)
        lengths = torch.full((prompts, group), limit, device=device)
        stops = torch.tensor(self.stop_ids, device=device)
        rows = torch.arange(prompts, device=device)[:, None].expand(prompts, group)
        columns = torch.arange(group, device=device).expand(prompts, group)
        live = torch.ones((prompts, group), dtype=torch.bool, device=device)
        states = hidden[:, None].expand(-1, group, -1)
        for step in range(limit):
            logits = distribution.process_logits(self.policy.core.lm_head(states))
            log_probs = logits.log_softmax(-1)
            tokens = _draw(
                log_probs, noise[rows, columns, step], greedy=params.temperature == 0
            )
            token_ids[rows, columns, step] = tokens
            logprobs[rows, columns, step] = log_probs.gather(-1, tokens[..., None])[..., 0]
            stopped = live & torch.isin(tokens, stops)
            lengths[rows[stopped], columns[stopped]] = step + 1
            live &= ~stopped
            if not live.any() or step + 1 == limit:
                break
            most = int(live.sum(1).max())
            if int(live.any(1).sum()) * most <= 0.75 * live.numel():
                remaining = live.any(1).nonzero()[
                    :, 0
                ]  # prompts that still have a live sample
                by_life = live[remaining].int().argsort(dim=1, descending=True, stable=True)
                members = by_life[:, :most]
                cache.keep(remaining, members)
                at = (remaining[:, None], members)
                rows, columns, live, tokens = rows[at], columns[at], live[at], tokens[at]
                positions = positions[remaining]
            states = decode_step(self.policy.core, cache, tokens, positions)
        return _completions(token_ids, logprobs, lengths, self.stop_ids)


def _noise(uids: list[str], n: int, params: SamplingParams, device: torch.device) -> Tensor:
    """(P, G, max_tokens) uniform draws, one generator per sequence."""
    if params.temperature == 0:
        return torch.zeros((len(uids), n, params.max_tokens), device=device)
    generator = torch.Generator()

    def draw(uid: str, member: int) -> Tensor:
        generator.manual_seed(hash_int("sample", params.seed, uid, member) >> 1)
        return torch.rand(params.max_tokens, generator=generator, dtype=torch.float64)

    draws = [torch.stack([draw(uid, member) for member in range(n)]) for uid in uids]
    return torch.stack(draws).to(device)


def _draw(log_probs: Tensor, uniform: Tensor, *, greedy: bool) -> Tensor:
    """(P, G) ids by inverting the cumulative distribution of (P, G, V) log-probabilities.

    In double precision, so that no token of a large vocabulary is lost.
    """
    if greedy:
        return log_probs.argmax(-1)
    cumulative = log_probs.double().exp().cumsum(-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=log_probs.shape[-1] - 1)


def _completions(
    token_ids: Tensor, logprobs: Tensor, lengths: Tensor, stop_ids: tuple[int, ...]
) -> Groups:
    groups: Groups = []
    for group in zip(token_ids.tolist(), logprobs.tolist(), lengths.tolist(), strict=True):
        completions = []
        for ids, scores, length in zip(*group, strict=True):
            stopped = ids[length - 1] in stop_ids
            completions.append(
                Completion(
                    token_ids=ids[:length],
                    logprobs=scores[:length],
                    finish=FinishReason.STOP if stopped else FinishReason.LENGTH,
                )
            )
        groups.append(completions)
    return groups
