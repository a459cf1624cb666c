"""vLLM's nccl weight transfer with a TCP store in place of NCCL, for machines without a GPU.

Both ends are vLLM's own engines: rendezvous, metadata, threads, checks, and layerwise loading.
Only the broadcast of a tensor differs. `register` is called in the trainer, and as a plugin of
vLLM in each process of a server (`plugin_path`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ENTRY = "[vllm.general_plugins]\ntcp_transfer = support.tcp_transfer:register\n"


def plugin_path(folder: Path) -> str:
    """A PYTHONPATH under which vLLM finds `register`."""
    info = folder / "tcp_transfer-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tcp-transfer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY)
    return f"{folder}:{Path(__file__).parents[1]}"


def register() -> None:
    """Take the place of "nccl" in vLLM's tables of weight transfers."""
    from vllm.distributed.utils import StatelessProcessGroup
    from vllm.distributed.weight_transfer import nccl_engine
    from vllm.distributed.weight_transfer.factory import (
        WeightTransferEngineFactory,
        WeightTransferTrainerFactory,
    )

    def join(info, rank: int) -> StatelessProcessGroup:
        return StatelessProcessGroup.create(
            host=info.master_address,
            port=info.master_port,
            rank=rank,
            world_size=info.world_size,
        )

    class Worker(nccl_engine.NCCLWeightTransferEngine):
        def init_transfer_engine(self, init_info) -> None:
            self.model_update_group = join(init_info, init_info.rank_offset)

        def update_weights(self, update_info) -> None:
            self.receive_weights(self.parse_update_info(update_info))

        def receive_weights(self, update_info) -> None:
            described = zip(
                update_info.names, update_info.dtype_names, update_info.shapes, strict=True
            )
            for name, dtype, shape in described:
                weight = self.model_update_group.broadcast_obj(None, src=0)
                assert (str(weight.dtype), list(weight.shape)) == (f"torch.{dtype}", shape)
                self.model.load_weights([(name, weight)])

        def shutdown(self) -> None:
            self.model_update_group = None

    class Trainer(nccl_engine.NCCLTrainerWeightTransferEngine):
        @classmethod
        def trainer_init(cls, init_info, *, client, source=None):
            engine = cls(client=client, source=source, is_sender=init_info.is_sender)
            if engine.is_sender:
                worker = nccl_engine.NCCLWeightTransferInitInfo(
                    master_address=init_info.master_address,
                    master_port=init_info.master_port,
                    rank_offset=1,
                    world_size=init_info.world_size,
                )
                with ThreadPoolExecutor(max_workers=1) as pool:
                    payload = nccl_engine.worker_init_payload(worker)
                    answer = pool.submit(client.init_weight_transfer_engine, payload)
                    engine.model_update_group = join(init_info, 0)
                    answer.result()
            return engine

        def _broadcast(self, source, meta) -> None:
            for _name, tensor in self._checked_iter(source, meta):
                if self.is_sender:
                    self.model_update_group.broadcast_obj(tensor, src=0)

        def shutdown(self) -> None:
            self.model_update_group = None

    WeightTransferEngineFactory._registry["nccl"] = lambda: Worker
    WeightTransferTrainerFactory._registry["nccl"] = lambda: Trainer
