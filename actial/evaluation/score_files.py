"""Read the scores of items from predictions of ours and samples of lmms-eval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actial.core.errors import UserError
from actial.core.json_lines import parse_json
from actial.evaluation.protocol import Protocol, read_protocol
from actial.grading.predictions import read_predictions


@dataclass(slots=True, frozen=True)
class ItemScore:
    """One item's score under one model and seed."""

    uid: str
    score: float
    task: str  # the category that figures are split by; "" without one
    cluster: str  # items of one scene or source image share it


@dataclass(slots=True, frozen=True)
class ScoredModel:
    """A model's scores: one mapping from uid to score per seed."""

    name: str
    seeds: tuple[dict[str, ItemScore], ...]
    protocols: tuple[Protocol | None, ...] = ()  # of each seed; None where it is not known


def read_model(word: str, task: str, cluster: str) -> ScoredModel:
    """Read the files that a command-line word names.

    Args:
        word: a file, a folder with predictions.jsonl, or several of them joined by commas, the
            seeds of one condition; their own names may hold commas.
        task: category by which figures are split, or "type".
        cluster: "example", "item", or the category that items of one scene share.

    Raises:
        UserError: a file is missing or has another form.
    """
    paths = _predictions_paths(word)
    names = [
        path.parent.name if path.name == "predictions.jsonl" else path.stem for path in paths
    ]
    seeds = tuple(_read_file(path, task, cluster) for path in paths)
    protocols = tuple(read_protocol(path.parent) for path in paths)
    return ScoredModel(name=",".join(names), seeds=seeds, protocols=protocols)


def named_protocols(models: Sequence[ScoredModel]) -> list[tuple[str, Protocol | None]]:
    """Return the protocols of models by name; a seed stands for itself where it has another."""
    named: list[tuple[str, Protocol | None]] = []
    for model in models:
        first, *others = model.protocols or (None,)
        named.append((model.name, first))
        named += [
            (f"{model.name}, seed {number}", protocol)
            for number, protocol in enumerate(others, 2)
            if protocol != first
        ]
    return named


def _predictions_paths(word: str) -> list[Path]:
    """Return the files of a word; raises UserError for a part that names none."""
    files, name = [], ""
    for part in word.split(","):
        name = f"{name},{part}" if name else part
        path = Path(name)
        file = path / "predictions.jsonl" if path.is_dir() else path
        if name and file.is_file():
            files.append(file)
            name = ""
    if name or not files:
        raise UserError(
            f"{name or repr(word)} is no file of predictions: give predictions.jsonl, its folder, "
            "or lmms-eval's *_samples_*.jsonl."
        )
    return files


def _read_file(path: Path, task: str, cluster: str) -> dict[str, ItemScore]:
    with path.open("rb") as file:
        is_lmms = b'"doc_id"' in file.readline()
    scores = _lmms_scores(path) if is_lmms else _own_scores(path, task, cluster)
    by_uid = {score.uid: score for score in scores}
    if len(by_uid) != len(scores):
        raise UserError(f"{path} scores an item twice: merge the runs' files into one.")
    return by_uid


def _own_scores(path: Path, task: str, cluster: str) -> list[ItemScore]:
    scores = []
    for p in read_predictions(path):
        categories = p.categories | {
            "type": p.type,
            "item": p.uid,
            "example": p.example or p.uid,
        }
        if cluster not in categories:
            raise UserError(
                f"cluster={cluster}: {path} has no such category; "
                f"use one of {', '.join(categories)}."
            )
        name = categories.get(task, "")
        scores.append(ItemScore(p.uid, p.score, name, categories[cluster]))
    return scores


def _lmms_scores(path: Path) -> list[ItemScore]:
    """Read lmms-eval's samples; the score is taken as its own paired test takes it."""
    scores = []
    # Texts may hold the line separators of Unicode, at which str.splitlines() would cut.
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            sample = parse_json(line)
            uid = str(sample["doc_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} line {number} is no sample of lmms-eval ({error}): copy the file again."
            ) from None
        score = _lmms_score(sample)
        if score is None or not math.isfinite(score):
            raise UserError(
                f"{path} line {number} has no score: run lmms-eval with --log_samples."
            )
        scores.append(ItemScore(uid, score, "", uid))
    return scores


def _lmms_score(sample: Mapping[str, Any]) -> float | None:
    for key, value in sample.items():
        if "score" not in key.lower():
            continue
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, dict):
            predicted = value.get("pred_answer") or value.get("pred")
            answer = value.get("answer") or value.get("target")
            if predicted and answer:
                return float(_same(predicted, answer))
    target, reply = sample.get("target"), sample.get("filtered_resps")
    while isinstance(reply, Sequence) and not isinstance(reply, str) and reply:
        reply = reply[0]
    return float(_same(reply, target)) if target and reply else None


def _same(one: object, other: object) -> bool:
    return str(one).strip().upper() == str(other).strip().upper()
