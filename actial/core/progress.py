"""The progress display: a bar on a terminal, plain lines elsewhere, with rate and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, TypeVar

T = TypeVar("T")


def clock(seconds: float) -> str:
    """Return seconds as people write them: 7 -> "7s", 125 -> "2m05s", 7260 -> "2h01m"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """Counts work done; a context manager.

    >>> with Progress("building", total=40, unit="captures") as progress:
    ...     progress.advance(note="bicycle 12")

    Off a terminal it prints one line at most every `every_s` seconds, and one at the end:
    ``building: 12/40 captures, 3.1 captures/s, 9s left, bicycle 12``.
    `start` is work done before this process began (a resumed run); it counts as done but not
    towards the rate.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int,
        unit: str,
        start: int = 0,
        stream: IO[str] | None = None,
        every_s: float = 10.0,
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.start = self.done = start
        self.note = ""
        self.stream = stream if stream is not None else sys.stderr
        self.every_s = every_s
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self.began = self._last_line = time.monotonic()
        if self.stream.isatty():
            self._bar = _bar(self.stream)
            self._bar.start()
            self._task = self._bar.add_task(
                self.label, total=self.total, completed=self.start, rate="", note=""
            )
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._print(f"took {clock(time.monotonic() - self.began)}")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units; `note` replaces the text shown behind the bar."""
        self.done += n
        self.note = note or self.note
        if self._bar is not None:
            self._bar.update(
                self._task, completed=self.done, rate=self._rate_text(), note=self.note
            )
        elif time.monotonic() - self._last_line >= self.every_s:
            self._last_line = time.monotonic()
            self._print(f"{clock((self.total - self.done) / max(self.rate, 1e-9))} left")

    @property
    def rate(self) -> float:
        """Units per second since the start of this process."""
        return (self.done - self.start) / max(time.monotonic() - self.began, 1e-9)

    def _rate_text(self) -> str:
        return f"{self.rate:.3g} {self.unit}/s"

    def _print(self, time_text: str) -> None:
        parts = [
            f"{self.label}: {self.done}/{self.total} {self.unit}",
            self._rate_text(),
            time_text,
            self.note,
        ]
        print(", ".join(part for part in parts if part), file=self.stream, flush=True)


def track(items: Iterable[T], label: str, *, total: int, unit: str) -> Iterator[T]:
    """Yield `items` and show their progress."""
    with Progress(label, total=total, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance()


def _bar(stream: IO[str]) -> Any:
    from rich.console import (
        Console,
    )  # here, because --help and composition must not pay for it
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
    )
    return Bar(
        *columns,
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=stream),
    )
