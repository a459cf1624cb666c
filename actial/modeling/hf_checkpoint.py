"""Reading and writing the files of a Hugging Face checkpoint folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import AutoConfig, AutoProcessor
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from actial.config import ModelConfig
from actial.modeling.dtensor import whole_state

SAMPLES, SAMPLE_BYTES = 16, 1 << 16  # of each weight file, for its fingerprint


def fingerprint(model: ModelConfig) -> str:
    """Path, and for a folder a hash over samples of its weight files: two checkpoints under one path are told apart."""
    digest = sha256()
    for path in sorted(Path(model.path).glob("*.safetensors")) if Path(model.path).is_dir() else []:
        size = path.stat().st_size
        with path.open("rb") as file:
            for i in range(SAMPLES):
                file.seek(max(0, size - SAMPLE_BYTES) * i // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return f"{model.path}@{digest.hexdigest()[:16] if Path(model.path).is_dir() else model.revision or 'main'}"


Channels = tuple[float, float, float]
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "config.json")


def image_normalization(path: str, revision: str | None) -> tuple[Channels, Channels]:
    """(mean, std) the checkpoint was trained with; a folder without a processor file gets its family's values."""
    local = Path(path)
    if local.is_dir() and not any(
        (local / name).exists() for name in ("preprocessor_config.json", "processor_config.json")
    ):
        if AutoConfig.from_pretrained(path).model_type.startswith("qwen3"):
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        return _channels(OPENAI_CLIP_MEAN), _channels(OPENAI_CLIP_STD)
    settings, _ = ImageProcessingMixin.get_image_processor_dict(path, revision=revision)
    return _channels(settings["image_mean"]), _channels(settings["image_std"])


def save_checkpoint(model: Any, folder: Path, *, source: str, revision: str | None) -> None:
    """Write weights and config, and the source's tokenizer and processor files, under a temporary name; then rename.

    All ranks call it and leave it together; the first one writes.
    """
    state = whole_state(model)
    if not dist.is_initialized() or dist.get_rank() == 0:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
            fresh = Path(name) / "model"
            model.save_pretrained(fresh, state_dict=state)
            _copy_companions(source, revision, fresh)
            if folder.exists():
                os.replace(folder, Path(name) / "replaced")
            os.replace(fresh, folder)
    if dist.is_initialized():
        dist.barrier()


def _copy_companions(source: str, revision: str | None, folder: Path) -> None:
    if not Path(source).is_dir():
        AutoProcessor.from_pretrained(source, revision=revision).save_pretrained(folder)
        return
    for file in Path(source).iterdir():
        if file.is_file() and not any(file.match(pattern) for pattern in WEIGHT_FILES):
            shutil.copy2(file, folder / file.name)


def _channels(values: Any) -> Channels:
    red, green, blue = values
    return float(red), float(green), float(blue)
