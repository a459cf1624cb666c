"""A pool of threads that the end of the process does not wait for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any


class DaemonPool(Executor):
    """An executor on daemon threads.

    Python joins those of a ThreadPoolExecutor before it ends: Ctrl-C would wait for the requests
    that they have sent, for minutes or hours.
    """

    def __init__(self, max_workers: int) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [
            Thread(target=_work, args=[self._tasks], daemon=True) for _ in range(max_workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """As `Executor.submit`."""
        future: Future[Any] = Future()
        self._tasks.put((future, lambda: function(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once all tasks are done; `wait` for that."""
        for _ in self._threads:
            self._tasks.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for all tasks, but not after Ctrl-C."""
        self.shutdown(wait=kind is None or issubclass(kind, Exception))


def _work(tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    """Run tasks until there is a None."""
    while (task := tasks.get()) is not None:
        future, call = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(call())
        except BaseException as error:  # for whoever asks for the result
            future.set_exception(error)
        del future, call, task  # a waiting thread would keep the result
