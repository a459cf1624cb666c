"""A vLLM server as engine, over HTTP; new weights reach it through a shared folder.

It runs beside the trainer or on another node, with `--enable-scale-out` (token ids in and
out) and VLLM_SERVER_DEV_MODE=1 (weights and caches).
"""

from __future__ import annotations

import os
import secrets
import time
import weakref
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Executor, Future
from pathlib import Path
from threading import Event
from typing import Any, cast

import httpx
import torch
from torch import Tensor

from actial.config import ModelConfig, Precision, SamplerConfig, WeightTransfer
from actial.core.daemon_pool import DaemonPool
from actial.core.errors import UserError
from actial.core.process import is_main_process
from actial.inference.engine import EngineFault, Reply, Request
from actial.inference.server_messages import reply_of, request_body
from actial.inference.server_process import (
    ServerProcess,
    address_key,
    lock_url,
    private_path,
    refuse_taken_port,
    server_command,
)
from actial.inference.vllm_engine import ENVIRONMENT, engine_arguments
from actial.inference.weight_folder import WeightFolder
from actial.inference.weight_streams import WeightStream
from actial.inference.weight_sync import check_coverage
from actial.inference.weight_transfer import NativeTransfer
from actial.modeling.dtensor import gather_objects

POLL_S = 0.5
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class ServerGone(Exception):
    """The server does not answer any more."""


class ServerEngine:
    """An engine in a server; requests run concurrently.

    A server that this process has started is started again when it dies, with the last weights,
    and asked again. One that is joined (`sampler.start=false`) is not.

    Raises UserError when the port is taken, or the server does not start or never answers.
    """

    shows_weights = False

    def __init__(
        self, config: SamplerConfig, model: ModelConfig, command: list[str] | None = None
    ) -> None:
        assert config.url is not None
        self.config = config
        self.url = config.url.rstrip("/")
        key = address_key(self.url)
        self.folder = Path(config.folder or private_path(f"weights-{key}"))
        self.weights = model.path  # what a restarted server loads
        self.source = model
        self.command = command
        # One connection for each request in flight: httpx has 100 at most by itself.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self.client = httpx.Client(base_url=self.url, timeout=config.timeout_s, limits=limits)
        self.server: ServerProcess | None = None
        self.ending = Event()  # set before the server is ended for good
        self.synced_to: Hashable | None = None
        self.background: Executor | None = DaemonPool(1)
        self.pending: Future[Any] | None = None
        self.memory: dict[str, float] = {}
        self._parameter_names: list[str] = []
        self.weights_version = 0
        self.trainer_id = secrets.token_hex(6)
        self.transfer: NativeTransfer | None = None
        self.stream: WeightStream | None = None  # sent last by a native transfer
        self.stream_version: Hashable = None
        # of several trainer ranks, one runs the server and hands the weights over
        self.leads = is_main_process()
        # Held until the engine is closed: a second run would load its weights into this server.
        self.lock = lock_url(self.url) if self.leads else None
        self.handed_over = WeightFolder(self.folder, key) if self.leads else None
        if config.start and self.leads:
            self._start()
        else:
            self._wait_until_healthy()
        self.max_model_len: int = self._get("/v1/models")["data"][0]["max_model_len"]

    # ------------------------------------------------------------ the process

    def _start(self) -> None:
        shares_gpu = self.config.transfer is WeightTransfer.ipc
        places = self.config.devices or shares_gpu or self.command
        if not places and torch.cuda.is_available():
            raise UserError(
                "sampler.devices=null: the server would take memory of the trainer's GPU 0. Set "
                "sampler.devices to GPUs that the trainer does not use, such as 7 with "
                "trainer.devices=7."
            )
        refuse_taken_port(self.url)
        environment = {**ENVIRONMENT, **os.environ, "VLLM_SERVER_DEV_MODE": "1"}
        # a server's engine is a process of its own, and none of the trainer's ranks
        for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", *RANK_VARIABLES):
            environment.pop(name, None)
        if shares_gpu:
            environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # handles of shared memory
        if self.config.devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.config.devices
        command = self.command or self._command()
        self.server = ServerProcess.start(command, environment, self.folder / "server.log")
        weakref.finalize(self, _end, self.server, self.ending)
        self._wait_until_healthy()

    def _command(self) -> list[str]:
        arguments = {**engine_arguments(self.config, self.source), "model": self.weights}
        if self.weights != self.source.path:
            arguments["revision"] = None
        if self.native:
            arguments["weight_transfer_config"] = {"backend": self.config.transfer.value}
        return server_command(self.url, arguments)

    @property
    def native(self) -> bool:
        """Whether weights come by vLLM's own transfer."""
        return self.config.transfer is not WeightTransfer.folder

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self.config.start_timeout_s
        while time.monotonic() < deadline:
            code = None if self.server is None else self.server.process.poll()
            if self.server is not None and code is not None:
                raise UserError(
                    f"the vLLM server at {self.url} ended with exit code {code} while starting; "
                    f"its last lines:\n{self.server.last_lines()}"
                )
            try:
                if self.client.get("/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(POLL_S)
        self.close()
        raise UserError(
            f"the vLLM server at {self.url} is not healthy after "
            f"sampler.start_timeout_s={self.config.start_timeout_s:g} s: raise it."
        )

    def close(self) -> None:
        """End a server that this process has started."""
        self.ending.set()
        if self.background is not None:
            self.background.shutdown(wait=False)
        if self.server is not None:
            self.server.stop()
            self.server = None
        if self.lock is not None and self.handed_over is not None:
            self.handed_over.remove()
            self.lock.close()
            self.lock = None

    # ------------------------------------------------------------ requests

    def run(self, requests: list[Request]) -> list[Reply]:
        """Replies, in order.

        Only what a died server left unanswered is asked again: a request's samples depend on its
        own seed alone.
        """
        replies: dict[int, Reply] = {}
        for _ in range(self.config.restarts + 1):
            missing = [index for index in range(len(requests)) if index not in replies]
            workers = min(self.config.concurrency, max(1, len(missing)))
            with DaemonPool(workers) as pool:
                answers = list(pool.map(self._try, [requests[index] for index in missing]))
            for index, reply in zip(missing, answers, strict=True):
                if reply is not None:
                    self._check_version(reply)
                    replies[index] = reply
            if len(replies) == len(requests):
                return [replies[index] for index in range(len(requests))]
            self._revive()
        raise UserError(
            f"the vLLM server at {self.url} died {self.config.restarts + 1} times on the same "
            "prompts (sampler.restarts)."
        )

    def _try(self, request: Request) -> Reply | None:
        """The reply; None when the server is gone."""
        try:
            return reply_of(self._post("/inference/v1/generate", request_body(request)))
        except ServerGone:
            return None

    @property
    def version_name(self) -> str:
        """Name of the last weights sent; another trainer that has sent as often has another."""
        return f"{self.trainer_id}-{self.weights_version}"

    def _check_version(self, reply: Reply) -> None:
        """Raise EngineFault for a sample of other weights than the last ones sent."""
        if self.weights_version and set(reply.weight_versions) - {self.version_name}:
            raise EngineFault(
                f"the server sampled with weights {', '.join(reply.weight_versions)} where "
                f"{self.version_name} was sent last: another trainer sends to {self.url}. Give "
                "each run a server of its own."
            )

    def _revive(self) -> None:
        """Restart our server with the last weights. Raises UserError for a joined one."""
        if self.ending.is_set():
            raise UserError(f"the vLLM server at {self.url} has been ended with the run.")
        if self.server is None:
            raise UserError(
                f"the vLLM server at {self.url} went away; one that comes back has not this run's "
                "weights: see that it is up, and run the same command again, which resumes from "
                "the last checkpoint."
            )
        self.server.stop()
        if self.stream is not None:
            self._check_resendable(self.stream)
        self._start()
        self.transfer = None
        if self.stream is not None:
            self._open_transfer(self.stream).send(self.stream, self.version_name)
        elif self.weights_version:
            self._set_version()

    def _check_resendable(self, stream: WeightStream) -> None:
        """Raise UserError where the last weights cannot be sent to a server that has lost them.

        Shards take every rank, and an update may have replaced what the server had.
        """
        if stream.collective or stream.version() != self.stream_version:
            raise UserError(
                f"the vLLM server at {self.url} died with weights that only memory held "
                f"(sampler.transfer={self.config.transfer.value}): run the same command again, "
                "which resumes from the last checkpoint."
            )

    # ------------------------------------------------------------ weights

    def parameter_names(self) -> list[str]:
        """Names of the server's parameters, asked for once.

        They are the keys of its checksums, which take it seconds for a model of 7 B parameters.
        """
        if not self._parameter_names:
            checksums = self._post("/weight_checker", {"action": "checksum"})["checksums"]
            self._parameter_names = sorted({name.rpartition(":")[2] for name in checksums})
        return self._parameter_names

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Write a checkpoint beside the last one and have the server reload from it.

        Then its caches are reset and the last checkpoint is removed. All ranks call it together;
        only the first copies and writes. With sampler.transfer=nccl or ipc nothing is written.
        """
        self.trainer_id = gather_objects(self.trainer_id)[0]  # the first rank's, on all
        self.weights_version += 1
        if self.native:
            self._transfer(cast(WeightStream, weights))
            return
        dtype = torch.bfloat16 if self.source.precision is Precision.bf16 else torch.float32
        tensors: dict[str, Tensor] = {}
        for name, tensor in weights:
            if self.leads:
                # copies, because safetensors refuses a head and an embedding that share memory
                tensors[name] = tensor.to("cpu", dtype, copy=True).contiguous()
        if self.leads:
            self._hand_over(tensors)

    def _transfer(self, stream: WeightStream) -> None:
        """Send by vLLM's own transfer; a server of ours that dies is started once more."""
        if self.leads:
            expected = [name for name, _, _ in stream.metadata()]
            tied = self._tied(self.parameter_names())
            check_coverage(self.parameter_names(), set(expected) - tied)
        self.stream, self.stream_version = None, stream.version()
        try:
            self._open_transfer(stream).send(stream, self.version_name)
        except (ServerGone, RuntimeError) as error:
            if isinstance(error, EngineFault) or not self._server_ended():
                raise
            self.stream = stream
            self._revive()
        self.stream = stream

    def _server_ended(self) -> bool:
        """Whether the process of our server is gone."""
        return self.server is not None and self.server.ends()

    def _open_transfer(self, stream: WeightStream) -> NativeTransfer:
        if self.transfer is None:
            self.transfer = NativeTransfer(
                self.config, stream, self._post, self._get, leads=self.leads
            )
        return self.transfer

    def _tied(self, names: Iterable[str]) -> set[str]:
        """The head, where the server has it under the embedding's name alone."""
        return {"lm_head.weight"} if "language_model.lm_head.weight" not in names else set()

    def _set_version(self) -> None:
        self._post("/update_weight_version", {"new_version": self.version_name})

    def _hand_over(self, tensors: dict[str, Tensor]) -> None:
        names = self.parameter_names()
        # the checksums list a tied weight once
        check_coverage(names, set(tensors) - self._tied(names))
        assert self.handed_over is not None
        fresh = self.handed_over.write(self.source, tensors)
        self.weights = str(fresh)
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(fresh)}}
        try:
            self._post("/collective_rpc", reload)
        except ServerGone:
            self._revive()
        self._set_version()
        self.reset_encoder_cache()
        self.reset_prefix_cache()
        self.handed_over.keep_only(fresh)

    def use_adapter(self, folder: Path) -> None:
        """Not available: raises UserError."""
        raise UserError(
            f"{folder} is an adapter, which sampler=vllm_server does not take: use sampler=vllm, "
            "merge it with python -m actial.export format=merged, or serve it yourself with "
            f"--enable-lora --lora-modules NAME={folder} and give server.url."
        )

    def reset_prefix_cache(self) -> None:
        """Drop cached keys and values. Raises EngineFault while requests are running."""
        if not self._post("/reset_prefix_cache", {})["success"]:
            raise EngineFault(
                "the server's prefix cache cannot be reset while requests are running."
            )

    def reset_encoder_cache(self) -> None:
        """Drop cached image features and processed images."""
        self._post("/reset_encoder_cache", {})
        self._post("/reset_mm_cache", {})

    def sleep(self) -> None:
        """Nothing: its memory is not the trainer's."""

    def compare(self, name: str, expected: Tensor) -> str:
        """Not available: a server does not show its weights."""
        raise NotImplementedError("a server does not show its weights")

    # ------------------------------------------------------------ HTTP

    def _get(self, path: str) -> Any:
        return self._answer(path, lambda: self.client.get(path))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._answer(path, lambda: self.client.post(path, json=body))

    def _answer(self, path: str, send: Callable[[], httpx.Response]) -> Any:
        try:
            response = send()
        except httpx.TimeoutException as error:
            raise UserError(
                f"the vLLM server at {self.url} gave no answer to {path} within "
                f"sampler.timeout_s={self.config.timeout_s:g} s: raise it."
            ) from error
        except httpx.TransportError as error:
            raise ServerGone(str(error)) from error
        # Requests fail a moment before the process of a server whose engine has died ends.
        if response.status_code >= 500 and self.server is not None and self.server.ends():
            raise ServerGone(response.text)
        if response.status_code != 200:
            raise EngineFault(
                f"the vLLM server at {self.url} refused {path} ({response.status_code}): "
                f"{response.text[:500]}"
            )
        return response.json() if response.content else None


def _end(server: ServerProcess, ending: Event) -> None:
    """End a server; requests that fail by that are not to start it again."""
    ending.set()
    server.stop()
