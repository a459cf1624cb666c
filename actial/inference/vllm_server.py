"""A vLLM server as engine: started beside the trainer or on another node, fed over HTTP, given new weights through a shared folder.

The server needs `--enable-scale-out` (token ids in and out) and VLLM_SERVER_DEV_MODE=1 (weights and caches).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from actial.config import ModelConfig, SamplerConfig
from actial.core.errors import UserError
from actial.core.image_codec import png_url
from actial.core.process import is_main_process
from actial.inference.engine import EngineFault, Output, Reply, Request
from actial.inference.vllm_engine import ENVIRONMENT, engine_arguments
from actial.inference.weight_sync import check_coverage
from actial.modeling.hf_checkpoint import WEIGHT_FILES

LOG_LINES = 15  # of a died server, in the message
POLL_S = 0.5


class ServerGone(Exception):
    """The server does not answer any more."""


@dataclass(slots=True)
class ServerProcess:
    """A server of our own: its process group, and the file its output goes to."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])


class ServerEngine:
    """Requests run concurrently; a server of our own that dies is started again with the last weights and asked again.

    `sampler.start=false` joins a server that someone else runs: it is not restarted. Raises UserError when the port is taken, the server
    does not come up or never answers.
    """

    shows_weights = False

    def __init__(
        self, config: SamplerConfig, model: ModelConfig, command: list[str] | None = None
    ) -> None:
        assert config.url is not None
        self.config = config
        self.url = config.url.rstrip("/")
        self.folder = (
            Path(config.folder)
            if config.folder
            else Path(tempfile.mkdtemp(prefix="actial-weights-"))
        )
        self.weights = model.path
        self.source = model
        self.command = command
        self.client = httpx.Client(base_url=self.url, timeout=config.timeout_s)
        self.server: ServerProcess | None = None
        self.synced_to: int | None = None
        self.background: Executor | None = ThreadPoolExecutor(1)
        self.under_way: Future[Any] | None = None
        self.memory: dict[str, float] = {}
        self.leads = (
            is_main_process()
        )  # of several trainer ranks, one runs the server and hands the weights over
        if config.start and self.leads:
            self._start()
        else:
            self._wait_until_healthy()
        self.max_model_len: int = self._get("/v1/models")["data"][0]["max_model_len"]

    # ------------------------------------------------------------ the process

    def _start(self) -> None:
        host, port = urlsplit(self.url).hostname or "", urlsplit(self.url).port or 80
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                raise UserError(
                    f"sampler.url={self.url}: port {port} is taken by another program; choose another port, or set sampler.start=false if "
                    "that is the server to use."
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "server.log"
        environment = {**ENVIRONMENT, **os.environ, "VLLM_SERVER_DEV_MODE": "1"}
        environment.pop(
            "VLLM_ENABLE_V1_MULTIPROCESSING", None
        )  # a server's engine is a process of its own
        if self.config.devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.config.devices
        output: IO[bytes]
        with log.open("ab") as output:  # what a died server said stays
            process = subprocess.Popen(
                self.command or self._command(host, port),
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.server = ServerProcess(process, log)
        weakref.finalize(self, self.server.stop)
        self._wait_until_healthy()

    def _command(self, host: str, port: int) -> list[str]:
        arguments = {**engine_arguments(self.config, self.source), "model": self.weights}
        if self.weights != self.source.path:
            arguments["revision"] = None
        flags = [flag for name, value in arguments.items() for flag in _flag(name, value)]
        server = [
            "--host",
            host,
            "--port",
            str(port),
            "--served-model-name",
            "policy",
            "--enable-scale-out",
            "--disable-uvicorn-access-log",
        ]
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *server, *flags]

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self.config.start_timeout_s
        while time.monotonic() < deadline:
            if self.server is not None and (code := self.server.process.poll()) is not None:
                raise UserError(
                    f"the vLLM server at {self.url} ended with exit code {code} while starting; its last lines:\n{self.server.last_lines()}"
                )
            try:
                if self.client.get("/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(POLL_S)
        self.close()
        raise UserError(
            f"the vLLM server at {self.url} is not healthy after sampler.start_timeout_s={self.config.start_timeout_s:g} s: raise it."
        )

    def close(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    # ------------------------------------------------------------ requests

    def run(self, requests: list[Request]) -> list[Reply]:
        """Answers in order. Only what a died server left unanswered is asked again; a request's samples depend on its own seed alone."""
        answers: dict[int, Reply] = {}
        for _ in range(self.config.restarts + 1):
            missing = [index for index in range(len(requests)) if index not in answers]
            with ThreadPoolExecutor(
                max_workers=min(self.config.concurrency, max(1, len(missing)))
            ) as pool:
                found = list(pool.map(self._try, [requests[index] for index in missing]))
            answers |= {
                index: reply
                for index, reply in zip(missing, found, strict=True)
                if reply is not None
            }
            if len(answers) == len(requests):
                return [answers[index] for index in range(len(requests))]
            self._revive()
        raise UserError(
            f"the vLLM server at {self.url} died {self.config.restarts + 1} times on the same prompts (sampler.restarts)."
        )

    def _try(self, request: Request) -> Reply | None:
        """None when the server is gone."""
        try:
            return _reply(self._post("/inference/v1/generate", _body(request)))
        except ServerGone:
            return None

    def _revive(self) -> None:
        """Restart our own server, which starts with the weights of the last transfer; raises UserError for one that was joined."""
        if self.server is None:
            raise UserError(
                f"the vLLM server at {self.url} went away; one that comes back has not this run's weights: see that it is up, and run the "
                "same command again, which goes on from the last checkpoint."
            )
        self.server.stop()
        self._start()

    # ------------------------------------------------------------ weights

    def parameter_names(self) -> list[str]:
        """From the server's own checksums, whose keys begin with the worker's coordinates."""
        checksums = self._post("/weight_checker", {"action": "checksum"})["checksums"]
        return sorted({name.rpartition(":")[2] for name in checksums})

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Write a checkpoint beside the last one, have the server reload from it, drop its caches and the last one."""
        # gathers shards, so on every rank; copies, because safetensors refuses a head and an embedding that share memory
        tensors = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in weights}
        if self.leads:
            self._hand_over(tensors)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()

    def _hand_over(self, tensors: dict[str, torch.Tensor]) -> None:
        names = self.parameter_names()
        tied = (
            {"lm_head.weight"} if "language_model.lm_head.weight" not in names else set()
        )  # the checksums list a tied weight once
        check_coverage(names, set(tensors) - tied)
        fresh = self.folder / f"weights-{time.time_ns()}"
        try:
            self._write(fresh, tensors)
        except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
            shutil.rmtree(fresh, ignore_errors=True)
            raise UserError(
                f"weights could not be written to {fresh} ({error}): free space or set sampler.folder."
            ) from error
        old, self.weights = self.weights, str(fresh)
        try:
            self._post(
                "/collective_rpc",
                {"method": "reload_weights", "kwargs": {"weights_path": str(fresh)}},
            )
        except ServerGone:
            self._revive()
        self.reset_encoder_cache()
        self.reset_prefix_cache()
        if Path(old).parent == self.folder:
            shutil.rmtree(old)

    def _write(self, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        from huggingface_hub import snapshot_download

        source = Path(self.source.path)
        if not source.is_dir():
            source = Path(
                snapshot_download(
                    self.source.path,
                    revision=self.source.revision,
                    ignore_patterns=["*.safetensors", "*.bin"],
                )
            )
        folder.mkdir(parents=True)
        for file in source.iterdir():
            if file.is_file() and (
                file.name == "config.json"
                or not any(file.match(pattern) for pattern in WEIGHT_FILES)
            ):
                shutil.copy2(file, folder / file.name)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    def reset_prefix_cache(self) -> None:
        if not self._post("/reset_prefix_cache", {})["success"]:
            raise EngineFault(
                "the server's prefix cache cannot be reset while requests are running."
            )

    def reset_encoder_cache(self) -> None:
        self._post("/reset_encoder_cache", {})
        self._post("/reset_mm_cache", {})

    def sleep(self) -> None:
        pass  # its memory is not the trainer's

    def compare(self, name: str, expected: torch.Tensor) -> str:
        raise NotImplementedError("a server does not show its weights")

    # ------------------------------------------------------------ HTTP

    def _get(self, path: str) -> Any:
        return self._answer(path, lambda: self.client.get(path))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._answer(path, lambda: self.client.post(path, json=body))

    def _ending(self) -> bool:
        """Our server's process ends a moment after its engine has died and requests have failed."""
        if self.server is None:
            return False
        try:
            self.server.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _answer(self, path: str, send: Any) -> Any:
        try:
            response = send()
        except httpx.TimeoutException as error:
            raise UserError(
                f"the vLLM server at {self.url} gave no answer to {path} within sampler.timeout_s={self.config.timeout_s:g} s: raise it."
            ) from error
        except httpx.TransportError as error:
            raise ServerGone(str(error)) from error
        if response.status_code >= 500 and self._ending():
            raise ServerGone(response.text)
        if response.status_code != 200:
            raise EngineFault(
                f"the vLLM server at {self.url} refused {path} ({response.status_code}): {response.text[:500]}"
            )
        return response.json() if response.content else None


def _flag(name: str, value: Any) -> list[str]:
    """A keyword argument of the engine as the server's command line takes it."""
    flag = "--" + name.replace("_", "-")
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    return [flag, json.dumps(value) if isinstance(value, dict) else str(value)]


def _body(request: Request) -> dict[str, Any]:
    sampling = {
        **request.sampling,
        "logit_bias": {str(token): bias for token, bias in request.sampling["logit_bias"].items()},
    }
    if ids := sampling.get(
        "logprob_token_ids"
    ):  # the server lists the sampled id first and cuts the list at as many as were asked for:
        sampling |= {
            "logprob_token_ids": [*ids, ids[-1]],
            "logprobs": len(ids) + 1,
        }  # the last one, asked for twice, makes room
    parts = [{"type": "image_url", "url": png_url(image)} for image in request.images]
    return {
        "token_ids": request.prompt_ids,
        "content_parts": parts or None,
        "sampling_params": sampling,
        "return_token_ids": True,
    }


def _reply(answer: dict[str, Any]) -> Reply:
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    outputs = [
        Output(
            token_ids=choice["token_ids"],
            logprobs=[entry["logprob"] for entry in choice["logprobs"]["content"]],
            stopped=choice["finish_reason"] == "stop",
        )
        for choice in choices
    ]
    first = choices[0]["logprobs"]["content"][0]
    return Reply(
        prompt_ids=answer["prompt_token_ids"],
        outputs=outputs,
        first={entry["token_id"]: entry["logprob"] for entry in [first, *first["top_logprobs"]]},
    )
