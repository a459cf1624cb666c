"""Proof, after each transfer of weights, that an engine computes what the trainer computes.

The engine samples a few tokens behind each of some probe prompts; the trainer scores the
same tokens. The statistic is the mean difference of their log-probabilities over all of
them: under bf16 a single token may differ by 0.3 although nothing is wrong, the mean
over sampled tokens by about 0.02 (measured with the tiny base).

Where weights are sharded, every forward pass of the trainer is a collective. So all
ranks make the same calls, in success and in failure, and raise together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from actial.config import Precision
from actial.core.records import Prompt, SamplingParams
from actial.core.seeding import hash_int
from actial.inference.engine import Engine, EngineFault
from actial.inference.engine_requests import EngineRequests
from actial.inference.weight_sync import first_wrong_weight, named_weights
from actial.modeling.dtensor import gather_objects, is_sharded
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import Continuation, as_prefix_groups, pack
from actial.modeling.token_scoring import SamplingDistribution

# sampled behind each prompt; as many fixed ids are read at the first position
PROBE_TOKENS = 16
PROBE_TEMPERATURE = 0.7  # other than 1, so that unscaled log-probabilities are noticed
TOLERANCE = {Precision.fp32: 1e-4, Precision.bf16: 0.1}  # nats
# An explanation names the cause only if it makes the difference this many times smaller.
CLEARLY = 3.0


@dataclass(slots=True)
class ProbeSample:
    """What the engine sampled behind a probe prompt."""

    prompt: Prompt
    token_ids: list[int]
    logprobs: list[float]
    fixed_logprobs: list[float]  # of the fixed ids, at the first position


class WeightProbe:
    """Compares an engine with the policy on prompts chosen at the first transfer.

    `tolerance` (nats, mean over sampled tokens) defaults to `TOLERANCE` of the policy's precision.
    """

    def __init__(
        self,
        policy: Policy,
        requests: EngineRequests,
        *,
        num_prompts: int = 4,
        tolerance: float | None = None,
    ) -> None:
        self.policy = policy
        self.requests = requests
        self.num_prompts = num_prompts
        self.tolerance = TOLERANCE[policy.config.precision] if tolerance is None else tolerance
        self.prompts: list[Prompt] = []
        self.fixed_logprobs: np.ndarray | None = None  # at the last check

    def choose(self, prompts: Sequence[Prompt]) -> None:
        """Take the probe prompts, those with most images and tokens, unless there are some."""
        if self.prompts:
            return
        by_size = sorted(
            prompts, key=lambda p: (len(p.images), len(p.input_ids)), reverse=True
        )
        self.prompts = by_size[: self.num_prompts]
        if not self.prompts:
            # A rank without prompts takes part in the collectives with a prompt of one token.
            token = self._fixed_ids()[0]
            self.prompts = [
                Prompt(uid="probe", engine_ids=[token], input_ids=[token], images=[])
            ]

    def check(self, engine: Engine) -> dict[str, float]:
        """Compare both sides; the figures "probe_gap" and "probe_moved" (nats).

        Raises EngineFault on every rank when one rank's engine differs: the message is that
        of the first such rank, with the cause. A collective.
        """
        samples, failure = self._try_sample(engine)
        ours = self.trainer_logprobs(samples)
        gap = mean_gap(ours, samples)
        # NaN, as of an engine whose weights are broken, is a failure too
        failed = failure is not None or not gap <= self.tolerance
        if any(gather_objects(failed)):
            cause = self._cause(engine, gap)
            message = failure
            if failed and failure is None:
                uids = ", ".join(sample.prompt.uid for sample in samples)
                message = (
                    f"engine and trainer differ by {gap:.2e} per sampled token on the probe "
                    f"prompts {uids}: {cause}"
                )
            messages = gather_objects(message)
            raise EngineFault(next(text for text in messages if text is not None))
        fixed = np.array([value for sample in samples for value in sample.fixed_logprobs])
        moved = 0.0
        if self.fixed_logprobs is not None:
            moved = float(np.abs(fixed - self.fixed_logprobs).mean())
        self.fixed_logprobs = fixed
        return {"probe_gap": gap, "probe_moved": moved}

    # ------------------------------------------------------------ both sides

    def sample(self, engine: Engine) -> list[ProbeSample]:
        """Tokens that the engine samples behind each probe prompt, the same at each call."""
        ids = self._fixed_ids()
        params = SamplingParams(temperature=PROBE_TEMPERATURE, max_tokens=PROBE_TOKENS)
        requests = []
        for prompt in self.prompts:
            sampling = self.requests.sampling(prompt, 1, params)
            sampling |= {
                "logprobs": len(ids),
                "logprob_token_ids": ids,
                "stop_token_ids": [],  # always PROBE_TOKENS of them
            }
            requests.append(self.requests.request(prompt, sampling))
        samples = []
        for prompt, reply in zip(self.prompts, engine.run(requests), strict=True):
            self.requests.check_prompt(prompt, reply)
            fixed = reply.first_logprobs
            if absent := [token for token in ids if token not in fixed]:
                raise EngineFault(
                    f"prompt {prompt.uid}: the engine left out the log-probabilities of "
                    f"{len(absent)} of {len(ids)} ids."
                )
            (output,) = reply.outputs
            fixed_logprobs = [fixed[token] for token in ids]
            samples.append(
                ProbeSample(prompt, output.token_ids, output.logprobs, fixed_logprobs)
            )
        return samples

    @torch.no_grad()
    def trainer_logprobs(
        self,
        samples: Sequence[ProbeSample],
        distribution: SamplingDistribution | None = None,
        *,
        reverse_images: bool = False,
    ) -> np.ndarray:
        """(N,) log-probabilities the policy gives to the sampled tokens, in one forward pass."""
        if distribution is None:
            banned = tuple(self.requests.banned_ids)
            distribution = SamplingDistribution(PROBE_TEMPERATURE, banned)
        prompts = [sample.prompt for sample in samples]
        if reverse_images:
            prompts = [replace(prompt, images=prompt.images[::-1]) for prompt in prompts]
        groups, images = as_prefix_groups(prompts)
        for group, sample in zip(groups, samples, strict=True):
            supervised = [True] * len(sample.token_ids)
            group.continuations = [Continuation(sample.token_ids, supervised)]
        policy = self.policy
        batch = pack(
            groups,
            images,
            policy.spec,
            policy.config.sequence_tokens,
            always_encode_images=is_sharded(policy),
        )
        training = policy.training
        policy.eval()
        scored = policy.token_logprobs(batch.to(policy.device), distribution)
        policy.train(training)
        return np.asarray(scored.logprobs.cpu().numpy())

    def _fixed_ids(self) -> list[int]:
        vocabulary = self.policy.core.lm_head.out_features
        allowed = sorted(set(range(vocabulary)) - set(self.requests.banned_ids))
        drawn = [allowed[hash_int("probe", i) % len(allowed)] for i in range(PROBE_TOKENS)]
        return list(dict.fromkeys(drawn))

    def _try_sample(self, engine: Engine) -> tuple[list[ProbeSample], str | None]:
        """`sample`; where the engine fails, a stand-in for the forward pass and the message."""
        try:
            return self.sample(engine), None
        except EngineFault as error:
            token = self._fixed_ids()[0]
            stand_in = [ProbeSample(prompt, [token], [np.nan], []) for prompt in self.prompts]
            return stand_in, str(error)

    # ------------------------------------------------------------ what is wrong

    def _cause(self, engine: Engine, gap: float) -> str:
        """The explanation or remedy that makes the difference `gap` vanish, as a sentence.

        Every rank tries all of them in the same order: each is one forward pass or one pass
        over the weights, which are collectives.
        """

        def remaining(**scoring: Any) -> float:
            samples, _ = self._try_sample(engine)
            return mean_gap(self.trainer_logprobs(samples, **scoring), samples)

        def after(*resets: Callable[[], None]) -> float:
            for reset in resets:
                reset()
            return remaining()

        unscaled = remaining(distribution=SamplingDistribution(1.0))
        swapped = remaining(reverse_images=True)
        wrong = first_wrong_weight(engine, named_weights(self.policy))
        prefix = after(engine.reset_prefix_cache)
        encoder = after(engine.reset_encoder_cache, engine.reset_prefix_cache)

        def explains(candidate: float) -> bool:
            return candidate <= self.tolerance and candidate <= gap / CLEARLY

        if explains(unscaled):
            return (
                "its log-probabilities are not divided by the temperature; "
                "set sampler.engine.logprobs_mode=processed_logprobs."
            )
        if explains(swapped) and any(len(prompt.images) > 1 for prompt in self.prompts):
            return "it gets the images in another order."
        if wrong is not None:
            return wrong
        if explains(prefix):
            return (
                "its prefix cache was not reset and served keys and values of the old weights."
            )
        if explains(encoder):
            return (
                "its encoder cache was not reset and served image features of the old weights."
            )
        otherwise = (
            "it sees other pixels (limits or normalization) or computes in another precision; "
            "if the difference is rounding, raise sampler.probe_tolerance"
        )
        if engine.shows_weights:
            return f"weights agree and caches are clear: {otherwise}."
        return (
            "caches are clear and its weights cannot be read back: the transfer is at fault, "
            f"{otherwise}."
        )


def mean_gap(ours: np.ndarray, samples: Sequence[ProbeSample]) -> float:
    """Mean |trainer - engine| over all sampled tokens; NaN where an engine gave none."""
    theirs = np.array([value for sample in samples for value in sample.logprobs])
    return float(np.abs(ours - theirs).mean())
