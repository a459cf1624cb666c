"""Write the two files that EASI's leaderboard takes: easi_results.json and easi_results.zip.

The fields are those of the payload that EASI's own submission script sends (EASI 0.2.2).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actial import __version__
from actial.config import SubmissionConfig
from actial.core.atomic_io import atomic, write_json, write_text
from actial.core.errors import UserError
from actial.core.line_counts import RESCORE
from actial.core.sealed_files import read_sealed_json, write_sealed_json
from actial.evaluation.easi import easi_total, suite_protocol, total_text
from actial.grading.metrics import Prediction

# of an evaluation: every answer as EASI reads it
ANSWERS = "easi.jsonl"
# MB that the leaderboard's interface takes; larger files go by its page
UPLOAD_LIMIT = 4.5


def write_easi_answers(folder: Path, answers: Sequence[Prediction]) -> None:
    """Write what EASI reads from every answer: uid, extracted, answer and hit, a line each."""
    rows = [
        {"uid": p.uid, "extracted": p.letter or p.choice, "answer": p.answer, "hit": p.score}
        for p in answers
    ]
    write_text(folder / ANSWERS, "".join(json.dumps(row) + "\n" for row in rows))


def write_suite(
    out: Path, scores: Mapping[str, Mapping[str, Any]], config: SubmissionConfig
) -> dict[str, Any]:
    """Write scores.json of every set below `out`, and the submission where one is asked for.

    Returns:
        The total over the sets, which is also printed.
    """
    for name, entry in scores.items():
        write_sealed_json(out / name / "scores.json", entry)
    total = easi_total({name: entry["easi"] for name, entry in scores.items()})
    print(f"EASI-8: {total_text(total)}")
    if config.model_name:
        print(write_submission(out, out, config))
    return total


def payload(figures: Sequence[Mapping[str, Any]], config: SubmissionConfig) -> dict[str, Any]:
    """Return the content of easi_results.json.

    Args:
        figures: `easi_scores` of the sets.
        config: who submits what.
    """
    return {
        "modelName": config.model_name,
        "modelType": config.model_type.value,
        "precision": config.precision,
        "revision": config.revision,
        "weightType": config.weight_type,
        "baseModel": config.base_model,
        "backend": "actial",
        "remarks": config.remarks or _protocol_remark(figures),
        "scores": {entry["key"]: entry["overall"] for entry in figures},
        "subScores": {
            entry["key"]: dict(entry["sub_scores"]) for entry in figures if entry["sub_scores"]
        },
    }


def _protocol_remark(figures: Sequence[Mapping[str, Any]]) -> str:
    protocol = suite_protocol({entry["key"]: entry for entry in figures})
    return f"actial {__version__}" + f", protocol {protocol}" * bool(protocol)


def write_submission(scores: Path, out: Path, config: SubmissionConfig) -> str:
    """Write easi_results.json and easi_results.zip from the evaluations scores/SET.

    Returns:
        What was written, and what the leaderboard will object to.

    Raises:
        UserError: no evaluation below `scores` has figures of EASI, or two have those of one set.
    """
    figures: list[dict[str, Any]] = []
    folders: list[Path] = []
    for path in sorted(scores.glob("*/scores.json")):
        entry = read_sealed_json(path, RESCORE).get("easi")
        if not entry:
            continue
        twins = [
            f
            for f, other in zip(folders, figures, strict=True)
            if other["key"] == entry["key"]
        ]
        if twins:
            raise UserError(
                f"{twins[0]} and {path.parent} are both evaluations of {entry['key']}: give a "
                "folder with one model's evaluations, each set once."
            )
        figures.append(entry)
        folders.append(path.parent)
    if not figures:
        raise UserError(
            f"{scores} holds no SET/scores.json with figures of EASI: "
            f"run `python -m actial.evaluate benchmark=easi_8 out={scores}` to its end, "
            "without benchmark.limit."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "easi_results.json", payload(figures, config))
    archive = out / "easi_results.zip"
    _write_archive(archive, config.model_name.rpartition("/")[2], folders)
    size = archive.stat().st_size / 2**20
    large = f" ({size:.1f} MB: upload it on the leaderboard's page)" * (size > UPLOAD_LIMIT)
    return f"{len(figures)} sets in {out / 'easi_results.json'}, answers in {archive}{large}"


def _write_archive(path: Path, model: str, folders: Sequence[Path]) -> None:
    """Pack scores.json and the answers of every folder, the same bytes for the same files."""
    with atomic(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in folders:
            for name in ("scores.json", ANSWERS):
                if (folder / name).is_file():
                    entry = zipfile.ZipInfo(f"{model}/{folder.name}_{name}")
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, (folder / name).read_bytes())
