"""3DSRBench (Ma et al., arXiv 2412.07825): twins and rotations by suffixes of qid."""

from __future__ import annotations

import re
from collections.abc import Sequence

from actial.core.errors import UserError
from actial.evaluation.benchmarks.base import Benchmark, Item, Scores, Source
from actial.evaluation.benchmarks.tables import MCQ_COLUMNS, mcq_items
from actial.grading import published_formulas
from actial.grading.metrics import Prediction

QID = re.compile(r"(?P<base>[^-]{8})(?P<flip>-flip)?(?:-(?P<rotation>[1-3]))?")


def load(source: Source) -> list[Item]:
    """Raises UserError on a qid outside the published scheme: X, X-1..X-3, X-flip, X-flip-1.."""
    name = "3dsrbench_v1_vlmevalkit_circular.tsv"
    columns = (*MCQ_COLUMNS, "category", "qid", "image")
    path = source.file(name, "3dsrbench_v1_vlmevalkit.tsv", "3DSRBench.tsv", columns=columns)
    items = mcq_items(source, path, categories=("category", "qid"))
    rotated = any(
        QID.fullmatch(item.categories["qid"]) and item.categories["qid"][-2] == "-"
        for item in items
    )
    for item in items:
        match = QID.fullmatch(item.categories["qid"])
        if match is None:
            raise UserError(
                f"{path}: qid {item.categories['qid']} is not of the form "
                "XXXXXXXX[-flip][-1..3]: fetch the published file."
            )
        item.uid = f"{source.name}/{item.categories.pop('qid')}"
        item.circular = {
            "base": match["base"],
            "rotation": int(match["rotation"] or 0),
            "rotations": len(item.options) if rotated else 1,
            "flip": bool(match["flip"]),
            "options": len(item.options),
        }
    return items


def score(predictions: Sequence[Prediction]) -> Scores:
    return dict(published_formulas.threedsr(predictions))


BENCHMARK = Benchmark(
    name="3dsrbench",
    questions=5157,  # mirrored items counted apart
    hub="ccvl/3DSRBench",
    load=load,
    score=score,
    license="CC-BY-4.0",
    paper="https://arxiv.org/abs/2412.07825",
    reference="table1",
)
