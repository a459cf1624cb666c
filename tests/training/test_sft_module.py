"""The supervised step: equal to plain PyTorch, independent of the micro-batch split, and stopped by
what is not finite.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.oracle import padded_logprobs
from support.tiny_models import tiny_model, tiny_policy
from support.training import fit_sft, sft_batch, sft_module

from actial.config import OptimConfig, Schedule
from actial.core.errors import NonFiniteError, UserError
from actial.modeling.prefix_packing import Continuation, PrefixGroup
from actial.training.batch import TrainBatch
from actial.training.checkpoint import CheckpointCallback, resume
from actial.training.train_module import lr_factor


def test_steps_equal_a_plain_adamw_loop_on_the_padded_forward(tmp_path):
    module = sft_module(tmp_path, steps=4, grad_clip=0.5)
    found = fit_sft(module)
    model = tiny_model()
    groups = module.policy.param_groups(1.0, 0.01)
    names = {p: n for n, p in module.policy.core.named_parameters()}
    own = dict(model.named_parameters())
    plain = [
        {"params": [own[names[p]] for p in g["params"]], "weight_decay": g["weight_decay"]}
        for g in groups
    ]
    optimizer = torch.optim.AdamW(plain, lr=1e-2)
    expected = []
    for step in range(4):
        batch = sft_batch(step, module.policy)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[-1]["lr"] = 0
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 2)
        optimizer.zero_grad()
        loss = -padded_logprobs(
            model, batch.prefix_groups, batch.images, module.policy.spec
        ).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        expected.append(float(loss.detach()))
    assert found == pytest.approx(expected, rel=1e-4)


def test_losses_do_not_depend_on_the_micro_batch_budget(tmp_path):
    whole = fit_sft(sft_module(tmp_path, policy=tiny_policy(micro_batch_tokens=100_000)))
    split = fit_sft(sft_module(tmp_path, policy=tiny_policy(micro_batch_tokens=1)))
    assert split == pytest.approx(whole, rel=1e-4)
    assert whole[-1] < whole[0]


def test_loss_by_tag_is_the_mean_over_its_tokens(tmp_path):
    module = sft_module(tmp_path, steps=1, policy=tiny_policy(micro_batch_tokens=40))
    fit_sft(module)
    batch = sft_batch(0, module.policy)
    logprobs = padded_logprobs(
        tiny_model(), batch.prefix_groups, batch.images, module.policy.spec
    )
    continuations = [
        continuation
        for prefix_group in batch.prefix_groups
        for continuation in prefix_group.continuations
    ]
    tag = [
        t
        for t, continuation in zip(batch.tags, continuations, strict=True)
        for _ in range(sum(continuation.loss_mask))
    ]
    for name in ("left", "right"):
        expected = -logprobs[[i for i, t in enumerate(tag) if t == name]].mean()
        assert module.metrics[f"loss/{name}"] == pytest.approx(
            float(expected.detach()), rel=1e-5
        )
    assert module.metrics["tokens"] == len(tag)
    assert module.timings["tokens_per_second"] > 0
    assert 0.5 < module.timings["packing_efficiency"] <= 1


def test_a_step_without_supervised_tokens_is_refused(tmp_path):
    empty = TrainBatch(
        prefix_groups=[PrefixGroup("t", [1], [], [Continuation([], [])])], images=[]
    )
    with pytest.raises(UserError, match="no supervised token"):
        fit_sft(sft_module(tmp_path, steps=1), batch=lambda step, policy: empty)


def test_a_non_finite_gradient_stops_before_the_weights_and_saves_the_batch(tmp_path):
    module = sft_module(tmp_path, steps=2)
    with torch.no_grad():
        module.policy.core.lm_head.weight[0, 0] = float("inf")
    before = [p.clone() for p in module.policy.parameters()]
    with pytest.raises(NonFiniteError, match=r"step 0: .*0/0, 0/1, 0/2"):
        fit_sft(module)
    assert all(
        torch.equal(
            a,
            b,
        )
        for a, b in zip(before, module.policy.parameters(), strict=True)
    )
    saved = TrainBatch.load(tmp_path / "nonfinite-step-0-rank-0")
    original = sft_batch(0, module.policy)
    assert saved.prefix_groups == original.prefix_groups
    assert saved.tags == original.tags
    assert all((a == b).all() for a, b in zip(saved.images, original.images, strict=True))


def test_a_crash_is_replayed_from_its_folder(tmp_path):
    """Weights that two steps have moved; the third one's image is too much for them: batch and
    state give the same numbers again.
    """

    def poisoned(step, policy):
        with torch.no_grad():
            policy.core.lm_head.weight[0, 0] = float("inf") if step == 2 else 0.0
        return sft_batch(step, policy)

    with pytest.raises(NonFiniteError) as first:
        fit_sft(
            sft_module(tmp_path, steps=3),
            CheckpointCallback(tmp_path / "checkpoints", 10, {}),
            batch=poisoned,
        )
    again = sft_module(tmp_path, steps=3, policy=tiny_policy(seed=1))
    assert resume(tmp_path, again, {}) == 2
    with pytest.raises(NonFiniteError) as second:
        fit_sft(
            again,
            batch=lambda step, policy: TrainBatch.load(
                tmp_path / f"nonfinite-step-{step}-rank-0"
            ),
        )
    assert str(second.value) == str(first.value)
    assert "step 2: " in str(first.value)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.constant, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (Schedule.linear, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]),
        (
            Schedule.cosine,
            [0.5, 1.0, 1.0, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.0381],
        ),
    ],
)
def test_schedules(schedule, expected):
    optim = OptimConfig(schedule=schedule, warmup_steps=2, decay_from=0.5)
    assert [lr_factor(step, 10, optim) for step in range(10)] == pytest.approx(
        expected, abs=1e-4
    )


def test_separate_rates_of_the_parts(tmp_path):
    policy = tiny_policy()
    policy.config.vision = dataclasses.replace(policy.config.vision, lr_scale=0.0)
    module = sft_module(tmp_path, steps=2, policy=policy, weight_decay=0.0)
    before = {n: p.clone() for n, p in policy.core.named_parameters()}
    fit_sft(module)
    moved = {n: not torch.equal(p, before[n]) for n, p in policy.core.named_parameters()}
    assert not any(m for n, m in moved.items() if ".visual." in n and "merger" not in n)
    assert moved["lm_head.weight"]
    assert moved["model.visual.merger.mlp.0.weight"]
