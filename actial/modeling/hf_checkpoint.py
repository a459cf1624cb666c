"""Reading and writing the files of a Hugging Face checkpoint folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from transformers.utils.hub import cached_file

from actial.config import ModelConfig
from actial.core.errors import UserError
from actial.core.sealed_files import write_checksums
from actial.modeling.adapter_folder import adapter_settings, base_of, is_adapter
from actial.modeling.dtensor import whole_state
from actial.modeling.transformers_4 import add_transformers_4_names

FINGERPRINT_SAMPLES = 16  # of each weight file
FINGERPRINT_BYTES = 1 << 16  # of each sample
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "config.json")
# Tokenizer, processor and template files of a checkpoint; a Trainer's leftovers are none.
COMPANION_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken")
NOT_COPIED = ("trainer_state.json", "all_results.json", "generation_config.json")
SAMPLING_SETTINGS = ("temperature", "top_p", "top_k", "min_p", "typical_p")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")

Channels = tuple[float, float, float]


def fingerprint(model: ModelConfig) -> str:
    """ "path@hash", which tells two checkpoints under one path apart; "path@revision" of a hub id.

    The hash is over samples of the folder's weight files; of an adapter, over its base's too.
    """
    folder = Path(model.path)
    if not folder.is_dir():
        return f"{model.path}@{model.revision or 'main'}"
    digest = sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        last_start = max(0, size - FINGERPRINT_BYTES)
        with path.open("rb") as file:
            for sample in range(FINGERPRINT_SAMPLES):
                file.seek(last_start * sample // (FINGERPRINT_SAMPLES - 1))
                digest.update(file.read(FINGERPRINT_BYTES))
    if is_adapter(folder):
        base, revision = base_of(folder)
        scale = [adapter_settings(folder).get(name) for name in ("r", "lora_alpha")]
        whole_model = fingerprint(replace(model, path=base, revision=revision))
        digest.update(f"{scale} {whole_model.rpartition('@')[2]}".encode())
    return f"{model.path}@{digest.hexdigest()[:16]}"


def image_normalization(path: str, revision: str | None) -> tuple[Channels, Channels]:
    """(mean, std) the checkpoint was trained with; its family's without a processor file."""
    local = Path(path)
    if local.is_dir() and not any((local / name).exists() for name in PROCESSOR_FILES):
        family = AutoConfig.from_pretrained(path).model_type
        if family.startswith("qwen3") or family == "smolvlm":
            return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        if family == "internvl":
            return _channels(IMAGENET_DEFAULT_MEAN), _channels(IMAGENET_DEFAULT_STD)
        return _channels(OPENAI_CLIP_MEAN), _channels(OPENAI_CLIP_STD)
    settings, _ = ImageProcessingMixin.get_image_processor_dict(path, revision=revision)
    return _channels(settings["image_mean"]), _channels(settings["image_std"])


def model_file(folder: Path | str, name: str, revision: str | None) -> dict[str, Any]:
    """Return a JSON file of a model folder or hub id; {} where it has none.

    Raises UserError for one that holds no JSON object.
    """
    path = cached_file(
        str(folder),
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if not path:
        return {}
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read ({error}): restore it from where the model came from."
        ) from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path} holds no JSON object: restore it from where the model came from."
        )
    return values


def save_checkpoint(
    model: Any,
    folder: Path,
    *,
    source: str,
    revision: str | None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write weights and config, with the tokenizer and processor files of `source`.

    transformers 4.57 reads the folder too. `extra` names further files with their text. The folder
    appears under its name when it is complete. A collective: all ranks call it and leave it
    together; the first one writes.
    """
    state = whole_state(model)
    if not dist.is_initialized() or dist.get_rank() == 0:
        with complete_folder(folder) as fresh:
            model.generation_config = saveable(model.generation_config)
            model.save_pretrained(fresh, state_dict=state)
            _copy_companions(*base_of(source, revision), fresh)
            for name, text in (extra or {}).items():
                (fresh / name).write_text(text, encoding="utf-8")
            add_transformers_4_names(fresh)
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Yield a path to fill; its content then replaces `folder` in one step.

    SHA256SUMS is added.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        fresh = Path(name) / "fresh"
        yield fresh
        write_checksums(fresh)
        _use_default_permissions(fresh)
        if folder.exists():
            os.replace(folder, Path(name) / "replaced")
        os.replace(fresh, folder)


def _copy_companions(source: str, revision: str | None, folder: Path) -> None:
    if not Path(source).is_dir():
        load: Any = AutoProcessor.from_pretrained
        load(source, revision=revision).save_pretrained(folder)
        return
    for file in companion_files(Path(source)):
        shutil.copy2(file, folder / file.name)


def companion_files(folder: Path) -> list[Path]:
    """Return the tokenizer, processor and template files of a checkpoint folder."""
    files = [
        file
        for file in folder.iterdir()
        if file.is_file() and file.suffix in COMPANION_SUFFIXES
    ]
    excluded = (*WEIGHT_FILES, *NOT_COPIED)
    return [file for file in files if not any(file.match(pattern) for pattern in excluded)]


def saveable(generation: Any) -> Any:
    """Return a generation config that transformers saves; None stays None.

    It refuses settings that contradict each other, which it only warns of when it loads
    them. Of a greedy config those of sampling are left out; of any other that is
    refused the token ids stay.
    """
    if generation is None:
        return None
    untyped: Any = GenerationConfig
    defaults = untyped()
    if not generation.do_sample:
        for name in SAMPLING_SETTINGS:
            setattr(generation, name, getattr(defaults, name, None))
    try:
        generation.validate(strict=True)
    except ValueError as error:
        cause = " ".join(str(error).split())[:200]
        print(f"generation_config.json of the base: only its token ids are saved ({cause})")
        return untyped(**{name: getattr(generation, name) for name in TOKEN_IDS})
    return generation


def _use_default_permissions(folder: Path) -> None:
    """Give the files the permissions of any other new file; safetensors writes mode 0600."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)


def _channels(values: Any) -> Channels:
    red, green, blue = values
    return float(red), float(green), float(blue)
