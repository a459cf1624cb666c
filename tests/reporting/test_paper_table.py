"""Tables of the paper from evaluation folders: cells are the scores, differences are marked."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from support.benchmark_files import WRITERS
from support.fake_server import FakeServer

from actial.collect import collect
from actial.config import (
    BenchmarkConfig,
    CollectConfig,
    EvaluateConfig,
    ModelConfig,
    PromptConfig,
    ServerConfig,
)
from actial.core.errors import UserError
from actial.evaluate import evaluate
from actial.evaluation.benchmark_results import PAPER_COLUMNS

SETS = ("cv_bench", "blink", "3dsrbench", "mmsi")


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models asked each set: one under the paper's image limits, one under smaller ones."""
    root = tmp_path_factory.mktemp("walk")
    for name in SETS:
        WRITERS[name](root / "files" / name)
        for model, pixels in (("base", 518_400), ("grpo", 4096)):
            with FakeServer(content="B") as server:
                evaluate(
                    EvaluateConfig(
                        out=str(root / "scores" / model / name),
                        model=ModelConfig(path="x", min_pixels=256, max_pixels=pixels),
                        prompt=PromptConfig(system_prompt="none"),
                        benchmark=BenchmarkConfig(name=name, root=str(root / "files" / name)),
                        server=ServerConfig(url=server.url, model="m", multiple=16),
                    )
                )
    return root / "scores"


def test_cells_are_the_scores_of_the_sets(scores: Path, tmp_path: Path) -> None:
    collect(CollectConfig(runs=str(scores), out=str(tmp_path), paper_table=True))
    with (tmp_path / "table.csv").open() as file:
        cells = {(c["model"], c["benchmark"], c["column"]): c for c in csv.DictReader(file)}
    assert {(model, name) for model, name, _ in cells} == {
        (model, name) for model in ("base", "grpo") for name in SETS
    }
    blink = json.loads((scores / "base" / "blink" / "scores.json").read_text())["scores"]
    cell = cells["base", "blink", "BLINK avg"]
    assert float(cell["ours"]) == blink["macro3"]["trunc1"]
    assert float(cell["paper"]) == 73.4
    assert len(cells) == 2 * sum(len(PAPER_COLUMNS[name]) for name in SETS)


def test_other_conditions_and_differing_intervals_are_marked(
    scores: Path, tmp_path: Path
) -> None:
    collect(CollectConfig(runs=str(scores), out=str(tmp_path), paper_table=True))
    text = (tmp_path / "table.md").read_text()
    assert "grpo on blink:" in text
    assert "images of at most 4096 pixels (518400)" in text
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Few questions were asked of either model; one saw smaller images, without the prompt.
    assert {(row["model"], row["conditions"]) for row in rows} == {
        ("base", "questions"),
        ("grpo", "image size; prompt; questions"),
    }
    assert "~image size, prompt, questions" in text
    for row in rows:
        if row["paper"] and row["low"]:
            inside = float(row["low"]) <= float(row["paper"]) <= float(row["high"])
            assert (row["differs"] == "True") == (not inside)


def test_folder_without_evaluations_names_the_layout(tmp_path: Path) -> None:
    config = CollectConfig(runs=str(tmp_path), out=str(tmp_path / "out"), paper_table=True)
    with pytest.raises(UserError, match="MODEL/BENCHMARK"):
        collect(config)


def test_two_evaluations_for_one_cell_are_refused(scores: Path, tmp_path: Path) -> None:
    for folder in ("mmsi", "benchmark=mmsi,seed=1"):
        shutil.copytree(scores / "base" / "mmsi", tmp_path / "base" / folder)
    config = CollectConfig(runs=str(tmp_path), out=str(tmp_path / "out"), paper_table=True)
    with pytest.raises(UserError, match="are both evaluations of base on mmsi"):
        collect(config)
