"""Renamed metrics of metrics.jsonl, so that old run folders are read with today's names.

Names follow TRL 1.16's GRPOTrainer where it logs the same quantity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

RENAMED_METRICS = {
    "ratio": "importance_ratio/mean",
    "clip_fraction": "clip_ratio/region_mean",
    "importance_weight": "sampling/importance_sampling_ratio/mean",
    "logprob_gap": "sampling/sampling_logp_difference/mean",
    "logprob_gap_max": "sampling/sampling_logp_difference/max",
    "logprob_correlation": "sampling/logp_correlation",
    "reward_std_within": "reward_std",
    "uniform_groups": "frac_reward_zero_std",
    "format": "reward/format/mean",
    "accuracy": "reward/accuracy/mean",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "unparsed": "completions/unparsed_ratio",
    "stray_placeholders": "completions/banned_token_ratio",
    "kept": "dynamic_sampling/accepted_ratio",
    "refills": "dynamic_sampling/rounds",
}
# Families of metrics: a name with one of these prefixes keeps what stands behind it.
RENAMED_PREFIXES = {
    "logprob_gap/length<=": "sampling/sampling_logp_difference/length<=",
    "accuracy/": "reward/accuracy/mean/",
    "length/": "completions/mean_length/",
}


def current_name(name: str) -> str:
    """Today's name of a metric.

    >>> current_name("ratio"), current_name("length/static"), current_name("reward/format")
    ('importance_ratio/mean', 'completions/mean_length/static', 'reward/format/mean')
    """
    if name in RENAMED_METRICS:
        return RENAMED_METRICS[name]
    for prefix, renamed in RENAMED_PREFIXES.items():
        if name.startswith(prefix):
            return renamed + name.removeprefix(prefix)
    scope, _, term = name.partition("/")
    if scope == "reward" and term and "/" not in term:
        return f"{name}/mean"  # a reward term, under the name that the configuration gave it
    return name


def with_current_names(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """The metrics under today's names; of `reward/accuracy` and `accuracy` the first one stays."""
    renamed: dict[str, Value] = {}
    for name, value in metrics.items():
        renamed.setdefault(current_name(name), value)
    return renamed
