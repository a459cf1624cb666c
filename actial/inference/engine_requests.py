"""Prompts as requests of an engine, and its replies as completions, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actial.core.records import Completion, FinishReason, Prompt, SamplingParams
from actial.core.seeding import hash_int
from actial.inference.engine import EngineFault, Output, Reply, Request

# added to the logit of a banned id: its probability is exactly 0 in float32
BAN = -1e9


class EngineRequests:
    """Builds the requests of one model and reads the replies."""

    def __init__(
        self, *, image_token_id: int, stop_ids: Sequence[int], banned_ids: Sequence[int]
    ) -> None:
        self.image_token_id = image_token_id
        self.stop_ids = list(stop_ids)
        self.banned_ids = list(banned_ids)

    def sampling(self, prompt: Prompt, n: int, params: SamplingParams) -> dict[str, Any]:
        """Arguments of vLLM's SamplingParams for `n` completions of a prompt."""
        return {
            "n": n,
            "temperature": params.temperature,
            "max_tokens": params.max_tokens,
            # below 2**62: the engine adds the number of the completion
            "seed": hash_int("sample", params.seed, prompt.uid) >> 2,
            "logprobs": 0,  # of the sampled id alone
            "logit_bias": dict.fromkeys(self.banned_ids, BAN),
            "stop_token_ids": self.stop_ids,
            # stop at our ids alone, whatever the checkpoint's generation_config says
            "ignore_eos": True,
            "detokenize": False,
        }

    def request(self, prompt: Prompt, sampling: dict[str, Any]) -> Request:
        """The request of a prompt."""
        return Request(
            uid=prompt.uid,
            prompt_ids=prompt.engine_ids,
            images=prompt.images,
            sampling=sampling,
        )

    def completions(self, prompt: Prompt, reply: Reply) -> list[Completion]:
        """The completions of a reply. Raises EngineFault as `check_prompt`, or for a banned id."""
        self.check_prompt(prompt, reply)
        return [self._completion(prompt, output) for output in reply.outputs]

    def check_prompt(self, prompt: Prompt, reply: Reply) -> None:
        """Raise EngineFault unless the engine saw the tokens that the trainer will score."""
        if reply.prompt_ids == prompt.input_ids:
            return
        ours = prompt.input_ids.count(self.image_token_id)
        theirs = reply.prompt_ids.count(self.image_token_id)
        if ours != theirs:
            raise EngineFault(
                f"prompt {prompt.uid}: the engine counts {theirs} image tokens where the trainer "
                f"counts {ours}; it has other pixel limits and resized the images: start it with "
                "model.min_pixels and model.max_pixels."
            )
        raise EngineFault(
            f"prompt {prompt.uid}: the engine's {len(reply.prompt_ids)} prompt tokens differ from "
            f"the trainer's {len(prompt.input_ids)}."
        )

    def _completion(self, prompt: Prompt, output: Output) -> Completion:
        if banned := set(output.token_ids) & set(self.banned_ids):
            raise EngineFault(
                f"prompt {prompt.uid}: the engine sampled the placeholder ids {sorted(banned)}; "
                "its ban (logit_bias) has no effect."
            )
        finish = FinishReason.STOP if output.stopped else FinishReason.LENGTH
        return Completion(token_ids=output.token_ids, logprobs=output.logprobs, finish=finish)
