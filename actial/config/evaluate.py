"""The commands evaluate, score and export, and those that gather runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from actial.config.data import DataConfig, Task, WordingConfig
from actial.config.inference import (
    Accelerator,
    BenchmarkConfig,
    SamplerConfig,
    SamplerKind,
)
from actial.config.model import ModelConfig, PromptConfig
from actial.config.validation import changed, num, reject


@dataclass(kw_only=True, slots=True)
class ServerConfig:
    """An OpenAI-compatible server; with `url` set it answers in place of an in-process model."""

    # such as http://127.0.0.1:8000/v1
    url: str | None = None
    # the name it serves the model under
    model: str = ""
    # environment variable with the key; unset = "EMPTY"
    key_env: str = "OPENAI_API_KEY"
    # examples in flight
    concurrency: int = num(64, "[1, 4096]")
    timeout_s: float = num(600.0, "(0, inf)")
    retries: int = num(6, "[0, 100]")
    # both sides of every image are multiples of it: patch size x merge size of the served model
    multiple: int = num(28, "[1, 1024]")

    def check(self, path: str) -> None:
        if self.url and not self.model:
            reject(f"{path}model", "", "name the model that the server offers")
        if not self.url:
            remedy = f"without {path}url no server is asked: give its address, or leave it out"
            for name, value in changed(self).items():
                reject(f"{path}{name}", value, remedy)


def check_who_answers(server: ServerConfig, sampler: SamplerConfig) -> None:
    """Reject a sampler beside a server: one of them answers."""
    if server.url and sampler.kind is not SamplerKind.hf:
        remedy = f"the server at server.url={server.url} answers: leave out one of them"
        reject("sampler.kind", sampler.kind.value, remedy)


class ModelType(Enum):
    """How EASI's leaderboard sorts models."""

    pretrained = "pretrained"
    finetuned = "finetuned"
    instruction = "instruction"
    rl = "rl"


@dataclass(kw_only=True, slots=True)
class SubmissionConfig:
    """Who submits what to EASI's leaderboard; without `model_name` no file is written."""

    model_name: str = ""  # of the hub, as org/model
    model_type: ModelType = ModelType.rl
    # bfloat16, float16, float32 or int8
    precision: str = "bfloat16"
    revision: str = "main"
    # Original, Delta or Adapter
    weight_type: str = "Original"
    base_model: str = ""  # of Delta and Adapter weights
    remarks: str = ""

    def check(self, path: str) -> None:
        precisions = ("bfloat16", "float16", "float32", "int8")
        if self.model_name and "/" not in self.model_name.strip("/"):
            reject(f"{path}model_name", self.model_name, "give it as org/model")
        if self.precision not in precisions:
            reject(f"{path}precision", self.precision, f"use one of {', '.join(precisions)}")


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """`python -m actial.evaluate benchmark=NAME model=NAME out=DIR`: answers, scores and a report
    of one model.
    """

    # continued when it holds answers under the same settings, refused when under others
    out: str = MISSING
    seed: int = num(0, "[0, 4294967295]")
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    questions: WordingConfig = field(default_factory=WordingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    benchmark: BenchmarkConfig = field(default_factory=lambda: BenchmarkConfig(max_tokens=0))
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    accelerator: Accelerator = Accelerator.auto
    temperature: float = num(0.0, "[0, inf)")
    submission: SubmissionConfig = field(default_factory=SubmissionConfig)

    def check(self, path: str) -> None:
        check_who_answers(self.server, self.sampler)
        benchmark = self.benchmark
        if [bool(benchmark.name), bool(benchmark.suite), bool(benchmark.sets)].count(
            True
        ) != 1:
            reject(
                "benchmark.name",
                benchmark.name,
                "give either a published benchmark, a suite, or sets of data.sets",
            )
        if self.submission.model_name and not benchmark.suite:
            reject(
                "submission.model_name",
                self.submission.model_name,
                "a submission has all sets of a suite: use benchmark=easi_8",
            )
        for name, source in self.benchmark.sets.items():
            if source.partition(":")[0] not in self.data.sets:
                reject(
                    f"benchmark.sets.{name}",
                    source,
                    f"data.sets has only {', '.join(self.data.sets)}",
                )


@dataclass(kw_only=True, slots=True)
class PassRatesConfig:
    """`python -m actial.passrates set=NAME model=NAME out=DIR`: how often a model solves each
    training question of a set.
    """

    # continued when it holds answers under the same settings, refused when under others
    out: str = MISSING
    set: str = MISSING  # a name of data.sets
    # tries at each question; as many as GRPO's group tells what GRPO will meet
    samples: int = num(16, "[2, 4096]")
    # examples, drawn by hash; 0 = all
    limit: int = num(0, "[0, 1e9]")
    temperature: float = num(1.0, "(0, inf)")
    # of a try; 0 = GRPO's own limit, saved with the checkpoint, or 4,096
    max_tokens: int = num(0, "[0, 1e6]")
    batch_size: int = num(128, "[1, 1e6]")
    seed: int = num(0, "[0, 4294967295]")
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    questions: WordingConfig = field(default_factory=WordingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    accelerator: Accelerator = Accelerator.auto

    def check(self, path: str) -> None:
        check_who_answers(self.server, self.sampler)
        if self.set not in self.data.sets:
            reject("set", self.set, f"data.sets has only {', '.join(self.data.sets)}")
        elif self.data.sets[self.set].task not in (Task.qa, Task.viewpoint):
            reject(
                "set",
                self.set,
                "its questions are drawn anew every epoch: name a set of task qa or viewpoint",
            )


@dataclass(kw_only=True, slots=True)
class ScoreConfig:
    """`python -m actial.score benchmark=NAME predictions=FILE out=DIR`: the scores of answers
    made elsewhere, without a model.
    """

    out: str = MISSING
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    # ours (.jsonl), lmms-eval's samples (.jsonl) or VLMEvalKit's (.xlsx, .tsv, .json)
    predictions: str = MISSING
    # how answers are read (actial/grading/multiple_choice.py)
    compat: str = "ladder"

    def check(self, path: str) -> None:
        if self.benchmark.suite:
            reject("benchmark.suite", self.benchmark.suite, "score its sets one by one")


class ExportFormat(Enum):
    # OUT/NAME.tsv for VLMEvalKit's $LMUData
    vlmeval = "vlmeval"
    # a task folder for --include_path
    lmms_eval = "lmms_eval"
    # README.md of a model from a run's results
    model_card = "model_card"
    # a model folder of an adapter and its base
    merged = "merged"


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """`python -m actial.export benchmark=NAME format=FORMAT out=DIR`."""

    out: str = MISSING
    format: ExportFormat = MISSING
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    run_dir: str = ""  # model_card: the finished run
    # merged: a PEFT folder, such as RUN/grpo/adapter
    adapter: str = ""
    # model_card: certificate.json of an audit of its data, if any
    certificate: str = ""


@dataclass(kw_only=True, slots=True)
class CollectConfig:
    """`python -m actial.collect RUNS_DIR out=DIR`: the runs of a sweep as tables and figures."""

    runs: str = MISSING
    out: str = MISSING
    # tables 1 and A1 of the paper from evaluations in RUNS/MODEL/BENCHMARK, instead of a sweep's
    paper_table: bool = False
    # the condition that the others are compared with; "" = the first
    against: str = ""
    # EASI's submission files from evaluations in RUNS/BENCHMARK, instead of a sweep's
    submission: SubmissionConfig = field(default_factory=SubmissionConfig)


@dataclass(kw_only=True, slots=True)
class AuditConfig:
    """`python -m actial.audit SET [SET ...] out=DIR`: what sets leak, of each other and of text."""

    # benchmark:NAME:FOLDER, FOLDER:SPLIT of a built set, or images
    sets: list[str] = MISSING
    # folder for certificate.json and audit.html
    out: str = MISSING
    # file with identifiers of scenes, one a line, beside the known forms
    identifiers: str = ""
    # threads that decode images
    workers: int = num(2, "[1, 256]")


@dataclass(kw_only=True, slots=True)
class CompareConfig:
    """`python -m actial.compare A B [C ...]`: models on the same items."""

    # files or folders of predictions; commas join the seeds of one
    models: list[str] = MISSING
    # folder for comparison.json, .md and .png; "" = only print
    out: str = ""
    # category by which figures are split
    task: str = "type"
    # items that share it are resampled together; "item" = none do
    cluster: str = "example"
    # same: refuse files that differ in their items; common: compare the others
    items: str = "same"
    resamples: int = num(10_000, "[100, 1000000]")

    def check(self, path: str) -> None:
        if self.items not in ("same", "common"):
            reject(f"{path}items", self.items, "use same or common")


@dataclass(kw_only=True, slots=True)
class DashboardConfig:
    """`python -m actial.dashboard entity=NAME`: the wandb workspace of a project."""

    entity: str = MISSING  # wandb account or team
    project: str = "actial"
    name: str = "actial"  # of the workspace
    # a setting whose values make the groups, such as cold_start.ratio; "" = single runs
    group: str = ""
    # sets whose final scores have panels; those of conf/benchmark/world.yaml
    sets: list[str] = field(default_factory=lambda: ["viewpoint", "perception"])


@dataclass(kw_only=True, slots=True)
class ImportReleaseConfig:
    """`python -m actial.import_release DIR`: texts of the release from the user's own copies."""

    release: str = MISSING  # a clone of the release
    # a file of its viewpoint set; "" = only the system prompt
    rows: str = ""
    out: str = "release"
