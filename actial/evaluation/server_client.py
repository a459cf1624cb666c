"""Questions to any OpenAI-compatible server: many at once, retried where that helps, kept as they come.

Pictures travel as PNG of exactly the pixels an in-process model would see, so both runners ask the
same thing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from actial.core.errors import UserError
from actial.core.image_codec import png_url
from actial.core.progress import Progress
from actial.core.records import Example, FinishReason, Question, SamplingParams
from actial.core.seeding import hash_int, hash_unit
from actial.grading.metrics import Prediction
from actial.grading.predictions import PredictionLog, predict

PERMANENT = (400, 413, 422)  # the same request would fail again
AHEAD = 16  # examples made ready while all requests are under way, so that the server never waits for us
LONGEST_WAIT_S = 30.0


@dataclass(slots=True, kw_only=True)
class Server:
    url: str  # ends in /v1
    model: str
    key: str = "EMPTY"
    system_prompt: str | None = None
    concurrency: int = 64
    timeout_s: float = 600.0
    retries: int = 6  # of one request, on 429, 5xx, timeouts, broken connections and answers that are no chat completion
    first_wait_s: float = 0.5  # before the first retry; doubles


def evaluate_on_server(
    server: Server,
    examples: Sequence[Example],
    params: SamplingParams,
    *,
    log: PredictionLog,
    label: str = "",
) -> list[Prediction]:
    """One answer per question, in order of the examples; answers are written as they come.

    Raises:
        UserError: the server cannot be reached, does not accept the key or the model, or refuses
            some requests. What was answered stays in the log, and the same call goes on from there.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it reports every request
    return asyncio.run(_evaluate(server, examples, params, log, label or f"asking {server.model}"))


async def _evaluate(
    server: Server,
    examples: Sequence[Example],
    params: SamplingParams,
    log: PredictionLog,
    label: str,
) -> list[Prediction]:
    asked: list[list[str]] = [[] for _ in examples]
    refused: dict[str, str] = {}
    waiting = iter(range(len(examples)))
    running: set[asyncio.Task[list[Prediction]]] = set()
    gate = asyncio.Semaphore(server.concurrency)
    transport = (
        openai.DefaultAioHttpClient()
    )  # the default one looks at every idle connection before each request
    settings: dict[str, Any] = {
        "timeout": server.timeout_s,
        "max_retries": 0,
        "http_client": transport,
    }
    async with openai.AsyncOpenAI(base_url=server.url, api_key=server.key, **settings) as client:
        ask = partial(_ask, client, gate, server, params, refused)

        async def answer(index: int) -> list[Prediction]:
            example = await asyncio.to_thread(examples.__getitem__, index)
            asked[index] = [question.uid for question in example.questions]
            found = await asyncio.gather(
                *(ask(example, q) for q in example.questions if q.uid not in log.done)
            )
            return [p for p in found if p]

        try:
            with Progress(label, total=len(examples), unit="examples") as progress:
                done: set[asyncio.Task[list[Prediction]]] = set()
                while True:
                    free = server.concurrency + AHEAD - len(running)
                    running |= {
                        asyncio.create_task(answer(i)) for i in itertools.islice(waiting, free)
                    }
                    answered = [p for task in done if not task.exception() for p in task.result()]
                    await asyncio.to_thread(
                        log.append, answered
                    )  # the disk may be slow, and the next requests need not wait for it
                    for task in done:
                        task.result()  # raises what ended it
                    progress.advance(len(done))
                    if not running:
                        break
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    if refused:
        uid, reason = next(iter(refused.items()))
        raise UserError(
            f"{server.url} refused {len(refused)} questions, the first {uid} ({reason}): the other answers are kept; "
            "raise the server's limits (context length, pictures per prompt) and run again."
        )
    return [log.done[uid] for uids in asked for uid in uids]


async def _ask(
    client: Any,
    gate: asyncio.Semaphore,
    server: Server,
    params: SamplingParams,
    refused: dict[str, str],
    example: Example,
    question: Question,
) -> Prediction | None:
    """The graded answer; None when the server refuses this question for good, with the reason in `refused`."""
    messages = await asyncio.to_thread(chat_messages, example, question, server.system_prompt)
    settings = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_tokens,
    }
    settings["seed"] = (
        hash_int(params.seed, question.uid) % 2**31
    )  # its own: equal prompts are not to get equal answers
    body = {
        "model": server.model,
        "messages": messages,
        **settings,
    }  # ready to send: chat.completions.create would walk through all of it
    problem = ""
    for attempt in range(server.retries + 1):
        if attempt:
            await asyncio.sleep(
                min(LONGEST_WAIT_S, server.first_wait_s * 2**attempt)
                * (0.5 + hash_unit(question.uid, attempt))
            )
        try:
            async with gate:
                reply = await client.post("/chat/completions", body=body, cast_to=ChatCompletion)
            text, finish, tokens = _read(reply)
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise UserError(
                f"{server.url} does not accept the key: put the right one into the variable named by server.key_env."
            ) from None
        except openai.NotFoundError as error:
            raise UserError(
                f"{server.url} has no model {server.model} ({_message(error)}): set server.model or server.url."
            ) from None
        except openai.APIStatusError as error:
            problem = f"status {error.status_code}: {_message(error)}"
            if error.status_code in PERMANENT:
                refused[question.uid] = problem
                return None
        except openai.APIConnectionError as error:  # timeouts too
            problem = f"{type(error).__name__}: {error.__cause__ or error}"
        except (openai.APIResponseValidationError, ValueError):
            problem = "its answer is not a chat completion"
        else:
            return predict(example, question, text, finish, tokens)
    raise UserError(
        f"{server.url} did not answer {question.uid} in {server.retries + 1} tries ({problem}): repair it and run again."
    )


def _read(reply: Any) -> tuple[str, FinishReason, int | None]:
    """Text, why it ended, length in tokens. Raises ValueError for what is no chat completion."""
    first = next(iter(getattr(reply, "choices", None) or []), None)
    message = getattr(first, "message", None)
    if first is None or message is None:
        raise ValueError("no choices in the reply")
    finish = FinishReason.LENGTH if first.finish_reason == "length" else FinishReason.STOP
    return message.content or "", finish, reply.usage.completion_tokens if reply.usage else None


def _message(error: openai.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message", error.message))[:300]


def chat_messages(
    example: Example, question: Question, system_prompt: str | None
) -> list[dict[str, Any]]:
    """System turn, then one user turn: pictures in order, then the text, or the other way round where the example says so."""
    pictures = [
        {"type": "image_url", "image_url": {"url": png_url(image)}} for image in example.images
    ]
    text = [{"type": "text", "text": question.text}]
    user = {"role": "user", "content": text + pictures if example.text_first else pictures + text}
    return (
        [{"role": "system", "content": system_prompt}, user]
        if system_prompt is not None
        else [user]
    )
