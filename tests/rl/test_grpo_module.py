"""The GRPO step on a tiny model: exact gradients, references, off-policy updates, learning, and
resume to the bit.
"""

from __future__ import annotations

import json
import os
import signal

import lightning
import pytest
import torch
from support.grpo_settings import ACCURACY, BANNED
from support.oracle import assert_same_gradients, gradients, padded_logprobs
from support.processes import exit_code
from support.rollout_world import WordRenderer, example_at
from support.scripted import ScriptedSampler
from support.tiny_models import EOS, VOCAB, tiny_model, tiny_policy
from support.training import Recorder, make_trainer

from actial.config import (
    AdvantageScale,
    DynamicSamplingConfig,
    GRPOConfig,
    ImportanceSampling,
    KLConfig,
    KLEstimator,
    KLPlace,
    LoraConfig,
    LossType,
    OptimConfig,
    Reference,
)
from actial.core.errors import NonFiniteError, UserError
from actial.inference.samplers import HFSampler
from actial.rl.grpo_module import GRPOModule
from actial.rl.rollouts import Rollouts
from actial.rl.sampling_difference import MismatchError
from actial.training.checkpoint import CheckpointCallback, resume
from actial.training.loaders import step_loader

NO_KL = KLConfig(beta=0.0, estimator=KLEstimator.none, reference=Reference.none)
FINGERPRINT = {"chat_template": "t"}


class SkewedSampler(HFSampler):
    """An engine whose weights are stale: what it reports is off by a constant."""

    def generate(self, prompts, n, params):
        groups = super().generate(prompts, n, params)
        for group in groups:
            for completion in group:
                completion.logprobs = [value - 0.5 for value in completion.logprobs]
        return groups


def grpo_module(
    folder, *, sampler_class=HFSampler, policy=None, optim=None, **values
) -> GRPOModule:
    config = GRPOConfig(
        **{
            "steps": 3,
            "batch_size": 4,
            "group_size": 8,
            "max_tokens": 2,
            "kl": NO_KL,
            "loss": LossType.grpo,
            "advantage": AdvantageScale.none,
            "optim": OptimConfig(**{"lr": 1e-2, "warmup_steps": 0, **(optim or {})}),
            **values,
        }
    )
    policy = policy or tiny_policy(reference=config.kl.reference)
    renderer = WordRenderer(4)
    renderer.banned_ids = BANNED
    sampler = sampler_class(policy, stop_ids=[EOS], banned_ids=BANNED)
    rollouts = Rollouts(example_at, renderer, sampler, ACCURACY, config, seed=5)
    return GRPOModule(policy, config, policy.config, crash_folder=folder, rollouts=rollouts)


def fit(module: GRPOModule, *callbacks) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    recorder = Recorder(lambda done: rows.append(dict(done.metrics)))
    loader = step_loader(module.make_batch, module.completed_steps, module.stage.steps)
    make_trainer(recorder, *callbacks).fit(module, loader)
    return rows


def test_the_first_gradient_is_that_of_the_plain_forward(tmp_path):
    """On-policy GRPO: the gradient is that of -sum over completions of A times the token mean, over
    all completions.
    """
    module = grpo_module(tmp_path, steps=1, optim={"grad_clip": 1e9})
    batch = module.make_batch(0)
    assert any(batch.advantages)
    model = tiny_model()
    logits_law = padded_logprobs(
        model, batch.prefix_groups, batch.images, module.policy.spec, banned=BANNED
    )
    lengths = [
        len(continuation.input_ids)
        for prefix_group in batch.prefix_groups
        for continuation in prefix_group.continuations
    ]
    weights = torch.cat(
        [
            torch.full((n,), -a / n / len(lengths))
            for n, a in zip(lengths, batch.advantages, strict=True)
        ]
    )
    expected = gradients(model, logits_law, weights)
    found: dict[str, torch.Tensor] = {}

    def keep(*_):
        found.update(
            {
                n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for n, p in module.policy.core.named_parameters()
            }
        )

    module.finish_step = lambda *args, **kwargs: (
        keep(),
        type(module).finish_step(module, *args, **kwargs),
    )
    (row,) = fit(module)
    assert_same_gradients(found, expected, 2e-5)
    assert row["sampling/sampling_logp_difference/mean"] < 1e-5
    assert row["sampling/sampling_logp_difference/max"] < 1e-5
    assert row["sampling/logp_correlation"] == pytest.approx(1.0)
    assert row["importance_ratio/mean"] == pytest.approx(1.0)
    assert row["clip_ratio/region_mean"] == 0.0
    assert row["reward"] == pytest.approx(sum(s.reward for s in batch.samples) / 32)


def test_the_split_into_micro_batches_changes_nothing(tmp_path):
    policies = [
        tiny_policy(micro_batch_tokens=n, reference=Reference.frozen_copy) for n in (1, 10_000)
    ]
    rows = [
        fit(
            grpo_module(
                tmp_path, policy=policy, kl=KLConfig(beta=0.1), steps=2, optim={"lr": 1e-3}
            )
        )
        for policy in policies
    ]
    for step, (split, whole) in enumerate(zip(*rows, strict=True)):
        for name in (
            "loss",
            "kl",
            "entropy",
            "grad_norm",
            "sampling/logp_correlation",
            "reward",
        ):
            assert split[name] == pytest.approx(
                whole[name], rel=(1e-4, 1e-2)[step > 0], abs=1e-5
            ), name  # Adam amplifies rounding


def test_several_updates_go_off_policy_and_are_clipped(tmp_path):
    module = grpo_module(
        tmp_path,
        steps=1,
        num_mini_batches=4,
        batch_size=8,
        clip_low=0.01,
        clip_high=0.01,
        optim={"grad_clip": 1e9},
    )
    (row,) = fit(module)
    assert row["importance_ratio/mean"] != pytest.approx(1.0, abs=1e-3)
    assert row["clip_ratio/region_mean"] > 0.1
    gaps = {
        name: row[name]
        for name in row
        if name.startswith("sampling/sampling_logp_difference/")
    }
    assert len(gaps) >= 3
    assert (
        max(gaps.values()) < 1e-4
    )  # between the weights that sampled and the sampler, not the updated ones
    assert row["sampling/logp_correlation"] == pytest.approx(1.0)
    (state,) = {
        int(s["step"]) for s in module.trainer.optimizers[0].state.values() if "step" in s
    }
    assert state == 4


@pytest.mark.parametrize("estimator", [KLEstimator.k1, KLEstimator.k3, KLEstimator.full])
@pytest.mark.parametrize("lora", [False, True])
def test_kl_starts_at_zero_and_grows(tmp_path, estimator, lora):
    reference = Reference.adapter_off if lora else Reference.frozen_copy
    policy = tiny_policy(reference=reference, lora=LoraConfig(enabled=lora, rank=4))
    module = grpo_module(
        tmp_path,
        policy=policy,
        kl=KLConfig(beta=0.05, estimator=estimator, reference=reference),
    )
    rows = fit(module)
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert (
        rows[2]["kl"] > 1e-5 or estimator is KLEstimator.k1
    )  # k1 may be negative on few samples
    assert rows[2]["kl"] != rows[0]["kl"]


def test_kl_in_the_reward_is_charged_to_the_completions(tmp_path):
    kl = KLConfig(beta=0.5, estimator=KLEstimator.k3, place=KLPlace.reward)
    module = grpo_module(tmp_path, policy=tiny_policy(reference=Reference.frozen_copy), kl=kl)
    rows = fit(module)
    assert rows[0]["kl_penalty"] == pytest.approx(0.0, abs=1e-6)
    assert rows[2]["kl_penalty"] > 1e-5
    assert "kl" not in rows[2]
    batch = module.make_batch(9)
    task = [sample.terms["accuracy"] for sample in batch.samples]
    costs = [t - s.reward for t, s in zip(task, batch.samples, strict=True)]
    with torch.no_grad():
        now, then = (
            padded_logprobs(
                m, batch.prefix_groups, batch.images, module.policy.spec, banned=BANNED
            )
            for m in (module.policy.core, module.policy.reference)
        )
    k3 = ((then - now).exp() - (then - now) - 1).clamp(max=kl.cap)
    lengths = [sample.length for sample in batch.samples]
    expected = [0.5 * float(part.sum()) for part in k3.split(lengths)]
    assert costs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("loss", list(LossType))
def test_completions_of_no_and_one_token_count_as_they_are(tmp_path, loss):
    """An empty completion has no token and no share in any denominator, whatever the split into
    micro-batches.
    """

    def sampler(*_, **__):
        return ScriptedSampler(
            lambda prompt, member: [[], [EOS], [14 + member % 3, EOS]][min(member, 2)],
            stop_ids=[EOS],
        )

    rows = []
    for micro_batch_tokens in (1, 10_000):
        policy = tiny_policy(micro_batch_tokens=micro_batch_tokens)
        rows += fit(
            grpo_module(
                tmp_path / str(micro_batch_tokens),
                policy=policy,
                steps=1,
                loss=loss,
                sampler_class=sampler,
            )
        )
    split, whole = rows
    assert whole["grad_norm"] > 0
    for name in ("loss", "grad_norm", "entropy", "importance_ratio/mean"):
        assert split[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6), name
    assert whole["completions/mean_length"] == pytest.approx((0 + 1 + 6 * 2) / 8)
    assert whole["importance_ratio/mean"] == pytest.approx(1.0)


# ---------------------------------------------------------------- one step off

OFF = {
    "one_step_off": True,
    "importance": ImportanceSampling.token_truncate,
    "importance_cap": 1e6,
}


class Watch(lightning.Callback):
    """Keeps the weights and the batch of each step before its update, and what a checkpoint would
    hold before and after it.
    """

    def __init__(self) -> None:
        self.weights, self.batches, self.kept = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.weights.append(
            {name: value.clone() for name, value in pl_module.policy.core.state_dict().items()}
        )
        self.batches.append(batch)
        self.kept.append(pl_module.extra_state())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.kept.append(pl_module.extra_state())


def logprobs_under(weights, batch, spec) -> torch.Tensor:
    model = tiny_model()
    model.load_state_dict(weights)
    with torch.no_grad():
        return padded_logprobs(model, batch.prefix_groups, batch.images, spec, banned=BANNED)


@pytest.mark.parametrize("updates", [1, 2])
def test_samples_drawn_ahead_are_one_update_old_and_weighed_by_it(tmp_path, updates):
    watch = Watch()
    module = grpo_module(tmp_path, steps=4, num_mini_batches=updates, **OFF)
    rows = fit(module, watch)
    for step, (batch, row) in enumerate(zip(watch.batches, rows, strict=True)):
        drawn = torch.tensor(
            [value for continuation in batch.sampler_logprobs for value in continuation]
        )
        drawn_by, now = (
            logprobs_under(watch.weights[i], batch, module.policy.spec)
            for i in (max(0, step - 1), step)
        )
        assert torch.allclose(drawn, drawn_by, atol=1e-5)
        halves = [torch.arange(len(now))] if updates == 1 else _halves(batch)
        weight = sum(float((now - drawn)[half].exp().mean()) for half in halves) / updates
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(
            weight, abs=1e-4
        )
        assert row["sampling/sampling_logp_difference/mean"] == pytest.approx(
            sum(float((now - drawn)[half].abs().mean()) for half in halves) / updates, abs=1e-5
        )
    assert (
        rows[0]["sampling/sampling_logp_difference/mean"]
        < 1e-5
        < 1e-3
        < rows[-1]["sampling/sampling_logp_difference/mean"]
    )
    assert [batch.position for batch in watch.batches] == [4, 8, 12, 16]


def _halves(batch) -> list[torch.Tensor]:
    """Token indices of the first and of the second half of the prompts."""
    counts = [
        sum(len(continuation.input_ids) for continuation in prefix_group.continuations)
        for prefix_group in batch.prefix_groups
    ]
    return list(torch.arange(sum(counts)).split([sum(counts[:2]), sum(counts[2:])]))


def test_a_checkpoint_holds_the_same_samples_before_a_step_as_after_the_last(tmp_path):
    watch = Watch()
    fit(grpo_module(tmp_path, steps=3, **OFF), watch)
    assert (watch.kept[0], watch.kept[-1]) == ({}, {})
    for after, before in ((watch.kept[1], watch.kept[2]), (watch.kept[3], watch.kept[4])):
        assert after.keys() == {"positions", "lengths", "stopped", "token_ids", "logprobs"}
        assert all(torch.equal(after[name], before[name]) for name in after)


def test_samples_drawn_ahead_need_importance_weights():
    with pytest.raises(
        UserError,
        match=r"grpo.one_step_off=True cannot be used: .*set grpo.importance=token_truncate",
    ):
        GRPOConfig(steps=1, batch_size=1, one_step_off=True).check("grpo.")


def test_a_mismatched_sampler_is_reported_or_stops_the_run(tmp_path):
    rows = fit(grpo_module(tmp_path, sampler_class=SkewedSampler, steps=1))
    assert rows[0]["sampling/sampling_logp_difference/mean"] == pytest.approx(0.5, abs=1e-5)
    with pytest.raises(
        MismatchError,
        match=r"step 0: .* 5.00e-01 per token .* grpo.max_sampling_logp_difference=0.01",
    ):
        fit(
            grpo_module(
                tmp_path,
                sampler_class=SkewedSampler,
                steps=1,
                max_sampling_logp_difference=0.01,
            )
        )


def test_a_step_whose_groups_are_all_uniform_changes_no_weight(tmp_path):
    """No completion of one banned-to-EOS token can be right: nothing is kept, and the step is still
    counted.
    """
    module = grpo_module(
        tmp_path,
        steps=1,
        dynamic_sampling=DynamicSamplingConfig(enabled=True, max_rounds=1),
        max_tokens=1,
    )
    module.rollouts.sampler.banned_ids = tuple(i for i in range(VOCAB) if i != EOS)
    before = [p.clone() for p in module.policy.parameters()]
    (row,) = fit(module)
    assert all(
        torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True)
    )
    assert (
        row["dynamic_sampling/accepted_ratio"],
        row["dynamic_sampling/rounds"],
        module.completed_steps,
        module.position,
    ) == (
        0.0,
        1.0,
        1,
        8,
    )


def test_non_finite_rollout_batches_are_saved(tmp_path):
    module = grpo_module(tmp_path, steps=1)
    make = module.make_batch

    def spoil(step):
        batch = make(step)
        batch.advantages[0] = float("inf")
        return batch

    with pytest.raises(NonFiniteError, match="step 0"):
        make_trainer().fit(module, step_loader(spoil, 0, 1))
    pending_state = json.loads(
        (tmp_path / "nonfinite-step-0-rank-0" / "batch.json").read_text()
    )
    assert pending_state["samples"][0]["question"] == "?"


def test_reward_rises(tmp_path):
    """One token out of nine allowed, three of them answers: from a third or less to nearly always
    right.
    """
    module = grpo_module(
        tmp_path,
        steps=25,
        batch_size=6,
        group_size=8,
        max_tokens=1,
        advantage=AdvantageScale.group,
        loss=LossType.dapo,
        optim={"grad_clip": 1.0},
    )
    rows = fit(module)
    assert rows[0]["reward"] < 0.35
    assert sum(row["reward"] for row in rows[-3:]) / 3 > 0.8


# ---------------------------------------------------------------- resume


def run(folder, kill_step: int = -1, values: dict | None = None) -> None:
    torch.set_num_threads(1)
    policy = tiny_policy(reference=Reference.frozen_copy)
    settings = {
        "dynamic_sampling": DynamicSamplingConfig(enabled=True, max_rounds=2),
        "num_mini_batches": 2,
        "kl": KLConfig(beta=0.1),
        **(values or {}),
    }
    module = grpo_module(folder, policy=policy, steps=5, **settings)
    resume(folder / "checkpoints", module, FINGERPRINT)
    with (folder / "losses.txt").open("a") as file:

        def note(done) -> None:
            row = {**done.metrics, "position": done.position}
            file.write(
                f"{done.completed_steps} {json.dumps({k: float(v).hex() for k, v in row.items()})}\n"
            )
            file.flush()
            if done.completed_steps == kill_step:
                os.kill(os.getpid(), signal.SIGKILL)

        saver = CheckpointCallback(folder / "checkpoints", 1, FINGERPRINT)
        loader = step_loader(module.make_batch, module.completed_steps, module.stage.steps)
        make_trainer(Recorder(note), saver).fit(module, loader)


def metrics_by_step(folder) -> dict[str, str]:
    return dict(
        line.split(" ", 1) for line in (folder / "losses.txt").read_text().splitlines()
    )


@pytest.mark.parametrize("values", [{}, OFF], ids=["on policy", "one step off"])
def test_killed_and_resumed_rollouts_and_losses_are_bit_identical(tmp_path, values):
    """With a variance filter, whose position in the stream depends on what was sampled before."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert exit_code(run, whole, -1, values) == 0
    assert exit_code(run, broken, 3, values) == -signal.SIGKILL
    assert exit_code(run, broken, -1, values) == 0
    assert metrics_by_step(broken) == metrics_by_step(whole)
    assert len(metrics_by_step(whole)) == 5
