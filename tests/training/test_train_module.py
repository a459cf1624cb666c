"""Traps of Lightning 2.6 that a training loop falls into silently, each shown not to bite here."""

from __future__ import annotations

import lightning
import pytest
import torch
from support.training import fit_sft, make_trainer, sft_batch, sft_module

from actial.training.loaders import step_loader


class Unsized(torch.utils.data.IterableDataset):
    """The trap itself: a loader without length, which Lightning reads one batch ahead."""

    def __init__(self, fetch) -> None:
        self.fetch = fetch

    def __iter__(self):
        return (self.fetch(step) for step in range(3))


@pytest.mark.parametrize("sized", [True, False])
def test_a_sized_loader_is_read_after_the_update_before_it(tmp_path, sized):
    """Batch t must be drawn from weights that step t - 1 has updated; without a length it would be
    one step off-policy.
    """
    module = sft_module(tmp_path, steps=3)
    completed_when_fetched = []

    def fetch(step):
        completed_when_fetched.append(module.completed_steps)
        return sft_batch(step, module.policy)

    loader = (
        step_loader(fetch, 0, 3)
        if sized
        else torch.utils.data.DataLoader(
            Unsized(fetch), batch_size=None, collate_fn=lambda b: b
        )
    )
    make_trainer().fit(module, loader)
    assert completed_when_fetched == ([0, 1, 2] if sized else [0, 0, 1])


def test_a_loader_that_starts_late_delivers_what_an_uninterrupted_one_would(tmp_path):
    """Loader state is the step's number, so nothing depends on Lightning's own, which
    estimated_stepping_batches drops.
    """
    module = sft_module(tmp_path)
    whole = [
        b.prefix_groups[0].uid
        for b in step_loader(lambda s: sft_batch(s, module.policy), 0, 6)
    ]
    assert [
        b.prefix_groups[0].uid
        for b in step_loader(lambda s: sft_batch(s, module.policy), 4, 6)
    ] == whole[4:]
    assert whole[4] == "4/0"


def test_the_last_step_of_a_short_epoch_is_not_rescaled(tmp_path):
    """Three micro-batches in every step, the last included: gradients come from denominators, not
    from a window's length.
    """
    single = fit_sft(sft_module(tmp_path, steps=2))
    module = sft_module(tmp_path, steps=2)
    module.model_config.micro_batch_tokens = 1
    assert fit_sft(module) == pytest.approx(single, rel=1e-5)
    assert module.trainer.accumulate_grad_batches == 1


def test_the_batch_reaches_the_step_untouched(tmp_path):
    """Lightning would copy the dataclass and walk through every token list."""
    module = sft_module(tmp_path, steps=1)
    batch = sft_batch(0, module.policy)
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch)

    fit_sft(module, Watch(), batch=lambda step, policy: batch)
    assert seen[0] is batch


def test_reading_a_loader_leaves_the_global_random_state_alone(tmp_path):
    """Otherwise a resumed run, which starts its iterator at another step, would drop out other
    units.
    """
    module = sft_module(tmp_path)
    before = torch.get_rng_state()
    list(step_loader(lambda s: sft_batch(s, module.policy), 0, 2))
    assert torch.equal(torch.get_rng_state(), before)
