"""Packed scoring equals the padded forward; module groups, adapters, references and files."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.oracle import assert_same_gradients, gradients, padded_logprobs
from support.random_batches import (
    FAMILIES,
    GRADIENT_TOLERANCE,
    QWEN_VL,
    SIZES,
    random_batch,
    visible_pairs,
)
from support.tiny_models import IMAGE, VOCAB, make_group, random_image, tiny_policy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2VLImageProcessor

from actial.config import LoraConfig, ModelConfig, ModuleGroupConfig, Precision, Reference
from actial.core.errors import UserError
from actial.modeling.attention import attention_layout
from actial.modeling.image_patches import patchify
from actial.modeling.policy import Compare, Policy
from actial.modeling.prefix_packing import (
    Continuation,
    PrefixGroup,
    mrope_positions,
    pack,
)
from actial.modeling.token_scoring import FULL_DISTRIBUTION, SamplingDistribution, score_tokens
from actial.modeling.trainable_modules import MODULE_GROUPS, module_group_of


@pytest.fixture(scope="module")
def policies():
    return {family: tiny_policy(family) for family in FAMILIES}


def check_equal(policy, groups, images, *, sequence_tokens: int = 96):
    batch = pack(groups, images, policy.spec, sequence_tokens)
    actual = policy.token_logprobs(batch).logprobs
    expected = padded_logprobs(policy.core, groups, images, policy.spec)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(len(actual), generator=torch.Generator().manual_seed(0))
    packed_gradients = gradients(policy.core, policy.token_logprobs(batch).logprobs, weights)
    plain_gradients = gradients(
        policy.core, padded_logprobs(policy.core, groups, images, policy.spec), weights
    )
    tolerance = GRADIENT_TOLERANCE[policy.hf_config.model_type]
    assert_same_gradients(packed_gradients, plain_gradients, tolerance)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20),
    counts=st.lists(st.sampled_from((0, 1, 2, 3)), min_size=1, max_size=4),
)
def test_random_ragged_batches_equal_the_padded_forward(policies, seed, counts):
    policy = policies["qwen2_5_vl"]
    check_equal(policy, *random_batch(seed, policy, counts=tuple(counts)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_its_padded_forward(policies, family):
    policy = policies[family]
    check_equal(policy, *random_batch(5, policy, counts=(2, 0, 1, 2)))


def test_eight_images_of_different_shape(policies):
    policy = policies["qwen2_5_vl"]
    check_equal(policy, *random_batch(3, policy, counts=(8, 2)))


def test_one_sequence_per_group_and_all_groups_in_one_sequence_agree(policies):
    policy = policies["qwen2_5_vl"]
    groups, images = random_batch(1, policy, counts=(2, 1, 0))
    single, shared = (
        pack(groups, images, policy.spec, capacity, most_padding=1.0)
        for capacity in (1, 10_000)
    )
    assert (single.input_ids.shape[0], shared.input_ids.shape[0]) == (3, 1)
    torch.testing.assert_close(
        policy.token_logprobs(single).logprobs,
        policy.token_logprobs(shared).logprobs,
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_continuation_of_one_token_and_an_empty_one(policies):
    policy = policies["qwen2_5_vl"]
    group = PrefixGroup("t", [1, 2, 3], [], [Continuation([7], [True])])
    check_equal(policy, [group], [])
    empty = policy.token_logprobs(
        pack([PrefixGroup("e", [1], [], [Continuation([], [])])], [], policy.spec, 8)
    )
    assert empty.logprobs.shape == (0,)
    assert empty.num_sequences == 1


def test_a_stray_placeholder_takes_no_image_feature(policies):
    """The placeholder in the continuation is scored as text."""
    policy = policies["qwen2_5_vl"]
    images = [random_image(random.Random(0), policy, 2, 3)]
    continuation = Continuation([5, IMAGE, 6], [True, True, True])
    check_equal(policy, [make_group("t", policy, images, [0], [1, 2], [continuation])], images)


# ---------------------------------------------------------------- packing


def test_patches_are_bit_equal_to_the_library(policies):
    spec = policies["qwen2_5_vl"].spec
    images = [
        random_image(random.Random(n), policies["qwen2_5_vl"], *size)
        for n, size in enumerate((*SIZES, (2, 3)))
    ]
    processor = Qwen2VLImageProcessor(patch_size=spec.patch_size)
    expected = processor(images, do_resize=False, return_tensors="pt")
    pixels, grid = patchify(images, spec)
    assert torch.equal(pixels, expected["pixel_values"])
    assert torch.equal(grid, expected["image_grid_thw"])


@pytest.mark.parametrize("family", QWEN_VL)
def test_positions_equal_the_models_own(policies, family):
    policy = policies[family]
    groups, images = random_batch(11, policy, counts=(3, 0, 2))
    for group in groups:
        grid = patchify([images[i] for i in group.images], policy.spec)[1]
        ids = torch.tensor([group.input_ids])
        expected, _ = policy.core.model.get_rope_index(
            ids, mm_token_type_ids=(ids == IMAGE).int(), image_grid_thw=grid
        )
        grids = [(int(h), int(w)) for _, h, w in grid]
        actual = mrope_positions(np.array(group.input_ids), grids, policy.spec)
        assert torch.equal(torch.from_numpy(actual), expected[:, 0])


def test_layout_of_a_small_batch(policies):
    """Two groups of 5 and 4 tokens in one sequence; every number worked by hand."""
    spec = policies["qwen2_5_vl"].spec
    groups = [
        PrefixGroup(
            "a", [1, 2], [], [Continuation([3, 4], [True, True]), Continuation([5], [True])]
        ),
        PrefixGroup("b", [6, 7, 8], [], [Continuation([9], [True])]),
    ]
    batch = pack(groups, [], spec, sequence_tokens=9)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert batch.position_ids[0].tolist() == [[0, 1, 2, 3, 2, 0, 1, 2, 3]]
    assert batch.group_of.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1]]
    assert batch.continuation_of.tolist() == [[0, 0, 1, 1, 2, 0, 0, 0, 1]]
    assert batch.source_position.tolist() == [1, 2, 1, 7]
    assert batch.target_ids.tolist() == [3, 4, 5, 9]
    assert batch.sequence_index.tolist() == [0, 0, 1, 2]
    assert batch.token_index.tolist() == [0, 1, 0, 0]
    assert batch.group_of_sequence.tolist() == [0, 0, 1]
    visible = visible_pairs(batch)[:9, :9]
    # the second continuation: its prefix and itself
    assert visible[4].nonzero()[:, 0].tolist() == [0, 1, 4]
    assert visible[8].nonzero()[:, 0].tolist() == [5, 6, 7, 8]


def test_sequences_that_a_long_group_has_made_long_are_filled(policies):
    """One group of 12 tokens and six of 4, where a sequence should have 8: three of 12, full."""
    spec = policies["qwen2_5_vl"].spec
    groups = [
        PrefixGroup(str(i), [1] * (n - 1), [], [Continuation([2], [True])])
        for i, n in enumerate((4, 4, 12, 4, 4, 4, 4))
    ]
    batch = pack(groups, [], spec, sequence_tokens=8)
    assert sorted((batch.group_of >= 0).sum(dim=1).tolist()) == [12, 12, 12]


def test_at_most_a_twentieth_of_a_batch_is_padding(policies):
    """Groups of one prompt with completions, each longer than a sequence should be."""
    rng = random.Random(0)
    groups = [
        PrefixGroup(
            str(i), [1] * rng.randrange(110, 160), [], [Continuation([2] * n, [True] * n)]
        )
        for i, n in enumerate(rng.randrange(400, 900) for _ in range(24))
    ]
    spec = policies["qwen2_5_vl"].spec
    efficiency = [
        float((batch.group_of >= 0).float().mean())
        for batch in (
            pack(groups, [], spec, 256, most_padding=1.0),
            pack(groups, [], spec, 256),
        )
    ]
    assert efficiency[0] < 0.85
    assert efficiency[1] >= 0.95


def test_an_image_used_by_two_groups_is_encoded_once(policies):
    policy = policies["qwen2_5_vl"]
    images = [random_image(random.Random(n), policy, 2, 2) for n in range(3)]
    continuation = Continuation([5], [True])
    groups = [
        make_group(uid, policy, images, indices, [1], [continuation])
        for uid, indices in (("a", [2, 0]), ("b", [0]))
    ]
    batch = pack(groups, images, policy.spec, 64)
    assert batch.grid_thw.tolist() == [[1, 4, 4]] * 2
    assert len(batch.feature_slot) == 12
    check_equal(policy, groups, images)


def test_layout_visits_each_visible_pair_once(policies):
    """What the buckets compute, put back into a matrix, is the rule for single pairs."""
    policy = policies["qwen2_5_vl"]
    groups, images = random_batch(2, policy, counts=(2, 1, 3, 0))
    batch = pack(groups, images, policy.spec, 10_000)
    layout = attention_layout(batch, heads_per_key=1)
    length = batch.input_ids.shape[1]
    counts = torch.zeros(length, length, dtype=torch.long)
    slot = 0
    for bucket in layout.buckets:
        for member, (queries, keys) in enumerate(zip(bucket.query, bucket.key, strict=True)):
            for offset, query in enumerate(queries.tolist()):
                if layout.back[query] == slot:  # no padding
                    visible_keys = (
                        keys[: offset + 1]
                        if bucket.mask is None
                        else keys[bucket.mask[member, 0, offset] == 0]
                    )
                    counts[query].index_add_(
                        0, visible_keys, torch.ones(len(visible_keys), dtype=torch.long)
                    )
                slot += 1
    assert torch.equal(counts, visible_pairs(batch)[:length, :length].long())


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            PrefixGroup("x", [1, IMAGE], [0], [Continuation([2], [True])]),
            "group x has 1 image placeholders",
        ),
        (PrefixGroup("x", [], [], [Continuation([2], [True])]), "group x has an empty prefix"),
        (PrefixGroup("x", [1], [], [Continuation([2, 3], [True])]), "group x, continuation 0"),
    ],
)
def test_malformed_groups_are_refused_by_name(policies, group, message):
    policy = policies["qwen2_5_vl"]
    with pytest.raises(ValueError, match=message):
        pack([group], [random_image(random.Random(0), policy, 2, 2)], policy.spec, 64)


def test_images_of_a_wrong_size_are_refused(policies):
    with pytest.raises(ValueError, match="multiple of 16"):
        pack(
            [PrefixGroup("x", [1], [0], [])],
            [np.zeros((16, 20, 3), np.uint8)],
            policies["qwen2_5_vl"].spec,
            64,
        )


# ---------------------------------------------------------------- scoring options


def test_chunked_head_gives_the_same_gradients_as_one_chunk():
    groups, images = random_batch(4, policy := tiny_policy(head_chunk_tokens=3), counts=(2, 1))
    whole = tiny_policy(head_chunk_tokens=10_000)
    batch = pack(groups, images, policy.spec, 96)
    weights = torch.randn(len(batch.target_ids), generator=torch.Generator().manual_seed(0))
    actual = gradients(policy.core, policy.token_logprobs(batch).logprobs, weights)
    assert_same_gradients(
        actual, gradients(whole.core, whole.token_logprobs(batch).logprobs, weights), 1e-5
    )


def test_full_logits_never_exist():
    """No tensor of a chunked forward and backward holds the logits of more than a chunk."""
    policy = tiny_policy(head_chunk_tokens=4)
    groups, images = random_batch(4, policy, counts=(2, 1, 1))
    batch = pack(groups, images, policy.spec, 96)
    widest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal widest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.ndim == 2 and out.shape[-1] == VOCAB:
                widest = max(widest, out.shape[0])
            return out

    with Watch():
        policy.token_logprobs(batch).logprobs.sum().backward()
    assert len(batch.target_ids) > 8
    assert widest == 64 or widest <= 4, (
        widest
    )  # 64: the transposed gradient of the head's weight is (H, V)


@pytest.mark.parametrize("banned", [(), (5, IMAGE)])
def test_temperature_bans_and_entropy_match_the_definition(policies, banned):
    policy = policies["qwen2_5_vl"]
    batch = pack(
        [PrefixGroup("t", [1, 2], [], [Continuation([3, 4], [True, True])])],
        [],
        policy.spec,
        8,
    )
    scored = policy.token_logprobs(batch, SamplingDistribution(0.7, banned), entropy=True)
    logits = policy.core(torch.tensor([[1, 2, 3, 4]])).logits[0, 1:3] / 0.7
    logits[:, list(banned)] = -1e9
    distribution = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(
        scored.logprobs, distribution.log_prob(torch.tensor([3, 4])), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(scored.entropy, distribution.entropy(), rtol=1e-5, atol=1e-6)


def test_bf16_autocast_stays_near_fp32(policies):
    groups, images = random_batch(
        6, policy := tiny_policy(precision=Precision.bf16), counts=(2,)
    )
    batch = pack(groups, images, policy.spec, 96)
    actual = policy.token_logprobs(batch).logprobs
    expected = policies["qwen2_5_vl"].token_logprobs(batch).logprobs
    assert actual.dtype == torch.float32
    assert 0 < (actual - expected).abs().max() < 0.2


def test_gradient_checkpointing_changes_no_gradient(policies):
    policy = tiny_policy(gradient_checkpointing=True)
    policy.train()
    groups, images = random_batch(6, policy, counts=(2, 1))
    batch = pack(groups, images, policy.spec, 96)
    weights = torch.ones(len(batch.target_ids))
    actual = gradients(policy.core, policy.token_logprobs(batch).logprobs, weights)
    plain = policies["qwen2_5_vl"]
    assert_same_gradients(
        actual, gradients(plain.core, plain.token_logprobs(batch).logprobs, weights), 1e-6
    )


# ------------------------------------------------- module groups, adapters, references, files


@pytest.mark.parametrize(
    "trained", [("vision",), ("merger",), ("language",), ("merger", "language")]
)
def test_each_module_group_trains_alone_with_exact_gradients(policies, trained):
    switches = {
        part: ModuleGroupConfig(train=part in trained, lr_scale=0.5) for part in MODULE_GROUPS
    }
    policy = tiny_policy(**switches)
    groups, images = random_batch(7, policy, counts=(2,))
    batch = pack(groups, images, policy.spec, 96)
    weights = torch.ones(len(batch.target_ids))
    actual = gradients(policy.core, policy.token_logprobs(batch).logprobs, weights)
    plain = policies["qwen2_5_vl"]
    expected = gradients(plain.core, plain.token_logprobs(batch).logprobs, weights)
    for name, parameter in policy.core.named_parameters():
        assert parameter.requires_grad == (module_group_of(name) in trained), name
    assert_same_gradients(
        actual,
        {n: g if module_group_of(n) in trained else g * 0 for n, g in expected.items()},
        1e-6,
    )
    groups = policy.param_groups(lr=2.0, weight_decay=0.1)
    assert {group["lr"] for group in groups} == {1.0}
    assert sum(len(group["params"]) for group in groups) == sum(
        len(policy.module_group_parameters(part)) for part in trained
    )
    assert all(
        p.ndim > 1 for group in groups if group["weight_decay"] for p in group["params"]
    )


def test_training_nothing_is_refused():
    policy = tiny_policy(**{part: ModuleGroupConfig(train=False) for part in MODULE_GROUPS})
    with pytest.raises(UserError, match="no module group trains"):
        policy.param_groups(1e-3, 0.0)


def test_lora_trains_adapters_and_its_reference_is_the_base():
    policy = tiny_policy(
        lora=LoraConfig(enabled=True, rank=4, alpha=8), reference=Reference.adapter_off
    )
    base = tiny_policy()
    groups, images = random_batch(8, policy, counts=(2, 1))
    batch = pack(groups, images, policy.spec, 96)
    trained = [
        name for name, parameter in policy.named_parameters() if parameter.requires_grad
    ]
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.add_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)),
                    alpha=0.1,
                )
    moved = policy.token_logprobs(batch).logprobs
    expected = base.token_logprobs(batch).logprobs
    assert (moved - expected).abs().max() > 1e-3
    actual = policy.token_logprobs(batch, compare=Compare.logprobs).reference_logprobs
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-5, atol=1e-6)
    moved.sum().backward()
    assert all(p.grad.abs().max() > 0 for n, p in policy.named_parameters() if "lora_" in n)


def test_frozen_copy_keeps_the_start_weights():
    policy = tiny_policy(reference=Reference.frozen_copy)
    batch = pack(*random_batch(9, policy, counts=(1, 2)), policy.spec, 96)
    before = policy.token_logprobs(batch).logprobs.detach()
    with torch.no_grad():
        for parameter in policy.core.parameters():
            parameter.mul_(1.1)
    assert torch.equal(
        policy.token_logprobs(batch, compare=Compare.logprobs).reference_logprobs, before
    )
    assert (policy.token_logprobs(batch).logprobs - before).abs().max() > 1e-3


@pytest.mark.parametrize("banned", [(), (5, IMAGE)])
def test_full_vocabulary_kl_matches_the_definition(banned):
    policy = tiny_policy(reference=Reference.frozen_copy, head_chunk_tokens=2)
    with torch.no_grad():
        policy.core.lm_head.weight.mul_(1.2)
        policy.core.model.language_model.norm.weight.mul_(0.9)
    batch = pack(
        [PrefixGroup("t", [1, 2], [], [Continuation([3, 4, 5], [True] * 3)])],
        [],
        policy.spec,
        8,
    )
    actual = policy.token_logprobs(
        batch, SamplingDistribution(1.0, banned), compare=Compare.full_kl
    ).kl
    logits = [
        model(torch.tensor([[1, 2, 3, 4, 5]])).logits[0, 1:4]
        for model in (policy.core, policy.reference)
    ]
    for part in logits:
        part[:, list(banned)] = -1e9
    p, q = (torch.distributions.Categorical(logits=part) for part in logits)
    torch.testing.assert_close(
        actual, torch.distributions.kl_divergence(p, q), rtol=1e-4, atol=1e-6
    )
    actual.sum().backward()
    assert all(
        parameter.grad.isfinite().all()
        for parameter in policy.core.parameters()
        if parameter.grad is not None
    )


@pytest.mark.parametrize(
    ("lora", "reference", "message"),
    [
        (True, Reference.frozen_copy, "second model"),
        (False, Reference.adapter_off, "needs model.lora.enabled"),
    ],
)
def test_impossible_references_are_refused(lora, reference, message):
    with pytest.raises(UserError, match=message):
        tiny_policy(lora=LoraConfig(enabled=lora), reference=reference)


@pytest.mark.parametrize("lora", [False, True])
def test_saved_folder_is_a_plain_checkpoint(tmp_path, lora):
    """Saved (adapters merged on a copy) and loaded again, it scores the same; other files come
    along.
    """
    source = tmp_path / "base"
    tiny_policy().core.save_pretrained(source)
    (source / "tokenizer.json").write_text("{}")
    policy = Policy.load(ModelConfig(path=str(source), lora=LoraConfig(enabled=lora, rank=4)))
    batch = pack(*random_batch(10, policy, counts=(2, 0)), policy.spec, 96)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)),
                    alpha=0.02,
                )
    before = policy.token_logprobs(batch).logprobs
    policy.save_pretrained(tmp_path / "out")
    assert torch.equal(policy.token_logprobs(batch).logprobs, before)
    assert (tmp_path / "out" / "tokenizer.json").exists()
    again = Policy.load(ModelConfig(path=str(tmp_path / "out")))
    torch.testing.assert_close(
        again.token_logprobs(batch).logprobs, before, rtol=1e-5, atol=1e-5
    )


def test_meta_policy_counts_parameters_without_weights(policies):
    policy = Policy.from_config(policies["qwen2_5_vl"].hf_config, ModelConfig(path="tiny"))
    for part in MODULE_GROUPS:
        sizes = [
            sum(p.numel() for p in q.module_group_parameters(part))
            for q in (policy, policies["qwen2_5_vl"])
        ]
        assert sizes[0] == sizes[1] > 0
    assert all(p.is_meta for p in policy.parameters())


# ---------------------------------------------------------------- bf16


def test_gradients_of_many_head_chunks_add_up_in_float32():
    """600 chunks in bf16: added in bf16, the sum would be off by percents of its norm."""
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 300, bias=False)
    hidden, target_ids = torch.randn(1800, 64), torch.randint(0, 300, (1800,))

    def gradient(chunk: int) -> torch.Tensor:
        head.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            logprobs, _, _ = score_tokens(
                head, hidden, target_ids, FULL_DISTRIBUTION, chunk=chunk
            )
        logprobs.sum().backward()
        return head.weight.grad

    whole = gradient(1800)
    assert (gradient(3) - whole).norm() / whole.norm() < 4e-3


def test_frozen_blocks_in_bf16_change_no_log_probability():
    """Autocast rounds the same matrices at each use; merged adapters are saved in float32."""
    settings = {"precision": Precision.bf16, "lora": LoraConfig(enabled=True, rank=2)}
    policy = tiny_policy(reference=Reference.adapter_off, **settings)
    halved = [n for n, p in policy.core.named_parameters() if p.dtype is torch.bfloat16]
    assert any("self_attn.q_proj.base_layer" in name for name in halved)
    assert any("visual.blocks" in name for name in halved)
    assert not any(
        "norm" in name or "embed_tokens" in name or "lora_" in name for name in halved
    )
    full = tiny_policy(precision=Precision.bf16)
    batch = pack(*random_batch(6, policy, counts=(2, 1)), policy.spec, 96)
    assert torch.equal(
        policy.token_logprobs(batch).logprobs, full.token_logprobs(batch).logprobs
    )


def test_a_frozen_copy_in_bf16_scores_as_the_policy_it_was_made_of():
    policy = tiny_policy(precision=Precision.bf16, reference=Reference.frozen_copy)
    batch = pack(*random_batch(6, policy, counts=(2, 1)), policy.spec, 96)
    scored = policy.token_logprobs(batch, compare=Compare.logprobs)
    assert torch.equal(scored.logprobs, scored.reference_logprobs)
    copies = list(policy.reference.parameters())
    assert sum(p.numel() for p in copies if p.dtype is torch.bfloat16) > 0.5 * sum(
        p.numel() for p in copies
    )
    assert not {p.data_ptr() for p in copies} & {
        p.data_ptr() for p in policy.core.parameters()
    }
