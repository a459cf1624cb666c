"""Rows of the workers -> ratios, a Markdown table and the curves."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sampling
import width
from cells import CELLS, GROUPS, LENGTHS, PIXELS
from setting import Work

PARITY = 1e-5  # relative, of loss and gradient norm: a ratio without it is void
TARGETS = {"grpo": 12.0, "sft": 4.0, "grouper_16_completions": 1.0}  # times faster
MEMORY_SHARE = 1 / 8
IDEALS = ("seconds_torch", "seconds_onednn")
PHASES = ("prepare", "compute", "optimise")


def machine(threads: int) -> dict[str, Any]:
    names = ("torch", "transformers", "trl", "lightning")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    return {"cpu": cpu, "threads": threads, **{name: version(name) for name in names}}


def seconds(result: dict[str, Any], side: str, key: str) -> np.ndarray:
    """All timed steps of a side, over processes and blocks."""
    return np.array(
        [row[key] for run in result["runs"] for block in run["rows"][side] for row in block]
    )


def ratio(result: dict[str, Any], key: str) -> float:
    return float(
        np.median(seconds(result, "peer", key)) / np.median(seconds(result, "ours", key))
    )


def worst_parity(result: dict[str, Any], key: str) -> float:
    return max(run["parity"][key] for run in result["runs"])


def has_parity(name: str, result: dict[str, Any]) -> bool:
    """bf16 rounds the two orders of summation apart: that row is shown with its differences, and is
    no claim.
    """
    return (
        CELLS[name].work.bf16
        or max(worst_parity(result, "loss"), worst_parity(result, "grad_norm")) <= PARITY
    )


def measured(name: str) -> str:
    """GRPO is compared without the peer's processing of images and text; SFT by whole steps,
    loading included.
    """
    work = CELLS[name].work
    return "whole" if work.kind == "sft" or work.samples_itself else "update"


def bound(work: Work, prefix_group: int) -> float:
    """Ratio of text tokens that the two forms compute; work on images falls by the whole group."""
    return (prefix_group + work.length) / (prefix_group / work.group + work.length)


def spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.3f} ({low:.3f}..{high:.3f})"


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def header(*cells: str) -> list[str]:
    return ["", row(*cells), row(*["---"] * len(cells))]


def table(results: dict[str, Any]) -> str:
    facts = results["machine"]
    shown = {name: results[name] for name in CELLS if name in results}
    named = ", ".join(f"{name} {facts[name]}" for name in ("torch", "transformers", "trl"))
    lines = [
        f"{facts['cpu']}, {facts['threads']} threads, {named}.",
        "",
        *ratios(shown),
        "",
        *phases(shown),
    ]
    lines += ["", *memory(results)] if "memory" in results else []
    lines += ["", *width.lines(results["width"])] if "width" in results else []
    lines += ["", *sampling.lines(results["sampler"])] if "sampler" in results else []
    return "\n".join(lines) + "\n"


def ratios(shown: dict[str, Any]) -> list[str]:
    lines = [
        "Seconds per step: median (quartiles). GRPO rows time the update: ours with packing and patches, TRL's without its processor.",
        "SFT rows time whole steps, data loading included.",
        *header(
            "cell",
            "TRL (PrefixGrouper in its rows)",
            "actial",
            "times faster",
            "whole step",
            "differences of loss, gradient norm",
            "steps timed",
        ),
    ]
    for name, result in shown.items():
        peer, ours = (seconds(result, side, measured(name)) for side in ("peer", "ours"))
        verdict = (
            f"**{ratio(result, measured(name)):.1f}**"
            if has_parity(name, result)
            else "void: no parity"
        )
        differences = ", ".join(
            f"{worst_parity(result, key):.0e}" for key in ("loss", "grad_norm")
        )
        whole, counts = f"{ratio(result, 'whole'):.1f}", f"{len(peer)}, {len(ours)}"
        lines.append(
            row(
                CELLS[name].title,
                spread(peer),
                spread(ours),
                verdict,
                whole,
                differences,
                counts,
            )
        )
    return lines


def phases(shown: dict[str, Any]) -> list[str]:
    lines = [
        "Phases, median seconds. Preparation: TRL's data loading and processor; our rendering, packing and patches.",
        "Ideal: the operations of shared prefixes and continuations at the best rate of matrix products of the same shapes in the same build, by torch "
        "(MKL, which TRL computes with) and by oneDNN (which our linear layers compute with).",
        *header(
            "cell",
            "side",
            "preparation",
            "reference, forward, backward",
            "optimiser",
            "% of ideal, torch",
            "% of ideal, oneDNN",
        ),
    ]
    for name, result in shown.items():
        limit = result["roofline"]
        peer = "TRL" if CELLS[name].work.peer == "trl" else "PrefixGrouper"
        for side, title in (("peer", peer), ("ours", "actial")):
            spent = [f"{np.median(seconds(result, side, phase)):.3f}" for phase in PHASES]
            median = float(np.median(seconds(result, side, "update")))
            shares = [f"{100 * limit[key] / median:.0f}" for key in IDEALS]
            lines.append(row(CELLS[name].title, title, *spent, *shares))
        ideals = ", ".join(f"{limit[key]:.3f}" for key in IDEALS)
        lines.append(
            row("", f"ideal: {limit['flop'] / 1e9:.0f} GFLOP", "", ideals, "", "", "")
        )
    return lines


def memory(results: dict[str, Any]) -> list[str]:
    names = {
        "chunked": "our scoring of 16 x 256 completion tokens (chunks, recomputed)",
        "full": "full logits of the same positions",
        "actial": "a whole step of ours, 4 x 256",
        "trl": "a whole step of TRL's, 4 x 256",
    }
    return [
        "Memory at vocabulary 151,936, forward and backward, in MiB.",
        *header("what", "added at the peak", "process at its peak"),
        *(
            row(names[part], f"{found['added']:.0f}", f"{found['peak']:.0f}")
            for part, found in results["memory"].items()
        ),
        "",
        f"Scoring adds {memory_share(results):.3f} of what full logits add; the target is {MEMORY_SHARE}.",
    ]


def memory_share(results: dict[str, Any]) -> float:
    memory = results["memory"]
    return float(memory["chunked"]["added"] / memory["full"]["added"])


def missed(results: dict[str, Any]) -> list[str]:
    """What fails: parity of any cell, the two ratios, the memory share."""
    lines = [
        f"{name}: no parity"
        for name in CELLS
        if name in results and not has_parity(name, results[name])
    ]
    for name, target in TARGETS.items():
        if name in results and (found := ratio(results[name], measured(name))) < target:
            lines.append(f"{name}: {found:.1f} times, target {target:.0f}")
    for name, measurement in results.get("sampler", {}).items():
        if measurement["equal"] < sampling.PROMPTS:
            lines.append(
                f"sampler: {name} has {measurement['equal']} greedy completions equal to ours"
            )
    if "memory" in results and (share := memory_share(results)) > MEMORY_SHARE:
        lines.append(f"memory: {share:.3f} of full logits, target {MEMORY_SHARE}")
    return lines


def figure(results: dict[str, Any], path: Path) -> None:
    """Times faster over group size, prompt length and completion length, beside the ratio of text
    tokens.
    """
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
        points = {
            n: name
            for n, name in sorted(names.items())
            if name in results and has_parity(name, results[name])
        }
        lengths = [results[name]["roofline"]["prefix_tokens"] for name in points.values()]
        places = lengths if label == "tokens of the prompt" else list(points)
        ratios = [ratio(results[name], "update") for name in points.values()]
        axis.plot(places, ratios, "o-", label="measured")
        pairs = zip(points.values(), lengths, strict=True)
        bounds = [bound(CELLS[name].work, length) for name, length in pairs]
        axis.plot(
            places,
            bounds,
            "--",
            color="grey",
            label="text tokens alone",
        )
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
