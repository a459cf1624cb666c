"""Typed configuration: the schemas of all Hydra groups, checked before heavy imports.

This package imports neither torch nor vllm, so `--help`, `--cfg job` and a
multirun's composition answer in about a second. Rules:
`@dataclass(kw_only=True, slots=True)` (slots make an unknown key fail), Enums
instead of Literals, ranges beside the fields (`num`), rules over several fields
in `check`, which `validate` runs with the full key once a whole config is
typed.
"""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from actial.config.build import (
    BuildConfig,
    BuildShardConfig,
    CameraAxes,
    ExifRule,
    GateConfig,
    ImageConfig,
    ImageFormat,
    PairConfig,
    QuestionConfig,
    SourceConfig,
    SourceKind,
)
from actial.config.data import (
    WORDS_ONLY,
    ChainForm,
    ColdStartConfig,
    DataConfig,
    EpochRule,
    MixConfig,
    Reader,
    SetConfig,
    Task,
    WordingConfig,
)
from actial.config.evaluate import (
    AuditConfig,
    CollectConfig,
    CompareConfig,
    DashboardConfig,
    EvaluateConfig,
    ExportConfig,
    ExportFormat,
    ImportReleaseConfig,
    ModelType,
    PassRatesConfig,
    ScoreConfig,
    ServerConfig,
    SubmissionConfig,
)
from actial.config.inference import (
    Accelerator,
    AnswerForm,
    BenchmarkConfig,
    SamplerConfig,
    SamplerKind,
    WeightTransfer,
)
from actial.config.job_slots import jobs_at_once
from actial.config.model import (
    Attention,
    FrozenWeights,
    LoraConfig,
    ModelConfig,
    ModuleGroupConfig,
    Precision,
    PromptConfig,
)
from actial.config.stages import (
    AdvantageScale,
    DynamicSamplingConfig,
    GRPOConfig,
    ImportanceSampling,
    KLConfig,
    KLEstimator,
    KLGradient,
    KLPlace,
    LossType,
    OptimConfig,
    Overlong,
    Reference,
    RewardConfig,
    RewardTerm,
    Schedule,
    SFTConfig,
    StageConfig,
)
from actial.config.synthetic import (
    BaseScenesConfig,
    ChainsConfig,
    SceneVisionConfig,
    TinyConfig,
    WorldConfig,
)
from actial.config.train import (
    LoggerConfig,
    StageName,
    Strategy,
    TrainConfig,
    TrainerConfig,
    WandbMode,
)

__all__ = [
    "SCHEMAS",
    "WORDS_ONLY",
    "Accelerator",
    "AdvantageScale",
    "AnswerForm",
    "Attention",
    "AuditConfig",
    "BaseScenesConfig",
    "BenchmarkConfig",
    "BuildConfig",
    "BuildShardConfig",
    "CameraAxes",
    "ChainForm",
    "ChainsConfig",
    "ColdStartConfig",
    "CollectConfig",
    "CompareConfig",
    "DashboardConfig",
    "DataConfig",
    "DynamicSamplingConfig",
    "EpochRule",
    "EvaluateConfig",
    "ExifRule",
    "ExportConfig",
    "ExportFormat",
    "FrozenWeights",
    "GRPOConfig",
    "GateConfig",
    "ImageConfig",
    "ImageFormat",
    "ImportReleaseConfig",
    "ImportanceSampling",
    "KLConfig",
    "KLEstimator",
    "KLGradient",
    "KLPlace",
    "LoggerConfig",
    "LoraConfig",
    "LossType",
    "MixConfig",
    "ModelConfig",
    "ModelType",
    "ModuleGroupConfig",
    "OptimConfig",
    "Overlong",
    "PairConfig",
    "PassRatesConfig",
    "Precision",
    "PromptConfig",
    "QuestionConfig",
    "Reader",
    "Reference",
    "RewardConfig",
    "RewardTerm",
    "SFTConfig",
    "SamplerConfig",
    "SamplerKind",
    "SceneVisionConfig",
    "Schedule",
    "ScoreConfig",
    "ServerConfig",
    "SetConfig",
    "SourceConfig",
    "SourceKind",
    "StageConfig",
    "StageName",
    "Strategy",
    "SubmissionConfig",
    "Task",
    "TinyConfig",
    "TrainConfig",
    "TrainerConfig",
    "WandbMode",
    "WeightTransfer",
    "WordingConfig",
    "WorldConfig",
    "register",
]

from actial.core.paths import ASSETS

SCHEMAS: dict[str, type] = {
    "train_schema": TrainConfig,
    "collect_schema": CollectConfig,
    "audit_schema": AuditConfig,
    "compare_schema": CompareConfig,
    "dashboard_schema": DashboardConfig,
    "build_schema": BuildConfig,
    "chains_schema": ChainsConfig,
    "world_schema": WorldConfig,
    "tiny_schema": TinyConfig,
    "base_scenes_schema": BaseScenesConfig,
    "scene_vision_schema": SceneVisionConfig,
    "evaluate_schema": EvaluateConfig,
    "score_schema": ScoreConfig,
    "passrates_schema": PassRatesConfig,
    "export_schema": ExportConfig,
    "import_release_schema": ImportReleaseConfig,
}


def register() -> None:
    """Register the schemas and the resolvers with Hydra.

    A primary config names its schema first in its defaults list.
    """
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=name, node=schema)
    OmegaConf.register_new_resolver("asset", lambda name: str(ASSETS / name), replace=True)
    OmegaConf.register_new_resolver(
        "jobs_at_once", lambda threads, gb: jobs_at_once(int(threads), float(gb)), replace=True
    )
    OmegaConf.register_new_resolver(
        "div", lambda whole, divisor: int(whole) // int(divisor), replace=True
    )
    # Hydra writes files of its own into a sweep's folder. The jobs of a divided build work in one
    # folder, so those files go into its work folder, which the build deletes at the end.
    OmegaConf.register_new_resolver(
        "sweep_folder",
        lambda out, shards: out if int(shards) == 1 else f"{out}/.build/sweep",
        replace=True,
    )
