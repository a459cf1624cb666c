"""SIGTERM and Ctrl-C turned into a request that training looks at between optimizer steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Callable that returns whether SIGTERM or Ctrl-C has been received."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self) -> bool:
        return self.received

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.received and signum == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C: the user does not want to wait
        self.received = True


@contextmanager
def stop_requested() -> Iterator[StopRequest]:
    """Yield a StopRequest; inside the block SIGTERM and Ctrl-C only set its flag."""
    request = StopRequest()
    previous_handlers = {
        number: signal.signal(number, request._receive)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield request
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
