"""Old configuration keys and their present names: refused with the new name in a command, read
with it from old run folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Full key (a name that the user gives, such as a set's, is "*") -> present full key.
RENAMED_KEYS: dict[str, str] = {
    "share": "stage_cache_dir",
    "model.row_tokens": "model.sequence_tokens",
    "model.micro_tokens": "model.micro_batch_tokens",
    "data.sets.*.pass_between": "data.sets.*.pass_rate_range",
    "grpo.updates_per_batch": "grpo.num_mini_batches",
    "grpo.filter_zero_variance": "grpo.dynamic_sampling.enabled",
    "grpo.max_refills": "grpo.dynamic_sampling.max_rounds",
    "grpo.over_long": "grpo.overlong",
    "grpo.max_logprob_gap": "grpo.max_sampling_logp_difference",
    "reward.parts": "reward.terms",
    "source.licence": "source.license",
    "gates.max_centre_condition": "gates.max_center_condition",
    "gates.max_centre_residual": "gates.max_center_residual",
    "gates.min_centre_in_front": "gates.min_center_in_front",
    "gates.max_mask_centre_gap": "gates.max_mask_center_gap",
    "build.part": "build.shard",
    "build.parts": "build.num_shards",
    "tower_steps": "vision_steps",
    "tower_batch": "vision_batch",
    "tower_lr": "vision_lr",
}


def renamed(full_key: str) -> str | None:
    """Return the present name of an old key, of a key below it too; None for a key that was not
    renamed.

    >>> renamed("data.sets.sat.pass_between"), renamed("reward.parts.format.weight")
    ('data.sets.sat.pass_rate_range', 'reward.terms.format.weight')
    """
    words = full_key.split(".")
    for old, new in RENAMED_KEYS.items():
        pattern = old.split(".")
        head = words[: len(pattern)]
        if len(head) < len(pattern):
            continue
        if all(a in ("*", b) for a, b in zip(pattern, head, strict=True)):
            given = iter(b for a, b in zip(pattern, head, strict=True) if a == "*")
            present = [next(given) if word == "*" else word for word in new.split(".")]
            return ".".join([*present, *words[len(pattern) :]])
    return None


def with_present_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings of an old run under the present keys; the values stay as they are.

    >>> with_present_keys({"seed": 0, "grpo": {"max_refills": 2, "loss": "dapo"}})
    {'seed': 0, 'grpo': {'dynamic_sampling': {'max_rounds': 2}, 'loss': 'dapo'}}
    """
    present: dict[str, Any] = {}
    for full_key, value in _flat(settings):
        *parents, last = (renamed(full_key) or full_key).split(".")
        node = present
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return present


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
