"""The policy: a Qwen-VL model that scores trunk-and-branch batches.

`Policy.token_logprobs` is the one primitive that SFT, GRPO, references and evaluation share. The vision tower runs once on
the unique images, the text model once on the packed rows, and the vocabulary projection only on scored positions, in
chunks whose logits are recomputed in the backward pass, so that full logits never exist.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any, Self

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig

from actial.attention import VISION_ATTENTION, block_mask, dense_mask
from actial.config import Attention, ModelConfig, PartConfig, Precision, Reference
from actial.errors import UserError
from actial.hf_io import image_normalisation, save_checkpoint
from actial.trunk import TrunkBatch, TrunkSpec

PARTS = ("vision", "merger", "language")
FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")


@dataclass(slots=True, frozen=True)
class Law:
    """The next-token distribution that tokens are drawn from, and must be scored under: temperature and excluded ids."""

    temperature: float = 1.0
    banned_ids: tuple[int, ...] = ()

    def logits(self, raw: torch.Tensor) -> torch.Tensor:
        """(.., V) float32 logits of the law from those of the head."""
        scaled = raw.float() / self.temperature
        if not self.banned_ids:
            return scaled
        return scaled.index_fill(-1, torch.tensor(self.banned_ids, device=raw.device), -torch.inf)


FULL_LAW = Law()


@dataclass(slots=True, kw_only=True)
class TokenLogprobs:
    """One entry per scored token, in the batch's order; `kl` is the exact KL(policy || reference) of the next-token laws."""

    logprobs: torch.Tensor  # (N,) float32
    entropy: torch.Tensor | None  # (N,) nats, no gradient
    kl: torch.Tensor | None  # (N,) nats
    branch_index: torch.Tensor  # (N,)
    token_index: torch.Tensor  # (N,)
    trunk_of_branch: torch.Tensor  # (B,)

    @property
    def num_branches(self) -> int:
        return len(self.trunk_of_branch)


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
            raise UserError(f"model.path={config.path} is a {hf_config.model_type}; use one of {', '.join(FAMILIES)}.")
        if reference is Reference.frozen_copy and config.lora.enabled:
            raise UserError("reference=frozen_copy with model.lora.enabled=true would load a second model; use adapter_off.")
        if reference is Reference.adapter_off and not config.lora.enabled:
            raise UserError("reference=adapter_off needs model.lora.enabled=true; use frozen_copy for full training.")
        self.config = config
        self.hf_config: PretrainedConfig = hf_config
        self.reference_kind = reference
        _prepare_vision(model)
        self.reference = None
        if reference is Reference.frozen_copy:
            self.reference = copy.deepcopy(model).requires_grad_(False).eval()
        self.model = _with_lora(model, config) if config.lora.enabled else model
        if not config.lora.enabled:
            for part in PARTS:
                for parameter in self.part_parameters(part):
                    parameter.requires_grad_(_switch(config, part).train)
        if config.gradient_checkpointing:
            self.core.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        vision = hf_config.vision_config
        self.spec = TrunkSpec(
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
                config.path, revision=config.revision, dtype=torch.float32, attn_implementation=attention
            )
        except OSError as error:
            raise UserError(f"model.path={config.path} cannot be loaded ({error}); give a model folder or hub id.") from error
        mean, std = image_normalisation(config.path, config.revision)
        return cls(model, config, image_mean=mean, image_std=std, reference=reference)

    @classmethod
    def from_config(cls, hf_config: PretrainedConfig, config: ModelConfig, *, device: str = "meta") -> Policy:
        """Random weights, or none at all on the meta device, where parameters are only counted."""
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(hf_config, attn_implementation="sdpa", dtype=torch.float32)
        return cls(model, config, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))

    @classmethod
    def from_hub_config(cls, config: ModelConfig, *, device: str = "meta") -> Policy:
        return cls.from_config(AutoConfig.from_pretrained(config.path, revision=config.revision), config, device=device)

    # ------------------------------------------------------------ structure

    @property
    def core(self) -> Any:
        """The Hugging Face model itself, adapters injected if there are any."""
        return self.model.get_base_model() if self.config.lora.enabled else self.model

    @property
    def device(self) -> torch.device:
        return self.core.lm_head.weight.device

    def part_parameters(self, part: str) -> list[nn.Parameter]:
        """Parameters of "vision" (tower without merger), "merger" or "language" (text model and head)."""
        return [parameter for name, parameter in self._named_core() if part_of(name) == part]

    def param_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups, one per part and decay setting; vectors (norms, biases) do not decay."""
        groups = []
        for part in PARTS:
            trained = [p for p in self.part_parameters(part) if p.requires_grad]
            for decays in (True, False):
                params = [p for p in trained if (p.ndim > 1) == decays]
                if params:
                    scale = _switch(self.config, part).lr_scale
                    decay = weight_decay if decays else 0.0
                    groups.append({"params": params, "lr": lr * scale, "weight_decay": decay, "name": f"{part}/{decay:g}"})
        if not groups:
            raise UserError("no part of the model trains; set model.vision, model.merger or model.language .train=true.")
        return groups

    def _named_core(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.core.named_parameters()

    # ------------------------------------------------------------ scoring

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    def forward(self, batch: TrunkBatch, **options: Any) -> TokenLogprobs:
        return self.token_logprobs(batch, **options)

    def token_logprobs(
        self, batch: TrunkBatch, law: Law = FULL_LAW, *, entropy: bool = False, kl_to: torch.Tensor | None = None
    ) -> TokenLogprobs:
        """Log-probability of each scored token under `law`.

        `kl_to`: hidden states (N, H) from `reference_hidden`, for the full-vocabulary KL to the reference.
        """
        with self.autocast():
            hidden = scored_hidden(self.core, batch, self.config)
            return self._score(hidden, batch, law, entropy, kl_to)

    @torch.no_grad()
    def reference_hidden(self, batch: TrunkBatch) -> torch.Tensor:
        """(N, H) final hidden states of the reference at the scored positions."""
        with self.autocast(), self._reference_model() as model:
            return scored_hidden(model, batch, self.config)

    @torch.no_grad()
    def reference_logprobs(self, batch: TrunkBatch, law: Law = FULL_LAW) -> torch.Tensor:
        """(N,) log-probabilities under the reference."""
        hidden = self.reference_hidden(batch)
        size = self.config.head_chunk_tokens
        with self.autocast(), self._reference_model() as model:
            pairs = zip(hidden.split(size), batch.target.split(size), strict=True)
            return torch.cat([_score_chunk(h, target, None, model.lm_head, None, law, False)[0] for h, target in pairs])

    def _score(
        self, hidden: torch.Tensor, batch: TrunkBatch, law: Law, entropy: bool, kl_to: torch.Tensor | None
    ) -> TokenLogprobs:
        size = self.config.head_chunk_tokens
        head = self.core.lm_head
        reference_head = self.reference.lm_head if self.reference is not None else head
        references = [None] * len(hidden.split(size)) if kl_to is None else kl_to.split(size)
        # a lone chunk gains nothing from recomputation: its logits are the peak either way
        recompute = torch.is_grad_enabled() and len(hidden) > size
        scored = []
        for chunk in zip(hidden.split(size), batch.target.split(size), references, strict=True):
            arguments = (*chunk, head, reference_head, law, entropy)
            scored.append(checkpoint(_score_chunk, *arguments, use_reentrant=False) if recompute else _score_chunk(*arguments))
        logprobs, entropies, kls = zip(*scored, strict=True)
        return TokenLogprobs(
            logprobs=torch.cat(logprobs),
            entropy=torch.cat(entropies) if entropy else None,
            kl=torch.cat(kls) if kl_to is not None else None,
            branch_index=batch.branch_index,
            token_index=batch.token_index,
            trunk_of_branch=batch.trunk_of_branch,
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 where the configuration asks for it; weights stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision is Precision.bf16)

    def _reference_model(self) -> AbstractContextManager[Any]:
        if self.reference_kind is Reference.adapter_off:
            return _AdapterOff(self.model, self.core)
        if self.reference is None:
            raise UserError("kl.reference=none gives no reference to compare with; use frozen_copy or adapter_off.")
        return nullcontext(self.reference)

    def save_pretrained(self, folder: Path | str) -> None:
        """A plain Hugging Face checkpoint, adapters merged on a copy, with the base's tokenizer and processor files."""
        core = copy.deepcopy(self.model).merge_and_unload() if self.config.lora.enabled else self.core
        save_checkpoint(core, Path(folder), source=self.config.path, revision=self.config.revision)


class _AdapterOff:
    """The base weights of an adapted model, for the length of a `with`."""

    def __init__(self, peft_model: Any, core: Any) -> None:
        self.off = peft_model.disable_adapter()
        self.core = core

    def __enter__(self) -> Any:
        self.off.__enter__()
        return self.core

    def __exit__(self, *error: Any) -> None:
        self.off.__exit__(*error)


# ---------------------------------------------------------------- forward on packed rows


def scored_hidden(model: Any, batch: TrunkBatch, config: ModelConfig) -> torch.Tensor:
    """(N, H) final hidden states at the predictors of the scored tokens."""
    embeds, extra = embed_rows(model, batch)
    mask = block_mask(batch) if config.attention is Attention.flex else dense_mask(batch)
    out = model.model.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=batch.positions, use_cache=False, **extra
    )
    return out.last_hidden_state.flatten(0, 1)[batch.predictor]


def embed_rows(model: Any, batch: TrunkBatch) -> tuple[torch.Tensor, dict[str, Any]]:
    """(R, L, H) embeddings with the images' features in the trunks' placeholders, and what else the text model wants."""
    embeds = model.model.get_input_embeddings()(batch.ids)
    if len(batch.feature_slot):
        return _insert_features(model.model, embeds, batch)
    return embeds, {}


def _insert_features(inner: Any, embeds: torch.Tensor, batch: TrunkBatch) -> tuple[torch.Tensor, dict[str, Any]]:
    """Write image features into the trunks' placeholder positions only; a placeholder id in a branch stays plain text."""
    vision = inner.get_image_features(batch.pixel_values, batch.grid_thw, return_dict=True)
    features = torch.cat(tuple(vision.pooler_output)).to(embeds.dtype)[batch.feature_index]
    flat = embeds.flatten(0, 1).index_copy(0, batch.feature_slot, features)
    extra: dict[str, Any] = {}
    if (deep := getattr(vision, "deepstack_features", None)) is not None:  # Qwen3-VL adds features after its first layers
        visual = torch.zeros(flat.shape[0], dtype=torch.bool, device=flat.device)
        visual[batch.feature_slot] = True
        order = batch.feature_slot.argsort()
        extra["visual_pos_masks"] = visual.view(embeds.shape[:2])
        extra["deepstack_visual_embeds"] = [torch.cat(tuple(layer))[batch.feature_index][order] for layer in deep]
    return flat.view(embeds.shape), extra


def _score_chunk(
    hidden: torch.Tensor,
    target: torch.Tensor,
    reference_hidden: torch.Tensor | None,
    head: Any,
    reference_head: Any,
    law: Law,
    entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(logprob, entropy, KL to the reference) of one chunk; the only place of the update where logits exist."""
    logits = law.logits(head(hidden))
    if reference_hidden is None and not entropy:
        return logits.gather(-1, target[:, None])[:, 0] - logits.logsumexp(-1), None, None
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    nats = torch.special.entr(p.detach()).sum(-1) if entropy else None
    kl = None
    if reference_hidden is not None:
        log_q = law.logits(reference_head(reference_hidden)).log_softmax(-1)
        kl = (p * (log_p - log_q).masked_fill(log_p.isneginf(), 0.0)).sum(-1)
    return log_p.gather(-1, target[:, None])[:, 0], nats, kl


# ---------------------------------------------------------------- parts of the model


def part_of(name: str) -> str:
    """Which switch rules a parameter of the Hugging Face model."""
    if ".visual." not in f".{name}":
        return "language"
    return "merger" if "merger" in name else "vision"


def _switch(config: ModelConfig, part: str) -> PartConfig:
    switch: PartConfig = getattr(config, part)
    return switch


def _prepare_vision(model: Any) -> None:
    """Batch the tower's windows, and embed patches by a matrix product: its Conv3d has stride = kernel."""
    tower = model.model.visual
    for module in tower.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = VISION_ATTENTION
    tower.patch_embed.forward = MethodType(_embed_patches, tower.patch_embed)  # a bound method follows a deep copy


def _embed_patches(embed: Any, pixels: torch.Tensor) -> torch.Tensor:
    weight = embed.proj.weight
    return nn.functional.linear(pixels.to(weight.dtype), weight.flatten(1), embed.proj.bias)


def _with_lora(model: Any, config: ModelConfig) -> Any:
    """Adapters on the linear layers of the parts that train; everything else is frozen."""
    from peft import LoraConfig, get_peft_model

    wanted = config.lora.target
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name != "lm_head"
        and _switch(config, part_of(name)).train
        and (wanted == "all-linear" or name.rsplit(".", 1)[-1] in wanted.split(","))
    ]
    if not targets:
        raise UserError(f"model.lora.target={wanted} matches no linear layer of a part that trains; use all-linear.")
    lora = config.lora
    return get_peft_model(
        model, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
    )
