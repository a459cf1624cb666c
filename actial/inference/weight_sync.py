"""Weights for an engine: which parameter goes where, and that none is left out.

vLLM fuses some layers that Transformers keeps apart, and names the halves of
the model differently. The table below is explicit and has an inverse, so that a
transfer can show that every parameter of the engine was sent as a whole
(https://github.com/vllm-project/vllm/issues/19149).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from actial.config import Precision
from actial.inference.engine import Engine, EngineFault
from actial.modeling.dtensor import whole
from actial.modeling.four_bit import FourBitLinear
from actial.modeling.policy import Policy

# checkpoints written before Transformers 4.52 -> the names of today
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
    # Qwen3.5's recurrent layers
    "linear_attn.in_proj_qkvz": ("linear_attn.in_proj_qkv", "linear_attn.in_proj_z"),
    "linear_attn.in_proj_ba": ("linear_attn.in_proj_b", "linear_attn.in_proj_a"),
}
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
NAME_TABLE = "add it to the name table in actial/inference/weight_sync.py"

_FUSED_INTO = {part: fused for fused, parts in FUSED.items() for part in parts}
_PART = re.compile("|".join(rf"{re.escape(part)}(?=\.)" for part in _FUSED_INTO))
_FUSED = re.compile("|".join(rf"{re.escape(fused)}(?=\.)" for fused in FUSED))


def current_name(name: str) -> str:
    """The name of today for a parameter given in either of Transformers' layouts."""
    return _with_prefix(name, OLD_LAYOUT) or name


def engine_name(name: str) -> str:
    """The engine's parameter that takes the trainer's parameter `name`, of either layout.

    Example: "model.language_model.layers.0.self_attn.k_proj.bias" ->
    "language_model.model.layers.0.self_attn.qkv_proj.bias".
    """
    name = current_name(name)
    moved = _with_prefix(name, PREFIXES)
    if moved is None:
        raise EngineFault(
            f"the engine has no name for the trainer's parameter {name}: {NAME_TABLE}."
        )
    return _PART.sub(lambda match: _FUSED_INTO[match[0]], moved)


def trainer_names(name: str) -> list[str]:
    """Inverse of `engine_name`: the trainer's parameters of which the engine's is stacked."""
    original = _with_prefix(name, [(engine, trainer) for trainer, engine in PREFIXES])
    if original is None:
        raise EngineFault(
            f"the trainer has no name for the engine's parameter {name}: {NAME_TABLE}."
        )
    fused = _FUSED.search(original)
    if fused is None:
        return [original]
    return [original.replace(fused[0], part) for part in FUSED[fused[0]]]


def _with_prefix(name: str, table: Iterable[tuple[str, str]]) -> str | None:
    for old, new in table:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return None


def check_coverage(engine_parameters: Iterable[str], sent: Iterable[str]) -> None:
    """Raise EngineFault unless the parameters `sent` are all of the engine's, and no other."""
    expected: set[str] = set()
    for name in engine_parameters:
        expected |= set(trainer_names(name))
    sent = {current_name(name) for name in sent}
    if missing := sorted(expected - sent):
        raise EngineFault(
            f"{len(missing)} weights were not sent to the engine, first {missing[0]}: it would go "
            "on with old values."
        )
    if unknown := sorted(sent - expected):
        raise EngineFault(
            f"the engine has no parameter for {len(unknown)} of the trainer's weights, first "
            f"{unknown[0]}."
        )


@torch.no_grad()
def named_weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of every parameter. A collective where weights are sharded.

    Adapters are merged, on a copy. A head tied to the embedding comes under
    both names: vLLM's CPU build packs the head at start-up and would keep that
    packing.
    """
    core = policy.core
    for name, parameter in core.named_parameters(remove_duplicate=False):
        if ".lora_" in name:
            continue
        holder = core.get_submodule(name.rpartition(".")[0])
        if isinstance(holder, FourBitLinear) and name.endswith(".weight"):
            if ".base_layer." not in name:
                yield name, holder.unpacked()
                continue
        elif not name.endswith(".base_layer.weight"):
            yield name.replace(".base_layer.", "."), whole(parameter).detach()
            continue
        module = name.removesuffix(".base_layer.weight")
        layer = core.get_submodule(module)
        base = layer.get_base_layer()
        packed = isinstance(base, FourBitLinear)
        merged = base.unpacked() if packed else whole(parameter).float()
        for adapter in layer.active_adapters:
            merged = merged + whole(layer.get_delta_weight(adapter)).float()
        yield f"{module}.weight", merged


def named_shapes(policy: Policy) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of what `named_weights` yields, in its order; nothing is gathered."""
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for name, parameter in policy.core.named_parameters(remove_duplicate=False):
        if ".lora_" not in name:
            shape = tuple(parameter.shape)
            holder = policy.core.get_submodule(name.rpartition(".")[0])
            if isinstance(holder, FourBitLinear) and name.endswith(".weight"):
                shape = (holder.out_features, holder.in_features)
            shapes.append((name.replace(".base_layer.", "."), shape))
    return shapes


def engine_dtype(precision: Precision) -> torch.dtype:
    """The type of an engine's weights."""
    return torch.bfloat16 if precision is Precision.bf16 else torch.float32


def in_precision(
    weights: Iterable[tuple[str, Tensor]], precision: Precision
) -> Iterator[tuple[str, Tensor]]:
    """The weights in the engine's type, bf16 or float32."""
    dtype = engine_dtype(precision)
    for name, tensor in weights:
        yield name, tensor.to(dtype)


def folder_weights(path: str, revision: str | None) -> Iterator[tuple[str, Tensor]]:
    """(name of today, tensor) of every weight in a model folder or hub id, read one at a time.

    A tied head comes under both names, as in `named_weights`.
    """
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(path, revision=revision))
    has_head, embedding = False, None
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for stored in tensors.keys():  # noqa: SIM118 (not a dict)
                name, tensor = current_name(stored), tensors.get_tensor(stored)
                has_head |= name == HEAD
                embedding = tensor if name == EMBEDDING else embedding
                yield name, tensor
    if not has_head and embedding is not None:
        yield HEAD, embedding


def first_wrong_weight(engine: Engine, weights: Iterable[tuple[str, Tensor]]) -> str | None:
    """A sentence that names the first weight an engine has otherwise than `weights`; None if equal.

    The whole iterator is consumed, for it may gather shards on all ranks. None, too, for an
    engine that does not show its weights.
    """
    if not engine.shows_weights:
        return None
    names = set(engine.parameter_names())
    stacked: dict[str, dict[str, Tensor]] = {}
    wrong = None
    for name, tensor in weights:
        target = engine_name(name)
        if target not in names or wrong is not None:
            continue
        parts = stacked.setdefault(target, {})
        parts[current_name(name)] = tensor
        expected = trainer_names(target)
        if len(parts) < len(expected):
            continue
        verdict = engine.compare(target, torch.cat([parts[part] for part in expected]))
        del stacked[target]
        if verdict != "same":
            wrong = (
                f"its weight {target} is {verdict} from the trainer's {', '.join(expected)}; the "
                "transfer is at fault."
            )
    return wrong


@torch.no_grad()
def weights_version(policy: Policy) -> int:
    """A checksum that changes with any bit of any parameter. A collective if sharded.

    Torch's own write counters (`Tensor._version`) will not do: fused AdamW updates parameters
    without counting.
    """
    integers = {4: torch.int32, 2: torch.int16, 1: torch.int8}
    sums = []
    sharded = False
    for parameter in policy.core.parameters():
        local = parameter
        if hasattr(parameter, "to_local"):
            local, sharded = parameter.to_local(), True
        bits = local.detach().view(integers[local.element_size()])
        sums.append(bits.sum(dtype=torch.int64))
    stacked = torch.stack(sums)
    version = (stacked * torch.arange(1, len(sums) + 1, device=stacked.device)).sum()
    if sharded:  # each rank holds a part, and all must agree to send
        torch.distributed.all_reduce(version)
    return int(version)
