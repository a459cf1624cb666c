"""SAT (Ray et al., arXiv 2412.07755): one or two pictures and option texts; scored by letters under every order of the options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from actial import scoring
from actial.benchmarks.base import Benchmark, Item, Scores, Source, Style, clean_options, require, rotated
from actial.benchmarks.tables import parquet_rows, picture_bytes
from actial.scoring import Prediction

# names differ between the splits
TYPES = {
    "other": "static",
    "static": "static",
    "ego_movement": "ego_motion",
    "action_sequence": "ego_motion",
    "obj_movement": "obj_motion",
    "action_conseq": "action_conseq",
    "action_consequence": "action_conseq",
    "goal_aim": "goal_aim",
    "perspective": "perspective",
}
FIRST_FRAME = re.compile(r"\s*in the first frame\.?$", re.IGNORECASE)  # slipped into some options, not into their answers


def load(source: Source) -> list[Item]:
    """Both orders of every two-option question, all rotations of longer ones; rows whose answer is not exactly one option are dropped."""
    columns = ("question", "answers", "question_type", "correct_answer")
    names = (f"SAT_{source.split}.parquet", f"data/{source.split}-00000-of-00001.parquet")
    path = source.file(*names, columns=(*columns, "image_bytes"))
    items = []
    for number, row in enumerate(parquet_rows(path, columns)):
        pictures = row.get("image_bytes", row.get("images"))
        require(str(path), {*row, *(["image_bytes"] if pictures is not None else [])}, (*columns, "image_bytes"))
        options, answer = sat_options(row["answers"], row["correct_answer"])
        if answer is None:
            source.dropped["answer is not exactly one option"] += 1
            continue
        items.append(
            Item(
                uid=f"{source.name}/{source.split}/{number}",
                images=[picture_bytes(cell) for cell in (pictures if isinstance(pictures, list) else [pictures])],
                question=row["question"].strip(),
                options=options,
                answer_index=answer,
                type=TYPES.get(row["question_type"], row["question_type"]),
                source_index=number,
            )
        )
    return rotated(items)


def sat_options(answers: Sequence[Any], correct: str) -> tuple[tuple[str, ...], int | None]:
    """Cleaned option texts and the index of the right one; None when not exactly one option equals the answer."""
    options = clean_options(FIRST_FRAME.sub("", str(text)).strip() for text in answers)
    want = FIRST_FRAME.sub("", str(correct)).strip().casefold()
    hits = [i for i, option in enumerate(options) if option.casefold() == want]
    return options, hits[0] if len(hits) == 1 and len(options) > 1 else None


def score(predictions: Sequence[Prediction]) -> Scores:
    """circular: right in every order (the SAT paper's figure). mean: over orders. Both overall and by type."""
    by_type = scoring.split_by(predictions, "type")
    return {
        "circular": scoring.circular(predictions),
        "mean": scoring.accuracy(predictions),
        "circular_by_type": {name: scoring.circular(rows) for name, rows in by_type.items()},
        "mean_by_type": {name: scoring.accuracy(rows) for name, rows in by_type.items()},
    }


BENCHMARK = Benchmark(
    name="sat",
    hub="array/SAT",
    load=load,
    score=score,
    style=Style.THINK,
    licence="MIT",
    paper="https://arxiv.org/abs/2412.07755",
)
