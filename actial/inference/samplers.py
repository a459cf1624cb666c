"""Samplers: prompts in, sampled token ids and their log-probabilities out.

Rollouts and evaluation know only the protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from actial.core.errors import UserError
from actial.core.records import Completion, FinishReason, Prompt, SamplingParams
from actial.core.seeding import hash_int
from actial.modeling.group_decoding import GroupCache, prefill
from actial.modeling.joined_decoding import open_decoder
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

    Each prompt is computed once; its n samples share its keys and values. A sample's
    randomness depends on the seed, the prompt's uid and the sample's number, not on
    what is decoded beside it.
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
            cache, hidden = prefill(self.policy.core, batch, n, params.max_tokens)
            noise = _noise([prompts[i].uid for i in members], n, params, device)
            completions = self._decode(cache, hidden, noise, params)
            groups += [completions[i : i + n] for i in range(0, len(completions), n)]
        return groups

    @torch.inference_mode()
    def _decode(
        self, cache: GroupCache, hidden: Tensor, noise: Tensor, params: SamplingParams
    ) -> list[Completion]:
        """Sample until every sequence has stopped, with `noise` (max_tokens, P, G).

        `hidden` (P, H) are the states that predict the first tokens of the prompts.
        """
        # Results are (max_tokens, P * G). `samples` (B,) are the sequences that go on and `rows`
        # (B,) the rows of the cache that hold their histories: equal ones share a row.
        limit, prompts, group = noise.shape
        count, device = prompts * group, noise.device
        noise = noise.view(limit, count)
        core = self.policy.core
        distribution = SamplingDistribution(params.temperature or 1.0)
        bans = core.lm_head.weight.new_zeros(core.lm_head.out_features)
        bans.index_fill_(
            0, torch.tensor(self.banned_ids, dtype=torch.long, device=device), -torch.inf
        )
        token_ids = torch.zeros((limit, count), dtype=torch.long, device=device)
        logprobs = torch.zeros((limit, count), device=device)
        lengths = torch.full((count,), limit, device=device)
        stops = torch.tensor(self.stop_ids, device=device)
        decode = open_decoder(core, cache)
        samples = torch.arange(count, device=device)
        rows = samples // group
        states = hidden
        for step in range(limit):
            logits = distribution.process_logits(linear(states, core.lm_head.weight, bans))
            probabilities = logits.softmax(-1)  # (N, V)
            if params.temperature == 0:
                tokens = logits.argmax(-1)[rows]
            else:
                # Rows draw for all their samples at once: one each, when these are apart.
                column = 0 if cache.apart else samples % group
                uniform = noise.new_zeros(len(logits), 1 if cache.apart else group)
                uniform[rows, column] = noise[step, samples]
                tokens = _draw(probabilities, uniform)[rows, column]
            token_ids[step, samples] = tokens
            logprobs[step, samples] = probabilities[rows, tokens].log()
            stopped = (tokens[:, None] == stops).any(-1)
            if stopped.any():
                lengths[samples[stopped]] = step + 1
                goes_on = ~stopped
                samples, rows, tokens = samples[goes_on], rows[goes_on], tokens[goes_on]
            if not len(samples) or step + 1 == limit:
                break
            rows, decoded = cache.branch(rows, tokens)
            states = decode(decoded)
        return _completions(token_ids.T, logprobs.T, lengths, self.stop_ids)


def _noise(uids: list[str], n: int, params: SamplingParams, device: torch.device) -> Tensor:
    """(max_tokens, P, n) uniform draws, one generator per sequence."""
    shape = (params.max_tokens, len(uids), n)
    if params.temperature == 0:
        return torch.zeros(shape, device=device)
    generator = torch.Generator()

    def draw(uid: str, member: int) -> Tensor:
        generator.manual_seed(hash_int("sample", params.seed, uid, member) >> 1)
        return torch.rand(params.max_tokens, generator=generator, dtype=torch.float64)

    draws = torch.stack([draw(uid, member) for uid in uids for member in range(n)])
    return draws.T.reshape(shape).to(device)


def _draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """(N, D) ids by inverting the cumulative distributions of (N, V) probabilities.

    `uniform` (N, D) holds D random numbers for each row. Sums are in double precision, so that no
    token of a large vocabulary is lost.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    threshold = uniform * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, threshold, right=True)  # the first entry above
    return ids.clamp(max=probabilities.shape[-1] - 1)


def _completions(
    token_ids: Tensor, logprobs: Tensor, lengths: Tensor, stop_ids: tuple[int, ...]
) -> list[Completion]:
    """The completions of (B, max_tokens) ids and log-probabilities, cut at `lengths` (B,)."""
    completions = []
    sequences = zip(token_ids.tolist(), logprobs.tolist(), lengths.tolist(), strict=True)
    for ids, scores, length in sequences:
        stopped = ids[length - 1] in stop_ids
        completion = Completion(
            token_ids=ids[:length],
            logprobs=scores[:length],
            finish=FinishReason.STOP if stopped else FinishReason.LENGTH,
        )
        completions.append(completion)
    return completions
