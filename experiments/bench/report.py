"""Rows of the workers -> ratios, a Markdown table and the curves."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cells import CELLS, GROUPS, LENGTHS, PIXELS
from setting import Work

PARITY = 1e-4  # relative, of loss and gradient norm: a ratio without it is void
TARGETS = {"grpo": 10.0, "sft": 3.0}  # times faster
MEMORY_SHARE = 1 / 8
PHASES = ("prepare", "compute", "optimise")


def machine(threads: int) -> dict[str, Any]:
    names = ("torch", "transformers", "trl", "lightning")
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    return {"cpu": model or platform.processor(), "threads": threads, **{name: version(name) for name in names}}


def seconds(result: dict[str, Any], side: str, key: str) -> np.ndarray:
    """All timed steps of a side, over processes and blocks."""
    return np.array([row[key] for run in result["runs"] for block in run["rows"][side] for row in block])


def ratio(result: dict[str, Any], key: str) -> float:
    return float(np.median(seconds(result, "peer", key)) / np.median(seconds(result, "ours", key)))


def worst_parity(result: dict[str, Any], key: str) -> float:
    return max(run["parity"][key] for run in result["runs"])


def has_parity(name: str, result: dict[str, Any]) -> bool:
    """bf16 rounds the two orders of summation apart: that row is shown with its differences, and is no claim."""
    return CELLS[name].work.bf16 or max(worst_parity(result, "loss"), worst_parity(result, "grad_norm")) <= PARITY


def measured(name: str) -> str:
    """GRPO is compared without the peer's processing of images and text; SFT by whole steps, loading included."""
    return "whole" if CELLS[name].work.kind == "sft" else "update"


def tokens(work: Work) -> tuple[int, int]:
    """Tokens of the trunk and of one branch, text around the images left out."""
    return 2 * (work.pixels // 28) ** 2 + 60, work.length


def bound(work: Work) -> float:
    """Ratio of text tokens that the two forms compute; image work falls by the whole group."""
    trunk, branch = tokens(work)
    return (trunk + branch) / (trunk / work.group + branch)


def spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.3f} ({low:.3f}..{high:.3f})"


def table(results: dict[str, Any]) -> str:
    facts = results["machine"]
    shown = {name: results[name] for name in CELLS if name in results}
    lines = [
        f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, transformers {facts['transformers']}, TRL {facts['trl']}.",
        "Seconds per step: median (quartiles). GRPO rows time the update (ours with packing and patches, TRL's without its processor); SFT rows whole steps.",
        "",
        "| cell | TRL | actial | times faster | whole step | difference of loss, gradient norm | steps timed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in shown.items():
        key = measured(name)
        peer, ours = seconds(result, "peer", key), seconds(result, "ours", key)
        verdict = f"**{ratio(result, key):.1f}**" if has_parity(name, result) else "void: no parity"
        differences = f"{worst_parity(result, 'loss'):.0e}, {worst_parity(result, 'grad_norm'):.0e}"
        counts = f"{len(peer)}, {len(ours)}"
        lines.append(
            f"| {CELLS[name].title} | {spread(peer)} | {spread(ours)} | {verdict} | {ratio(result, 'whole'):.1f} | {differences} | {counts} |"
        )
    lines += ["", "Phases in seconds (median); preparation is TRL's data loading and processor, our rendering, packing and patches.", ""]
    lines += [
        "| cell | side | preparation | reference, forward and backward | optimiser | per cent of the roofline |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in shown.items():
        limit = result["roofline"]
        if limit is None:
            continue
        for side, title in (("peer", "TRL"), ("ours", "actial")):
            phases = " | ".join(f"{np.median(seconds(result, side, phase)):.3f}" for phase in PHASES)
            share = 100 * limit["seconds"] / float(np.median(seconds(result, side, "update")))
            lines.append(f"| {CELLS[name].title} | {title} | {phases} | {share:.0f} |")
        lines.append(
            f"| | ideal step | {limit['flop'] / 1e9:.0f} GFLOP at {limit['flop_per_second'] / 1e9:.0f} GFLOP/s | {limit['seconds']:.3f} | | 100 |"
        )
    if "memory" in results:
        lines += ["", "MiB added at the peak by scoring 16 x 256 completion tokens at vocabulary 151,936, forward and backward.", ""]
        lines += ["| what | added | process at its peak |", "|---|---|---|"]
        names = {
            "chunked": "our scoring (chunks, recomputed)", "full": "full logits of the same positions",
            "actial": "a whole update of ours", "trl": "a whole update of TRL's",
        }  # fmt: skip
        lines += [f"| {names[part]} | {row['added']:.0f} | {row['peak']:.0f} |" for part, row in results["memory"].items()]
        lines += ["", f"Scoring adds {memory_share(results):.3f} of what full logits add (target {MEMORY_SHARE})."]
    return "\n".join(lines) + "\n"


def memory_share(results: dict[str, Any]) -> float:
    memory = results["memory"]
    return float(memory["chunked"]["added"] / memory["full"]["added"])


def missed(results: dict[str, Any]) -> list[str]:
    """What fails: parity of any cell, the two ratios, the memory share."""
    lines = [f"{name}: no parity" for name in CELLS if name in results and not has_parity(name, results[name])]
    for name, target in TARGETS.items():
        if name in results and (found := ratio(results[name], measured(name))) < target:
            lines.append(f"{name}: {found:.1f} times, target {target:.0f}")
    if "memory" in results and (share := memory_share(results)) > MEMORY_SHARE:
        lines.append(f"memory: {share:.3f} of full logits, target {MEMORY_SHARE}")
    return lines


def figure(results: dict[str, Any], path: Path) -> None:
    """Times faster over group size, trunk and completion length, beside the ratio of text tokens."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = {
        "completions per prompt": {n: f"group_{n}" for n in GROUPS} | {16: "grpo"},
        "tokens of the prompt": {n: f"pixels_{n}" for n in PIXELS} | {448: "grpo"},
        "tokens per completion": {n: f"length_{n}" for n in LENGTHS} | {48: "grpo"},
    }
    plot, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    for axis, (label, names) in zip(axes, curves.items(), strict=True):
        points = {n: name for n, name in sorted(names.items()) if name in results and has_parity(name, results[name])}
        places = [tokens(CELLS[name].work)[0] if label == "tokens of the prompt" else n for n, name in points.items()]
        axis.plot(places, [ratio(results[name], "update") for name in points.values()], "o-", label="measured")
        axis.plot(places, [bound(CELLS[name].work) for name in points.values()], "--", color="grey", label="ratio of text tokens")
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set(xlabel=label, xscale="log", yscale="log")
        axis.set_xticks(places, [str(n) for n in places])
        axis.minorticks_off()
    ticks = (1, 2, 5, 10, 20)
    axes[0].set_yticks(ticks, [str(n) for n in ticks])
    axes[0].set_ylabel("times faster than TRL 1.16")
    axes[0].legend(frameon=False)
    plot.savefig(path, dpi=150)
    plt.close(plot)
