"""The width of the 7B model on this processor: one decoder layer and one vision block.

A prompt of two 448-px images with 16 completions of 250 tokens, shared and not. The sequences of
the unshared form do not depend on each other, so some of them are timed and multiplied.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig

from actial.config import ModelConfig
from actial.modeling.policy import Policy
from actial.modeling.prefix_packing import Continuation, PackedBatch, PrefixGroup, pack
from actial.modeling.vlm_forward import plan_attention

TEXT = {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 1,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 1024,
    "tie_word_embeddings": False,
}
# A narrow layer, to see that all of it runs.
QUICK = {"hidden_size": 896, "intermediate_size": 512} | {
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
}
VISION = {
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "depth": 1,
    "fullatt_block_indexes": [],  # 28 of the 32 blocks attend in windows
}
IDS = {
    "image_token_id": 1000,
    "video_token_id": 1001,
    "vision_start_token_id": 1002,
    "vision_end_token_id": 1003,
}
LAYERS, BLOCKS, VOCAB = 28, 32, 152_064  # of Qwen2.5-VL-7B
PIXELS, GROUP, LENGTH, TEXT_TOKENS = 448, 16, 250, 21
SLOWEST_BFLOAT16 = 10  # times the seconds of a float32 product
TIMED = 2  # sequences of the unshared form that are timed


def measure(quick: bool) -> dict[str, Any]:
    """Seconds of forward and backward by dtype, and the differences of the outputs."""
    length, timed = (16, 2) if quick else (LENGTH, TIMED)
    batch, policy = example(length, TEXT | QUICK if quick else TEXT)
    measured: dict[str, Any] = {
        "prefix": len(batch.input_ids[0]) - GROUP * length,
        "length": length,
        "timed": timed,
    }
    for dtype in (torch.float32, torch.bfloat16):
        if dtype is torch.bfloat16 and not multiplies_bfloat16():
            continue
        policy.to(dtype)
        measured[str(dtype).removeprefix("torch.")] = {
            "layer": layer_times(policy, batch, timed),
            "block": block_times(policy, batch, timed),
        }
    return measured


def multiplies_bfloat16() -> bool:
    """Whether the processor has bfloat16 arithmetic: emulated, a layer takes many minutes."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.ones(512, 512, dtype=dtype)
        square @ square
        started = time.perf_counter()
        square @ square
        seconds[dtype] = time.perf_counter() - started
    return seconds[torch.bfloat16] < SLOWEST_BFLOAT16 * seconds[torch.float32]


def example(length: int, text: dict[str, Any]) -> tuple[PackedBatch, Policy]:
    """The packed batch and a policy of one layer and one block with random weights."""
    torch.manual_seed(0)
    vision = VISION | {"out_hidden_size": text["hidden_size"]}
    config = Qwen2_5_VLConfig(
        text_config=dict(text), vision_config=vision, tie_word_embeddings=False, **IDS
    )
    policy = Policy.from_config(config, ModelConfig(path="width"), device="cpu")
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8) for _ in range(2)]
    placeholders = [IDS["image_token_id"]] * (2 * (PIXELS // 28) ** 2)
    completions = [
        Continuation(noise.integers(0, 900, length).tolist(), [True] * length)
        for _ in range(GROUP)
    ]
    prompt = noise.integers(0, 900, TEXT_TOKENS).tolist()
    # The placeholders of both images follow each other: only the number of tokens matters here.
    group = PrefixGroup("prompt", prompt[:5] + placeholders + prompt[5:], [0, 1], completions)
    return pack([group], images, policy.spec, 1), policy


def layer_times(policy: Policy, batch: PackedBatch, timed: int) -> dict[str, float]:
    """The decoder layer on the packed form, and on `timed` of the GROUP padded sequences."""
    text = policy.core.model.language_model
    length = (len(batch.target_ids)) // GROUP
    total = batch.input_ids.shape[1]
    prefix = total - GROUP * length
    weight = text.embed_tokens.weight
    states = torch.randn(1, total, weight.shape[1], dtype=weight.dtype)
    # Position of token j of sequence g in the packed form.
    index = torch.stack(
        [
            torch.cat([torch.arange(prefix), prefix + g * length + torch.arange(length)])
            for g in range(timed)
        ]
    )
    plan = plan_attention(policy.hf_config, batch, policy.config.attention)

    def packed() -> Tensor:
        return run(text, states, batch.position_ids, layout=plan.attention)

    def padded() -> Tensor:
        return run(text, states[0][index], batch.position_ids[:, 0][:, index])

    ours, shared_seconds = forward_backward(packed)
    plain, padded_seconds = forward_backward(padded)
    expected = ours[0][index]
    return {
        "shared": shared_seconds,
        "unshared": padded_seconds * GROUP / timed,
        "difference": float((plain - expected).abs().max() / expected.abs().max()),
    }


def run(text: Any, states: Tensor, position_ids: Tensor, **options: Any) -> Tensor:
    """(R, L, H) outputs of the only layer; without a layout, plain causal attention."""
    layout = options.get("layout")
    layer = text.layers[0]
    usual = layer.self_attn.config._attn_implementation
    try:
        if layout is None:
            layer.self_attn.config._attn_implementation = "sdpa"
        out = layer(
            states.requires_grad_(),
            attention_mask=None,
            position_embeddings=text.rotary_emb(states, position_ids),
            **options,
        )
    finally:
        layer.self_attn.config._attn_implementation = usual
    hidden: Tensor = out[0] if isinstance(out, tuple) else out
    return hidden


def block_times(policy: Policy, batch: PackedBatch, timed: int) -> dict[str, float]:
    """The vision encoder of one block on two images, and on those of `timed` sequences."""
    model = policy.core.model
    dtype = policy.core.lm_head.weight.dtype
    pixels = batch.pixel_values.to(dtype)

    def encode(copies: int) -> Tensor:
        grid = batch.grid_thw.repeat(copies, 1)
        features = model.get_image_features(pixels.repeat(copies, 1), grid, return_dict=True)
        return torch.cat(tuple(features.pooler_output))

    ours, shared_seconds = forward_backward(lambda: encode(1))
    plain, repeated_seconds = forward_backward(lambda: encode(timed))
    expected = ours.repeat(timed, 1)
    return {
        "shared": shared_seconds,
        "unshared": repeated_seconds * GROUP / timed,
        "difference": float((plain - expected).abs().max() / expected.abs().max()),
    }


def forward_backward(forward: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The output in float32, and the seconds of a forward and backward pass."""
    started = time.perf_counter()
    out = forward()
    out.float().square().mean().backward()
    return out.detach().float(), time.perf_counter() - started


def lines(measured: dict[str, Any]) -> list[str]:
    """The table, with the extrapolation to a whole update."""
    prefix, length = measured["prefix"], measured["length"]
    text = (prefix + length) / (prefix / GROUP + length)
    title = (
        f"Real width: one decoder layer (hidden 3,584, 28/4 heads) and one vision block (1,280) of "
        f"the 7B model, forward and backward, on two 448-px images ({prefix} tokens) with {GROUP} "
        f"completions of {length} tokens. Unshared: {measured['timed']} of {GROUP} sequences are "
        "timed, times their number."
    )
    dtypes = [dtype for dtype in ("float32", "bfloat16") if dtype in measured]
    if "bfloat16" not in dtypes:
        title += " This processor has no bfloat16 arithmetic: those rows are left out."
    rows = [
        title,
        "",
        "| what | dtype | unshared s | shared s | times faster | ratio of operations | "
        "measured / operations | largest relative difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for dtype in dtypes:
        for part, operations in (("layer", text), ("block", float(GROUP))):
            one = measured[dtype][part]
            ratio = one["unshared"] / one["shared"]
            rows.append(
                f"| {part} | {dtype} | {one['unshared']:.2f} | {one['shared']:.2f} | "
                f"**{ratio:.2f}** | {operations:.2f} | {ratio / operations:.2f} | "
                f"{one['difference']:.0e} |"
            )
    rows += [
        "",
        "**Extrapolation, not a measurement**, of one update of the whole 7B model on ",
    ]
    rows[-1] += (
        f"this processor: {LAYERS} such layers, {BLOCKS} such blocks; the head (completions only, "
        "the same in both forms) at the layer's rate."
    )
    rows += [
        "",
        "| dtype | unshared s | shared s | times faster |",
        "| --- | --- | --- | --- |",
    ]
    for dtype in dtypes:
        layer, block = measured[dtype]["layer"], measured[dtype]["block"]
        parameters = 2 * 3584 * (3584 + 512) + 3 * 3584 * 18_944
        share = VOCAB * 3584 * GROUP * length / (parameters * (prefix + GROUP * length))
        head = layer["shared"] * share
        whole = [
            LAYERS * layer[form] + BLOCKS * block[form] + head
            for form in ("unshared", "shared")
        ]
        rows.append(
            f"| {dtype} | {whole[0]:.0f} | {whole[1]:.0f} | {whole[0] / whole[1]:.1f} |"
        )
    return rows
