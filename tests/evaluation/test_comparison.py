"""Comparisons of models on the same items: exact tests, coverage, files of others."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel
from support.predictions import prediction

import actial.compare.__main__
from actial.core.errors import UserError
from actial.evaluation.comparison import compare_models, mcnemar, paired_t_test, sign_flip_test
from actial.evaluation.score_files import ItemScore, ScoredModel, read_model


def model(name, *seeds, clusters=None, tasks=None):
    def scores(values):
        return {
            f"u{i:05d}": ItemScore(
                f"u{i:05d}",
                float(value),
                tasks[i] if tasks else "",
                str(clusters[i]) if clusters is not None else f"u{i}",
            )
            for i, value in enumerate(values)
        }

    return ScoredModel(name, tuple(scores(values) for values in seeds))


def write_predictions(folder, correct, kinds=("turn", "move")):
    folder.mkdir(parents=True)
    lines = [
        prediction(f"u{i}", score, kinds[i % 2], example=f"e{i // 2}").to_json()
        for i, score in enumerate(correct)
    ]
    (folder / "predictions.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )


def test_discordant_items_are_tested_exactly():
    a, b = [1, 1, 1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 1, 1]
    (difference,) = compare_models([model("a", a), model("b", b)])
    assert (difference.only_a, difference.only_b, difference.test) == (6, 1, "mcnemar")
    assert difference.p == pytest.approx(binomtest(6, 7, 0.5).pvalue) == mcnemar(6, 1)
    assert difference.verdict == "tie"
    assert mcnemar(0, 0) == 1


def test_a_clear_difference_has_a_winner_and_needs_few_items():
    generator = np.random.default_rng(0)
    a = generator.random(1000) < 0.8
    b = a & (generator.random(1000) < 0.8)
    (difference,) = compare_models([model("a", a), model("b", b)])
    assert difference.verdict == "a"
    assert difference.low < difference.value < difference.high
    assert difference.low > 0
    assert difference.items_needed["0.05"] < difference.items_needed["0.01"]


def test_holm_corrects_over_tasks_and_over_pairs():
    generator = np.random.default_rng(1)
    tasks = [f"t{i % 10}" for i in range(1000)]
    models = [model(name, generator.random(1000) < 0.5, tasks=tasks) for name in "abc"]
    differences = compare_models(models, resamples=200)
    assert len(differences) == 3 * 11
    by_task = sorted((d for d in differences if d.task), key=lambda d: d.p)
    assert by_task[0].p_holm == pytest.approx(min(1, 30 * by_task[0].p))
    assert all(d.p_holm >= d.p for d in differences)


def test_the_paired_t_test_is_that_over_items():
    generator = np.random.default_rng(2)
    a, b = generator.random(300), generator.random(300)
    (difference,) = compare_models([model("a", a), model("b", b)], resamples=200)
    expected = ttest_rel(a, b)
    assert difference.t_test["t"] == pytest.approx(expected.statistic)
    assert difference.t_test["p"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)  # of Student's t, as lmms-eval's
    limits = (difference.t_test["low"], difference.t_test["high"])
    assert limits == pytest.approx((interval.low, interval.high))


def test_the_paired_t_test_of_equal_differences_has_their_sign():
    worse = paired_t_test(np.zeros(5), np.ones(5))
    assert (worse["t"], worse["p"], worse["mean"]) == (-np.inf, 0, -1)
    assert paired_t_test(np.ones(5), np.ones(5))["p"] == 1


@pytest.mark.parametrize("clustered", [False, True])
def test_error_and_coverage_on_simulated_pairs(clustered):
    """Models without a difference: error at most 5 %, coverage 93 to 97 %, but for the runs' noise.

    ACTIAL_SIMULATED_PAIRS=2000 simulates more of them.
    """
    generator = np.random.default_rng(3)
    size, scenes, runs = 200, 50, int(os.environ.get("ACTIAL_SIMULATED_PAIRS", "300"))
    noise = 3 * (0.05 * 0.95 / runs) ** 0.5
    clusters = np.arange(size) % scenes if clustered else None
    errors = covered = 0
    for _ in range(runs):
        level = generator.normal(0, 0.15, (2, scenes)) if clustered else np.zeros((2, scenes))
        chances = np.clip(0.5 + level[:, np.arange(size) % scenes], 0, 1)
        scores = generator.random((2, size)) < chances
        pair = [
            model("a", scores[0], clusters=clusters),
            model("b", scores[1], clusters=clusters),
        ]
        (difference,) = compare_models(pair, resamples=400)
        errors += difference.p <= 0.05
        covered += difference.low <= 0 <= difference.high
    assert errors / runs <= 0.05 + noise
    assert 0.93 - noise <= covered / runs <= 0.97 + noise


def test_seeds_widen_the_interval():
    generator = np.random.default_rng(4)
    base = generator.random(500) < 0.5
    shifts = (0.0, 0.1, 0.2)
    seeds = [np.clip(base + (generator.random(500) < shift), 0, 1) for shift in shifts]
    (several,) = compare_models([model("a", *seeds), model("b", base)])
    (single,) = compare_models([model("a", seeds[1]), model("b", base)])
    assert several.high - several.low > 1.5 * (single.high - single.low)
    assert several.test == "sign flips"


def test_sign_flips_swap_whole_clusters():
    deltas = np.array([1.0, 1.0, 1.0, 1.0])
    together, apart = np.zeros(4, int), np.arange(4)
    assert (
        sign_flip_test(deltas, together, 1000) == 1.0
    )  # one cluster: both signs are as likely
    assert sign_flip_test(deltas, apart, 4000) == pytest.approx(2 / 16, abs=0.02)


def test_items_must_be_the_same(tmp_path):
    write_predictions(tmp_path / "a", [1, 0, 1, 1])
    write_predictions(tmp_path / "b", [1, 0, 1])
    models = [read_model(str(tmp_path / name), "type", "example") for name in "ab"]
    with pytest.raises(UserError, match=r"1 of 4 items are not in every file, the first u3"):
        compare_models(models)
    assert compare_models(models, common=True, resamples=100)[0].items == 3
    with pytest.raises(UserError, match="cluster=scene"):
        read_model(str(tmp_path / "a"), "type", "scene")
    with pytest.raises(UserError, match="is no file of predictions"):
        read_model(str(tmp_path / "c"), "type", "example")


def test_samples_of_lmms_eval_are_scored_as_it_scores_them(tmp_path):
    samples = [
        {"doc_id": 0, "target": "B", "filtered_resps": ["b "]},
        {"doc_id": 1, "target": "B", "filtered_resps": [["A"]]},
        {"doc_id": 2, "target": "B", "filtered_resps": ["A"], "mme_score": 1},
        {"doc_id": 3, "x_score": {"pred_answer": "C", "answer": "c"}},
    ]
    path = tmp_path / "m_samples_x.jsonl"
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    scores = read_model(str(path), "type", "example").seeds[0]
    assert [scores[str(i)].score for i in range(4)] == [1, 0, 1, 1]


def test_the_command_writes_table_json_and_figure(tmp_path, monkeypatch, capsys):
    write_predictions(tmp_path / "a", [1, 0, 1, 1] * 20)
    write_predictions(tmp_path / "b" / "[red]", [1, 0, 0, 1] * 20)
    words = [
        str(tmp_path / "a"),
        str(tmp_path / "b" / "[red]"),
        f"out={tmp_path / 'out'}",
        "resamples=200",
    ]
    monkeypatch.setattr(sys, "argv", ["actial.compare", *words])
    actial.compare.__main__.main()
    printed = capsys.readouterr().out
    assert "a and [red]: " in printed
    assert printed.count("[red]") == 4  # in the table too, where it is no markup
    differences = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [d["task"] for d in differences] == ["", "move", "turn"]
    assert differences[0]["verdict"] == "a"
    assert "| a | [red] | turn | 40 |" in (tmp_path / "out/comparison.md").read_text()
    assert (tmp_path / "out/comparison.png").stat().st_size > 1000


def test_runs_of_a_sweep_are_compared_by_their_folders(tmp_path, monkeypatch, capsys):
    """Their names hold commas and equals signs; p values are not cut to the width of a pipe."""
    a, b = "sweep/cold_start=none,seed=1/sat", "sweep/cold_start=all,seed=1/sat"
    again = "sweep/cold_start=none,seed=2/sat"
    for folder, scores in ((a, [1] * 40), (again, [1] * 40), (b, [1, 0] * 20)):
        write_predictions(tmp_path / folder, scores)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "argv", ["actial.compare", f"./{a}", b, "resamples=200"])
    actial.compare.__main__.main()
    assert "1.91e-06" in capsys.readouterr().out
    assert len(read_model(f"{a},{again}", "type", "example").seeds) == 2
    with pytest.raises(UserError, match="nothing/seed=1 is no file of predictions"):
        read_model(f"{a},nothing/seed=1", "type", "example")


@pytest.mark.parametrize(
    "text",
    [
        *(b"{", b"\n", b"\xff\xfe\n", b'{"doc_id": 0', b'{"doc_id": 0}', b"[" * 100_000),
        *(b'{"doc_id": 0, "score": NaN}', b'{"doc_id": ' + b"[" * 100_000),
    ],
)
def test_a_file_that_holds_no_answers_is_one_sentence(text, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(text)
    with pytest.raises(UserError, match="line 1"):
        read_model(str(tmp_path / "a.jsonl"), "type", "example")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("score", value) for value in (None, "1", float("nan"), float("inf"), 5.0, -1)),
        *(("categories", value) for value in (None, [], {"a": 1})),
        *(("uid", None), ("uid", 5), ("type", 3), ("text", None), ("group", None)),
    ],
)
def test_a_field_of_another_type_is_one_sentence(field, value, tmp_path):
    line = prediction("a", 1).to_json() | {field: value}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="line 1 is damaged or not a prediction"):
        read_model(str(tmp_path), "type", "example")


def test_a_sample_may_hold_a_line_separator_of_unicode(tmp_path):
    sample = {"doc_id": 0, "score": 1, "resps": "one\u2028two\x85three"}
    text = json.dumps(sample, ensure_ascii=False) + "\n\n"
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (seed,) = read_model(str(tmp_path / "a.jsonl"), "type", "example").seeds
    assert seed["0"].score == 1
