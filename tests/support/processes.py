"""Ranks of a distributed test, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import socket

import torch


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_processes(target, arguments: list[tuple], *, timeout_s: float = 300) -> None:
    """Run `target` in one process per tuple, followed by a free port; fails instead of hanging."""
    port = free_port()
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    children = [context.Process(target=target, args=(*own, port)) for own in arguments]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout_s)
    hung = [child for child in children if child.is_alive()]
    for child in hung:
        child.kill()
    assert not hung, "a rank hung"
    assert [child.exitcode for child in children] == [0] * len(children)


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
    """Run `target` in a process of its own; its exit code, -N where signal N ended it.

    The process is spawned: autograd refuses to work in a fork of a process that has used it.
    """
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode
