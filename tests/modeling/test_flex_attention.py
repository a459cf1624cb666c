"""FlexAttention equals the CPU form: its block mask, its kernel, and models of each family."""

from __future__ import annotations

import pytest
import torch
from support.oracle import assert_same_gradients, gradients, padded_logprobs
from support.random_batches import FAMILIES, GRADIENT_TOLERANCE, random_batch, visible_pairs
from support.tiny_models import tiny_policy
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.nn.attention import flex_attention as torch_flex

from actial.config import Attention, ModelConfig, Precision, Reference
from actial.modeling.flex_attention import (
    BLOCK,
    compiled_flex_attention,
    expand_mask,
    flatten_batch,
    masked_attention,
)
from actial.modeling.policy import Compare, Policy
from actial.modeling.prefix_packing import Continuation, PrefixGroup, pack


@pytest.fixture(scope="module")
def policies():
    return {family: tiny_policy(family, attention=Attention.flex) for family in FAMILIES}


def long_batch(seed: int = 0, sequence_tokens: int = 700):
    """Groups whose prefixes and continuations cover whole blocks, and end within them."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(0, 200, (count,), generator=generator).tolist()

    def continuation(count: int) -> Continuation:
        return Continuation(ids(count), [True] * count)

    groups = [
        PrefixGroup("a", ids(300), [], [continuation(290), continuation(3), continuation(0)]),
        PrefixGroup("b", ids(5), [], [continuation(140), continuation(130)]),
        PrefixGroup("c", ids(420), [], [continuation(1)]),
    ]
    return pack(groups, [], tiny_policy().spec, sequence_tokens)


@pytest.mark.parametrize("sequence_tokens", [700, 10_000])
def test_block_mask_computes_each_visible_pair_and_no_other(sequence_tokens):
    batch = long_batch(sequence_tokens=sequence_tokens)
    mask = flatten_batch(batch).mask
    assert torch.equal(expand_mask(mask), visible_pairs(batch))
    assert int(mask.full_kv_num_blocks.sum()) >= 3
    blocks = (len(visible_pairs(batch)) // BLOCK) ** 2
    assert int((mask.kv_num_blocks + mask.full_kv_num_blocks).sum()) < 0.5 * blocks


def random_heads(length: int, *, dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, 6, length, 16), (1, 2, length, 16), (1, 2, length, 16)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def test_compiled_kernel_equals_the_expanded_mask():
    """Inductor's CPU kernel, which has a forward pass only: three lengths, grouped key heads."""
    for sequence_tokens in (700, 500, 10_000):
        plan = flatten_batch(long_batch(sequence_tokens=sequence_tokens))
        query, key, value = random_heads(plan.length)
        actual = compiled_flex_attention()(
            query, key, value, block_mask=plan.mask, scale=0.3, enable_gqa=True
        )
        expected = masked_attention(query, key, value, plan.mask, 0.3)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_flex_attention_equal_those_of_the_expanded_mask(monkeypatch):
    """Torch's own backward of FlexAttention, run eagerly; its device check forbids it on a CPU."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    plan = flatten_batch(long_batch())
    heads = [x.requires_grad_() for x in random_heads(plan.length)]
    weights = torch.randn(1, 6, plan.length, 16, generator=torch.Generator().manual_seed(2))
    results = []
    for attend in (
        lambda q, k, v: torch_flex.flex_attention(
            q, k, v, block_mask=plan.mask, scale=0.3, enable_gqa=True
        ),
        lambda q, k, v: masked_attention(q, k, v, plan.mask, 0.3),
    ):
        out = attend(*heads)
        results.append([out.detach(), *torch.autograd.grad((out * weights).sum(), heads)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5)


def test_any_length_and_gradient_mode_need_few_variants():
    """Past the limit is an error: never the uncompiled function, which holds S x S scores."""
    variants = 0

    def backend(graph, _inputs):
        nonlocal variants
        variants += 1
        return graph.forward

    attend = torch.compile(
        torch_flex.flex_attention,
        backend=backend,
        dynamic=True,
        fullgraph=True,
        isolate_recompiles=True,
    )
    for count in (600, 60, 128, 129, 1000, 1400, 90, 2000, 3000):
        group = PrefixGroup("x", [1] * count, [], [Continuation([2] * 9, [True] * 9)])
        plan = flatten_batch(pack([group] * 2, [], tiny_policy().spec, 1))
        for grad_mode in (True, False):
            with torch.set_grad_enabled(grad_mode):
                attend(
                    *random_heads(plan.length),
                    block_mask=plan.mask,
                    scale=0.3,
                    enable_gqa=True,
                )
    assert 2 <= variants <= 8


def test_a_recompile_limit_that_is_reached_is_an_error():
    attend = torch.compile(
        torch_flex.flex_attention,
        backend="eager",
        dynamic=False,
        fullgraph=True,
        recompile_limit=1,
        isolate_recompiles=True,
    )

    def run(prefix_tokens: int) -> None:
        group = PrefixGroup("x", [1] * prefix_tokens, [], [Continuation([2] * 9, [True] * 9)])
        plan = flatten_batch(pack([group], [], tiny_policy().spec, 1))
        attend(*random_heads(plan.length), block_mask=plan.mask, scale=0.3, enable_gqa=True)

    run(600)
    with pytest.raises(FailOnRecompileLimitHit):
        run(300)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_its_padded_forward(policies, family):
    policy = policies[family]
    groups, images = random_batch(5, policy, counts=(2, 0, 1, 2))
    batch = pack(groups, images, policy.spec, 96)
    actual = policy.token_logprobs(batch).logprobs
    expected = padded_logprobs(policy.core, groups, images, policy.spec)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(len(actual), generator=torch.Generator().manual_seed(0))
    assert_same_gradients(
        gradients(policy.core, actual, weights),
        gradients(policy.core, expected, weights),
        GRADIENT_TOLERANCE[family],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_scores_every_family_as_the_cpu_form_does(policies, family, monkeypatch):
    """The compiled kernel inside the model, without gradients, as on a CUDA device."""
    from actial.modeling import flex_attention

    policy = policies[family]
    groups, images = random_batch(6, policy, counts=(2, 1))
    batch = pack(groups, images, policy.spec, 96)
    with torch.no_grad():
        expected = tiny_policy(family).token_logprobs(batch).logprobs

        def kernel(query, key, value, block_mask, scaling):
            return compiled_flex_attention()(
                query, key, value, block_mask=block_mask, scale=scaling, enable_gqa=True
            )

        monkeypatch.setattr(flex_attention, "masked_attention", kernel)
        actual = policy.token_logprobs(batch).logprobs
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_settings_of_the_7b_model_load_and_train_a_folder(tmp_path):
    """flex, bf16, gradient checkpointing and a reference, through the loader of every command."""
    tiny_policy().core.save_pretrained(tmp_path)
    config = ModelConfig(
        path=str(tmp_path),
        attention=Attention.flex,
        precision=Precision.bf16,
        gradient_checkpointing=True,
    )
    policy = Policy.load(config, reference=Reference.frozen_copy).train()
    groups, images = random_batch(6, policy, counts=(2, 1))
    batch = pack(groups, images, policy.spec, 96)
    scored = policy.token_logprobs(batch, compare=Compare.logprobs)
    torch.testing.assert_close(
        scored.logprobs, scored.reference_logprobs, rtol=1e-5, atol=1e-5
    )
    scored.logprobs.sum().backward()
    missing = [
        n for n, p in policy.core.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert not missing
