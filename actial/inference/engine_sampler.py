"""Sampling with a foreign engine that is proven, at every change of weights, to compute what the trainer computes.

An engine takes token ids with one placeholder per image, and the images; it must give back the prompt as we count it, and log-probabilities
of the law sampled from. After each transfer of weights a probe prompt is scored by both sides; if they differ, the cause is looked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from actial.config import Precision
from actial.core.errors import UserError
from actial.core.records import Completion, FinishReason, Prompt, SamplingParams
from actial.core.seeding import hash_int
from actial.inference.engine import Engine, EngineFault, Output, Reply, Request
from actial.inference.samplers import Groups, finished
from actial.inference.weight_sync import engine_name, named_weights, trainer_names, weights_version
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import Continuation, as_prefix_groups, pack
from actial.modeling.token_scoring import SamplingDistribution

NEVER = -1e9  # added to the logit of a banned id: its probability is exactly 0 in float32
PROBE_TOKENS = 16
PROBE_TEMPERATURE = 0.7
# mean |trainer - engine| of the probe's log-probabilities; bf16 is a guess, not measured on a device
PROBE_TOLERANCE = {Precision.fp32: 1e-4, Precision.bf16: 0.1}


class EngineSampler:
    """Samples with the policy's current weights: they are sent when they have changed since the last call, and then probed.

    `figures` describe the last sync (seconds, gap of the probe, how far the probe moved) and the last samples (seconds, tokens a second).
    """

    def __init__(
        self,
        open_engine: Callable[[], Engine],
        policy: Policy,
        *,
        stop_ids: Sequence[int],
        banned_ids: Sequence[int],
    ) -> None:
        self.open_engine = open_engine
        self.policy = policy
        self.stop_ids = list(stop_ids)
        self.banned_ids = list(banned_ids)
        self.probe: Prompt | None = None
        self.probe_logprobs: np.ndarray | None = None
        self.figures: dict[str, float] = {}

    @property
    def engine(self) -> Engine:
        return self.open_engine()

    def generate(self, prompts: list[Prompt], n: int, params: SamplingParams) -> Groups:
        """As `Sampler.generate`. Raises UserError for a cut law or a prompt beyond the engine's limits, EngineFault when engine and trainer
        do not compute the same."""
        return self.begin(prompts, n, params).result()

    def begin(self, prompts: list[Prompt], n: int, params: SamplingParams) -> Future[Groups]:
        """As `RolloutSampler.begin`; raises as `generate` does."""
        if params.top_p != 1.0 or params.top_k != 0:
            raise UserError(
                f"top_p={params.top_p}, top_k={params.top_k}: the trainer scores the whole law, a cut one would bias every probability "
                "ratio; set top_p=1 and top_k=0."
            )
        if not prompts:
            if self.probe is not None:
                self.sync([])  # where weights are sharded, every rank takes part
            return finished([])
        for prompt in prompts:
            if len(prompt.input_ids) + params.max_tokens > self.engine.max_model_len:
                raise UserError(
                    f"prompt {prompt.uid} has {len(prompt.input_ids)} tokens and may get {params.max_tokens} more, but "
                    f"sampler.engine.max_model_len={self.engine.max_model_len}: raise it, or lower max_tokens."
                )
        self.sync(prompts)
        engine = self.engine
        if engine.background is None:
            return finished(self._sample(engine, prompts, n, params))
        engine.under_way = engine.background.submit(self._sample, engine, prompts, n, params)
        return engine.under_way

    def _sample(
        self, engine: Engine, prompts: list[Prompt], n: int, params: SamplingParams
    ) -> Groups:
        started = time.perf_counter()
        replies = engine.run(
            [self._request(prompt, self._sampling(prompt, n, params)) for prompt in prompts]
        )
        seconds = time.perf_counter() - started
        engine.sleep()
        groups = [
            self._completions(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)
        ]
        tokens = sum(len(completion.token_ids) for group in groups for completion in group)
        memory = {f"device_gib/{stage}": used for stage, used in engine.memory.items()}
        self.figures = {
            **self.figures,
            **memory,
            "sampling_seconds": seconds,
            "sampled_tokens_per_second": tokens / seconds,
        }
        return groups

    # ------------------------------------------------------------ requests and replies

    def _sampling(self, prompt: Prompt, n: int, params: SamplingParams) -> dict[str, Any]:
        return {
            "n": n,
            "temperature": params.temperature,
            "max_tokens": params.max_tokens,
            "seed": hash_int("sample", params.seed, prompt.uid)
            >> 2,  # below 2**62: the engine adds the sample's number
            "logprobs": 0,  # the sampled id's alone
            "logit_bias": dict.fromkeys(self.banned_ids, NEVER),
            "stop_token_ids": self.stop_ids,
            "ignore_eos": True,  # stop at our ids alone, whatever the checkpoint's generation_config says
            "detokenize": False,
        }

    def _request(self, prompt: Prompt, sampling: dict[str, Any]) -> Request:
        return Request(
            uid=prompt.uid, prompt_ids=prompt.engine_ids, images=prompt.images, sampling=sampling
        )

    def _completions(self, prompt: Prompt, reply: Reply) -> list[Completion]:
        self._check_prompt(prompt, reply)
        return [self._completion(prompt, output) for output in reply.outputs]

    def _check_prompt(self, prompt: Prompt, reply: Reply) -> None:
        if reply.prompt_ids == prompt.input_ids:
            return
        image = self.policy.spec.image_token_id
        ours, theirs = prompt.input_ids.count(image), reply.prompt_ids.count(image)
        if ours != theirs:
            raise EngineFault(
                f"prompt {prompt.uid}: the engine counts {theirs} image tokens where the trainer counts {ours}; it has other pixel limits "
                "and resized the images: give it model.min_pixels and model.max_pixels."
            )
        raise EngineFault(
            f"prompt {prompt.uid}: the engine's {len(reply.prompt_ids)} prompt tokens are not the trainer's {len(prompt.input_ids)}."
        )

    def _completion(self, prompt: Prompt, output: Output) -> Completion:
        if stray := set(output.token_ids) & set(self.banned_ids):
            raise EngineFault(
                f"prompt {prompt.uid}: the engine sampled the placeholder ids {sorted(stray)}; its ban (logit_bias) has no effect."
            )
        finish = FinishReason.STOP if output.stopped else FinishReason.LENGTH
        return Completion(token_ids=output.token_ids, logprobs=output.logprobs, finish=finish)

    # ------------------------------------------------------------ weights

    def sync(self, prompts: Sequence[Prompt]) -> None:
        """Send the weights if they changed since any sampler's last sync with this engine, and prove it on a probe taken from `prompts`.

        Raises EngineFault, with the cause, when the engine then does not agree with the trainer.
        """
        engine = self.engine
        version = weights_version(self.policy)
        if engine.synced_to == version:
            return
        if engine.under_way is not None:
            wait(
                [engine.under_way]
            )  # no request may see two sets of weights; who asked for it gets its error
        if self.probe is None:
            self.probe = max(
                prompts, key=lambda prompt: (len(prompt.images), len(prompt.input_ids))
            )
        started = time.perf_counter()
        engine.load(named_weights(self.policy))
        seconds = time.perf_counter() - started
        self.check(self.probe)
        engine.synced_to = version
        self.figures["sync_seconds"] = seconds

    def check(self, prompt: Prompt) -> None:
        """Compare both sides' log-probabilities of some ids behind `prompt`, under a temperature other than 1."""
        ours = self.trainer_probe(prompt)
        theirs = self.engine_probe(prompt)
        gap = float(np.abs(ours - theirs).mean())
        moved = (
            0.0
            if self.probe_logprobs is None
            else float(np.abs(theirs - self.probe_logprobs).mean())
        )
        self.probe_logprobs = theirs
        self.figures |= {"probe_gap": gap, "probe_moved": moved}
        if gap > self._tolerance:
            cause = self._cause(prompt, ours, theirs)
            raise EngineFault(
                f"engine and trainer differ by {gap:.2e} per token on the probe {prompt.uid}: {cause}"
            )

    @property
    def _tolerance(self) -> float:
        return PROBE_TOLERANCE[self.policy.config.precision]

    def _probe_ids(self, prompt: Prompt) -> list[int]:
        allowed = sorted(set(range(self.policy.core.lm_head.out_features)) - set(self.banned_ids))
        return list(
            dict.fromkeys(allowed[hash_int("probe", i) % len(allowed)] for i in range(PROBE_TOKENS))
        )

    def engine_probe(self, prompt: Prompt) -> np.ndarray:
        """(N,) the engine's log-probabilities of the probe's ids right after the prompt."""
        ids = self._probe_ids(prompt)
        params = SamplingParams(temperature=PROBE_TEMPERATURE, max_tokens=1)
        sampling = {
            **self._sampling(prompt, 1, params),
            "logprobs": len(ids),
            "logprob_token_ids": ids,
        }
        (reply,) = self.engine.run([self._request(prompt, sampling)])
        self._check_prompt(prompt, reply)
        if absent := [token for token in ids if token not in reply.first]:
            raise EngineFault(
                f"prompt {prompt.uid}: the engine left out the log-probabilities of {len(absent)} of {len(ids)} ids."
            )
        return np.array([reply.first[token] for token in ids])

    @torch.no_grad()
    def trainer_probe(
        self, prompt: Prompt, distribution: SamplingDistribution | None = None
    ) -> np.ndarray:
        """(N,) the trainer's, from one-token branches behind the prompt."""
        distribution = distribution or SamplingDistribution(
            PROBE_TEMPERATURE, tuple(self.banned_ids)
        )
        (prefix_group,), images = as_prefix_groups([prompt])
        prefix_group.continuations = [
            Continuation([token], [True]) for token in self._probe_ids(prompt)
        ]
        batch = pack(
            [prefix_group], images, self.policy.spec, self.policy.config.sequence_tokens
        ).to(self.policy.device)
        training = self.policy.training
        self.policy.eval()
        logprobs = self.policy.token_logprobs(batch, distribution).logprobs.cpu().numpy()
        self.policy.train(training)
        return np.asarray(logprobs)

    # ------------------------------------------------------------ what is wrong

    def _cause(self, prompt: Prompt, ours: np.ndarray, theirs: np.ndarray) -> str:
        """Try one explanation or remedy after the other; the one that fits names the cause."""

        def agrees(trainer: np.ndarray, engine: np.ndarray) -> bool:
            return float(np.abs(trainer - engine).mean()) <= self._tolerance

        if agrees(self.trainer_probe(prompt, SamplingDistribution(1.0)), theirs):
            return "its log-probabilities are not divided by the temperature; set sampler.engine.logprobs_mode=processed_logprobs."
        if len(prompt.images) > 1 and agrees(
            self.trainer_probe(replace(prompt, images=prompt.images[::-1])), theirs
        ):
            return "it gets the images in another order."
        if wrong := self._wrong_weight():
            return wrong
        self.engine.reset_prefix_cache()
        if agrees(ours, self.engine_probe(prompt)):
            return "its prefix cache was not reset and served keys and values of the old weights."
        self.engine.reset_encoder_cache()
        self.engine.reset_prefix_cache()
        if agrees(ours, self.engine_probe(prompt)):
            return "its encoder cache was not reset and served image features of the old weights."
        otherwise = (
            "it sees other pixels (limits or normalisation) or computes in another precision"
        )
        if self.engine.shows_weights:
            return f"weights agree and caches are clear: {otherwise}."
        return f"caches are clear and its weights cannot be read back: the transfer is at fault, {otherwise}."

    def _wrong_weight(self) -> str | None:
        if not self.engine.shows_weights:
            return None
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in named_weights(self.policy):
            target = engine_name(name)
            found = parts.setdefault(target, {})
            found[name] = tensor
            wanted = trainer_names(target)
            if len(found) < len(wanted):
                continue
            verdict = self.engine.compare(target, torch.cat([found[part] for part in wanted]))
            del parts[target]
            if verdict in ("transposed", "different"):
                return f"its weight {target} is {verdict} from the trainer's {', '.join(wanted)}; the transfer is at fault."
        return None
