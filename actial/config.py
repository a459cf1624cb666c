"""Typed configuration: every Hydra group has a schema here, checked before anything heavy is imported.

This file imports neither torch nor vllm, so `--help`, `--cfg job` and a multirun's composition answer in about a second.
Rules: `@dataclass(kw_only=True, slots=True)` (slots make an unknown key fail), Enums instead of Literals, ranges beside the fields
(`num`), rules over several fields in `check`, which `validate` runs with the full key once a whole config is typed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from actial.pool import jobs_at_once
from actial.types import QuestionType
from actial.validation import num, reject

# ---------------------------------------------------------------- model


class Attention(Enum):
    sdpa = "sdpa"
    flex = "flex"


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    enabled: bool = False
    rank: int = num(64, "[1, 4096]")
    alpha: int = num(128, "[1, 65536]")
    dropout: float = num(0.0, "[0, 1)")
    target: str = "all-linear"  # peft target_modules; language model only unless the tower trains


@dataclass(kw_only=True, slots=True)
class PartConfig:
    """One separately switched part of the model; lr_scale multiplies the stage's learning rate."""

    train: bool = True
    lr_scale: float = num(1.0, "(0, 1000]")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    path: str = MISSING  # a Hugging Face id or folder; ${asset:tiny_base} is the one kept in the package
    revision: str | None = None
    attention: Attention = Attention.sdpa
    precision: Precision = Precision.fp32  # of the arithmetic; weights stay in fp32
    gradient_checkpointing: bool = False
    min_pixels: int = num(3136, "[1, 1e8]")
    max_pixels: int = num(518_400, "[1, 1e8]")  # 960 x 540, paper release
    row_tokens: int = num(512, "[16, 1e7]")  # capacity of one packed row
    micro_tokens: int = num(16_384, "[16, 1e8]")  # budget of one micro-batch (all its rows)
    head_chunk_tokens: int = num(256, "[1, 1e7]")  # scored positions per vocabulary projection; peak memory is about 5 x this x vocabulary
    lora: LoraConfig = field(default_factory=LoraConfig)
    vision: PartConfig = field(default_factory=PartConfig)
    merger: PartConfig = field(default_factory=PartConfig)
    language: PartConfig = field(default_factory=PartConfig)

    def check(self, path: str) -> None:
        if self.min_pixels > self.max_pixels:
            reject(f"{path}min_pixels", self.min_pixels, f"it must not exceed {path}max_pixels={self.max_pixels}")
        if self.row_tokens > self.micro_tokens:
            reject(f"{path}row_tokens", self.row_tokens, f"a row must fit in {path}micro_tokens={self.micro_tokens}")
        if not (self.vision.train or self.merger.train or self.language.train):
            reject(f"{path}language.train", False, f"one of {path}vision, {path}merger and {path}language must train")


class SystemPrompt(Enum):
    faithful = "faithful"  # the release's string, stray marks included
    clean = "clean"
    none = "none"


@dataclass(kw_only=True, slots=True)
class PromptConfig:
    system_prompt: SystemPrompt = SystemPrompt.clean


# ---------------------------------------------------------------- data


class EpochRule(Enum):
    first = "first"  # an epoch ends when the first source has been drawn once
    draws = "draws"  # an epoch is `epoch_draws` draws


@dataclass(kw_only=True, slots=True)
class MixConfig:
    """What a stage trains on: named sets and their draw weights."""

    weights: dict[str, float] = field(default_factory=dict)  # set name -> draw weight
    epoch_rule: EpochRule = EpochRule.first
    epoch_draws: int = num(0, "[0, 1e12]")

    def check(self, path: str) -> None:
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                reject(f"{path}weights.{name}", weight, "give a weight of 0 or more")
        if self.epoch_rule is EpochRule.draws and self.epoch_draws == 0:
            reject(f"{path}epoch_draws", 0, f"{path}epoch_rule=draws needs the number of draws in an epoch")


@dataclass(kw_only=True, slots=True)
class ColdStartConfig:
    ratio: float = num(0.1, "[0, 1]")  # share of viewpoint draws answered with a chain of thought (paper 4.3)
    source: str = "grounded"  # grounded = written from the known geometry; otherwise a chains.jsonl file


class Task(Enum):
    """How the rows of a set become examples (actial/data/examples.py)."""

    viewpoint = "viewpoint"  # pair rows: the three question types
    qa = "qa"  # multiple-choice rows (SAT and its like)
    perception = "perception"  # pair rows of the procedural world: what each photo shows; never motion
    clock = "clock"  # text only: the order of the hours; needs no root


@dataclass(kw_only=True, slots=True)
class SetConfig:
    """One named set: a folder written by actial.build, read as one task."""

    task: Task = MISSING
    root: str = ""
    types: list[str] = field(default_factory=list)  # qa: only these types; viewpoint: only these are trained on; empty = all
    angles: list[float] = num([], "[0, 180]")  # viewpoint: smallest and largest angle of the pairs trained on; empty = all

    def check(self, path: str) -> None:
        if self.angles and (len(self.angles) != 2 or self.angles[0] >= self.angles[1]):
            reject(f"{path}angles", self.angles, "give the smallest and the largest angle in degrees, such as [20,60]")
        known = [kind.value for kind in QuestionType]
        if self.task is Task.viewpoint and not set(self.types) <= set(known):
            reject(f"{path}types", self.types, f"name some of {', '.join(known)}")
        if self.task is not Task.clock and not self.root:
            reject(f"{path}root", "''", "give the folder that actial.build wrote")


@dataclass(kw_only=True, slots=True)
class DataConfig:
    sets: dict[str, SetConfig] = field(default_factory=dict)
    questions_per_pair: int = num(1, "[1, 3]")  # 1 = paper; 3 = all three types as branches of one trunk
    exercises_per_pair: int = num(6, "[1, 64]")  # perception branches on one trunk
    workers: int = num(0, "[0, 1024]")


# ---------------------------------------------------------------- stages


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
    decay_from: float = num(0.5, "[0, 1)")  # share of the steps after which `linear` starts to fall
    grad_clip: float = num(1.0, "(0, 1e9]")

    def check(self, path: str) -> None:
        if len(self.betas) != 2:
            reject(f"{path}betas", self.betas, "AdamW takes two of them")


@dataclass(kw_only=True, slots=True)
class StageConfig:
    """What SFT and GRPO share."""

    steps: int = num(MISSING, "[1, 1e9]")
    batch_size: int = num(MISSING, "[1, 1e6]")  # trunks (SFT) or prompts (GRPO) per optimiser step
    optim: OptimConfig = field(default_factory=OptimConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    save_every: int = num(100, "[1, 1e9]")
    eval_every: int = num(0, "[0, 1e9]")  # 0 = only at the end
    log_every: int = num(1, "[1, 1e9]")


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
    plain = "plain"  # differentiate the value estimator as it stands (paper: k3 in the loss, biased gradient)
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


class OverLong(Enum):
    keep = "keep"
    mask = "mask"
    soft_penalty = "soft_penalty"


class ImportanceSampling(Enum):
    """Correction for the gap between sampler and trainer probabilities."""

    off = "off"
    token_truncate = "token_truncate"
    token_mask = "token_mask"
    sequence_truncate = "sequence_truncate"  # length-normalised
    sequence_mask = "sequence_mask"


@dataclass(kw_only=True, slots=True)
class KLConfig:
    beta: float = num(0.01, "[0, 100]")
    estimator: KLEstimator = KLEstimator.k3
    place: KLPlace = KLPlace.loss
    gradient: KLGradient = KLGradient.plain
    reference: Reference = Reference.frozen_copy

    def check(self, path: str) -> None:
        if self.beta > 0 and self.reference is Reference.none:
            reject(f"{path}beta", self.beta, f"a KL penalty needs a reference: set {path}beta=0 or {path}reference=frozen_copy")
        if self.beta > 0 and self.estimator is KLEstimator.none:
            reject(f"{path}beta", self.beta, f"a KL penalty needs an estimator: set {path}beta=0 or {path}estimator=k3")


@dataclass(kw_only=True, slots=True)
class GRPOConfig(StageConfig):
    group_size: int = num(16, "[2, 4096]")
    updates_per_batch: int = num(1, "[1, 1024]")  # mini-batches per rollout batch (release: 4)
    loss: LossType = LossType.dapo
    clip_low: float = num(0.2, "(0, 1]")
    clip_high: float = num(0.2, "(0, 10]")
    dual_clip: float | None = num(3.0, "(1, 1e6]")
    advantage: AdvantageScale = AdvantageScale.group
    kl: KLConfig = field(default_factory=KLConfig)
    filter_zero_variance: bool = False
    max_refills: int = num(3, "[0, 100]")
    over_long: OverLong = OverLong.keep
    importance: ImportanceSampling = ImportanceSampling.off
    importance_cap: float = num(2.0, "[1, 1e6]")
    max_logprob_gap: float = num(0.0, "[0, 100]")  # abort above this mean |trainer - sampler| gap; 0 = only log
    temperature: float = num(1.0, "(0, 10]")
    max_tokens: int = num(4096, "[1, 1e6]")

    def check(self, path: str) -> None:
        if self.batch_size % self.updates_per_batch:
            reject(f"{path}updates_per_batch", self.updates_per_batch, f"it must divide {path}batch_size={self.batch_size}")


@dataclass(kw_only=True, slots=True)
class RewardPart:
    kind: str = MISSING  # a name of actial.grpo.rewards
    weight: float = num(MISSING, "[-100, 100]")


@dataclass(kw_only=True, slots=True)
class RewardConfig:
    """Weighted named parts; `gated` counts accuracy only where the format holds."""

    parts: dict[str, RewardPart] = field(default_factory=dict)
    gated: bool = False


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
    folder: str | None = None  # vllm_server: where weights are handed over, seen by both sides; None = a temporary folder
    concurrency: int = num(256, "[1, 4096]")  # vllm_server: requests in flight
    start_timeout_s: float = num(900.0, "(0, inf)")
    timeout_s: float = num(1800.0, "(0, inf)")  # vllm_server: of one request
    restarts: int = num(2, "[0, 100]")  # vllm_server: on the same prompts

    def check(self, path: str) -> None:
        if self.kind is not SamplerKind.vllm_server:
            return
        if not self.url:
            reject(f"{path}url", self.url, "a vllm_server sampler needs its address, such as http://127.0.0.1:8000")
        if self.start and not any(f"//{host}:" in self.url for host in ("127.0.0.1", "localhost")):
            reject(f"{path}start", True, f"a server on another machine ({self.url}) is not ours to run: set {path}start=false")
        if not self.start and self.folder is None:
            reject(f"{path}folder", None, "a server that is joined gets its weights through a folder that both sides see: name one")


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
    style: str = ""  # how it is asked (actial/benchmarks/base.py); "" = its own way
    circular: bool = False  # ask every rotation of the options
    sha256: dict[str, str] = field(default_factory=dict)  # file name -> the hash it must have
    # what tells geometry from shortcuts, in sets of view pairs
    diagnostics: int = num(0, "[0, 1e9]")  # examples per set; asks about ten times as much as scoring them


# ---------------------------------------------------------------- train


class StageName(Enum):
    sft = "sft"
    grpo = "grpo"


class Accelerator(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Strategy(Enum):
    auto = "auto"
    ddp = "ddp"
    fsdp2 = "fsdp2"
    deepspeed = "deepspeed"


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    accelerator: Accelerator = Accelerator.auto
    devices: int = num(1, "[1, 1024]")
    nodes: int = num(1, "[1, 4096]")
    strategy: Strategy = Strategy.auto
    threads: int = num(0, "[0, 1024]")  # CPU threads of torch; 0 = its own choice

    def check(self, path: str) -> None:
        if self.strategy is Strategy.auto and self.devices * self.nodes > 1:
            reject(f"{path}strategy", "auto", f"name one for {self.devices * self.nodes} devices: ddp, fsdp2 or deepspeed")


class WandbMode(Enum):
    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class LoggerConfig:
    """wandb; metrics.jsonl is written whatever stands here."""

    mode: WandbMode = WandbMode.offline
    project: str = "actial"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    table_rows: int = num(16, "[0, 1000]")  # examples with their images in one table


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """`python -m actial.train +experiment=NAME`: the stages run one after the other, each from the model the last one left."""

    run_dir: str = MISSING  # resumed when it holds the same config, refused when it holds another
    seed: int = num(0, "[0, 4294967295]")
    stages: list[StageName] = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
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
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            reject("stages", names, "name sft, grpo or [sft,grpo], each at most once")
        for name in names:
            self._check_mix(name, getattr(self, name).mix)
        for name, source in self.benchmark.sets.items():
            if source.partition(":")[0] not in self.data.sets:
                reject(f"benchmark.sets.{name}", source, f"data.sets has only {', '.join(self.data.sets)}")
        if StageName.grpo in self.stages:
            self._check_grpo()

    def _check_mix(self, stage: str, mix: MixConfig) -> None:
        for name in mix.weights:
            if name not in self.data.sets:
                reject(f"{stage}.mix.weights.{name}", mix.weights[name], f"data.sets has only {', '.join(self.data.sets)}")
        if not any(mix.weights.values()):
            reject(f"{stage}.mix.weights", mix.weights, f"give a set of data.sets a weight above 0: {', '.join(self.data.sets)}")

    def _check_grpo(self) -> None:
        reference, lora = self.grpo.kl.reference, self.model.lora.enabled
        if not any(part.weight for part in self.reward.parts.values()):
            reject("reward.parts", list(self.reward.parts), "name at least one part with a weight other than 0")
        if reference is Reference.adapter_off and not lora:
            reject(
                "grpo.kl.reference",
                "adapter_off",
                "without an adapter there is nothing to turn off: set frozen_copy or model.lora.enabled=true",
            )
        if self.grpo.kl.beta > 0 and reference is Reference.frozen_copy and lora:
            reject("grpo.kl.reference", "frozen_copy", "with model.lora.enabled the base model is the reference: set adapter_off")


# ---------------------------------------------------------------- build


class SourceKind(Enum):
    mvimgnet = "mvimgnet"  # ROOT/class/object/{images,sparse/0}
    procedural = "procedural"  # the same, with object.json beside images/
    colmap = "colmap"  # ROOT/NAME/{images,sparse/0}
    mvimgnet2 = "mvimgnet2"  # the same as mvimgnet, masks inside each object
    co3d = "co3d"  # ROOT/category/{frame,sequence}_annotations.jgz
    uco3d = "uco3d"  # ROOT/metadata.sqlite; the frames lie in videos
    wildrgbd = "wildrgbd"  # ROOT/category/scenes/SCENE/{rgb,cam_poses.txt,metadata}
    nerfstudio = "nerfstudio"  # ROOT/NAME/transforms.json (instant-ngp too)
    blender = "blender"  # ROOT/NAME/transforms_train.json, of the NeRF synthetic set
    named = "named"  # a published set of questions, named by source.name: no captures, no pairs
    sat = "sat"  # parquet files of multiple-choice questions: no captures, no pairs


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """Where captures come from."""

    kind: SourceKind = MISSING
    root: str = MISSING
    mask_root: str | None = None  # None: masks/ inside each capture, when there
    category_file: str | None = None  # lines `id,name`; None: the folder's name is the class
    ordered: bool = True  # names follow time (a video); only then are jumps between neighbours an error
    name: str | None = None  # named: which set
    min_quality: float | None = None  # co3d, uco3d: least viewpoint quality score of a sequence; None = all
    licence: str = "unknown"


@dataclass(kw_only=True, slots=True)
class GateConfig:
    """Acceptance thresholds: degrees, and lengths relative to the first camera's distance."""

    min_registered: int = num(12, "[3, inf)")
    min_registered_share: float = num(0.6, "[0, 1]")
    max_reprojection_px: float = num(2.0, "(0, inf]")
    min_points: int = num(100, "[0, inf)")
    min_up_cameras: int = num(8, "[3, inf)")
    min_up_sv2: float = num(0.17, "[0, 1]")
    max_up_roll: float = num(8.0, "[0, 90]")  # rms; beyond it sides stay, degrees are dropped
    max_up_axis_angle: float = num(15.0, "[0, 90]")  # between the two estimators of up, unless elevation drifts
    drift_elevation_std: float = num(8.0, "[0, 90]")
    max_drift_roll: float = num(4.0, "[0, 90]")  # rms; a roll that grows steadily looks like a drift, but for a larger rms: no degrees then
    max_centre_condition: float = num(50.0, "[1, inf]")
    max_centre_residual: float = num(0.12, "[0, inf]")
    min_centre_in_front: float = num(0.95, "[0, 1]")
    max_mask_centre_gap: float = num(0.25, "[0, inf]")  # between the centres by masks and by masked points
    min_mask_area: float = num(0.01, "[0, 1]")
    max_mask_area: float = num(0.8, "[0, 1]")
    max_mask_border: float = num(0.4, "[0, 1]")  # share of the photo's border that the mask touches
    max_median_step: float = num(25.0, "[0, 180]")
    max_step: float = num(60.0, "[0, 180]")
    min_arc: float = num(40.0, "[0, 360]")
    min_angle: float = num(20.0, "[0, 180]")  # of both alpha and yaw, inclusive (paper A.1)
    max_angle: float = num(100.0, "[0, 180]")
    angle_margin: float = num(1.0, "[0, 90]")
    max_angle_gap: float = num(15.0, "[0, 180]")  # between |alpha| and |yaw|
    max_up_free_gap: float = num(20.0, "[0, 180]")  # between |alpha| and the full rotation
    max_off_axis: float = num(20.0, "[0, 90]")
    max_off_axis_fov: float = num(0.8, "[0, 1]")  # of half the field of view
    min_elevation: float = num(-15.0, "[-90, 90]")
    max_elevation: float = num(60.0, "[-90, 90]")
    min_heading_level: float = num(0.5, "[0, 1]")
    max_elevation_change: float = num(25.0, "[0, 180]")
    max_distance_ratio: float = num(2.0, "[1, inf]")
    max_roll: float = num(15.0, "[0, 180]")
    min_s: float = num(0.15, "[0, inf)")
    max_side_angle: float = num(10.0, "[0, 90]")  # of alpha and yaw, in pairs that go up or down, forward or backward
    min_rise: float = num(12.0, "[0, 90]")  # change of elevation in pairs that go up or down
    min_approach: float = num(1.25, "[1, inf]")  # ratio of the distances in pairs that go forward or backward
    central_share: float = num(0.8, "[0, 1]")  # of both sides of the photo, in which the object's centre must lie

    def check(self, path: str) -> None:
        if self.min_angle + self.angle_margin >= self.max_angle - self.angle_margin:
            reject(
                path + "min_angle",
                self.min_angle,
                f"min_angle, max_angle={self.max_angle} and angle_margin={self.angle_margin} leave no angle",
            )


@dataclass(kw_only=True, slots=True)
class PairConfig:
    per_object: int = num(12, "[1, inf)")  # horizontal pairs
    vertical_per_object: int = num(0, "[0, inf)")  # pairs that go up or down and hardly sideways
    depth_per_object: int = num(0, "[0, inf)")  # forward or backward
    still_per_object: int = num(0, "[0, inf)")  # the same frame twice, once cropped by up to 5 %: "no movement" is right
    views: int = num(2, "[2, 6]")  # photos of a row; questions are about the first and the last
    questions: list[str] = field(
        default_factory=lambda: ["ego_translation", "object_translation", "ego_rotation"]
    )  # actial.types.QuestionType
    angle_bins: int = num(8, "[1, inf)")
    seed: int = 0
    val_fraction: float = num(0.02, "[0, 1]")
    test_fraction: float = num(0.02, "[0, 1]")
    unseen_classes: list[str] = field(default_factory=list)  # class names or ids that make up the split test_unseen
    unseen_class_fraction: float = num(0.0, "[0, 1)")  # of the classes, drawn by hash, beside those listed
    max_per_class: int = num(0, "[0, inf)")  # pairs of one class in one split; 0 = no cap
    max_rows: dict[str, int] = field(default_factory=dict)  # split -> most rows; drawn evenly over angle and side

    def check(self, path: str) -> None:
        if self.val_fraction + self.test_fraction > 1:
            reject(path + "val_fraction", self.val_fraction, f"with test_fraction={self.test_fraction} it must add up to at most 1")
        known = [kind.value for kind in QuestionType]
        if not self.questions or not set(self.questions) <= set(known):
            reject(path + "questions", self.questions, f"name some of {', '.join(known)}")
        for split, rows in self.max_rows.items():
            if split not in ("train", "val", "test", "test_unseen") or rows < 0:
                reject(f"{path}max_rows.{split}", rows, "give a number of 0 or more for train, val, test or test_unseen")


class ImageFormat(Enum):
    jpg = "jpg"
    png = "png"


@dataclass(kw_only=True, slots=True)
class ImageConfig:
    """Photos are shrunk once, here, to the size the model sees: aspect kept, never enlarged, never cropped."""

    max_pixels: int = num(518_400, "[1, inf)")  # 960 x 540, paper release
    multiple: int = num(28, "[1, inf)")  # of both sides; patch size x merge size of the model
    format: ImageFormat = ImageFormat.jpg
    quality: int = num(90, "[1, 100]")  # jpg

    def check(self, path: str) -> None:
        if self.max_pixels < self.multiple**2:
            reject(path + "max_pixels", self.max_pixels, f"give at least multiple x multiple = {self.multiple**2}")


@dataclass(kw_only=True, slots=True)
class QuestionConfig:
    """Which multiple-choice rows stay (source=sat); val and test are kept whole."""

    shares: dict[str, float] = field(default_factory=dict)  # type -> share of the training rows; empty = as they come
    max_rows: int = num(0, "[0, inf)")  # training rows; 0 = no cap
    blacklist: str | None = None  # named: a file of scene names, one a line, that benchmarks use; questions that show them are left out
    seed: int = 0

    def check(self, path: str) -> None:
        if self.shares and (min(self.shares.values()) < 0 or sum(self.shares.values()) <= 0):
            reject(path + "shares", self.shares, "give non-negative shares, at least one of them positive")


@dataclass(kw_only=True, slots=True)
class BuildPartConfig:
    """`build.part=I build.parts=N`: this process prepares part I of N in the same `out`; the command without them joins the parts."""

    part: int = num(0, "[0, inf)")
    parts: int = num(1, "[1, 1e6]")

    def check(self, path: str) -> None:
        if self.part >= self.parts:
            reject(path + "part", self.part, f"parts count from 0: give 0 to {self.parts - 1}")


@dataclass(kw_only=True, slots=True)
class BuildConfig:
    """`python -m actial.build`: captures -> shards."""

    source: SourceConfig = field(default_factory=SourceConfig)
    gates: GateConfig = field(default_factory=GateConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    qa: QuestionConfig = field(default_factory=QuestionConfig)
    build: BuildPartConfig = field(default_factory=BuildPartConfig)
    out: str = MISSING
    groups_per_shard: int = num(256, "[1, inf)")  # captures in one tar
    workers: int = num(0, "[0, inf)")  # processes; 0 = one per core
    audit_pairs: int = num(6, "[1, inf)")  # pairs drawn per class on the audit page
    audit_classes: int = num(16, "[1, inf)")


# ---------------------------------------------------------------- chains by a teacher


@dataclass(kw_only=True, slots=True)
class ChainsConfig:
    """`python -m actial.chains`: a teacher behind an OpenAI-compatible server writes chains of thought for pairs of a built set."""

    pairs: str = MISSING  # a set that actial.build wrote
    split: str = "train"
    out: str = MISSING
    url: str = "https://api.openai.com/v1"
    teacher: str = MISSING  # the model's name on that server
    key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the key; a local server needs none
    limit: int = num(1000, "[1, inf)")  # pairs, drawn by hash (paper: about 1,000)
    attempts: int = num(2, "[1, 100]")  # answers asked for one pair until the verifier accepts one
    concurrency: int = num(8, "[1, 4096]")  # requests in flight
    retries: int = num(6, "[0, 100]")  # of a request that met a fault of the server or the line
    backoff_s: float = num(1.0, "[0, 3600]")  # before the first retry; doubles each time
    max_backoff_s: float = num(60.0, "[0, 3600]")
    timeout_s: float = num(180.0, "(0, 1e6]")
    max_tokens: int = num(1500, "[1, 1e6]")
    temperature: float = num(0.7, "[0, 10]")
    price_in: float = num(0.0, "[0, inf)")  # per million prompt tokens, in any currency; for the ledger
    price_out: float = num(0.0, "[0, inf)")
    max_cost: float = num(0.0, "[0, inf)")  # stop asking beyond it; 0 = no limit
    seed: int = 0


# ---------------------------------------------------------------- procedural world


@dataclass(kw_only=True, slots=True)
class WorldConfig:
    """`python -m actial.world`: object captures and SAT-format questions out of nothing."""

    out: str = MISSING
    objects: int = num(1000, "[0, inf)")  # of the categories to train on
    unseen_objects: int = num(60, "[0, inf)")  # of the held-out categories
    frames: int = num(12, "[12, 200]")  # photos of each object; the gates want 12
    size: int = num(48, "[32, 512]")  # pixels, both sides
    sat_train: int = num(2000, "[0, inf)")
    sat_val: int = num(400, "[0, inf)")
    sat_test: int = num(300, "[0, inf)")
    seed: int = 0
    workers: int = num(0, "[0, inf)")  # processes; 0 = one per core


@dataclass(kw_only=True, slots=True)
class TinyConfig:
    """`python -m actial.world.tiny`: the tiny model before its training on language, its tower already pre-trained."""

    out: str = MISSING
    pairs: str = MISSING  # pair set of the procedural world: photos for the tower, words for the tokenizer
    sat: str = MISSING  # question set of the procedural world: words for the tokenizer
    vocab_size: int = num(900, "[300, 10000]")
    width: int = num(128, "[64, 1024]")
    layers: int = num(3, "[1, 32]")
    vision_width: int = num(96, "[32, 1024]")
    vision_layers: int = num(4, "[1, 32]")
    patch: int = num(8, "[2, 32]")
    tower_steps: int = num(2500, "[0, inf)")
    tower_batch: int = num(96, "[1, 4096]")
    tower_lr: float = num(1e-3, "(0, 1]")
    seed: int = 0


# ---------------------------------------------------------------- evaluate, score, export


@dataclass(kw_only=True, slots=True)
class ServerConfig:
    """An OpenAI-compatible server; url set = it answers in place of an in-process model."""

    url: str | None = None  # such as http://127.0.0.1:8000/v1
    model: str = ""  # the name it serves the model under
    key_env: str = "OPENAI_API_KEY"  # environment variable with the key; unset = "EMPTY"
    concurrency: int = num(64, "[1, 4096]")  # examples in flight
    timeout_s: float = num(600.0, "(0, inf)")
    retries: int = num(6, "[0, 100]")
    multiple: int = num(28, "[1, 1024]")  # both sides of every picture; patch size x merge size of the served model

    def check(self, path: str) -> None:
        if self.url and not self.model:
            reject(f"{path}model", "", "name the model that the server offers")


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """`python -m actial.evaluate benchmark=NAME model=NAME out=DIR`: answers, scores and a report of one model."""

    out: str = MISSING  # continued when it holds answers under the same settings, refused when under others
    seed: int = num(0, "[0, 4294967295]")
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    data: DataConfig = field(default_factory=DataConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    temperature: float = num(0.0, "[0, inf)")

    def check(self, path: str) -> None:
        if bool(self.benchmark.name) == bool(self.benchmark.sets):
            reject("benchmark.name", self.benchmark.name, "give either a published benchmark or sets of data.sets")
        for name, source in self.benchmark.sets.items():
            if source.partition(":")[0] not in self.data.sets:
                reject(f"benchmark.sets.{name}", source, f"data.sets has only {', '.join(self.data.sets)}")


@dataclass(kw_only=True, slots=True)
class ScoreConfig:
    """`python -m actial.score benchmark=NAME predictions=FILE out=DIR`: the scores of answers made elsewhere, without a model."""

    out: str = MISSING
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    predictions: str = MISSING  # ours (.jsonl), lmms-eval's samples (.jsonl) or VLMEvalKit's (.xlsx, .tsv, .json)
    compat: str = "ladder"  # how answers are read (actial/grading.py)


class ExportFormat(Enum):
    vlmeval = "vlmeval"  # OUT/NAME.tsv for VLMEvalKit's $LMUData
    lmms_eval = "lmms_eval"  # a task folder for --include_path
    model_card = "model_card"  # README.md of a model from a run's results


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """`python -m actial.export benchmark=NAME format=FORMAT out=DIR`."""

    out: str = MISSING
    format: ExportFormat = MISSING
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    run_dir: str = ""  # model_card: the finished run


# ---------------------------------------------------------------- collect


@dataclass(kw_only=True, slots=True)
class CollectConfig:
    """`python -m actial.collect RUNS_DIR out=DIR`: the runs of a sweep as tables and figures."""

    runs: str = MISSING
    out: str = MISSING
    against: str = ""  # the arm that the others are compared with; "" = the first


@dataclass(kw_only=True, slots=True)
class DashboardConfig:
    """`python -m actial.dashboard entity=NAME`: the wandb workspace of a project."""

    entity: str = MISSING  # wandb account or team
    project: str = "actial"
    name: str = "actial"  # of the workspace
    group: str = ""  # a setting whose values make the groups, such as cold_start.ratio; "" = single runs


# ---------------------------------------------------------------- registration

ASSETS = Path(__file__).parent / "assets"
SCHEMAS: dict[str, type] = {
    "train_schema": TrainConfig,
    "collect_schema": CollectConfig,
    "dashboard_schema": DashboardConfig,
    "build_schema": BuildConfig,
    "chains_schema": ChainsConfig,
    "world_schema": WorldConfig,
    "tiny_schema": TinyConfig,
    "evaluate_schema": EvaluateConfig,
    "score_schema": ScoreConfig,
    "export_schema": ExportConfig,
}


def register() -> None:
    """Make the schemas and the `asset` resolver known to Hydra; a primary config names its schema first in its defaults."""
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=name, node=schema)
    OmegaConf.register_new_resolver("asset", lambda name: str(ASSETS / name), replace=True)
    OmegaConf.register_new_resolver("jobs_at_once", lambda threads, gb: jobs_at_once(int(threads), float(gb)), replace=True)
    OmegaConf.register_new_resolver("div", lambda whole, parts: int(whole) // int(parts), replace=True)
    # Hydra keeps notes of a sweep in its folder; the jobs of a divided build share theirs with the build, so they go where it drops them.
    OmegaConf.register_new_resolver("sweep_folder", lambda out, parts: out if int(parts) == 1 else f"{out}/.build/sweep", replace=True)
