"""MMSI-Video-Bench (arXiv 2512.10863): several clips a question, frames given by the table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from actial.core.multiple_choice_format import LETTERS, answer_position, inline_options
from actial.evaluation.benchmarks.base import Benchmark, Item, Scores, Source, Style
from actial.evaluation.benchmarks.easi_tables import EASI_HUB
from actial.evaluation.benchmarks.tables import listed, tsv_rows
from actial.grading import metrics
from actial.grading.metrics import Prediction

FRAMES = 50  # of all clips of a question together
PROMPTS = ("system_prompt", "task_prompt", "user_prompt", "format_prompt")
PLACEHOLDER = re.compile("<video>|<image>")


def load(source: Source) -> list[Item]:
    """Read MMSIVideoBench.tsv with the frames and reference images unpacked beside it."""
    columns = ("index", *PROMPTS, "image_path", "ref_images", "answer", "task_type")
    path = source.file("MMSIVideoBench.tsv", columns=columns)
    items = []
    for row in tsv_rows(path, (*columns, "sub_task_type")):
        clips = listed(row["image_path"], path)
        clips = clips if not clips or isinstance(clips[0], list) else [clips]
        sampled = sample_frames([len(clip) for clip in clips], FRAMES)
        names = []
        for clip, positions in zip(clips, sampled, strict=True):
            names += [clip[position] for position in positions]
        references = listed(row["ref_images"], path)
        stem, options = inline_options(row["user_prompt"])
        options = options or tuple(LETTERS[:6])  # the letters alone, where they cannot be read
        items.append(
            Item(
                uid=f"{source.name}/{row['index']}",
                images=[source.picture(name) for name in (*names, *references)],
                question=stem,
                options=options,
                answer_index=answer_position(row["answer"], options, f"{path} {row['index']}"),
                type=row["task_type"],
                categories={
                    "task_type": row["task_type"],
                    "sub_task_type": row["sub_task_type"],
                },
                raw_prompt=_prompt(row, [len(positions) for positions in sampled]),
                source_index=row["index"],
            )
        )
    return items


def sample_frames(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Return positions in each clip: `count` evenly spaced ones over all clips laid end to end."""
    total = sum(lengths)
    drawn = np.unique(np.linspace(0, total - 1, min(count, total), dtype=int))
    starts = np.cumsum([0, *lengths])
    inside = [
        drawn[(drawn >= start) & (drawn < end)] - start for start, end in pairwise(starts)
    ]
    return [positions.tolist() for positions in inside]


def _prompt(row: dict[str, str], frames: Sequence[int]) -> str:
    """Join the row's prompts; placeholders become the numbers of the images that come before."""
    text = f"{row['system_prompt']}\n{''.join(row[name] for name in PROMPTS[1:])}"
    counts, last = iter(frames), 0

    def numbers(placeholder: re.Match[str]) -> str:
        nonlocal last
        count = next(counts) if placeholder[0] == "<video>" else 1
        first, last = last + 1, last + count
        if count == 1:
            return f"[image {first}]"
        return f"[images {first} to {last}]" if count else "[no image]"

    return PLACEHOLDER.sub(numbers, text)


def score(predictions: Sequence[Prediction]) -> Scores:
    """Score the sample mean, the five kinds of tasks and their parts."""
    return {
        "overall": metrics.accuracy(predictions),
        "task_type": metrics.accuracy_by(predictions, "task_type"),
        "sub_task_type": metrics.accuracy_by(predictions, "sub_task_type"),
    }


BENCHMARK = Benchmark(
    name="mmsi_video",
    questions=1106,
    hub=EASI_HUB,
    load=load,
    score=score,
    style=Style.DATASET,
    paper="https://arxiv.org/abs/2512.10863",
    note="50 frames a question; frames and reference images come before the text, by number",
)
