"""Send a request to an OpenAI-compatible server again where that may help: one loop for all
clients.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from actial.core.seeding import hash_unit

Reply = TypeVar("Reply")
REQUEST_LOGS = ("httpx", "httpx2")  # loggers of the clients: a line for every request
TRANSIENT = (408, 409, 429)  # beside 5xx


def silence_request_logs() -> None:
    """Keep the lines that HTTP clients log for every request off the screen."""
    for name in REQUEST_LOGS:
        logging.getLogger(name).setLevel(logging.WARNING)


@dataclass(slots=True, frozen=True)
class RetryPolicy:
    """How often and after which pauses a request is sent again."""

    retries: int
    first_pause_s: float  # doubles with every retry
    longest_pause_s: float

    def pause(self, key: str, retry: int, asked_for: float | None) -> float:
        """Return the seconds before a retry: what the server asks for, or a jittered backoff."""
        if asked_for is not None:
            return min(asked_for, self.longest_pause_s)
        jitter = 0.5 + 0.5 * hash_unit(key, retry)
        return min(self.first_pause_s * 2**retry, self.longest_pause_s) * jitter


async def send_with_retries(
    send: Callable[[], Awaitable[Reply]],
    policy: RetryPolicy,
    *,
    key: str,
    on_problem: Callable[[str], None],
) -> Reply | None:
    """Return the reply of `send`, or None when every try failed.

    Statuses 408, 409, 429 and 5xx, broken connections, timeouts and malformed replies (ValueError)
    are tried again.

    Args:
        send: sends the request and reads the reply.
        policy: retries and pauses.
        key: of the request, for the jitter of its pauses.
        on_problem: is told of every failed try.

    Raises:
        openai.APIStatusError: the server refuses the request for good.
    """
    import openai

    for retry in range(policy.retries + 1):
        asked_for = None
        try:
            return await send()
        except openai.APIStatusError as error:
            if error.status_code not in TRANSIENT and error.status_code < 500:
                raise
            on_problem(f"status {error.status_code}")
            asked_for = _retry_after(error.response.headers.get("retry-after"))
        except openai.APIConnectionError as error:  # a timeout is one, too
            on_problem(f"{type(error).__name__}: {error.__cause__ or error}")
        except (openai.APIResponseValidationError, ValueError):
            on_problem("malformed reply")
        if retry < policy.retries:
            await asyncio.sleep(policy.pause(key, retry, asked_for))
    return None


def _retry_after(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None  # a date; the backoff does
