"""Ask any OpenAI-compatible server the questions: many at once, retried, answers kept as they come.

Images travel as PNG of exactly the pixels an in-process model would see, so both runners ask the
same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from actial.core.atomic_io import well_formed
from actial.core.errors import UserError
from actial.core.image_codec import png_url
from actial.core.progress import Progress
from actial.core.records import Example, FinishReason, Question, SamplingParams
from actial.core.seeding import hash_int
from actial.grading.metrics import Prediction
from actial.grading.predictions import PredictionLog, predict
from actial.inference.openai_retries import (
    RetryPolicy,
    send_with_retries,
    silence_request_logs,
)
from actial.modeling.prompt_renderer import END_THINK, THINK

REASONING = ("reasoning", "reasoning_content")  # of a message: vLLM's present and earlier name
NO_KEY = (401, 403)
NO_MODEL = 404
AHEAD = 16  # examples made ready while all requests are under way, so the server never waits
LONGEST_PAUSE_S = 30.0


@dataclass(slots=True, kw_only=True)
class Server:
    """An OpenAI-compatible server and how it is asked."""

    url: str  # ends in /v1
    model: str
    key: str = "EMPTY"
    system_prompt: str | None = None
    # what its chat template writes of an answer, such as "<think>\n"; None where that is not known
    opened: str | None = None
    concurrency: int = 64  # examples in flight
    timeout_s: float = 600.0
    retries: int = 6  # of one request
    first_wait_s: float = 0.5  # before the first retry; doubles


def evaluate_on_server(
    server: Server,
    examples: Sequence[Example],
    params: SamplingParams,
    *,
    log: PredictionLog,
    label: str = "",
) -> list[Prediction]:
    """Return one answer per question, in order of the examples; answers are written as they come.

    Raises:
        UserError: the server cannot be reached, does not accept the key or the model, or refuses
            some requests. What was answered stays in the log, and the same call goes on from there.
    """
    silence_request_logs()
    client = _Client(server, examples, params, log)
    return asyncio.run(client.run(label or f"asking {server.model}"))


@dataclass(slots=True)
class _Client:
    """The requests of one call."""

    server: Server
    examples: Sequence[Example]
    params: SamplingParams
    log: PredictionLog
    refused: dict[str, str] = field(default_factory=dict)  # uid -> the server's reason
    _gate: asyncio.Semaphore = field(init=False)
    _openai: openai.AsyncOpenAI = field(init=False)

    async def run(self, label: str) -> list[Prediction]:
        # The default transport looks at every idle connection before each request.
        transport = openai.DefaultAioHttpClient()
        self._gate = asyncio.Semaphore(self.server.concurrency)
        async with openai.AsyncOpenAI(
            base_url=self.server.url,
            api_key=self.server.key,
            timeout=self.server.timeout_s,
            max_retries=0,
            http_client=transport,
        ) as self._openai:
            with Progress(label, total=len(self.examples), unit="examples") as progress:
                uids = await self._answer_all(progress)
        if self.refused:
            uid, reason = next(iter(self.refused.items()))
            raise UserError(
                f"{self.server.url} refused {len(self.refused)} questions, the first {uid} "
                f"({reason}): the other answers are kept; raise the server's limits (context "
                "length, images per prompt) and run again."
            )
        return [self.log.done[uid] for uid in uids]

    async def _answer_all(self, progress: Progress) -> list[str]:
        """Answer all examples, so many at a time; return the uids of all questions in order."""
        uids: list[list[str]] = [[] for _ in self.examples]
        pending = iter(range(len(self.examples)))
        workers = min(self.server.concurrency + AHEAD, max(1, len(self.examples)))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work(pending, uids, progress))
        except BaseExceptionGroup as failed:  # of the workers; the first is what went wrong
            raise failed.exceptions[0] from None
        return [uid for of_example in uids for uid in of_example]

    async def _work(
        self, pending: Iterator[int], uids: list[list[str]], progress: Progress
    ) -> None:
        """Answer examples from the shared iterator until none is left."""
        for index in pending:
            example = await asyncio.to_thread(self.examples.__getitem__, index)
            uids[index] = [question.uid for question in example.questions]
            unanswered = [q for q in example.questions if q.uid not in self.log.done]
            replies = [self._answer(example, question) for question in unanswered]
            answers = [answer for answer in await asyncio.gather(*replies) if answer]
            # The disk may be slow, and other requests need not wait for it.
            await asyncio.to_thread(self.log.append, answers)
            progress.advance()

    async def _answer(self, example: Example, question: Question) -> Prediction | None:
        """Return the graded answer; None when the server refuses the question for good."""
        body = await asyncio.to_thread(self._body, example, question)
        problems: list[str] = []

        async def send() -> tuple[str, FinishReason, int | None]:
            async with self._gate:
                # The body is ready: chat.completions.create would walk through all of it.
                reply = await self._openai.post(
                    "/chat/completions", body=body, cast_to=ChatCompletion
                )
            return _read(reply, self.server.opened)

        server = self.server
        policy = RetryPolicy(server.retries, 2 * server.first_wait_s, LONGEST_PAUSE_S)
        try:
            reply = await send_with_retries(
                send, policy, key=question.uid, on_problem=problems.append
            )
        except openai.APIStatusError as error:
            self.refused[question.uid] = self._reason(error)
            return None
        if reply is None:
            raise UserError(
                f"{server.url} did not answer {question.uid} in {server.retries + 1} tries "
                f"({problems[-1]}): repair it and run again."
            )
        return predict(example, question, *reply)

    def _reason(self, error: openai.APIStatusError) -> str:
        """Return why one question is refused; raises UserError where the server refuses all."""
        server = self.server
        if error.status_code in NO_KEY:
            raise UserError(
                f"{server.url} does not accept the key: put the right one into the variable named "
                "by server.key_env."
            ) from None
        message = _message(error)
        if error.status_code == NO_MODEL:
            raise UserError(
                f"{server.url} has no model {server.model} ({message}): set server.model or "
                "server.url."
            ) from None
        return f"status {error.status_code}: {message}"

    def _body(self, example: Example, question: Question) -> dict[str, Any]:
        return {
            "model": self.server.model,
            "messages": chat_messages(example, question, self.server.system_prompt),
            "temperature": self.params.temperature,
            "top_p": self.params.top_p,
            "max_tokens": self.params.max_tokens,
            # Its own seed: equal prompts are not to get equal answers.
            "seed": hash_int(self.params.seed, question.uid) % 2**31,
        }


def _read(reply: Any, opened: str | None) -> tuple[str, FinishReason, int | None]:
    """Return text, why it ended, length in tokens; raises ValueError for no chat completion.

    The text is what decoding in this process gives (`PromptRenderer.decode`).
    """
    first = next(iter(getattr(reply, "choices", None) or []), None)
    message = getattr(first, "message", None)
    if first is None or message is None:
        raise ValueError("no choices in the reply")
    finish = FinishReason.LENGTH if first.finish_reason == "length" else FinishReason.STOP
    tokens = reply.usage.completion_tokens if reply.usage else None
    content = well_formed(message.content or "")
    if THINK in content:
        return content, finish, tokens
    reasoning = next(
        (text for name in REASONING if (text := getattr(message, name, None))), None
    )
    reasoning = well_formed(reasoning) if reasoning else None
    return _whole_answer(content, reasoning, opened), finish, tokens


def _whole_answer(content: str, reasoning: str | None, opened: str | None) -> str:
    """Return an answer with the thought that the server has cut off or its template has begun.

    A server with a parser of reasoning sends the thought apart, one without sends
    it from behind the opening tag. Without a known template, the end of a thought
    tells that one was begun.
    """
    if reasoning:
        thought = f"{THINK}\n{reasoning.strip()}\n"
        return f"{thought}{END_THINK}\n\n{content.lstrip()}" if content else thought
    if opened is None:
        opened = f"{THINK}\n" if END_THINK in content else ""
    return opened + content


def _message(error: openai.APIStatusError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message", error.message))[:300]


def chat_messages(
    example: Example, question: Question, system_prompt: str | None
) -> list[dict[str, Any]]:
    """Return the system turn and one user turn: the images in order, then the text.

    The text comes first where the example says so.
    """
    images = [{"type": "image_url", "image_url": {"url": png_url(i)}} for i in example.images]
    text = [{"type": "text", "text": question.text}]
    content = text + images if example.text_first else images + text
    user = {"role": "user", "content": content}
    if system_prompt is None:
        return [user]
    return [{"role": "system", "content": system_prompt}, user]
