"""What a checkpoint of actial says about itself: actial.json in its model folder.

Image limits, precision, system prompt and token limit belong to a checkpoint as its weights do:
under others it gives other answers. Evaluation takes them from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from actial.config import (
    EvaluateConfig,
    Precision,
    PromptConfig,
    StageName,
    TrainConfig,
)
from actial.config.model import SAVED
from actial.config.renamed_keys import with_present_keys
from actial.core.errors import UserError
from actial.core.sealed_files import refuse_changed_model
from actial.modeling.system_prompts import system_prompt_text

FILE = "actial.json"
FOREIGN_MAX_TOKENS = 4096  # paper: the limit of a chain of thought with its answer


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSettings:
    """Settings a checkpoint was trained with."""

    min_pixels: int
    max_pixels: int
    precision: str  # of actial.config.Precision
    system_prompt: str | None  # its text
    max_tokens: int  # of a completion

    @classmethod
    def of(cls, config: TrainConfig) -> SavedSettings:
        """Return the settings of the models that a run saves."""
        with_grpo = StageName.grpo in config.stages
        return cls(
            min_pixels=config.model.min_pixels,
            max_pixels=config.model.max_pixels,
            precision=config.model.precision.value,
            system_prompt=system_prompt_text(config.prompt),
            max_tokens=config.grpo.max_tokens if with_grpo else config.benchmark.max_tokens,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> SavedSettings | None:
        """Return the settings saved in a model folder; None in a folder that is not of actial.

        Checkpoints older than actial.json are read from config.yaml of their run. Raises UserError
        for a damaged file.
        """
        path = folder / FILE
        if path.is_file():
            try:
                return cls(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{path} is damaged ({error}): restore it, or name the model's settings with "
                    "model=NAME model.path=FOLDER."
                ) from error
        run_config = folder.parent.parent / "config.yaml"
        if folder.name == "model" and run_config.is_file():
            # A configuration from a folder is data: no interpolation of it is resolved.
            raw: Any = OmegaConf.to_container(OmegaConf.load(run_config), resolve=False)
            return cls._of_run(with_present_keys(raw))
        return None

    @classmethod
    def _of_run(cls, settings: Mapping[str, Any]) -> SavedSettings:
        model, prompt = settings["model"], settings["prompt"]
        return cls(
            min_pixels=model["min_pixels"],
            max_pixels=model["max_pixels"],
            precision=model["precision"],
            system_prompt=system_prompt_text(
                PromptConfig(system_prompt=prompt["system_prompt"])
            ),
            max_tokens=settings["grpo"]["max_tokens"],
        )


def with_saved_settings(config: EvaluateConfig) -> EvaluateConfig:
    """Return the config with the checkpoint's own settings where the user named none.

    Raises UserError where neither the checkpoint nor a named model= gives the image limits, and
    for a damaged model folder.
    """
    model = config.model
    refuse_changed_model(Path(model.path))
    saved = SavedSettings.read(Path(model.path)) if model.path else None
    min_pixels, max_pixels = model.min_pixels, model.max_pixels
    precision = model.precision
    if saved is not None:
        min_pixels, max_pixels = min_pixels or saved.min_pixels, max_pixels or saved.max_pixels
        if precision is Precision.saved:
            precision = Precision(saved.precision)
    elif not (min_pixels and max_pixels) or precision is Precision.saved:
        raise UserError(_unknown_settings(config))
    prompt = config.prompt
    if prompt.system_prompt == SAVED:
        prompt = PromptConfig() if saved is None else _prompt_of(saved)
    saved_tokens = FOREIGN_MAX_TOKENS if saved is None else saved.max_tokens
    return replace(
        config,
        model=replace(
            model, min_pixels=min_pixels, max_pixels=max_pixels, precision=precision
        ),
        prompt=prompt,
        benchmark=replace(
            config.benchmark, max_tokens=config.benchmark.max_tokens or saved_tokens
        ),
    )


def saved_file(config: TrainConfig) -> dict[str, str]:
    """Return the file name and text that a run adds to each model folder."""
    return {FILE: SavedSettings.of(config).to_json()}


def _prompt_of(saved: SavedSettings) -> PromptConfig:
    text = saved.system_prompt
    return PromptConfig(system_prompt="none" if text is None else f"text:{text}")


def _unknown_settings(config: EvaluateConfig) -> str:
    """Return the sentence for a model whose image limits nobody named."""
    remedy = "add model=NAME (qwen2_5_vl_7b, qwen2_5_vl_3b, ...)"
    if config.server.url:
        return (
            f"server.model={config.server.model} has unknown image limits and prompt: {remedy}, or "
            "model.path=FOLDER of the checkpoint that is served."
        )
    if not config.model.path:
        return f"no model is named: {remedy}, or model.path=FOLDER of a checkpoint of actial."
    return (
        f"model.path={config.model.path} has no {FILE}, so its image limits are unknown: "
        f"{remedy} before model.path=FOLDER."
    )
