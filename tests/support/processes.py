"""Ranks of a distributed test, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess

import torch

# A child is a fork of a process that has imported the heavy libraries and done nothing else: a
# fork of the tests' own process may hang in its threads, a new interpreter imports for 6 to 15 s.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["lightning", "peft", "transformers", "actial.pipeline.stages"]
)


def _run(environment: Mapping[str, str], target: Callable[..., None], *arguments) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


def child(target: Callable[..., None], *arguments, fresh: bool = False) -> BaseProcess:
    """Return a process, not started, that runs `target` in today's environment.

    A `fresh` one is a new interpreter: a fork's memory grows when it writes what it has inherited.
    """
    context = multiprocessing.get_context("spawn") if fresh else _CONTEXT
    return context.Process(target=_run, args=(dict(os.environ), target, *arguments))


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_processes(
    target, arguments: list[tuple], *, timeout_s: float = 300, fresh: bool = False
) -> None:
    """Run `target` in one process per tuple, followed by a free port; fails instead of hanging."""
    port = free_port()
    ranks = [child(target, *own, port, fresh=fresh) for own in arguments]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout_s)
    hung = [rank for rank in ranks if rank.is_alive()]
    for rank in hung:
        rank.kill()
    assert not hung, "a rank hung"
    assert [rank.exitcode for rank in ranks] == [0] * len(ranks)


def become_rank(rank: int, ranks: int, port: int) -> None:
    """Set what torchrun sets for a rank of one machine, and compute in one thread."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(ranks),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
    )


def exit_code(target, *arguments) -> int:
    """Run `target` in a process of its own; its exit code, -N where signal N ended it."""
    process = child(target, *arguments)
    process.start()
    process.join()
    return process.exitcode
