"""LoRA adapters as PEFT folders: saved beside a merged model, joined, merged into their base."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from actial.core.errors import UserError
from actial.modeling.adapter_folder import (
    CONFIG,
    WEIGHTS,
    adapter_settings,
    base_of,
)
from actial.modeling.dtensor import whole
from actial.modeling.hf_checkpoint import complete_folder

PREFIX = "base_model.model."  # PEFT's, before the names of the base
EARLIER_NAMES = (  # of transformers before 4.52, and of those since
    (r"^model\.(layers|embed_tokens|norm)\.", r"model.language_model.\1."),
    (r"^visual\.", "model.visual."),
)
LONGEST_REASON = 250  # PEFT lists every layer
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
# variants whose update is not scaling * B @ A with one rank and one scaling for all layers
NOT_JOINABLE = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
)


def save_adapter(
    model: Any,
    folder: Path,
    *,
    source: str,
    revision: str | None = None,
    first: Path | None = None,
    extra: Mapping[str, str] | None = None,
    every_rank: bool = False,
) -> None:
    """Write the adapters of a PEFT model as a folder that PEFT, transformers and vLLM read.

    Args:
        model: the PEFT model; its base holds the weights of `source`.
        folder: appears under this name when it is complete.
        source: model folder, adapter folder or hub id that the model was loaded from.
        revision: of a hub id.
        first: an adapter that `source` already holds; the two are written joined, as one adapter of
            the base of `first`.
        extra: further files, name -> text.
        every_rank: each rank writes, into a folder of its own; otherwise the first one alone.

    A collective where weights are sharded: all ranks call it.
    """
    settings = adapter_settings_of(model)
    tensors = adapter_tensors(model)
    if dist.is_initialized() and dist.get_rank() != 0 and not every_rank:
        return
    base, base_revision = base_of(first or source, revision)
    if first is not None:
        tensors, settings = joined(first, tensors, settings)
    settings |= {"base_model_name_or_path": base, "revision": base_revision}
    write_adapter(folder, tensors, settings, extra)


def write_adapter(
    folder: Path,
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write adapter_model.safetensors and adapter_config.json; replaces what `folder` held."""
    with complete_folder(folder) as fresh:
        fresh.mkdir()
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, fresh / WEIGHTS, metadata={"format": "pt"})
        (fresh / CONFIG).write_text(json.dumps(settings, indent=1, default=list) + "\n")
        for name, text in (extra or {}).items():
            (fresh / name).write_text(text, encoding="utf-8")


def adapter_settings_of(model: Any) -> dict[str, Any]:
    """Return what PEFT writes as adapter_config.json."""
    config = model.peft_config[model.active_adapter]
    settings = dict(config.to_dict())
    settings["inference_mode"] = True
    settings["target_modules"] = sorted(settings["target_modules"])
    return settings


@torch.no_grad()
def adapter_tensors(model: Any) -> dict[str, Tensor]:
    """Return the adapters' tensors on the CPU under PEFT's names. A collective if sharded.

    Each linear layer has A (r, in) and B (out, r).
    """
    from peft import (
        get_peft_model_state_dict,
    )  # takes a second; most runs have no adapter

    state = {
        name: whole(parameter).detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    tensors: dict[str, Tensor] = get_peft_model_state_dict(model, state_dict=state)
    return tensors


def joined(
    first: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return one adapter whose update is the sum of that in the folder `first` and of another.

    s1 B1 A1 + s2 B2 A2 = [s1 B1, s2 B2] [A1; A2]: the ranks add up, the scaling becomes 1. A layer
    that only one of them adapts gets zeros for the other. Raises UserError for variants of LoRA of
    which that is not true.
    """
    earlier = adapter_settings(first)
    for name in NOT_JOINABLE:
        if earlier.get(name):
            raise UserError(
                f"{first} has {name}={earlier[name]}, so no second adapter can be joined to it: "
                "merge it first with python -m actial.export format=merged."
            )
    parts = [
        (adapter_weights(first), earlier),
        (dict(tensors), dict(settings)),
    ]
    ranks = [int(part_settings["r"]) for _, part_settings in parts]
    layers = {
        name.removesuffix(LORA_A) for part, _ in parts for name in part if LORA_A in name
    }
    result: dict[str, Tensor] = {}
    for layer in sorted(layers):
        rows, columns = _shape(layer, [part for part, _ in parts])
        down, up = [], []
        for (part, part_settings), rank in zip(parts, ranks, strict=True):
            a = part.get(layer + LORA_A, torch.zeros(rank, columns))
            b = part.get(layer + LORA_B, torch.zeros(rows, rank))
            down.append(a.float())
            up.append(b.float() * _scaling(part_settings))
        result[layer + LORA_A] = torch.cat(down, dim=0)
        result[layer + LORA_B] = torch.cat(up, dim=1)
    names = sorted(set(_targets(earlier)) | set(_targets(settings)))
    total = sum(ranks)
    changes = {
        "r": total,
        "lora_alpha": total,
        "use_rslora": False,
        "target_modules": names,
    }
    return result, {**settings, **changes}


def _shape(layer: str, parts: list[dict[str, Tensor]]) -> tuple[int, int]:
    """Return (out, in) of a layer from whichever part adapts it."""
    part = next(part for part in parts if layer + LORA_A in part)
    return part[layer + LORA_B].shape[0], part[layer + LORA_A].shape[1]


def _scaling(settings: Mapping[str, Any]) -> float:
    rank = settings["r"]
    divisor = math.sqrt(rank) if settings.get("use_rslora") else rank
    return float(settings["lora_alpha"]) / divisor


def _targets(settings: Mapping[str, Any]) -> list[str]:
    """Return the names of target_modules, which PEFT also allows to be one pattern."""
    targets = settings["target_modules"]
    return [targets] if isinstance(targets, str) else list(targets)


def merged(model: Any, folder: str | Path) -> Any:
    """Return `model`, the adapter's base in float32, with the adapter of a folder merged in.

    Raises UserError where the adapter has a tensor for which the model has no place, or lacks one.
    """
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    adapter_settings(folder)
    try:
        tensors = adapter_weights(folder)
        with warnings.catch_warnings():  # missing tensors are refused below
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            wrapped = PeftModel.from_pretrained(model, str(folder))
        needed = get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys()
        # an adapter may bring weights of the base, such as embeddings of further tokens
        places = needed | wrapped.state_dict().keys()
        if missing := sorted(needed - tensors.keys()):
            raise ValueError(_named(missing, "it lacks"))
        if unused := sorted(tensors.keys() - places):
            raise ValueError(_named(unused, "the base has no place for"))
        set_peft_model_state_dict(wrapped, tensors)  # PEFT has passed over earlier names
    except KeyError as error:
        raise _unfit(folder, f"it lacks {error.args[0]}") from error
    except (RuntimeError, ValueError) as error:
        raise _unfit(folder, " ".join(str(error).split())[:LONGEST_REASON]) from error
    untyped: Any = wrapped
    return untyped.merge_and_unload()


def adapter_weights(folder: str | Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter folder under the names that PEFT writes today.

    Adapters of transformers before 4.52 have the text model's layers under
    model.layers, and some trainers leave out PEFT's prefix. Raises UserError for a
    damaged file.
    """
    path = Path(folder) / WEIGHTS
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error}): restore it.") from error
    return {_present_name(name): tensor for name, tensor in tensors.items()}


def _present_name(name: str) -> str:
    name = name.removeprefix(PREFIX)
    for earlier, present in EARLIER_NAMES:
        name = re.sub(earlier, present, name)
    return PREFIX + name


def _named(names: list[str], what: str) -> str:
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{what} {names[0]}{others}"


def _unfit(folder: str | Path, reason: str) -> UserError:
    return UserError(
        f"model.path={folder} is an adapter that does not fit its base ({reason}): give the base "
        f"it was made for in its {CONFIG}, or restore its files."
    )
