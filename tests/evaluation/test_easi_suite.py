"""EASI-8 as one command: eight sets, one total, the files that the leaderboard takes."""

import json
import zipfile
from dataclasses import replace

import pytest
from support.benchmark_files import WRITERS, write_site
from support.fake_server import FakeServer
from support.predictions import prediction

from actial.collect import collect
from actial.config import (
    BenchmarkConfig,
    CollectConfig,
    EvaluateConfig,
    ModelConfig,
    ModelType,
    ScoreConfig,
    ServerConfig,
    SubmissionConfig,
)
from actial.config.validation import validate
from actial.core.errors import UserError
from actial.core.sealed_files import read_sealed_json
from actial.evaluate import evaluate
from actial.evaluation.benchmark_results import open_benchmark
from actial.evaluation.easi import EASI_SETS, SUITES, easi_scores, easi_total, suite_members
from actial.evaluation.easi_submission import payload
from actial.score import score

EIGHT = SUITES["easi_8"]
KEYS = ("vsi_bench", "mmsi_bench", "mindcube_tiny", "viewspatial", "site", "blink")
KEYS += ("3dsrbench", "embspatial")
FIELDS = ("modelName", "modelType", "precision", "revision", "weightType", "baseModel")
FIELDS += ("backend", "remarks", "scores", "subScores")


def evaluated(root, out, content, submission=None, **options):
    with FakeServer(content=content) as fake:
        evaluate(
            EvaluateConfig(
                out=str(out),
                model=ModelConfig(path="unused", min_pixels=256, max_pixels=4096),
                benchmark=BenchmarkConfig(suite="easi_8", root=str(root), **options),
                server=ServerConfig(url=fake.url, model="m", multiple=16),
                submission=submission or SubmissionConfig(),
            )
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("easi")
    for name in EIGHT:
        WRITERS[name](root / name)
    return root


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """An answer that EASI reads as B and we do not: it starts with that letter."""
    out = tmp_path_factory.mktemp("run")
    who = SubmissionConfig(model_name="lab/model-3b", model_type=ModelType.rl)
    evaluated(files, out, "<answer>Beyond me: A or C</answer>", who)
    return out


def test_one_command_answers_all_eight_sets(run):
    scores = read_sealed_json(run / "scores.json", "")
    assert set(scores) == {*EIGHT, "easi_8"}
    figures = {name: scores[name]["easi"] for name in EIGHT}
    assert [figures[name]["key"] for name in EIGHT] == list(KEYS)
    total = scores["easi_8"]
    assert total["sets"] == {entry["key"]: entry["overall"] for entry in figures.values()}
    assert total["overall"] == round(sum(total["sets"].values()) / 8, 4)
    assert total["missing"] == []
    for name in EIGHT:
        assert read_sealed_json(run / name / "scores.json", "") == scores[name]
    assert (
        f"{total['overall']:.2f} % as EASI reads answers" in (run / "report.html").read_text()
    )


def test_the_two_readers_stand_side_by_side(run):
    """Both letters of site's image questions are B; 3DSRBench is read by VLMEvalKit's rule."""
    scores = json.loads((run / "scores.json").read_text())
    assert scores["viewspatial"]["easi"]["overall"] == 100.0
    assert scores["viewspatial"]["easi"]["own_reader"] == 0.0
    assert scores["viewspatial"]["scores"]["overall"]["value"] == 0.0
    assert scores["3dsrbench"]["easi"]["reader"] == "vlmeval_2026"
    rows = [json.loads(line) for line in (run / "viewspatial/easi.jsonl").open()]
    assert rows == [{"uid": "viewspatial/0", "extracted": "B", "answer": "B", "hit": 1.0}]


def test_the_submission_has_the_leaderboards_fields(run):
    sent = json.loads((run / "easi_results.json").read_text())
    assert set(sent) == set(FIELDS)
    assert (sent["modelName"], sent["modelType"]) == ("lab/model-3b", "rl")
    assert set(sent["scores"]) == set(KEYS)
    assert sent["scores"]["viewspatial"] == 100.0
    names = {key for sub in sent["subScores"].values() for key in sub}
    assert {
        "object_counting",
        "pos_cam_cam_accuracy",
        "around_accuracy",
        "camera_perspective_relative_direction_accuracy",
        "counting_and_existence_caa",
        "3d_information_understanding_caa",
        "multi_view_reasoning",
        "iq_test",
        "height_higher",
        "circ_eval_overall",
        "circ_eval_multi_object_facing",
        "mp3d_accuracy",
    } <= names
    assert not {"height", "location", "object_rel_direction_easy_accuracy"} & names
    with zipfile.ZipFile(run / "easi_results.zip") as archive:
        expected = {
            f"model-3b/{name}_{end}" for name in EIGHT for end in ("scores.json", "easi.jsonl")
        }
        assert set(archive.namelist()) == expected


def test_collect_writes_the_same_submission(run, tmp_path):
    who = SubmissionConfig(model_name="lab/model-3b", model_type=ModelType.rl)
    collect(CollectConfig(runs=str(run), out=str(tmp_path / "sent"), submission=who))
    for name in ("easi_results.json", "easi_results.zip"):
        assert (tmp_path / "sent" / name).read_bytes() == (run / name).read_bytes()
    with pytest.raises(UserError, match=r"no SET/scores\.json with figures of EASI"):
        collect(CollectConfig(runs=str(tmp_path), out=str(tmp_path / "x"), submission=who))


def test_answers_of_a_harness_get_the_same_figures(run, files, tmp_path):
    again = ScoreConfig(
        out=str(tmp_path),
        benchmark=BenchmarkConfig(name="site", root=str(files / "site")),
        predictions=str(run / "site/predictions.jsonl"),
    )
    score(again)
    scored = json.loads((tmp_path / "scores.json").read_text())
    assert scored["easi"] == json.loads((run / "site/scores.json").read_text())["easi"]


def test_a_set_asked_in_part_leaves_no_total(files, tmp_path):
    evaluated(files, tmp_path, "B", limit=1)
    total = json.loads((tmp_path / "scores.json").read_text())["easi_8"]
    assert (total["overall"], total["missing"]) == (None, list(EIGHT))
    assert "no total: vsi, mmsi" in (tmp_path / "report.html").read_text()


def test_the_total_is_the_plain_mean():
    figures = {
        name: {"key": name, "overall": float(i), "own_reader": 1.0}
        for i, name in enumerate(EIGHT)
    }
    assert easi_total(figures)["overall"] == 3.5
    figures["site"] = {}
    assert easi_total(figures)["missing"] == ["site"]
    assert easi_total(figures)["overall"] is None


def test_chance_adjusted_figure_of_site(tmp_path):
    """The image questions are answered B and right, the video question is answered A."""
    write_site(tmp_path)
    config = BenchmarkConfig(name="site", root=str(tmp_path))
    _, _, items = open_benchmark(config)
    rows = [
        replace(
            prediction(item.uid, 0, categories=item.categories),
            text="B" if "image" in item.uid else "A",
        )
        for item in items
    ]
    figures = easi_scores("site", items, rows)
    guessed = 1 / 3 + 1 / 2 + 1 / 4
    assert figures["overall"] == round(100 * (2 - guessed) / (3 - guessed), 4)


def test_where_the_files_of_a_suite_lie(tmp_path):
    config = BenchmarkConfig(
        suite="easi_8",
        root="all",
        roots={"mmsi": "elsewhere"},
        sha256={"mmsi/MMSI_Bench.parquet": "0" * 64},
    )
    members = {member.name: member for member in suite_members(config)}
    assert tuple(members) == EIGHT
    assert (members["vsi"].root, members["mmsi"].root) == ("all/vsi", "elsewhere")
    assert members["mmsi"].sha256 == {"MMSI_Bench.parquet": "0" * 64}
    assert members["vsi"].sha256 == {}
    with pytest.raises(
        UserError, match=r"benchmark\.suite=easi_9 is unknown: use one of easi_8"
    ):
        suite_members(BenchmarkConfig(suite="easi_9"))
    with pytest.raises(UserError, match=r"benchmark\.roots\.sat is no set of easi_8"):
        suite_members(BenchmarkConfig(suite="easi_8", roots={"sat": "x"}))


@pytest.mark.parametrize(
    ("submission", "benchmark", "message"),
    [
        ({"model_name": "model"}, {"suite": "easi_8"}, "give it as org/model"),
        ({"precision": "fp8"}, {"suite": "easi_8"}, "use one of bfloat16"),
        ({}, {"suite": "easi_8", "name": "mmsi"}, "a published benchmark, a suite, or sets"),
        ({"model_name": "lab/m"}, {"name": "mmsi"}, "use benchmark=easi_8"),
    ],
)
def test_settings_that_cannot_be_meant(submission, benchmark, message):
    config = EvaluateConfig(
        out="o",
        submission=SubmissionConfig(**submission),
        benchmark=BenchmarkConfig(**benchmark),
    )
    with pytest.raises(UserError, match=message):
        validate(config)


def test_a_suite_is_scored_set_by_set():
    config = ScoreConfig(out="o", predictions="p", benchmark=BenchmarkConfig(suite="easi_8"))
    with pytest.raises(UserError, match="score its sets one by one"):
        validate(config)


def test_the_leaderboards_names_are_complete():
    assert {entry.key for entry in EASI_SETS.values()} == {
        *KEYS,
        "vsi_debiased",
        "mmsi_video_bench",
    }
    empty = payload([], SubmissionConfig(model_name="a/b"))
    assert (empty["scores"], empty["subScores"], empty["backend"]) == ({}, {}, "actial")
