"""The policy: a Qwen-VL model that scores batches packed by shared prefix.

`Policy.token_logprobs` is the one primitive that SFT, GRPO, references and
evaluation share. The vision encoder runs once per unique image, the text model
once per packed sequence, the vocabulary projection only on supervised positions,
in chunks whose logits the backward pass recomputes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from actial.config import FrozenWeights, ModelConfig, Precision, Reference
from actial.core.errors import UserError
from actial.modeling.adapter_folder import base_of, first_adapter, is_adapter
from actial.modeling.adapters import merged, save_adapter
from actial.modeling.base_model import load_model, random_model, read_config
from actial.modeling.families import FAMILIES, encode_images, packing_spec
from actial.modeling.four_bit import pack_frozen, unpack_all
from actial.modeling.hf_checkpoint import image_normalization, save_checkpoint
from actial.modeling.prefix_packing import PackedBatch
from actial.modeling.token_scoring import FULL_DISTRIBUTION, SamplingDistribution, score_tokens
from actial.modeling.trainable_modules import (
    MODULE_GROUPS,
    add_lora,
    frozen_copy,
    group_settings,
    halve_frozen_weights,
    in_text_block,
    module_group_of,
    prepare,
)
from actial.modeling.vlm_forward import (
    AttentionPlan,
    hidden_states_at_targets,
    plan_attention,
)


class Compare(Enum):
    """What is computed of the reference: nothing, log-probabilities, or the full KL."""

    none = "none"
    logprobs = "logprobs"  # of the same tokens
    full_kl = "full_kl"  # over the vocabulary


@dataclass(slots=True, kw_only=True)
class TokenLogprobs:
    """One entry per supervised token, in the batch's order."""

    logprobs: Tensor  # (N,) float32
    entropy: Tensor | None  # (N,) nats, no gradient
    reference_logprobs: Tensor | None  # (N,) no gradient
    kl: Tensor | None  # (N,) exact KL(policy || reference) of the next token, nats
    sequence_index: Tensor  # (N,)
    token_index: Tensor  # (N,)
    group_of_sequence: Tensor  # (B,)

    @property
    def num_sequences(self) -> int:
        """Number of continuations."""
        return len(self.group_of_sequence)


class Policy(nn.Module):
    """A vision-language model with separately trained module groups, LoRA, and a reference."""

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
        _check_supported(model, config, reference)
        self.config = config
        self.hf_config: PretrainedConfig = model.config
        self.reference_kind = reference
        prepare(model, config.attention)
        self.reference = None
        if reference is Reference.frozen_copy:
            self.reference = frozen_copy(model, half=self.halves_frozen_weights)
        if config.frozen_weights is FrozenWeights.nf4:
            pack_frozen(model, in_text_block)
        self.model = add_lora(model, config) if config.lora.enabled else model
        if not config.lora.enabled:
            for group in MODULE_GROUPS:
                for parameter in self.module_group_parameters(group):
                    parameter.requires_grad_(group_settings(config, group).train)
        if self.halves_frozen_weights:
            halve_frozen_weights(self.core)
        if config.gradient_checkpointing:
            self.core.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        self.vision_encoder_trains = any(
            parameter.requires_grad
            for name, parameter in self.core.named_parameters()
            if module_group_of(name) != "language"
        )
        self.spec = packing_spec(self.hf_config, image_mean, image_std)
        self.load_error: Exception | None = None  # of the first rank; `shard` raises it

    @classmethod
    def load(cls, config: ModelConfig, *, reference: Reference = Reference.none) -> Policy:
        """The policy of a Hugging Face folder or id, weights in float32 (bf16 is autocast).

        The folder of an adapter gives its base with the adapter merged. Raises UserError when
        `config.path` cannot be read or is not whole.
        """
        base, revision = base_of(config.path, config.revision)
        model = load_model(base, revision)
        if is_adapter(config.path):
            model = merged(model, config.path)
        mean, std = image_normalization(base, revision)
        return cls(model, config, image_mean=mean, image_std=std, reference=reference)

    @classmethod
    def without_weights(
        cls, config: ModelConfig, *, reference: Reference = Reference.none
    ) -> Policy:
        """The policy that `load` returns, on the meta device: shapes and types alone.

        Raises UserError when the configuration of `config.path` cannot be read.
        """
        base, revision = base_of(config.path, config.revision)
        model = random_model(read_config(base, revision), "meta").eval()
        mean, std = image_normalization(base, revision)
        return cls(model, config, image_mean=mean, image_std=std, reference=reference)

    @classmethod
    def from_config(
        cls, hf_config: PretrainedConfig, config: ModelConfig, *, device: str = "meta"
    ) -> Policy:
        """A policy with random weights, or with none at all on the meta device, to count them."""
        model = random_model(hf_config, device)
        return cls(model, config, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))

    @classmethod
    def from_hub_config(cls, config: ModelConfig, *, device: str = "meta") -> Policy:
        """`from_config` with the configuration that `config.path` holds."""
        base, revision = base_of(config.path, config.revision)
        return cls.from_config(read_config(base, revision), config, device=device)

    # ------------------------------------------------------------ structure

    @property
    def halves_frozen_weights(self) -> bool:
        """Whether frozen matrices are stored in bf16, to which autocast rounds them anyway."""
        return self.config.precision is Precision.bf16

    @property
    def core(self) -> Any:
        """The Hugging Face model itself, with adapters injected if there are any."""
        return self.model.get_base_model() if self.config.lora.enabled else self.model

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        device: torch.device = self.core.lm_head.weight.device
        return device

    def module_group_parameters(self, group: str) -> list[nn.Parameter]:
        """Parameters of one of `MODULE_GROUPS`."""
        named: Iterator[tuple[str, nn.Parameter]] = self.core.named_parameters()
        return [parameter for name, parameter in named if module_group_of(name) == group]

    def param_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups, one per module group and decay; vectors (norms, biases) do not decay.

        Raises UserError when nothing trains.
        """
        groups = []
        for group in MODULE_GROUPS:
            trained = [p for p in self.module_group_parameters(group) if p.requires_grad]
            for decays in (True, False):
                params = [p for p in trained if (p.ndim > 1) == decays]
                if not params:
                    continue
                decay = weight_decay if decays else 0.0
                groups.append(
                    {
                        "params": params,
                        "lr": lr * group_settings(self.config, group).lr_scale,
                        "weight_decay": decay,
                        "name": f"{group}/{decay:g}",
                    }
                )
        if not groups:
            raise UserError(
                "no module group trains: set model.vision.train, model.merger.train or "
                "model.language.train to true."
            )
        return groups

    # ------------------------------------------------------------ scoring

    def train(self, mode: bool = True) -> Self:
        """As torch's; the reference stays in evaluation mode."""
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
        """Log-probability of each supervised token under `distribution`, and what is asked for."""
        # self(...) and not self.forward(...): sharded modules gather their
        # weights in hooks
        result: TokenLogprobs = self(batch, distribution, entropy=entropy, compare=compare)
        return result

    def forward(
        self,
        batch: PackedBatch,
        distribution: SamplingDistribution,
        *,
        entropy: bool,
        compare: Compare,
    ) -> TokenLogprobs:
        """`token_logprobs`, in the form that torch's hooks wrap."""
        chunk = self.config.head_chunk_tokens
        reference, reference_logprobs = None, None
        with self.autocast():
            plan = plan_attention(self.hf_config, batch, self.config.attention)
            features = encode_images(self.core, batch)
            hidden = hidden_states_at_targets(self.core, batch, plan, features)
            if compare is not Compare.none:
                with torch.no_grad(), self._reference_model() as model:
                    states = self._reference_hidden(model, batch, plan, features)
                    reference = (model.lm_head, states)
                    if compare is Compare.logprobs:
                        reference_logprobs, _, _ = score_tokens(
                            *reference, batch.target_ids, distribution, chunk=chunk
                        )
            logprobs, nats, kl = score_tokens(
                self.core.lm_head,
                hidden,
                batch.target_ids,
                distribution,
                chunk=chunk,
                entropy=entropy,
                reference=reference if compare is Compare.full_kl else None,
            )
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
        """bf16 arithmetic where the configuration asks for it; weights stay float32."""
        bf16 = self.config.precision is Precision.bf16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def _reference_hidden(
        self, model: Any, batch: PackedBatch, plan: AttentionPlan, features: Any
    ) -> Tensor:
        """(N, H) of the reference, which shares image features that are frozen."""
        if self.vision_encoder_trains:
            features = encode_images(model, batch)
        return hidden_states_at_targets(model, batch, plan, features)

    @contextmanager
    def _reference_model(self) -> Iterator[Any]:
        """The model to compare with: the policy with its adapters off, or the frozen copy."""
        if self.reference_kind is Reference.adapter_off:
            with self.model.disable_adapter():
                yield self.core
        elif self.reference is not None:
            yield self.reference
        else:
            raise UserError(
                "kl.reference=none gives no reference to compare with: "
                "use frozen_copy or adapter_off."
            )

    def save_pretrained(
        self, folder: Path | str, extra: Mapping[str, str] | None = None
    ) -> None:
        """Write a plain Hugging Face checkpoint with the base's tokenizer and processor files.

        Adapters are merged, on a copy. `extra` names further files with their text.
        """
        core = self.core
        if self.config.lora.enabled:
            duplicate = copy.deepcopy(self.model)
            unpack_all(duplicate)
            core = duplicate.float().merge_and_unload()
        save_checkpoint(
            core,
            Path(folder),
            source=self.config.path,
            revision=self.config.revision,
            extra=extra,
        )

    def save_adapter(self, folder: Path, extra: Mapping[str, str] | None = None) -> None:
        """Write the adapters as a PEFT folder, joined with those that the start already held.

        It is an adapter of the first full model, whatever number of stages lie between. A
        collective where weights are sharded.
        """
        save_adapter(
            self.model,
            folder,
            source=self.config.path,
            revision=self.config.revision,
            first=first_adapter(self.config.path),
            extra=extra,
        )


def _check_supported(model: Any, config: ModelConfig, reference: Reference) -> None:
    family = model.config.model_type
    if family not in FAMILIES:
        raise UserError(
            f"model.path={config.path} is a {family}, which is not supported: "
            f"use one of {', '.join(FAMILIES)}."
        )
    if reference is Reference.frozen_copy and config.lora.enabled:
        raise UserError(
            "reference=frozen_copy with model.lora.enabled=true would load a second model: "
            "use adapter_off."
        )
    if reference is Reference.adapter_off and not config.lora.enabled:
        raise UserError(
            "reference=adapter_off needs model.lora.enabled=true: use frozen_copy in full training."
        )
