"""Samplers, and the benchmarks a model is scored on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from actial.config.validation import changed, num, reject


class Accelerator(Enum):
    """Where the model of this process computes; auto = CUDA where there is a device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class SamplerKind(Enum):
    hf = "hf"
    vllm = "vllm"
    vllm_server = "vllm_server"


class WeightTransfer(Enum):
    """How new weights reach a vLLM server."""

    folder = "folder"  # a checkpoint that it reads again
    nccl = "nccl"  # vLLM's own, to GPUs that the trainer does not use
    ipc = "ipc"  # vLLM's own, on GPUs that trainer and server share


# Settings of a sampler that only some kinds read. Experiments bring `engine`, which stands idle
# beside sampler=hf.
READ_BY: dict[str, tuple[SamplerKind, ...]] = {
    "batch_size": (SamplerKind.hf,),
    "adapter_sync": (SamplerKind.vllm,),
    "probe_prompts": (SamplerKind.vllm, SamplerKind.vllm_server),
    "probe_tolerance": (SamplerKind.vllm, SamplerKind.vllm_server),
} | dict.fromkeys(
    (
        *("url", "start", "devices", "folder", "transfer", "transfer_address"),
        *("concurrency", "start_timeout_s", "timeout_s", "restarts"),
    ),
    (SamplerKind.vllm_server,),
)


@dataclass(kw_only=True, slots=True)
class SamplerConfig:
    kind: SamplerKind = SamplerKind.hf
    batch_size: int = num(256, "[1, 1e6]")  # sequences decoded together (hf)
    engine: dict[str, Any] = field(default_factory=dict)  # passed to vLLM
    url: str | None = None  # vllm_server
    start: bool = True  # vllm_server: start it; false = use one that is running
    devices: str | None = None  # vllm_server that is started: its CUDA_VISIBLE_DEVICES
    # vllm_server: folder through which it gets new weights; None = a temporary one
    folder: str | None = None
    transfer: WeightTransfer = WeightTransfer.folder  # vllm_server
    # nccl: the first rank's address as the server sees it; None = 127.0.0.1 or the host's name
    transfer_address: str | None = None
    concurrency: int = num(256, "[1, 4096]")  # vllm_server: requests in flight
    start_timeout_s: float = num(900.0, "(0, inf)")
    timeout_s: float = num(1800.0, "(0, inf)")  # vllm_server: of one request
    restarts: int = num(2, "[0, 100]")  # vllm_server: restarts allowed on the same prompts
    # vllm: send adapters alone, not the merged model; needs model.lora.enabled, and no training of
    # the vision encoder and merger
    adapter_sync: bool = False
    # the check of an engine against the trainer after each transfer of weights: prompts, and the
    # mean difference in nats over sampled tokens that is allowed; None = 1e-4 in fp32, 0.1 in bf16
    probe_prompts: int = num(4, "[1, 256]")
    probe_tolerance: float | None = num(None, "(0, inf)")

    def check(self, path: str) -> None:
        if (
            mode := self.engine.get("logprobs_mode", "processed_logprobs")
        ) != "processed_logprobs":
            remedy = "the trainer needs log-probabilities at the sampling temperature: "
            remedy += "set processed_logprobs"
            reject(f"{path}engine.logprobs_mode", mode, remedy)
        self._check_that_all_is_read(path)
        native = self.transfer is not WeightTransfer.folder
        if self.kind is not SamplerKind.vllm_server:
            return
        if not self.url:
            reject(
                f"{path}url",
                self.url,
                "a vllm_server sampler needs its address, such as http://127.0.0.1:8000",
            )
        if self.start and not any(
            f"//{host}:" in self.url for host in ("127.0.0.1", "localhost")
        ):
            reject(
                f"{path}start",
                True,
                f"{self.url} is on another machine, where no server can be started: "
                f"set {path}start=false",
            )
        if not self.start and self.folder is None and not native:
            reject(
                f"{path}folder",
                None,
                "a running server reads new weights from a folder that both machines see: name it",
            )

    def _check_that_all_is_read(self, path: str) -> None:
        for name, value in changed(self).items():
            kinds = READ_BY.get(name, tuple(SamplerKind))
            if self.kind in kinds:
                continue
            readers = " or ".join(f"{path}kind={kind.value}" for kind in kinds)
            remedy = f"only {readers} reads it, and {path}kind is {self.kind.value}"
            remedy += f": choose a sampler by its group, such as sampler={kinds[0].value}"
            value = value.value if isinstance(value, Enum) else value
            reject(f"{path}{name}", value, f"{remedy}, or leave it out")


class AnswerForm(Enum):
    direct = "direct"  # the option letter alone
    think = "think"  # a chain of thought, then the letter in tags


@dataclass(kw_only=True, slots=True)
class BenchmarkConfig:
    """Sets scored after each stage, or one published benchmark; `limit` = questions per set, 0 =
    all.
    """

    sets: dict[str, str] = field(default_factory=dict)  # name -> "<data set>:<split>"
    limit: int = num(0, "[0, 1e9]")
    mode: AnswerForm = AnswerForm.think
    # of an answer; 0 = the limit saved with the checkpoint, or 4,096 (evaluation only)
    max_tokens: int = num(128, "[0, 1e6]")
    batch_size: int = num(128, "[1, 1e6]")
    # a published benchmark, for actial.evaluate, actial.score and actial.export
    name: str = ""  # one of actial/evaluation/benchmarks
    suite: str = ""  # several of them with one total (actial/evaluation/easi.py)
    # folder of its files, of a suite's sets root/NAME; None = the hub
    root: str | None = None
    roots: dict[str, str] = field(default_factory=dict)  # of a suite: name -> folder
    revision: str | None = None  # of the hub data set
    split: str = ""  # "" = the one that papers report
    # prompt style (actial/evaluation/benchmarks/base.py); "" = the benchmark's own
    style: str = ""
    circular: bool = False  # ask every rotation of the options
    sha256: dict[str, str] = field(default_factory=dict)  # file name -> the hash it must have
    # questions per set that are asked again: to be answered directly, without images, and with
    # the images in reverse order; 0 = none
    controls: int = num(100, "[0, 1e9]")
    # tests that tell geometry from shortcuts, on sets of view pairs: examples per set, and more
    # until they hold 100 questions; costs about eight times the scoring of them
    diagnostics: int = num(0, "[0, 1e9]")

    def check(self, path: str) -> None:
        if self.sets:
            published = ("root", "revision", "split", "style", "circular", "roots", "sha256")
            remedy = "only a published benchmark reads it: "
            remedy += "leave it out, and choose sets and their splits by benchmark.sets"
            for name in published:
                if value := getattr(self, name):
                    reject(f"{path}{name}", value, remedy)
        elif (self.name or self.suite) and self.mode is not AnswerForm.think:
            remedy = "only sets of data.sets read it: set benchmark.style=letter"
            reject(f"{path}mode", self.mode.value, remedy)
