"""Run every check of an audit and put the findings into a certificate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from actial.core.errors import UserError
from actial.evaluation.audit.image_matches import ImageMatch, describe, matching_images
from actial.evaluation.audit.items import AuditItem, AuditSet
from actial.evaluation.audit.text_shortcuts import (
    Shortcut,
    blind_solver,
    position_counts,
    template_prior,
)

LEVEL = 0.01  # of the tests of one set, shared among them
MARGIN = 0.05  # accuracy above chance from which a text shortcut counts as a leak
MIN_ITEMS = 100  # below, a text shortcut cannot be told from chance
EXAMPLES = 20  # of each finding, in the certificate


@dataclass(slots=True, kw_only=True)
class Check:
    """One check of one set, or of two."""

    name: str
    sets: list[str]
    clean: bool
    finding: str  # one sentence without its full stop
    figures: dict[str, Any] = field(default_factory=dict)
    examples: list[list[str]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Certificate:
    """What an audit says of its sets."""

    sets: dict[str, int]  # name -> items
    checks: list[Check]
    # names of two sets -> every image that they share; not in certificate.json
    matches: dict[tuple[str, str], list[ImageMatch]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return all(check.clean for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        checks = [asdict(check) for check in self.checks]
        return {"clean": self.clean, "sets": self.sets, "checks": checks}

    @classmethod
    def read(cls, path: Path) -> Certificate:
        """Read certificate.json.

        Raises:
            UserError: it is missing or no certificate.
        """
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            checks = [Check(**check) for check in entry["checks"]]
            return cls(sets=entry["sets"], checks=checks)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"certificate={path} cannot be read ({error}): "
                "give the certificate.json that `python -m actial.audit` wrote."
            ) from None


def audit_sets(
    sets: Sequence[AuditSet], identifiers: frozenset[str] = frozenset(), workers: int = 2
) -> Certificate:
    """Check every set by itself and every two of them against each other.

    Args:
        sets: one or more.
        identifiers: of scenes, beside those of the known forms.
        workers: threads that decode images.

    Raises:
        UserError: an image cannot be read.
    """
    checks = [check for audited in sets for check in _text_checks(audited)]
    all_matches: dict[tuple[str, str], list[ImageMatch]] = {}
    described = {}
    if len(sets) > 1:
        described = {s.name: describe(s, workers, crops=True) for s in sets}
    for one, other in combinations(sets, 2):
        checks.append(_scene_check(one, other, identifiers))
        checks.append(_question_check(one, other))
        matches = matching_images(described[one.name], described[other.name])
        all_matches[one.name, other.name] = matches
        pairs = [[match.uid, match.other_uid] for match in matches]
        checks.append(
            Check(
                name="near-duplicate images",
                sets=[one.name, other.name],
                clean=not pairs,
                finding=f"{len(pairs)} pairs of items share an image",
                figures={"pairs": len(pairs), "mirrored": sum(m.mirrored for m in matches)},
                examples=pairs[:EXAMPLES],
            )
        )
    counts = {s.name: len(s.items) for s in sets}
    return Certificate(sets=counts, checks=checks, matches=all_matches)


# ---------------------------------------------------------------- one set


def _text_checks(audited: AuditSet) -> list[Check]:
    items = [item for item in audited.items if len(item.options) > 1]
    if not items:
        return []
    counts, p = position_counts(items)
    most, share = counts.most_common(1)[0][0], max(counts.values()) / max(1, counts.total())
    excess = share - 1 / len(counts)
    position = Check(
        name="answer position",
        sets=[audited.name],
        clean=p > LEVEL or excess < MARGIN,
        finding=f"{100 * share:.1f} % of the correct options stand at {most}",
        figures={"counts": dict(counts), "p": p},
    )
    return [
        position,
        _shortcut_check("template prior", audited, template_prior(items)),
        _shortcut_check("blind solver", audited, blind_solver(items)),
    ]


def _shortcut_check(name: str, audited: AuditSet, shortcut: Shortcut) -> Check:
    above = shortcut.low - shortcut.chance
    leak = shortcut.n >= MIN_ITEMS and shortcut.p < LEVEL and above > 0
    leak = leak and shortcut.accuracy - shortcut.chance > MARGIN
    return Check(
        name=name,
        sets=[audited.name],
        clean=not leak,
        finding=f"text alone answers {100 * shortcut.accuracy:.1f} % "
        f"[{100 * shortcut.low:.1f}, {100 * shortcut.high:.1f}], guessing "
        f"{100 * shortcut.chance:.1f} %",
        figures=asdict(shortcut),
    )


# ---------------------------------------------------------------- two sets


def _scene_check(one: AuditSet, other: AuditSet, identifiers: frozenset[str]) -> Check:
    scenes, other_scenes = one.scene_ids(identifiers), other.scene_ids(identifiers)
    shared = sorted(scenes.keys() & other_scenes.keys())
    examples = [[s, min(scenes[s]), min(other_scenes[s])] for s in shared[:EXAMPLES]]
    return Check(
        name="shared scenes",
        sets=[one.name, other.name],
        clean=not shared,
        finding=f"{len(shared)} scene identifiers occur in both "
        f"(of {len(scenes)} and {len(other_scenes)})",
        figures={"shared": len(shared)},
        examples=examples,
    )


def _question_check(one: AuditSet, other: AuditSet) -> Check:
    """Questions of several words with the same options in any order, about the same scene name."""
    texts = {_question_key(item): item.uid for item in one.items if item.question}
    pairs = [
        [texts[key], item.uid]
        for item in other.items
        if item.question and (key := _question_key(item)) in texts
    ]
    templates = len({item.question for item in one.items}) < len(one.items) / 2
    return Check(
        name="shared questions",
        sets=[one.name, other.name],
        clean=not pairs or templates,
        finding=f"{len(pairs)} questions occur word for word in both"
        + (", as the sets' templates make them" if pairs and templates else ""),
        figures={"pairs": len(pairs)},
        examples=pairs[:EXAMPLES],
    )


def _question_key(item: AuditItem) -> tuple[str, ...]:
    question = " ".join(item.question.lower().split())
    return (question, *sorted(option.lower() for option in item.options))
