"""Every benchmark from its published files to answers, scores and a page: asked of a server, and scored again from its own predictions."""

import json
import re
from dataclasses import replace

import pytest
from support.benchmark_files import WRITERS, write_mmsi
from support.fake_server import FakeServer
from support.predictions import prediction

from actial.config import (
    BenchmarkConfig,
    EvaluateConfig,
    ModelConfig,
    ScoreConfig,
    ServerConfig,
)
from actial.core.sealed_files import sealed_line
from actial.evaluate import evaluate
from actial.evaluation.benchmark_results import PAPER_COLUMNS, notes, open_benchmark
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.benchmarks.base import Source
from actial.grading.predictions import read_predictions
from actial.score import score


def settings(name, root, **options):
    return BenchmarkConfig(
        name=name, root=str(root), split="s" if name == "tsv" else "", **options
    )


def requested(name, root, out, content="<answer>B</answer>", controls=0, **options):
    with FakeServer(content=content) as fake:
        server = ServerConfig(url=fake.url, model="m", multiple=16)
        model = ModelConfig(path="unused", min_pixels=256, max_pixels=4096)
        evaluate(
            EvaluateConfig(
                out=str(out),
                model=model,
                benchmark=settings(name, root, controls=controls, **options),
                server=server,
            )
        )
    return fake.bodies


def test_half_a_surrogate_pair_in_a_reply_stops_no_evaluation(tmp_path):
    """JSON can escape it, UTF-8 cannot hold it: no file could be written, resumed or not."""
    write_mmsi(tmp_path / "files")
    out = tmp_path / "out"
    requested("mmsi", tmp_path / "files", out, content="\ud83d so <answer>D</answer>")
    (row,) = read_predictions(out / "predictions.jsonl")
    assert row.text == "\ufffd so <answer>D</answer>"
    broken = replace(row, text="\ud83d so <answer>D</answer>", choice="\ud83d")
    (out / "predictions.jsonl").write_bytes(sealed_line(broken.to_json()))
    (out / "scores.json").unlink()
    assert not requested("mmsi", tmp_path / "files", out)
    assert (out / "scores.json").is_file()


def test_complete_sets_carry_no_warning():
    bench = BENCHMARKS["mmsi"]
    source = Source(name="mmsi", hub="", split=bench.split)
    rows = [prediction(str(i), 1) for i in range(1000)]
    assert notes(bench, source, rows) == []
    assert notes(bench, source, rows[1:]) == [
        "999 questions were asked, 1000 are published: not comparable with published figures"
    ]
    turned = [
        prediction(f"{i}#{r}", 1, group={"base": str(i), "rotation": r, "rotations": 2})
        for i in range(1000)
        for r in range(2)
    ]
    assert notes(bench, source, turned) == []
    assert "guesses right half of the time" in BENCHMARKS["viewpoint_100k"].note


def test_every_benchmark_has_its_files_here():
    assert set(WRITERS) == set(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_asked_scored_and_scored_again(name, tmp_path):
    WRITERS[name](tmp_path / "files")
    _, _, items = open_benchmark(settings(name, tmp_path / "files"))
    bodies = requested(name, tmp_path / "files", tmp_path / "out")
    rows = read_predictions(tmp_path / "out/predictions.jsonl")
    assert sorted(p.uid for p in rows) == sorted(item.uid for item in items)
    photos = sorted(
        sum(part["type"] == "image_url" for part in body["messages"][-1]["content"])
        for body in bodies
    )
    assert photos == sorted(len(item.images) for item in items)
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["n"] == len(items)
    few = BENCHMARKS[name].questions > 0
    assert any("not comparable" in note for note in scores["notes"]) == few
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in scores["sha256"].values())
    page = (tmp_path / "out/report.html").read_text()
    # The server is asked with small images: no published row stands beside its figures.
    assert ("no published figures beside images of at most" in page) == (name in PAPER_COLUMNS)
    assert '<th scope="row">Actial-7B' not in page
    again = ScoreConfig(
        out=str(tmp_path / "again"), benchmark=settings(name, tmp_path / "files")
    )
    again.predictions = str(tmp_path / "out/predictions.jsonl")
    score(again)
    assert (
        json.loads((tmp_path / "again/scores.json").read_text())["scores"] == scores["scores"]
    )
