"""New weights for a vLLM server through vLLM's own transfer, from memory to memory.

vLLM's trainer side (`vllm.distributed.weight_transfer`) does the work: a
rendezvous, then for each update start, update and finish, of which the middle
one runs while the trainer broadcasts. Here are its source of tensors, its way
to the server, and the order around it: pause, update, caches, version, resume.

`nccl` broadcasts from the first rank to GPUs of other processes or nodes. `ipc` hands over
memory of the GPU that trainer and server share.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor

from actial.config import SamplerConfig, WeightTransfer
from actial.core.errors import UserError
from actial.inference.engine import EngineFault
from actial.inference.server_process import free_port, host_and_port
from actial.inference.vllm_engine import transfer_module
from actial.inference.weight_streams import WeightStream

LOCAL_HOSTS = ("127.0.0.1", "localhost")


class Post(Protocol):
    """Sends JSON to a path of the server and returns its answer."""

    def __call__(self, path: str, body: dict[str, Any]) -> Any: ...


class NativeTransfer:
    """The trainer's end of vLLM's weight transfer; every rank of the trainer has one.

    Raises UserError, when it is opened, for a server that was started without
    --weight-transfer-config.
    """

    def __init__(
        self,
        config: SamplerConfig,
        stream: WeightStream,
        post: Post,
        get: Callable[[str], Any],
        *,
        leads: bool,
    ) -> None:
        self.post, self.get, self.leads = post, get, leads
        self.source = _Source(stream)
        self.client = _Client(post)
        kind = config.transfer
        module = transfer_module(f"{kind.value}_engine")
        rank = dist.get_rank() if dist.is_initialized() else 0
        info: Any
        if kind is WeightTransfer.nccl:
            info = module.NCCLTrainerInitInfo(**self._rendezvous(config), rank=rank)
        else:
            info = module.IPCTrainerInitInfo(packed=True, rank=rank)
        factory = transfer_module("factory").WeightTransferTrainerFactory
        try:
            self.sender = factory.trainer_init(info, client=self.client, source=self.source)
        except EngineFault as error:
            raise UserError(
                f"the vLLM server at {config.url} takes no weights by {kind.value} ({error}): "
                "start it with --weight-transfer-config "
                f'\'{{"backend":"{kind.value}"}}\', or set sampler.transfer=folder.'
            ) from error

    def _rendezvous(self, config: SamplerConfig) -> dict[str, Any]:
        """Where trainer and workers meet; the first rank opens the address."""
        if not self.leads:
            return {"master_address": "", "master_port": 0, "world_size": 0}
        assert config.url is not None
        workers = self.get("/get_world_size")["world_size"]
        address = config.transfer_address
        if address is None:
            local = host_and_port(config.url)[0] in LOCAL_HOSTS
            address = "127.0.0.1" if local else socket.gethostbyname(socket.gethostname())
        return {
            "master_address": address,
            "master_port": free_port(),
            "world_size": 1 + workers,
        }

    def send(self, stream: WeightStream, version: str) -> None:
        """Send all weights as one update of the server. A collective of the trainer's ranks.

        Requests in flight end with the old weights first; new ones wait until the caches are reset.
        """
        self.source.stream = stream
        self.client.version = version
        if not self.leads:
            self.sender.send_weights()
            return
        self.post("/pause?mode=wait", {})
        self.sender.send_weights()
        for path in ("/reset_encoder_cache", "/reset_mm_cache", "/reset_prefix_cache"):
            answer = self.post(path, {})
            if path == "/reset_prefix_cache" and not answer["success"]:
                raise EngineFault("the paused server did not reset its prefix cache.")
        in_place = self.get("/weight_info")["weight_version"]
        if in_place != version:
            raise EngineFault(
                f"the server has weights of version {in_place} after an update to {version}: "
                "another trainer sends to it."
            )
        self.post("/resume", {})

    def close(self) -> None:
        """Leave the group of trainer and workers."""
        self.sender.shutdown()


class _Source:
    """What vLLM calls a WeightSource: `metadata` without a transfer, and the tensors, in order."""

    def __init__(self, stream: WeightStream) -> None:
        self.stream = stream

    def metadata(self) -> list[Any]:
        describe = transfer_module("base").ParamMeta
        return [describe(*entry) for entry in self.stream.metadata()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.stream)


class _Client:
    """What vLLM calls a VLLMWeightSyncClient: its routes, by the engine's own HTTP client."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self.version = ""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self.post("/start_weight_update", {})

    def update_weights(self, update_info: Any) -> None:
        safe = transfer_module("clients")._json_safe_update_payload(update_info)
        self.post("/update_weights", {"update_info": safe})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.post("/finish_weight_update", {"weight_version": weight_version or self.version})
