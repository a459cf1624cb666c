"""The policy's weights for an engine: which parameter goes where, and that none is left out.

vLLM fuses some of the layers that Transformers keeps apart and names the halves of the model differently. The table below is explicit and
has an inverse, so that a sync can show that every parameter of the engine was sent, whole (https://github.com/vllm-project/vllm/issues/19149).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch

from actial.inference.engine import EngineFault
from actial.modeling.policy import Policy

# checkpoints written before Transformers 4.52 -> today's names
OLD_LAYOUT = (
    ("visual.", "model.visual."),
    ("model.layers.", "model.language_model.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
)
PREFIXES = (
    ("model.visual.", "visual."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
_FUSED_INTO = {part: whole for whole, parts in FUSED.items() for part in parts}
_PART = re.compile("|".join(re.escape(part) for part in _FUSED_INTO))
_WHOLE = re.compile("|".join(re.escape(whole) for whole in FUSED))


def engine_name(name: str) -> str:
    """The engine's parameter that takes the trainer's parameter `name`, given in either of Transformers' layouts.

    Example: "model.language_model.layers.0.self_attn.k_proj.bias" -> "language_model.model.layers.0.self_attn.qkv_proj.bias".
    """
    name = _with_prefix(name, OLD_LAYOUT) or name
    moved = _with_prefix(name, PREFIXES)
    if moved is None:
        raise EngineFault(
            f"the trainer's parameter {name} has no place in the engine: add it to the name table in actial/inference/weight_sync.py."
        )
    return _PART.sub(lambda match: _FUSED_INTO[match[0]], moved)


def trainer_names(name: str) -> list[str]:
    """Inverse of `engine_name`: the trainer's parameters that together make up the engine's, in the order in which they are stacked."""
    original = _with_prefix(name, [(engine, trainer) for trainer, engine in PREFIXES])
    if original is None:
        raise EngineFault(
            f"the engine's parameter {name} has no counterpart in the trainer: add it to the name table in actial/inference/weight_sync.py."
        )
    whole = _WHOLE.search(original)
    if whole is None:
        return [original]
    return [original.replace(whole[0], part) for part in FUSED[whole[0]]]


def _with_prefix(name: str, table: Iterable[tuple[str, str]]) -> str | None:
    return next((new + name.removeprefix(old) for old, new in table if name.startswith(old)), None)


def check_coverage(engine_parameters: Iterable[str], sent: Iterable[str]) -> None:
    """Raise EngineFault unless the trainer's parameters `sent` are all of the engine's, each whole, and nothing else."""
    engine_parameters, sent = list(engine_parameters), set(sent)
    wanted = {part for name in engine_parameters for part in trainer_names(name)}
    if missing := sorted(wanted - sent):
        raise EngineFault(
            f"{len(missing)} weights were not sent to the engine, first {missing[0]}: it would go on with old values."
        )
    if unknown := sorted(sent - wanted):
        raise EngineFault(
            f"the engine has no parameter for {len(unknown)} of the trainer's weights, first {unknown[0]}."
        )


@torch.no_grad()
def named_weights(policy: Policy) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, full tensor) of every parameter; adapters merged on a copy, shards gathered (on all ranks together).

    A head tied to the embedding comes under both names: vLLM's CPU build packs the head at start-up and would keep that packing.
    """
    core = policy.core
    for name, parameter in core.named_parameters(remove_duplicate=False):
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            name = name.removesuffix(".base_layer.weight")
            layer = core.get_submodule(name)
            merged = _whole(parameter) + sum(
                _whole(layer.get_delta_weight(adapter)) for adapter in layer.active_adapters
            )
            yield f"{name}.weight", merged
        else:
            yield name.replace(".base_layer.", "."), _whole(parameter)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    gather = getattr(tensor, "full_tensor", None)
    whole: torch.Tensor = gather() if gather else tensor
    return whole.detach()


@torch.no_grad()
def weights_version(policy: Policy) -> int:
    """A checksum that changes with any bit of any parameter.

    Torch's own write counters (`Tensor._version`) will not do: fused AdamW updates parameters without counting.
    """
    parameters = list(policy.core.parameters())
    shards = [
        parameter.to_local() if hasattr(parameter, "to_local") else parameter
        for parameter in parameters
    ]
    bits = {4: torch.int32, 2: torch.int16}
    sums = torch.stack(
        [shard.view(bits[shard.element_size()]).sum(dtype=torch.int64) for shard in shards]
    )
    version = (sums * torch.arange(1, len(sums) + 1, device=sums.device)).sum()
    if any(
        hasattr(parameter, "to_local") for parameter in parameters
    ):  # each rank holds a part, and all must agree to sync
        torch.distributed.all_reduce(version)
    return int(version)
