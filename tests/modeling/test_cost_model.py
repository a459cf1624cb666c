"""Estimated operations and memory against what the tiny models really do, and the 7B on meta."""

from __future__ import annotations

import random
import weakref

import pytest
import torch
from support.qwen_shapes import qwen2_5_vl
from support.random_batches import FAMILIES, random_batch
from support.tiny_models import make_group, random_image, tiny_config, tiny_policy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from actial.config import LoraConfig, ModelConfig, ModuleGroupConfig, Precision
from actial.modeling.cost_model import Load, load_of, step_flops, step_memory
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import Continuation, PrefixGroup, pack

FROZEN_VISION = {
    "vision": ModuleGroupConfig(train=False),
    "merger": ModuleGroupConfig(train=False),
}
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def test_load_of_a_small_batch():
    """A prefix of 3 with continuations of 2 and 1 tokens: 6 pairs of its own, then 4 + 5 and 4."""
    group = PrefixGroup(
        "t", [1, 2, 3], [], [Continuation([4, 5], [True, True]), Continuation([6], [False])]
    )
    assert load_of([group], [], tiny_policy()) == Load(
        tokens=6,
        longest_group=6,
        attention_pairs=6 + 9 + 4,
        gathered_keys=9,
        supervised_tokens=2,
        patches=[],
        recurrent_chunks=3,
    )


def counted_flops(policy, batch) -> tuple[float, float]:
    """Operations of forward and backward pass; attention's backward has no rule on a CPU."""
    rule = {CPU_ATTENTION: lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(q, k, v)}
    with FlopCounterMode(display=False, custom_mapping=rule) as forward:
        total = policy.token_logprobs(batch).logprobs.sum()
    with FlopCounterMode(display=False, custom_mapping=rule) as backward:
        total.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_checkpointing": True}, {"head_chunk_tokens": 10_000}, FROZEN_VISION],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_of_a_counted_step(family, settings):
    policy = tiny_policy(family, **settings).train()
    groups, images = random_batch(5, policy, counts=(2, 1, 3))
    flops = step_flops(policy, load_of(groups, images, policy))
    forward, backward = counted_flops(policy, pack(groups, images, policy.spec, 10_000))
    assert sum(part.forward for part in flops.values()) == pytest.approx(forward, rel=0.15)
    assert sum(part.backward + part.recomputed for part in flops.values()) == pytest.approx(
        backward, rel=0.3
    )


class Live(TorchDispatchMode):
    """Bytes of the tensors made inside, at the highest."""

    def __init__(self, counted: list[torch.Tensor]) -> None:
        super().__init__()
        self.counted = {tensor.untyped_storage()._cdata for tensor in counted}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if (
                isinstance(tensor, torch.Tensor)
                and (key := tensor.untyped_storage()._cdata) not in self.counted
            ):
                size = tensor.untyped_storage().nbytes()
                self.counted.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor.untyped_storage(), self.forget, key, size)
        return out

    def forget(self, key: int, size: int) -> None:
        self.counted.discard(key)
        self.now -= size


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_checkpointing": True}, {"precision": Precision.bf16}, FROZEN_VISION],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_near_what_a_step_holds(family, settings):
    """Passing gradients and attention's padding come on top of what is saved: two fifths at most."""
    policy = tiny_policy(family, **settings).train()
    groups, images = random_batch(5, policy, counts=(2, 1, 3, 2, 3) * 4)
    batch = pack(groups, images, policy.spec, 10_000)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    weights = list(policy.parameters())
    held = [
        *weights,
        *(p.grad for p in weights if p.grad is not None),
        *(getattr(batch, name) for name in ("input_ids", "position_ids")),
    ]
    with Live(held) as live:
        policy.token_logprobs(batch).logprobs.sum().backward()
    estimate = step_memory(policy, load_of(groups, images, policy))
    casts = estimate.state - 4 * sum(
        p.numel() * (4 if p.requires_grad else 1) for p in weights
    )
    assert 0.95 < live.peak / (estimate.activations + estimate.head + casts) < 1.4


def sized_policy(family: str, width: int, **settings) -> Policy:
    """A model of 5 to 10 M parameters, whose activations are far larger than its padding."""
    config = tiny_config(family)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.vocab_size = width, 3 * width, 4000
    text.num_hidden_layers, text.num_attention_heads = 4, width // 32
    text.num_key_value_heads, text.head_dim = width // 64, 32
    if getattr(text, "layer_types", None):
        text.layer_types = ["full_attention"] * 4
    sections, part = [4, 6, 6], 1.0
    if family == "qwen3_5":
        text.layer_types = ["linear_attention"] * 3 + ["full_attention"]
        text.linear_key_head_dim = text.linear_value_head_dim = 32
        text.linear_num_key_heads, text.linear_num_value_heads = width // 64, width // 32
        sections, part = [2, 3, 3], 0.5
    rope = {"mrope_section": sections, "partial_rotary_factor": part}
    text.rope_parameters = {**text.rope_parameters, **rope}
    config.vision_config.out_hidden_size = width
    limits = {"sequence_tokens": 880, "micro_batch_tokens": 100_000}
    model_config = ModelConfig(path="tiny", **limits, **settings)
    return Policy.from_config(config, model_config, device="cpu").train()


@pytest.mark.parametrize(
    ("family", "width", "settings"),
    [
        ("qwen2_5_vl", 256, {}),
        ("qwen3_vl", 384, {"gradient_checkpointing": True}),
        ("qwen3_5", 256, {}),
    ],
)
def test_peak_of_an_update_is_predicted_to_ten_percent(family, width, settings):
    """Weights, gradients, AdamW's moments, activations and head, over two whole updates."""
    policy = sized_policy(family, width, **settings)
    rng = random.Random(0)
    images = [random_image(rng, policy, 6, 8) for _ in range(2)]
    continuations = [Continuation([5] * 60, [True] * 60)] * 8
    groups = [
        make_group(str(n), policy, images, [0, 1], [n + 1] * 100, continuations)
        for n in range(4)
    ]
    batch = pack(groups, images, policy.spec, policy.config.sequence_tokens)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4, fused=True)
    with Live([batch.input_ids, batch.position_ids]) as live:
        for parameter in policy.parameters():
            live.counted.add(parameter.untyped_storage()._cdata)
            live.now += parameter.untyped_storage().nbytes()
        for _ in range(2):
            policy.token_logprobs(batch).logprobs.mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    predicted = step_memory(policy, load_of(groups, images, policy)).total
    assert predicted / live.peak == pytest.approx(1.0, abs=0.1)


def test_state_of_adapters_copies_and_shards():
    load = Load(
        tokens=10,
        longest_group=10,
        attention_pairs=50,
        gathered_keys=10,
        supervised_tokens=4,
        patches=[],
    )
    full = tiny_policy()
    size = sum(p.numel() for p in full.parameters())
    assert step_memory(full, load).state == 16 * size
    assert step_memory(full, load, frozen_copy=True, shards=4).state == 5 * size
    adapters = tiny_policy(lora=LoraConfig(enabled=True, rank=2))
    small = sum(p.numel() for p in adapters.parameters() if p.requires_grad)
    assert step_memory(adapters, load).state == 4 * (size + small) + 12 * small


def test_the_papers_model_fits_eight_ranks_and_not_one():
    """8.29 B parameters, 133 GB of state in full training, 83 TFLOP forward of a shared group."""
    policy = Policy.from_config(
        qwen2_5_vl("7b"),
        ModelConfig(path="7b", sequence_tokens=8192, gradient_checkpointing=True),
    )
    assert sum(p.numel() for p in policy.parameters()) == pytest.approx(8.29e9, rel=2e-3)
    prompt, completion, group, image = 1520, 250, 16, 2640
    load = Load(
        tokens=prompt + group * completion,
        longest_group=prompt + group * completion,
        attention_pairs=prompt * prompt // 2
        + group * (prompt * completion + completion**2 // 2),
        gathered_keys=group * (prompt + completion),
        supervised_tokens=group * completion,
        patches=[image, image],
    )
    assert step_memory(policy, load).state == pytest.approx(133e9, rel=0.01)
    assert step_memory(policy, load, shards=8).state == pytest.approx(16.6e9, rel=0.01)
    assert sum(part.forward for part in step_flops(policy, load).values()) == pytest.approx(
        83e12, rel=0.1
    )
