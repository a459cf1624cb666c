"""The results of one benchmark set as a report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from actial.core.atomic_io import atomic
from actial.core.records import Example
from actial.core.seeding import hash_int
from actial.grading import metrics
from actial.grading.metrics import Prediction
from actial.grading.predictions import truth

SHOWN_CHARACTERS = 4000  # of one answer's text


def set_results(predictions: Sequence[Prediction], *, joint_size: int = 3) -> dict[str, Any]:
    """One model on one set: overall, by type, by angle, joint over a pair's questions, unread and cut shares, form, length; JSON values."""
    overall = metrics.accuracy(predictions)
    result: dict[str, Any] = {
        "overall": overall.to_json(),
        "by_type": {
            name: cell.to_json() for name, cell in metrics.accuracy_by(predictions, "type").items()
        },
        "unparsed": overall.unparsed,
        "truncated": overall.truncated,
        "format": sum(p.format_ok for p in predictions) / max(1, len(predictions)),
    }
    if angled := [p for p in predictions if "angle" in p.categories]:
        result["by_angle"] = {
            name: cell.to_json() for name, cell in metrics.accuracy_by(angled, "angle").items()
        }
    pairs = metrics.joint(predictions, joint_size)
    if pairs.n:
        result["joint"] = pairs.to_json()
    if lengths := [p.tokens for p in predictions if p.tokens is not None]:
        result["tokens"] = sum(lengths) / len(lengths)
    return result


def sample_answers(
    run_dir: Path | str,
    set_name: str,
    examples: Sequence[Example],
    predictions: Mapping[str, Sequence[Prediction]],
    count: int = 6,
) -> list[dict[str, Any]]:
    """The first questions of `count` examples drawn by hash, with every model's answer; their images are written to run_dir/samples."""
    folder = Path(run_dir) / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    by_uid = {model: {p.uid: p for p in rows} for model, rows in predictions.items()}
    drawn = sorted(range(len(examples)), key=lambda i: hash_int("sample", set_name, i))[:count]
    cards = []
    for index in drawn:
        example = examples[index]
        question = example.questions[hash_int("sample", example.uid) % len(example.questions)]
        paths = []
        for i, image in enumerate(example.images):
            path = folder / f"{set_name}-{index:06d}-{i}.png".replace("/", "_")
            with atomic(path) as file:
                Image.fromarray(image).save(file, format="png")
            paths.append(str(path.relative_to(run_dir)))
        found = {
            model: rows[question.uid] for model, rows in by_uid.items() if question.uid in rows
        }
        answers = {
            m: {
                "text": p.text[:SHOWN_CHARACTERS],
                "choice": p.choice,
                "outcome": p.outcome,
                "hit": p.hit == 1,
            }
            for m, p in found.items()
        }
        right = truth(example.row, question) + (
            f": {question.options[question.answer_index]}" if question.options else ""
        )
        cards.append(
            {
                "uid": question.uid,
                "images": paths,
                "question": question.text,
                "answer": right,
                "answers": answers,
            }
        )
    return cards
