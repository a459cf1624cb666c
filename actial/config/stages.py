"""The training stages and their rewards."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from actial.config.data import MixConfig
from actial.config.validation import num, reject

MODULE_GROUP_NAMES = ("vision", "merger", "language")


class Schedule(Enum):
    constant = "constant"
    linear = "linear"  # decays to zero from decay_from on
    cosine = "cosine"


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    lr: float = num(5e-6, "(0, 1]")
    weight_decay: float = num(0.01, "[0, 1]")
    betas: list[float] = num([0.9, 0.999], "[0, 1)")
    warmup_steps: int = num(50, "[0, 1e9]")
    schedule: Schedule = Schedule.constant
    decay_from: float = num(
        0.5, "[0, 1)"
    )  # share of the steps after which `linear` starts to fall
    grad_clip: float = num(1.0, "(0, 1e9]")

    def check(self, path: str) -> None:
        if len(self.betas) != 2:
            reject(f"{path}betas", self.betas, "AdamW takes two of them")


@dataclass(kw_only=True, slots=True)
class StageConfig:
    """Settings that SFT and GRPO share."""

    steps: int = num(0, "[0, 1e9]")  # 0 = as many as `epochs` take
    # passes through the mixture, as mix.epoch_rule counts them; steps above 0 win over it
    epochs: float = num(0.0, "[0, 1e6]")
    # module groups that this stage trains: vision, merger, language; null = those of model.*.train
    train_modules: list[str] | None = None
    batch_size: int = num(
        MISSING, "[1, 1e6]"
    )  # examples (SFT) or prompts (GRPO) per optimizer step
    optim: OptimConfig = field(default_factory=OptimConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    save_every: int = num(100, "[1, 1e9]")
    eval_every: int = num(0, "[0, 1e9]")  # 0 = only at the end
    log_every: int = num(1, "[1, 1e9]")

    def check(self, path: str) -> None:
        groups = self.train_modules
        if groups is not None and (not groups or not set(groups) <= set(MODULE_GROUP_NAMES)):
            reject(
                f"{path}train_modules", groups, f"name some of {', '.join(MODULE_GROUP_NAMES)}"
            )


@dataclass(kw_only=True, slots=True)
class SFTConfig(StageConfig):
    pass


class LossType(Enum):
    grpo = "grpo"
    dr_grpo = "dr_grpo"
    dapo = "dapo"
    bnpo = "bnpo"
    cispo = "cispo"
    gspo = "gspo"
    sapo = "sapo"


class KLEstimator(Enum):
    none = "none"
    k1 = "k1"
    abs = "abs"
    k2 = "k2"
    k3 = "k3"
    full = "full"


class KLPlace(Enum):
    loss = "loss"
    reward = "reward"


class KLGradient(Enum):
    # differentiate the value estimator as it stands (paper: k3 in the loss, biased gradient)
    plain = "plain"
    unbiased = "unbiased"


class Reference(Enum):
    none = "none"
    adapter_off = "adapter_off"
    frozen_copy = "frozen_copy"


class AdvantageScale(Enum):
    group = "group"
    batch = "batch"
    none = "none"
    leave_one_out = "leave_one_out"


class Overlong(Enum):
    keep = "keep"
    mask = "mask"
    soft_penalty = "soft_penalty"


class ImportanceSampling(Enum):
    """Correction for the difference between sampler and trainer probabilities."""

    off = "off"
    token_truncate = "token_truncate"
    token_mask = "token_mask"
    sequence_truncate = "sequence_truncate"  # length-normalized
    sequence_mask = "sequence_mask"


@dataclass(kw_only=True, slots=True)
class KLConfig:
    beta: float = num(0.01, "[0, 100]")
    estimator: KLEstimator = KLEstimator.k3
    place: KLPlace = KLPlace.loss
    gradient: KLGradient = KLGradient.plain
    # nats a token: the most that k3 counts, without a gradient beyond (verl's low_var_kl has 10)
    cap: float = num(10.0, "(0, inf)")
    reference: Reference = Reference.frozen_copy

    def check(self, path: str) -> None:
        if self.beta > 0 and self.reference is Reference.none:
            reject(
                f"{path}beta",
                self.beta,
                f"a KL penalty needs a reference: set {path}beta=0 or {path}reference=frozen_copy",
            )
        if self.beta > 0 and self.estimator is KLEstimator.none:
            reject(
                f"{path}beta",
                self.beta,
                f"a KL penalty needs an estimator: set {path}beta=0 or {path}estimator=k3",
            )


@dataclass(kw_only=True, slots=True)
class DynamicSamplingConfig:
    """Replace groups whose rewards are all equal by groups of further prompts (DAPO, arXiv
    2503.14476).
    """

    enabled: bool = False
    max_rounds: int = num(3, "[0, 100]")  # of further sampling within one step


@dataclass(kw_only=True, slots=True)
class GRPOConfig(StageConfig):
    group_size: int = num(16, "[2, 4096]")
    num_mini_batches: int = num(1, "[1, 1024]")  # mini-batches per rollout batch (release: 4)
    loss: LossType = LossType.dapo
    clip_low: float = num(0.2, "(0, 1]")
    clip_high: float = num(0.2, "(0, 10]")
    dual_clip: float | None = num(3.0, "(1, 1e6]")
    advantage: AdvantageScale = AdvantageScale.group
    kl: KLConfig = field(default_factory=KLConfig)
    # ask a pair all of its questions in one step; batch_size counts pairs then
    all_questions: bool = False
    # half of a group gets a pair's photos swapped, and the answer with them
    counterfactual: bool = False
    dynamic_sampling: DynamicSamplingConfig = field(default_factory=DynamicSamplingConfig)
    # a control: the rewards of a step are dealt anew among its completions, so that nothing can be
    # learned from them
    shuffle_rewards: bool = False
    overlong: Overlong = Overlong.keep
    importance: ImportanceSampling = ImportanceSampling.off
    importance_cap: float = num(2.0, "[1, 1e6]")
    # abort above this mean |trainer - sampler| log-probability; 0 = only log
    max_sampling_logp_difference: float = num(0.0, "[0, 100]")
    # draw the next step's samples beside this one's update: they, and the gap, are one update
    # old
    one_step_off: bool = False
    temperature: float = num(1.0, "(0, 10]")
    max_tokens: int = num(4096, "[1, 1e6]")

    def check(self, path: str) -> None:
        StageConfig.check(self, path)
        if self.batch_size % self.num_mini_batches:
            reject(
                f"{path}num_mini_batches",
                self.num_mini_batches,
                f"it must divide {path}batch_size={self.batch_size}",
            )
        if self.counterfactual and self.group_size % 2:
            reject(
                f"{path}group_size",
                self.group_size,
                f"{path}counterfactual halves a group: give an even number",
            )
        if self.one_step_off and self.importance is ImportanceSampling.off:
            reject(
                f"{path}one_step_off",
                True,
                f"it trains on off-policy samples: set {path}importance=token_truncate to "
                "correct for it",
            )


REWARDS = (
    "format",
    "accuracy",
    "accuracy_faithful",
    "consistency",
    "joint",
    "verified",
)  # functions of actial.rl.rewards


@dataclass(kw_only=True, slots=True)
class RewardTerm:
    kind: str = MISSING  # one of REWARDS
    weight: float = num(MISSING, "[-100, 100]")

    def check(self, path: str) -> None:
        if self.kind not in REWARDS:
            reject(f"{path}kind", self.kind, f"use one of {', '.join(REWARDS)}")


@dataclass(kw_only=True, slots=True)
class RewardConfig:
    """Weighted reward terms; `gated` counts accuracy only where the format holds."""

    terms: dict[str, RewardTerm] = field(default_factory=dict)
    gated: bool = False

    def check(self, path: str) -> None:
        if self.gated and not any(term.kind == "format" for term in self.terms.values()):
            reject(
                f"{path}gated",
                True,
                "no term of kind format says whether the format holds: take reward=gated, or "
                f"set {path}gated=false",
            )
