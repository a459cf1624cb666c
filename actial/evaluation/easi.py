"""EASI-8: eight spatial benchmarks, one total, as EASI's own harness scores them.

The leaderboard (easi.lmms-lab.com, arXiv 2508.13142) takes one figure of each set and
averages the eight. An answer counts as EASI's rules read it; the same figures with our
own reader stand beside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actial.config import BenchmarkConfig
from actial.core.errors import UserError
from actial.core.records import FinishReason
from actial.evaluation.benchmark_examples import as_example
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.benchmarks.base import Item, Scores, Style
from actial.evaluation.benchmarks.video import VSI_DIRECTIONS
from actial.evaluation.protocol import short_hash
from actial.grading.metrics import Cell, Prediction
from actial.grading.multiple_choice import Compat
from actial.grading.predictions import predict
from actial.grading.published_formulas import THREEDSR_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class EasiSet:
    """How EASI scores one benchmark."""

    key: str  # the leaderboard's name of the set
    reader: Compat = Compat.EASI
    # the scorer's figure that counts
    overall: str = "overall"
    sub_scores: Callable[[Scores], Mapping[str, Cell]]


VSI_NUMERIC = (
    "object_counting",
    "object_abs_distance",
    "object_size_estimation",
    "room_size_estimation",
)


def _words(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _types(scores: Scores) -> dict[str, Cell]:
    return {f"{_words(name)}_accuracy": cell for name, cell in scores["type"].items()}


def _vsi(scores: Scores) -> dict[str, Cell]:
    cells = {}
    for name, cell in scores["type"].items():
        if name not in VSI_DIRECTIONS:
            cells[name if name in VSI_NUMERIC else f"{name}_accuracy"] = cell
    return cells


def _mmsi(scores: Scores) -> dict[str, Cell]:
    short = {"Positional Relationship": "pos", "Attribute": "attr"}
    cells = {}
    for name, cell in scores["category"].items():
        kind, _, part = name.partition(" (")
        cells[f"{_words(f'{short.get(kind, kind)} {part}')}_accuracy"] = cell
    return cells


def _site(scores: Scores) -> dict[str, Cell]:
    cells = {}
    for name, cell in scores["category"].items():
        joined = name.replace("-", "").replace("&", "and")
        cells[f"{_words(joined)}_caa"] = cell
    return cells


def _blink(scores: Scores) -> dict[str, Cell]:
    return {_words(name): cell for name, cell in scores["sub_task"].items()}


def _threedsr(scores: Scores) -> dict[str, Cell]:
    cells = {}
    for setting, prefix in (("vanilla", ""), ("circ", "circ_eval_")):
        for name, cell in scores.get(setting, {}).items():
            # EASI reports the subtypes only
            if name not in THREEDSR_TYPES:
                cells[f"{prefix}{name}"] = cell
    return cells


def _tasks(scores: Scores) -> dict[str, Cell]:
    return {f"{_words(name)}_accuracy": cell for name, cell in scores["task_type"].items()}


EASI_SETS: dict[str, EasiSet] = {
    "vsi": EasiSet(key="vsi_bench", sub_scores=_vsi),
    "mmsi": EasiSet(key="mmsi_bench", sub_scores=_mmsi),
    "mindcube": EasiSet(key="mindcube_tiny", sub_scores=_types),
    "viewspatial": EasiSet(key="viewspatial", sub_scores=_types),
    "site": EasiSet(key="site", sub_scores=_site),
    "blink_all": EasiSet(
        key="blink", reader=Compat.VLMEVAL_2026, overall="micro", sub_scores=_blink
    ),
    "3dsrbench": EasiSet(
        key="3dsrbench",
        reader=Compat.VLMEVAL_2026,
        overall="vanilla/overall",
        sub_scores=_threedsr,
    ),
    "embspatial": EasiSet(key="embspatial", sub_scores=_types),
    # beside the eight
    "vsi_debiased": EasiSet(key="vsi_debiased", sub_scores=_vsi),
    "mmsi_video": EasiSet(key="mmsi_video_bench", sub_scores=_tasks),
}
SUITES = {"easi_8": tuple(EASI_SETS)[:8]}


def suite_members(config: BenchmarkConfig) -> list[BenchmarkConfig]:
    """Return the settings of a suite's benchmarks, in the leaderboard's order.

    Files lie in roots.NAME, else in root/NAME, else on the hub; keys of sha256 are NAME/FILE.

    Raises:
        UserError: the suite is unknown, or roots or sha256 names another benchmark.
    """
    if config.suite not in SUITES:
        raise UserError(
            f"benchmark.suite={config.suite} is unknown: use one of {', '.join(SUITES)}."
        )
    names = SUITES[config.suite]
    others = sorted(config.roots.keys() - set(names))
    if others:
        raise UserError(
            f"benchmark.roots.{others[0]} is no set of {config.suite}: use {', '.join(names)}."
        )
    unknown = [file for file in config.sha256 if file.partition("/")[0] not in names]
    if unknown:
        raise UserError(
            f"benchmark.sha256 pins {unknown[0]}, which is no SET/FILE of {config.suite}: name the "
            f"set before it, one of {', '.join(names)}."
        )
    members = []
    for name in names:
        root = f"{config.root}/{name}" if config.root else None
        pins = {
            file.removeprefix(f"{name}/"): pin
            for file, pin in config.sha256.items()
            if file.startswith(f"{name}/")
        }
        members.append(
            replace(
                config,
                suite="",
                roots={},
                name=name,
                root=config.roots.get(name, root),
                sha256=pins,
            )
        )
    return members


# ---------------------------------------------------------------- figures


def graded_again(
    items: Sequence[Item], predictions: Sequence[Prediction], compat: Compat
) -> list[Prediction]:
    """Return the predictions as another reader reads their texts."""
    by_uid = {item.uid: item for item in items}
    answers = []
    for p in predictions:
        # Grading looks at the options only, so the images are not loaded.
        example = as_example(by_uid[p.uid], Style.LETTER, [])
        finish = FinishReason(p.finish) if p.finish else None
        answers.append(
            predict(example, example.questions[0], p.text, finish, p.tokens, compat=compat)
        )
    return answers


def easi_answers(
    name: str, items: Sequence[Item], predictions: Sequence[Prediction]
) -> list[Prediction]:
    """Return the answers to a set as EASI reads them; [] for a set that EASI does not score."""
    if name not in EASI_SETS:
        return []
    return graded_again(items, predictions, EASI_SETS[name].reader)


def easi_scores(
    name: str, items: Sequence[Item], predictions: Sequence[Prediction]
) -> dict[str, Any]:
    """Return a set's figures on EASI's leaderboard; {} for a set that EASI does not score.

    Args:
        name: of the benchmark.
        items: its questions, all of them in their published order of options.
        predictions: one per item, read by any reader.

    Returns:
        key, reader, overall and sub_scores in percent with four decimals, and own_reader, the
        overall figure with the predictions as they were read.
    """
    if name not in EASI_SETS:
        return {}
    entry, score = EASI_SETS[name], BENCHMARKS[name].score
    scores = score(easi_answers(name, items, predictions))
    return {
        "key": entry.key,
        "reader": entry.reader.value,
        "overall": _percent(_cell(scores, entry.overall)),
        "own_reader": _percent(_cell(score(predictions), entry.overall)),
        "sub_scores": {
            label: _percent(cell) for label, cell in sorted(entry.sub_scores(scores).items())
        },
    }


def _cell(scores: Scores, path: str) -> Cell:
    node: Any = scores
    for part in path.split("/"):
        node = node[part]
    assert isinstance(node, Cell)
    return node


def _percent(cell: Cell) -> float:
    return round(100 * float(cell.value), 4)


def easi_total(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the plain mean of the eight sets; None for the totals while a set is missing.

    Args:
        figures: benchmark's name -> its `easi_scores`, or {} where it has none.
    """
    sets = {name: figures.get(name) or {} for name in SUITES["easi_8"]}
    missing = [name for name, entry in sets.items() if not entry]
    totals: dict[str, float | None] = {"overall": None, "own_reader": None}
    if not missing:
        for column in totals:
            mean = sum(float(entry[column]) for entry in sets.values()) / len(sets)
            totals[column] = round(mean, 4)
    columns = {entry["key"]: entry["overall"] for entry in sets.values() if entry}
    return {**totals, "sets": columns, "missing": missing, "protocol": suite_protocol(sets)}


def suite_protocol(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one hash for the protocols of several sets; "" where one has none."""
    hashes = sorted(str(entry.get("protocol", "")) for entry in figures.values())
    return short_hash(" ".join(hashes))[:12] if all(hashes) else ""


def total_text(total: Mapping[str, Any]) -> str:
    """Return the total as a sentence for reports and the terminal."""
    if total["missing"]:
        return f"no total: {', '.join(total['missing'])} missing or asked in part"
    overall, own = total["overall"], total["own_reader"]
    text = f"{overall:.2f} % as EASI reads answers, {own:.2f} % as we do (mean of eight sets)"
    return f"{text}, protocol {total['protocol']}" if total["protocol"] else text
