"""Who samples, and what is asked of a model to score it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from actial.config.validation import num, reject


class Accelerator(Enum):
    """Where a model of this process computes; auto = CUDA where there is any."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class SamplerKind(Enum):
    hf = "hf"
    vllm = "vllm"
    vllm_server = "vllm_server"
    scripted = "scripted"


@dataclass(kw_only=True, slots=True)
class SamplerConfig:
    kind: SamplerKind = SamplerKind.hf
    batch_size: int = num(256, "[1, 1e6]")  # sequences decoded together (hf)
    engine: dict[str, Any] = field(default_factory=dict)  # passed to vLLM
    url: str | None = None  # vllm_server
    start: bool = True  # vllm_server: run it as a process of ours; false = join one that is running
    devices: str | None = None  # vllm_server of ours: its CUDA_VISIBLE_DEVICES
    folder: str | None = (
        None  # vllm_server: where weights are handed over, seen by both sides; None = a temporary folder
    )
    concurrency: int = num(256, "[1, 4096]")  # vllm_server: requests in flight
    start_timeout_s: float = num(900.0, "(0, inf)")
    timeout_s: float = num(1800.0, "(0, inf)")  # vllm_server: of one request
    restarts: int = num(2, "[0, 100]")  # vllm_server: on the same prompts

    def check(self, path: str) -> None:
        if (mode := self.engine.get("logprobs_mode", "processed_logprobs")) != "processed_logprobs":
            needed = "the trainer needs log-probabilities under the sampling temperature: leave it at processed_logprobs"
            reject(f"{path}engine.logprobs_mode", mode, needed)
        if self.kind is not SamplerKind.vllm_server:
            return
        if not self.url:
            reject(
                f"{path}url",
                self.url,
                "a vllm_server sampler needs its address, such as http://127.0.0.1:8000",
            )
        if self.start and not any(f"//{host}:" in self.url for host in ("127.0.0.1", "localhost")):
            reject(
                f"{path}start",
                True,
                f"a server on another machine ({self.url}) is not ours to run: set {path}start=false",
            )
        if not self.start and self.folder is None:
            reject(
                f"{path}folder",
                None,
                "a server that is joined gets its weights through a folder that both sides see: name one",
            )


class AnswerForm(Enum):
    direct = "direct"  # the option letter alone
    think = "think"  # a chain, then the letter in tags


@dataclass(kw_only=True, slots=True)
class BenchmarkConfig:
    """Sets scored at the end of each stage; `limit` = questions per set (0 = all)."""

    sets: dict[str, str] = field(default_factory=dict)  # name -> "<data set>:<split>"
    limit: int = num(0, "[0, 1e9]")
    mode: AnswerForm = AnswerForm.think
    max_tokens: int = num(128, "[1, 1e6]")
    batch_size: int = num(128, "[1, 1e6]")
    # a published benchmark, for actial.evaluate, actial.score and actial.export
    name: str = ""  # one of actial/benchmarks
    root: str | None = None  # folder of its files; None = the hub
    revision: str | None = None  # of the hub data set
    split: str = ""  # "" = the one that papers report
    style: str = ""  # how it is asked (actial/evaluation/benchmarks/base.py); "" = its own way
    circular: bool = False  # ask every rotation of the options
    sha256: dict[str, str] = field(default_factory=dict)  # file name -> the hash it must have
    # what tells geometry from shortcuts, in sets of view pairs
    diagnostics: int = num(
        0, "[0, 1e9]"
    )  # examples per set; asks about ten times as much as scoring them
