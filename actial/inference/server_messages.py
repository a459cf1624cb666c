"""Requests and replies as JSON of vLLM's token-in, token-out route."""

from __future__ import annotations

from typing import Any

from actial.core.image_codec import png_url
from actial.inference.engine import Output, Reply, Request


def request_body(request: Request) -> dict[str, Any]:
    """The body of /inference/v1/generate for a request."""
    sampling = dict(request.sampling)
    biases = request.sampling["logit_bias"].items()
    sampling["logit_bias"] = {str(token): bias for token, bias in biases}
    if ids := sampling.get("logprob_token_ids"):
        # The server lists the sampled id first and cuts the list at as many as were asked for:
        # the last one, asked for twice, makes room.
        sampling |= {"logprob_token_ids": [*ids, ids[-1]], "logprobs": len(ids) + 1}
    parts = [{"type": "image_url", "url": png_url(image)} for image in request.images]
    return {
        "token_ids": request.prompt_ids,
        "content_parts": parts or None,
        "sampling_params": sampling,
        "return_token_ids": True,
    }


def reply_of(answer: dict[str, Any]) -> Reply:
    """The reply in an answer of /inference/v1/generate."""
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    outputs: list[Output] = []
    for choice in choices:
        logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        stopped = choice["finish_reason"] == "stop"
        outputs.append(
            Output(token_ids=choice["token_ids"], logprobs=logprobs, stopped=stopped)
        )
    versions = {
        span["version"] for choice in choices for span in choice.get("weight_versions") or []
    }
    first = choices[0]["logprobs"]["content"][0]
    listed = [first, *first["top_logprobs"]]
    return Reply(
        prompt_ids=answer["prompt_token_ids"],
        outputs=outputs,
        weight_versions=sorted(versions),
        first_logprobs={entry["token_id"]: entry["logprob"] for entry in listed},
    )
