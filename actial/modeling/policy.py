"""The policy: a Qwen-VL model that scores trunk-and-branch batches.

`Policy.token_logprobs` is the one primitive that SFT, GRPO, references and evaluation share. The vision tower runs once on
the unique images, the text model once on the packed rows, and the vocabulary projection only on scored positions, in
chunks whose logits are recomputed in the backward pass, so that full logits never exist.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig

from actial.config import Attention, ModelConfig, Precision, Reference
from actial.core.errors import UserError
from actial.modeling.hf_checkpoint import image_normalization, save_checkpoint
from actial.modeling.prefix_packing import PackedBatch, PackingSpec
from actial.modeling.token_scoring import FULL_DISTRIBUTION, SamplingDistribution, score_tokens
from actial.modeling.trainable_modules import (
    MODULE_GROUPS,
    add_lora,
    module_group_of,
    prepare,
    switch,
)
from actial.modeling.vlm_forward import encode_images, hidden_states_at_targets

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")


class Compare(Enum):
    """What is wanted of the reference: nothing, its log-probabilities of the same tokens, or the KL over the vocabulary."""

    none = "none"
    logprobs = "logprobs"
    full_kl = "full_kl"


@dataclass(slots=True, kw_only=True)
class TokenLogprobs:
    """One entry per scored token, in the batch's order."""

    logprobs: torch.Tensor  # (N,) float32
    entropy: torch.Tensor | None  # (N,) nats, no gradient
    reference_logprobs: torch.Tensor | None  # (N,) no gradient
    kl: torch.Tensor | None  # (N,) exact KL(policy || reference) of the next-token laws, nats
    sequence_index: torch.Tensor  # (N,)
    token_index: torch.Tensor  # (N,)
    group_of_sequence: torch.Tensor  # (B,)

    @property
    def num_sequences(self) -> int:
        return len(self.group_of_sequence)


class Policy(nn.Module):
    """A vision-language model with switchable trainable parts, optional LoRA, and an optional reference."""

    model: Any
    reference: Any

    def __init__(
        self,
        model: Any,
        config: ModelConfig,
        *,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
        reference: Reference = Reference.none,
    ) -> None:
        super().__init__()
        hf_config = model.config
        if hf_config.model_type not in FAMILIES:
            raise UserError(
                f"model.path={config.path} is a {hf_config.model_type}; use one of {', '.join(FAMILIES)}."
            )
        if reference is Reference.frozen_copy and config.lora.enabled:
            raise UserError(
                "reference=frozen_copy with model.lora.enabled=true would load a second model; use adapter_off."
            )
        if reference is Reference.adapter_off and not config.lora.enabled:
            raise UserError(
                "reference=adapter_off needs model.lora.enabled=true; use frozen_copy for full training."
            )
        self.config = config
        self.hf_config: PretrainedConfig = hf_config
        self.reference_kind = reference
        prepare(model)
        self.reference = None
        if reference is Reference.frozen_copy:
            self.reference = copy.deepcopy(model).requires_grad_(False).eval()
        self.model = add_lora(model, config) if config.lora.enabled else model
        if not config.lora.enabled:
            for part in MODULE_GROUPS:
                for parameter in self.module_group_parameters(part):
                    parameter.requires_grad_(switch(config, part).train)
        if config.gradient_checkpointing:
            self.core.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        self.vision_encoder_trains = any(
            p.requires_grad
            for part in ("vision", "merger")
            for p in self.module_group_parameters(part)
        )
        vision = hf_config.vision_config
        self.spec = PackingSpec(
            image_token_id=hf_config.image_token_id,
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
            image_mean=image_mean,
            image_std=image_std,
        )

    @classmethod
    def load(cls, config: ModelConfig, *, reference: Reference = Reference.none) -> Policy:
        """From a Hugging Face folder or id, weights in float32 (bf16 is autocast)."""
        attention = {Attention.sdpa: "sdpa", Attention.flex: "flex_attention"}[config.attention]
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                config.path,
                revision=config.revision,
                dtype=torch.float32,
                attn_implementation=attention,
            )
        except OSError as error:
            raise UserError(
                f"model.path={config.path} cannot be loaded ({error}); give a model folder or hub id."
            ) from error
        mean, std = image_normalization(config.path, config.revision)
        return cls(model, config, image_mean=mean, image_std=std, reference=reference)

    @classmethod
    def from_config(
        cls, hf_config: PretrainedConfig, config: ModelConfig, *, device: str = "meta"
    ) -> Policy:
        """Random weights, or none at all on the meta device, where parameters are only counted."""
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(
                hf_config, attn_implementation="sdpa", dtype=torch.float32
            )
        return cls(model, config, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))

    @classmethod
    def from_hub_config(cls, config: ModelConfig, *, device: str = "meta") -> Policy:
        return cls.from_config(
            AutoConfig.from_pretrained(config.path, revision=config.revision), config, device=device
        )

    # ------------------------------------------------------------ structure

    @property
    def core(self) -> Any:
        """The Hugging Face model itself, adapters injected if there are any."""
        return self.model.get_base_model() if self.config.lora.enabled else self.model

    @property
    def device(self) -> torch.device:
        return self.core.lm_head.weight.device

    def module_group_parameters(self, part: str) -> list[nn.Parameter]:
        """Parameters of "vision" (tower without merger), "merger" or "language" (text model and head)."""
        return [
            parameter for name, parameter in self._named_core() if module_group_of(name) == part
        ]

    def param_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups, one per part and decay setting; vectors (norms, biases) do not decay."""
        groups = []
        for part in MODULE_GROUPS:
            trained = [p for p in self.module_group_parameters(part) if p.requires_grad]
            for decays in (True, False):
                params = [p for p in trained if (p.ndim > 1) == decays]
                if params:
                    scale = switch(self.config, part).lr_scale
                    decay = weight_decay if decays else 0.0
                    groups.append(
                        {
                            "params": params,
                            "lr": lr * scale,
                            "weight_decay": decay,
                            "name": f"{part}/{decay:g}",
                        }
                    )
        if not groups:
            raise UserError(
                "no part of the model trains; set model.vision, model.merger or model.language .train=true."
            )
        return groups

    def _named_core(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.core.named_parameters()

    # ------------------------------------------------------------ scoring

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    def token_logprobs(
        self,
        batch: PackedBatch,
        distribution: SamplingDistribution = FULL_DISTRIBUTION,
        *,
        entropy: bool = False,
        compare: Compare = Compare.none,
    ) -> TokenLogprobs:
        """Log-probability of each scored token under `law`, and what `compare` asks of the reference."""
        result: TokenLogprobs = self(
            batch, distribution, entropy=entropy, compare=compare
        )  # through the hooks of sharded modules
        return result

    def forward(
        self,
        batch: PackedBatch,
        distribution: SamplingDistribution,
        *,
        entropy: bool,
        compare: Compare,
    ) -> TokenLogprobs:
        chunk = self.config.head_chunk_tokens
        reference_logprobs, reference = None, None
        with self.autocast():
            vision = encode_images(self.core, batch)
            hidden = hidden_states_at_targets(self.core, batch, self.config.attention, vision)
            if compare is not Compare.none:
                with torch.no_grad(), self._reference() as model:
                    its_vision = (
                        encode_images(model, batch) if self.vision_encoder_trains else vision
                    )
                    reference = (
                        model.lm_head,
                        hidden_states_at_targets(model, batch, self.config.attention, its_vision),
                    )
                    if compare is Compare.logprobs:
                        reference_logprobs = score_tokens(
                            *reference, batch.target_ids, distribution, chunk=chunk
                        )[0]
            logprobs, nats, kl = score_tokens(
                self.core.lm_head, hidden, batch.target_ids, distribution, chunk=chunk, entropy=entropy,
                reference=reference if compare is Compare.full_kl else None,
            )  # fmt: skip
        return TokenLogprobs(
            logprobs=logprobs,
            entropy=nats,
            reference_logprobs=reference_logprobs,
            kl=kl,
            sequence_index=batch.sequence_index,
            token_index=batch.token_index,
            group_of_sequence=batch.group_of_sequence,
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 where the configuration asks for it; weights stay float32."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision is Precision.bf16
        )

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        """The model to compare with, adapters switched off or the frozen copy."""
        if self.reference_kind is Reference.adapter_off:
            with self.model.disable_adapter():
                yield self.core
        elif self.reference is not None:
            yield self.reference
        else:
            raise UserError(
                "kl.reference=none gives no reference to compare with; use frozen_copy or adapter_off."
            )

    def save_pretrained(self, folder: Path | str) -> None:
        """A plain Hugging Face checkpoint, adapters merged on a copy, with the base's tokenizer and processor files."""
        core = (
            copy.deepcopy(self.model).merge_and_unload() if self.config.lora.enabled else self.core
        )
        save_checkpoint(core, Path(folder), source=self.config.path, revision=self.config.revision)
