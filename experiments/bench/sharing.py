"""PrefixGrouper on the weights of our policy: the nearest peer, which shares prompts too.

Only the forward pass of the text model is PrefixGrouper's (its attention, in transformers' usual
place) and the vision encoder is transformers' own, run once per image as in ours. Loss, head on
completions only, optimizer and loop are ours, so the rows compare the two ways to share a prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from prefix_grouper import PrefixGrouper
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from actial.modeling.families import encode_images
from actial.modeling.policy import Policy, TokenLogprobs
from actial.modeling.prefix_packing import PackedBatch
from actial.modeling.token_scoring import SamplingDistribution, score_tokens
from actial.modeling.vlm_forward import embed_packed, no_mask

NAME = "bench_prefix_grouper"


def causal_mask(visible: Tensor, queries: int) -> Tensor:
    """(B, 1, Q, K) from the keys (B, K) that are no padding; queries are the last Q positions."""
    keys = visible.shape[1]
    lower = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    # A padded query sees itself, since a row without keys would be NaN.
    own = torch.eye(keys, dtype=torch.bool)[keys - queries :]
    return ((lower & visible[:, None]) | own)[:, None]


def grouped_sdpa(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Any,
    *,
    prefix_grouper: PrefixGrouper,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """PrefixGrouper's attention over torch's SDPA, in the signature of transformers."""
    masks: dict[int, Tensor] = prefix_grouper.__dict__.setdefault("bench_masks", {})

    def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        width = visible.shape[1]
        if width not in masks:  # one for the prefix, one for completions, shared by all layers
            masks[width] = causal_mask(visible, q.shape[2])
        return sdpa_attention_forward(module, q, k, v, masks[width], scaling=scaling)[0]

    return prefix_grouper.forward(attend, query, key, value), None


AttentionInterface.register(NAME, grouped_sdpa)
AttentionMaskInterface.register(NAME, sdpa_mask)


class GrouperPolicy(Policy):
    """Scores a packed batch of one group per sequence through PrefixGrouper."""

    def __init__(self, model: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(model, *arguments, **options)
        model.model.language_model.config._attn_implementation = NAME
        for module in model.model.visual.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation = "sdpa"

    def forward(
        self, batch: PackedBatch, distribution: SamplingDistribution, **options: Any
    ) -> TokenLogprobs:
        """As `Policy.forward`, without a reference."""
        # [prefix, completion, completion, ..] is the layout of `PrefixGrouper.concat_input` too.
        _, lengths, owner = batch.segments.T.tolist()
        groups: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            groups.setdefault(owner[index], []).append(length)
        grouper = PrefixGrouper(list(groups.values()))
        assert len(batch.input_ids) == len(groups), "one group per sequence"
        model = self.core
        with self.autocast():
            embeds, further = embed_packed(model, batch, encode_images(model, batch))
            out = model.model.language_model(
                inputs_embeds=embeds,
                attention_mask=no_mask(model.config, embeds),
                position_ids=batch.position_ids,
                use_cache=False,
                prefix_grouper=grouper,
                **further,
            )
            hidden = out.last_hidden_state.flatten(0, 1)[batch.source_position]
            logprobs, entropy, _ = score_tokens(
                model.lm_head,
                hidden,
                batch.target_ids,
                distribution,
                chunk=self.config.head_chunk_tokens,
                entropy=options["entropy"],
            )
        return TokenLogprobs(
            logprobs=logprobs,
            entropy=entropy,
            reference_logprobs=None,
            kl=None,
            sequence_index=batch.sequence_index,
            token_index=batch.token_index,
            group_of_sequence=batch.group_of_sequence,
        )
