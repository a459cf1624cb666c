"""Loads the full model behind model.path; a folder whose weights are not whole is refused.

transformers gives a weight that the files lack random numbers and goes on. Weights
that the model has no place for, such as the heads of multi-token prediction, are
left out with a message.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig

from actial.core.errors import UserError
from actial.modeling.hf_checkpoint import model_file

RESTORE = "restore the folder's weights from where they came from"


def read_config(path: str, revision: str | None) -> PretrainedConfig:
    """Return config.json of a model folder or hub id. Raises UserError when it cannot be read."""
    with _errors_named(path):
        config: PretrainedConfig = AutoConfig.from_pretrained(path, revision=revision)
    return config


def random_model(config: PretrainedConfig, device: str) -> Any:
    """Return a model with random weights, or with none at all on the meta device."""
    build: Any = AutoModelForImageTextToText.from_config
    with torch.device(device):
        return build(config, attn_implementation="sdpa", dtype=torch.float32)


def load_model(path: str, revision: str | None) -> Any:
    """Return the model of a folder or hub id, weights in float32.

    Raises UserError where a file cannot be read, and where a weight is missing, has another shape
    than config.json says, or holds NaN or infinity.
    """
    with _errors_named(path), _no_load_report():
        # transformers passes over a damaged one
        model_file(path, "generation_config.json", revision)
        load: Any = AutoModelForImageTextToText.from_pretrained
        model, report = load(
            path,
            revision=revision,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    _refuse_unfit(path, report)
    if unused := sorted(report["unexpected_keys"]):
        print(
            f"model.path={path}: {len(unused)} of its weights have no place in the model and are "
            f"left out, the first {unused[0]}.",
            file=sys.stderr,
            flush=True,
        )
    for name, parameter in model.named_parameters():
        if not parameter.detach().sum().isfinite():
            raise UserError(
                f"model.path={path} holds NaN or infinity in {name}: {RESTORE}, or give another "
                "model."
            )
    return model


def check_weights(folder: str) -> None:
    """Raise UserError where `load_model` would for a weight's name or shape.

    Only the headers of the files are read, so their numbers are not looked at.
    """
    tensors: dict[str, Tensor] = {}
    with _errors_named(folder):
        for path in sorted(Path(folder).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    shape = file.get_slice(name).get_shape()
                    tensors[name] = torch.empty(shape, device="meta")
        config = read_config(folder, None)
        kind: Any = type(random_model(config, "meta"))
        with _no_load_report():
            _, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    if tensors:  # other formats have no header
        _refuse_unfit(folder, report)


def _refuse_unfit(path: str, report: Mapping[str, Any]) -> None:
    """Raise UserError for the first weight that is missing or has another shape."""
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        raise UserError(
            f"model.path={path} has {name} of shape {tuple(stored)} where its config.json asks for "
            f"{tuple(expected)}: give the config.json that belongs to the weights."
        )
    if missing := sorted(report["missing_keys"]):
        others = f" and {len(missing) - 1} more weights" if len(missing) > 1 else ""
        raise UserError(f"model.path={path} lacks the weight {missing[0]}{others}: {RESTORE}.")


@contextmanager
def _errors_named(path: str) -> Iterator[None]:
    """Turn what transformers raises for a file that it cannot use into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"model.path={path} cannot be loaded ({error}): give a model folder or hub id."
        ) from error
    except SafetensorError as error:
        raise UserError(
            f"model.path={path} cannot be loaded ({_cut_file(path)}{error}): {RESTORE}."
        ) from error
    except ValueError as error:  # a setting that transformers refuses
        raise UserError(
            f"model.path={path} cannot be loaded ({' '.join(str(error).split())}): mend that "
            "setting in its config.json or generation_config.json."
        ) from error


def _cut_file(folder: str) -> str:
    """Return "NAME: " of the first file of weights whose header does not fit it, else ""."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError:
            return f"{path.name}: "
    return ""


@contextmanager
def _no_load_report() -> Iterator[None]:
    """Keep transformers from printing its table: what matters of it becomes one sentence."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
