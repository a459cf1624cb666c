"""The training command."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from actial.config.data import (
    ColdStartConfig,
    DataConfig,
    MixConfig,
    Reader,
    Task,
    WordingConfig,
)
from actial.config.inference import Accelerator, BenchmarkConfig, SamplerConfig, SamplerKind
from actial.config.model import SAVED, FrozenWeights, ModelConfig, Precision, PromptConfig
from actial.config.stages import GRPOConfig, Reference, RewardConfig, SFTConfig
from actial.config.validation import num, reject


class StageName(Enum):
    sft = "sft"
    grpo = "grpo"


class Strategy(Enum):
    auto = "auto"
    ddp = "ddp"
    fsdp2 = "fsdp2"


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    accelerator: Accelerator = Accelerator.auto
    devices: int = num(1, "[1, 1024]")
    nodes: int = num(1, "[1, 4096]")
    strategy: Strategy = Strategy.auto
    threads: int = num(0, "[0, 1024]")  # CPU threads of torch; 0 = its own choice
    # of one device, which actial.doctor plans for where it finds none
    memory_gib: float | None = num(None, "(0, 1e4]")

    def check(self, path: str) -> None:
        if self.strategy is Strategy.auto and self.devices * self.nodes > 1:
            reject(
                f"{path}strategy",
                "auto",
                f"name one for {self.devices * self.nodes} devices: ddp or fsdp2",
            )


class WandbMode(Enum):
    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class LoggerConfig:
    """wandb's settings; metrics.jsonl is always written."""

    mode: WandbMode = WandbMode.offline
    project: str = "actial"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    table_rows: int = num(16, "[0, 1000]")  # examples with their images in one table


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """`python -m actial.train +experiment=NAME`: run the stages in order.

    Each stage starts from the model that the one before it saved.
    """

    # resumed when it holds the same config, refused when it holds another
    run_dir: str = MISSING
    # a folder of runs whose finished stages and answers are taken over where all that decides
    # them is equal
    stage_cache_dir: str | None = None
    # which values the experiment follows: paper, recommended, or "" (docs/fidelity.md)
    fidelity: str = ""
    seed: int = num(0, "[0, 4294967295]")
    stages: list[StageName] = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    questions: WordingConfig = field(default_factory=WordingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def check(self, path: str) -> None:
        if self.fidelity not in ("", "paper", "recommended"):
            reject("fidelity", self.fidelity, "give paper or recommended")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            reject("stages", names, "name sft, grpo or [sft,grpo], each at most once")
        for name in names:
            self._check_mix(name, getattr(self, name).mix)
            if not (getattr(self, name).steps or getattr(self, name).epochs):
                reject(f"{name}.steps", 0, f"give {name}.steps, or {name}.epochs")
        for name, source in self.benchmark.sets.items():
            if source.partition(":")[0] not in self.data.sets:
                reject(
                    f"benchmark.sets.{name}",
                    source,
                    f"data.sets has only {', '.join(self.data.sets)}",
                )
        if not (self.model.min_pixels and self.model.max_pixels):
            reject(
                "model.max_pixels",
                self.model.max_pixels,
                "training needs the limits of images",
            )
        if self.model.precision is Precision.saved or self.prompt.system_prompt == SAVED:
            reject(
                "model.precision",
                "saved",
                "it is for evaluation: name fp32 or bf16, and a prompt",
            )
        if not self.benchmark.max_tokens:
            reject("benchmark.max_tokens", 0, "give the most tokens of an answer")
        if StageName.grpo in self.stages:
            self._check_grpo()
        if self.data.reader is Reader.stream:
            self._check_stream()
        if self.trainer.strategy is Strategy.fsdp2:
            self._check_sharded(names)
        if self.stage_cache_dir and self.trainer.devices * self.trainer.nodes > 1:
            reject(
                "stage_cache_dir",
                self.stage_cache_dir,
                "stages on several devices are not shared between runs: set stage_cache_dir=null",
            )

    def _check_stream(self) -> None:
        if StageName.grpo in self.stages:
            reject(
                "data.reader",
                "stream",
                "GRPO draws its prompts by index: train SFT alone with stages=[sft], or set index",
            )
        if self.cold_start.source != "grounded":
            reject(
                "data.reader",
                "stream",
                "the pairs of a teacher's chains are read by index: set index, "
                "or cold_start.source=grounded",
            )
        drawn = [name for name, weight in self.sft.mix.weights.items() if weight > 0]
        for name in drawn:
            source = self.data.sets[name]
            if source.task in (Task.perception, Task.scenes):
                reject(
                    f"data.sets.{name}.task",
                    source.task.value,
                    "its exercises draw on the whole set: set data.reader=index",
                )
            if source.pass_rates:
                reject(
                    f"data.sets.{name}.pass_rates",
                    source.pass_rates,
                    "records are chosen by pass rate before training: set data.reader=index",
                )

    def _check_sharded(self, names: list[str]) -> None:
        """Refuse what a model sharded by fsdp2, whose forward is collective, cannot do."""
        if self.model.lora.enabled:
            reject(
                "trainer.strategy",
                "fsdp2",
                "adapters are small, and not supported by it: set ddp",
            )
        if "grpo" in names and self.sampler.kind is SamplerKind.hf:
            reject(
                "sampler.kind",
                "hf",
                "with trainer.strategy=fsdp2 a rank cannot decode by itself: use a vllm sampler",
            )
        ranks = self.trainer.devices * self.trainer.nodes
        for name in names:
            if (size := getattr(self, name).batch_size) < ranks:
                reject(
                    f"{name}.batch_size",
                    size,
                    f"each of {ranks} ranks needs an example of its own: give {ranks} or more",
                )
            every = getattr(self, name).eval_every
            if every and self.sampler.kind is SamplerKind.hf:
                reject(
                    f"{name}.eval_every",
                    every,
                    "with trainer.strategy=fsdp2 sampler.kind=hf cannot score: use a vllm sampler",
                )

    def _check_mix(self, stage: str, mix: MixConfig) -> None:
        for name in mix.weights:
            if name not in self.data.sets:
                reject(
                    f"{stage}.mix.weights.{name}",
                    mix.weights[name],
                    f"data.sets has only {', '.join(self.data.sets)}",
                )
        if not any(mix.weights.values()):
            reject(
                f"{stage}.mix.weights",
                mix.weights,
                f"give a set of data.sets a weight above 0: {', '.join(self.data.sets)}",
            )

    def _check_adapter_sync(self) -> None:
        """Refuse to send adapters alone where they are not all that trains in vLLM's reach."""
        switches = {name: getattr(self.model, name).train for name in ("vision", "merger")}
        trained = [name for name, trains in switches.items() if trains]
        if self.grpo.train_modules is not None:
            trained = [name for name in self.grpo.train_modules if name in switches]
        if not self.model.lora.enabled:
            reject("sampler.adapter_sync", True, "there are none: set model.lora.enabled=true")
        if self.model.frozen_weights is FrozenWeights.nf4:
            reject(
                "sampler.adapter_sync",
                True,
                "the engine's own weights are not those of model.frozen_weights=nf4: set it to "
                "false, and each update sends the merged weights",
            )
        if trained:
            reject(
                "sampler.adapter_sync",
                True,
                f"vLLM takes adapters of the language model alone, and {' and '.join(trained)} "
                "would have some: set grpo.train_modules=[language]",
            )

    def _check_grpo(self) -> None:
        reference, lora = self.grpo.kl.reference, self.model.lora.enabled
        if self.sampler.adapter_sync:
            self._check_adapter_sync()
        if not any(term.weight for term in self.reward.terms.values()):
            reject(
                "reward.terms",
                list(self.reward.terms),
                "name a reward term with a weight other than 0",
            )
        if self.grpo.all_questions and self.data.questions_per_pair < 2:
            reject(
                "grpo.all_questions",
                True,
                "pairs have one question each: set data.questions_per_pair=3",
            )
        for name, term in self.reward.terms.items():
            if term.kind in ("consistency", "joint") and not (
                self.grpo.all_questions or self.grpo.counterfactual
            ):
                remedy = (
                    "it compares answers about the same photos: set grpo.all_questions=true"
                )
                remedy += " or grpo.counterfactual=true"
                reject(f"reward.terms.{name}.kind", term.kind, remedy)
        if reference is Reference.adapter_off and not lora:
            reject(
                "grpo.kl.reference",
                "adapter_off",
                "a model without adapters has none to turn off: set frozen_copy or "
                "model.lora.enabled=true",
            )
        if self.grpo.kl.beta > 0 and reference is Reference.frozen_copy and lora:
            reject(
                "grpo.kl.reference",
                "frozen_copy",
                "with model.lora.enabled the base model is the reference: set adapter_off",
            )
