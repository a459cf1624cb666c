"""One fresh process of the benchmark, started by `run.py`: python worker.py NAME,..
speed|roofline|MEMORY_PART MODELS OUT.json [quick]
"""

from __future__ import annotations

import json
import logging
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import sampling
import torch
import width
from cells import CELLS, MEMORY, MEMORY_STEP, Cell
from ours import Ours
from peer import Peer
from setting import Setting

from actial.modeling import onednn_linear
from actial.modeling.cost_model import Flops, load_of, step_flops
from actial.modeling.families import encode_images
from actial.modeling.prefix_packing import PackedBatch, pack
from actial.modeling.vlm_forward import hidden_states_at_targets, plan_attention

ORDER = ("peer", "ours", "ours", "peer")
BEST_OF = 20
Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# torch's own library for float32, and that of our linear layers
PRODUCTS: dict[str, Product] = {"torch": torch.mm, "onednn": onednn_linear.matmul}


def main(names: str, part: str, models: str, out: str, quick: str = "") -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    found: dict[str, Any] = {}
    for name in names.split(","):
        if name == "memory":
            found[name] = peak_memory(part, Path(models))
        elif name == "width":
            found[name] = width.measure(bool(quick))
        elif name == "sampler":
            found[name] = sampling.measure(bool(quick))
        else:
            cell = replace(CELLS[name], steps=1, blocks=1) if quick else CELLS[name]
            found[name] = (roofline if part == "roofline" else side_by_side)(
                cell, Path(models)
            )
    Path(out).write_text(json.dumps(found))


def side_by_side(cell: Cell, models: Path) -> dict[str, Any]:
    """Both systems in blocks A, B, B, A; the first blocks start from the same weights and read the
    same steps: their rows are compared.
    """
    with tempfile.TemporaryDirectory() as scratch:
        setting = Setting(cell.work, models)
        ours = Ours(setting, Path(scratch) / "ours")
        sides = {"peer": peer_of(setting, Path(scratch) / "peer"), "ours": ours}
        blocks: dict[str, list[Any]] = {"peer": [], "ours": []}
        for name in ORDER if cell.blocks == 2 else ORDER[:2]:
            # ours is cheap: some steps more
            repeats = cell.steps if name == "peer" or not blocks[name] else cell.steps + 2
            blocks[name].append(sides[name].run(cell.warm_up + repeats))
    compared = sampling_parity if cell.work.samples_itself else parity
    return {
        "parity": compared(blocks["peer"][0], blocks["ours"][0]),
        "rows": {n: [r[cell.warm_up :] for r in b] for n, b in blocks.items()},
    }


def peer_of(setting: Setting, scratch: Path) -> Any:
    """TRL, or our own trainer whose text model shares prompts through PrefixGrouper."""
    if setting.work.peer == "trl":
        return Peer(setting, scratch)
    from sharing import GrouperPolicy

    return Ours(setting, scratch, GrouperPolicy)


def sampling_parity(_: Any, ours: list[dict[str, float]]) -> dict[str, float]:
    """Where each system trains on its own samples: our sampler's log-probabilities against our
    trainer's.
    """
    worst = max(row["sampling_difference"] for row in ours)
    return {"steps": len(ours), "loss": worst, "grad_norm": worst}


def parity(peer: list[dict[str, float]], ours: list[dict[str, float]]) -> dict[str, float]:
    """Largest relative difference over the first three steps; of a loss near zero, relative to a
    hundredth (rewards lie in 0..1).
    """
    pairs = list(zip(peer, ours, strict=False))[:3]
    return {
        "steps": len(pairs),
        "loss": max(abs(a["loss"] - b["loss"]) / max(abs(a["loss"]), 0.01) for a, b in pairs),
        "grad_norm": max(
            abs(a["grad_norm"] - b["grad_norm"]) / a["grad_norm"] for a, b in pairs
        ),
    }


# ---------------------------------------------------------------- the limit of the machine


def roofline(cell: Cell, models: Path) -> dict[str, float]:
    """Operations of an ideal step, and its seconds at the best rate of each library's matrix
    products, at the step's shapes.
    """
    work = replace(cell.work, torch_products=False)  # which would replace oneDNN's here too
    with tempfile.TemporaryDirectory() as scratch:
        ours = Ours(Setting(work, models), Path(scratch))
    batch, policy = ours.batch(0), ours.module.policy
    load = load_of(batch.prefix_groups, batch.images, policy)
    flops = step_flops(policy, load, reference=cell.work.beta > 0)
    ideal = {
        part: Flops(forward=f.forward, backward=f.backward, recomputed=0.0)
        for part, f in flops.items()
    }
    text, vision = policy.hf_config.text_config, policy.hf_config.vision_config
    shapes = {
        "vision": (sum(load.patches), vision.hidden_size, vision.intermediate_size),
        "merger": (sum(load.patches) // 4, 4 * vision.hidden_size, 4 * vision.hidden_size),
        "language": (load.tokens, text.hidden_size, text.intermediate_size),
        "head": (load.supervised_tokens, text.hidden_size, text.vocab_size),
    }
    return {
        "flop": sum(f.total for f in ideal.values()),
        "prefix_tokens": len(batch.prefix_groups[0].input_ids),
    } | {
        f"seconds_{library}": sum(
            ideal[part].total / matmul_rate(product, *shape)
            for part, shape in shapes.items()
            if ideal[part].total
        )
        for library, product in PRODUCTS.items()
    }


def matmul_rate(product: Product, rows: int, inner: int, columns: int) -> float:
    """Operations a second, best of some tries."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    best = min(timed(lambda: product(a, b)) for _ in range(BEST_OF))
    return 2.0 * rows * inner * columns / best


def timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


# ---------------------------------------------------------------- memory


def peak_memory(part: str, models: Path) -> dict[str, float]:
    """MiB that scoring the completions, forward and backward, adds to the process at its highest; a
    system's name: a whole step of it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        setting = Setting(MEMORY, models)
        if part in SYSTEMS:
            side = SYSTEMS[part](Setting(MEMORY_STEP, models), Path(scratch))
            return growth(lambda: side.run(1))
        ours = Ours(setting, Path(scratch))
        policy, batch = ours.module.policy, ours.batch(0)
        packed = pack(
            batch.prefix_groups, batch.images, policy.spec, setting.model.sequence_tokens
        )
        return growth(lambda: HEADS[part](policy, packed))


def chunked(policy: Any, batch: PackedBatch) -> None:
    policy.token_logprobs(batch).logprobs.sum().backward()


def full_logits(policy: Any, batch: PackedBatch) -> None:
    """The same prefixes and continuations, but the head in one piece with its graph kept: log-softmax over
    logits of all scored positions.
    """
    plan = plan_attention(policy.hf_config, batch, policy.config.attention)
    features = encode_images(policy.core, batch)
    states = hidden_states_at_targets(policy.core, batch, plan, features)
    logits = policy.core.lm_head(states)
    logits.log_softmax(-1).gather(-1, batch.target_ids[:, None]).sum().backward()


SYSTEMS: dict[str, Any] = {"actial": Ours, "trl": Peer}
HEADS: dict[str, Callable[[Any, PackedBatch], None]] = {
    "chunked": chunked,
    "full": full_logits,
}


def growth(action: Callable[[], Any]) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status("VmRSS")
    action()
    return {"before": before, "peak": status("VmHWM"), "added": status("VmHWM") - before}


def status(field: str) -> float:
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"{field}:\s+(\d+) kB", text)
    assert match is not None
    return int(match[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
