"""A vLLM server as a child process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from actial.core.atomic_io import lock_file
from actial.core.errors import UserError

LOG_LINES = 15  # of a server that ended, in the message
GRACE_S = 10  # between SIGTERM and SIGKILL
FREED_WITHIN_S = 20.0  # a port whose server has lost its trainer
# Reads until the trainer has closed the pipe or ended, by a SIGKILL too, and ends the server.
WATCH = f"""
import os, signal, sys, time
sys.stdin.buffer.read()
try:
    os.killpg(int(sys.argv[1]), signal.SIGTERM)
    for _ in range({10 * GRACE_S}):
        time.sleep(0.1)
        os.killpg(int(sys.argv[1]), 0)
    os.killpg(int(sys.argv[1]), signal.SIGKILL)
except ProcessLookupError:
    pass
"""


@dataclass(slots=True)
class ServerProcess:
    """A running server: its process group, and the file its output goes to.

    It ends with this process, however that ends: a watcher holds the other end of a pipe.
    """

    process: subprocess.Popen[bytes]
    log: Path
    watcher: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> ServerProcess:
        """Start a server in a process group of its own; its output is appended to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        watch = [sys.executable, "-IS", "-c", WATCH, str(process.pid)]
        watcher = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)
        return cls(process, log, watcher)

    def stop(self) -> None:
        """End the server and everything it has started."""
        if self.process.poll() is not None:
            # Its engine is a process of its own, which may live on for a while.
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.watcher.kill()
        self.watcher.wait()

    def ends(self) -> bool:
        """Whether it ends within a moment, as it does after its engine died."""
        try:
            self.process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_lines(self) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def host_and_port(url: str) -> tuple[str, int]:
    """("127.0.0.1", 8000) of http://127.0.0.1:8000."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def refuse_taken_port(url: str) -> None:
    """Raise UserError when another program listens at `url`.

    The server of a run that was killed a moment ago gets the time to end.
    """
    host, port = host_and_port(url)
    deadline = time.monotonic() + FREED_WITHIN_S
    while _listens(host, port):
        if time.monotonic() > deadline:
            raise UserError(
                f"sampler.url={url}: port {port} is taken by another program; choose another "
                "port, or set sampler.start=false if that is the server to use."
            )
        time.sleep(0.2)


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def server_command(url: str, arguments: Mapping[str, Any]) -> list[str]:
    """The command line of vLLM's server for keyword arguments of its engine."""
    host, port = host_and_port(url)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--host", host, "--port", str(port), "--served-model-name", "policy"]
    command += ["--enable-scale-out", "--disable-uvicorn-access-log"]
    for name, value in arguments.items():
        command += _flag(name, value)
    return command


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, list) else [value]
    return [
        f"--{flag}",
        *(json.dumps(one) if isinstance(one, dict) else str(one) for one in values),
    ]


def address_key(url: str) -> str:
    """A short name of a server's address, the same however the address is spelled."""
    host, port = host_and_port(url)
    with suppress(OSError):
        host = socket.gethostbyname(host)
    if host.startswith("127.") or host in ("0.0.0.0", "::", "::1"):
        host = "127.0.0.1"
    return sha256(f"{host}:{port}".encode()).hexdigest()[:16]


def private_path(name: str) -> Path:
    """A path for temporary files of this user alone: another's could not be opened."""
    return Path(tempfile.gettempdir()) / f"actial-{name}-{os.getuid()}"


def lock_url(url: str) -> IO[bytes]:
    """Lock a server's address against other runs of this machine, until the file is closed.

    Raises UserError when another run holds it.
    """
    return lock_file(
        private_path(f"server-{address_key(url)}").with_suffix(".lock"),
        f"sampler.url={url} serves another run, whose weights this one would replace: give each "
        "run a port of its own.",
    )
