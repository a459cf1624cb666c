"""TRL's side: its own trainers and loops; only sampling is replaced by given completions, and
clocks are added.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from ours import ACCELERATOR, LR, now
from PIL import Image
from setting import MAX_PIXELS, Setting
from torch.utils.data import SequentialSampler
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import selective_log_softmax_and_entropy

from actial.config import RewardConfig
from actial.core.records import FinishReason
from actial.rl.graded import GradedCompletion
from actial.rl.rewards import Rewards

STEPS = 64  # for which there is data
# Our answers end with the end of the turn, TRL's with the template's newline behind it: without
# that newline the tokens are the same.
NO_LAST_NEWLINE = (
    "'<|im_end|>\\n' }}",
    "'<|im_end|>' }}{%- if not loop.last or add_generation_prompt -%}{{ '\\n' }}{%- endif -%}",
)


class Clocked:
    """Mixed into a trainer: one row per step, as our clock writes it. The optimiser's phase
    includes clipping.
    """

    rows: list[dict[str, float]]

    def get_batch_samples(self, *arguments: Any) -> Any:
        self.stamps = {"start": now(), "reference": 0.0}
        return super().get_batch_samples(*arguments)

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        self.stamps["compute"] = now()
        loss = super().compute_loss(*arguments, **options)
        self.loss = float(loss.detach())
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        self.stamps["clip"] = now()
        self.norm = super()._clip_grad_norm(model)
        return self.norm

    def on_step(self) -> None:
        end, stamps = now(), self.stamps
        self.rows.append(
            {
                "loss": self.loss,
                "grad_norm": float(self.norm),
                "whole": end - stamps["start"],
                "update": end - stamps["compute"] + stamps["reference"],
                "prepare": stamps["compute"] - stamps["start"] - stamps["reference"],
                "compute": stamps["clip"] - stamps["compute"] + stamps["reference"],
                "optimise": end - stamps["clip"],
            }
        )


class ReplayGRPO(Clocked, GRPOTrainer):
    """GRPOTrainer whose sampler returns the setting's completions."""

    setting: Setting

    def _generate_single_turn(self, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        return self.setting.completions(self.state.global_step), None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, *arguments: Any, **options: Any
    ) -> Any:
        begun = now()
        score = (
            self._plain
            if self.setting.work.plain_peer
            else super()._get_per_token_logps_and_entropies
        )
        result = score(model, input_ids, *arguments, **options)
        if not torch.is_grad_enabled():
            self.stamps["reference"] += now() - begun
        return result

    def _plain(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: Any = None,
        *,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        num_images: Any = None,
        **inputs: Any,
    ) -> Any:
        """The model's own forward with logits of the completions only."""
        given = {name: value for name, value in inputs.items() if value is not None}
        with self.accelerator.autocast():
            logits = model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                logits_to_keep=logits_to_keep + 1,
                **given,
            ).logits
        target = input_ids[:, -logits_to_keep:]
        logps, entropy = selective_log_softmax_and_entropy(
            logits[:, :-1], target, entropy_requires_grad=False
        )
        return logps, entropy if compute_entropy else None, None


class SamplingGRPO(Clocked, GRPOTrainer):
    """GRPOTrainer with its own sampler, transformers' generate."""


class OrderedSFT(Clocked, SFTTrainer):
    """SFTTrainer that reads its data in order."""

    def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(dataset or self.train_dataset)


class Peer:
    """`run(steps)` trains from the start of the data, and returns one row per step."""

    def __init__(self, setting: Setting, scratch: Path) -> None:
        work = setting.work
        self.setting = setting
        model = AutoModelForImageTextToText.from_pretrained(
            setting.folder, attn_implementation="sdpa", dtype=torch.float32
        )
        self.processor = AutoProcessor.from_pretrained(setting.folder, max_pixels=MAX_PIXELS)
        self.processor.chat_template = self.processor.chat_template.replace(*NO_LAST_NEWLINE)
        common: dict[str, Any] = {
            "output_dir": str(scratch),
            "per_device_train_batch_size": work.samples,
            "learning_rate": LR,
            "lr_scheduler_type": "constant",
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "optim": "adamw_torch_fused",
            "gradient_checkpointing": work.bf16,
            "bf16": work.bf16,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": ACCELERATOR == "cpu",
            "dataloader_num_workers": 0,
            "remove_unused_columns": False,
        }
        if work.kind == "sft":
            arguments = SFTConfig(**common, max_length=None, completion_only_loss=True)
            self.trainer: Any = OrderedSFT(
                model, arguments, train_dataset=self._data(), processing_class=self.processor
            )
        else:
            arguments = GRPOConfig(
                **common,
                num_generations=work.group,
                max_completion_length=work.length,
                beta=work.beta,
                loss_type="dapo",
                scale_rewards="none",
                use_bias_correction_kl=False,
                shuffle_dataset=False,
                steps_per_generation=1,
            )
            ReplayGRPO.setting = setting
            trainer = SamplingGRPO if work.samples_itself else ReplayGRPO
            self.trainer = trainer(
                model,
                self._graded if work.samples_itself else self._reward,
                arguments,
                train_dataset=self._data(),
                processing_class=self.processor,
            )
        self.trainer.rows = []
        self.trainer.add_callback(_StepEnd(self.trainer))

    def _reward(self, completions: list[Any], **_: Any) -> list[float]:
        return self.setting.rewards(self.trainer.state.global_step)

    def _graded(self, completions: list[Any], **_: Any) -> list[float]:
        """Our grader and our two rewards, on TRL's samples."""
        example = self.setting.examples(self.trainer.state.global_step)[0]
        rewards = Rewards(RewardConfig())
        values = []
        for (message,) in completions:
            graded = GradedCompletion.of(
                example.questions[0], message["content"], FinishReason.LENGTH
            )
            value = rewards.combine(rewards.terms(graded))
            # Random text gives no answer to grade: the update is computed all the same.
            values.append(0.0 if math.isnan(value) else value)
        return values

    def _data(self) -> Dataset:
        """One row per prompt (GRPO) or per question (SFT), in conversational form; images are made
        when a row is read, as ours are.
        """
        each = len(self._rows(0))

        def read(columns: dict[str, list[int]]) -> dict[str, list[Any]]:
            rows = [self._rows(number // each)[number % each] for number in columns["number"]]
            return {name: [row[name] for row in rows] for name in rows[0]}

        return Dataset.from_dict({"number": list(range(STEPS * each))}).with_transform(read)

    def _rows(self, step: int) -> list[dict[str, Any]]:
        """The rows of a step."""
        rows = []
        for example in self.setting.examples(step):
            images = (
                {"images": [Image.fromarray(image) for image in example.images]}
                if example.images
                else {}
            )
            for question in example.questions:
                row: dict[str, Any] = {"prompt": [{"role": "user", "content": question.text}]}
                if self.setting.work.kind == "sft":
                    row["completion"] = [{"role": "assistant", "content": question.target}]
                rows.append(row | images)
        return rows if self.setting.work.kind == "sft" else rows[:1]

    def run(self, steps: int) -> list[dict[str, float]]:
        known = len(self.trainer.rows)
        self.trainer.args.max_steps = steps
        self.trainer.train()
        return self.trainer.rows[known:]


class _StepEnd(TrainerCallback):
    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer.on_step()
