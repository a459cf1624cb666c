"""The page from fabricated figures: complete, self-contained, safe against what models write."""

import json
import re
from fractions import Fraction

import numpy as np
import pytest
from support.records import view_pair
from support.scripted import ByteRenderer, FunctionSampler, letter_of, question

from actial.core.errors import UserError
from actial.core.records import Example, SamplingParams
from actial.evaluation.loop import evaluate_examples
from actial.evaluation.results import Results, SetResult
from actial.evaluation.set_results import sample_answers, set_results
from actial.grading.metrics import Cell
from actial.reporting.html_report import summary, write_report
from actial.reporting.plots import curves, forest

KINDS = ("ego_translation", "object_translation", "ego_rotation")


def run_folder(tmp_path, texts):
    """A run with one set answered by one scripted model per text; "" means the right letter every time."""
    examples = [
        Example(
            uid=f"e{i}",
            images=[np.full((8, 8, 3), i, np.uint8)] * 2,
            questions=[question(f"e{i}/{k}", kind=k) for k in KINDS],
            task="viewpoint",
            record=view_pair((25.0, -25.0, 70.0, 100.0)[i]),
        )
        for i in range(4)
    ]

    def ask(text):
        sampler = FunctionSampler(lambda _, requested: text or letter_of(requested, "left"))
        return evaluate_examples(
            sampler, ByteRenderer(), examples, SamplingParams(max_tokens=9999)
        )

    rows = {model: ask(text) for model, text in texts.items()}
    results = Results(
        meta={"title": "A <test>", "subtitle": "here", "commit": "abc"},
        models=list(texts),
        set_names=["held out"],
        sets={"held out": {model: set_results(p) for model, p in rows.items()}},
        chance={"held out": 1 / 3},
        examples={"held out": sample_answers(tmp_path, "held out", examples, rows, count=2)},
    )
    results.write(tmp_path)
    metrics = [{"stage": "sft", "step": s, "loss": 1 / (s + 1)} for s in range(20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    return results


def test_the_summary_has_a_line_for_each_figure(tmp_path):
    run_folder(tmp_path, {"base": "C is", "sft": ""})
    assert [line.split("  ")[0] for line in summary(tmp_path).splitlines()] == [
        "% correct",
        "held out",
        "held out, all of a pair correct",
        "held out, format compliance",
    ]
    assert summary(tmp_path).splitlines()[1].split()[-2:] == ["0.0", "100.0"]


def test_set_results_count(tmp_path):
    results = run_folder(tmp_path, {"base": "C is", "sft": ""}).sets["held out"]
    sft, base = results["sft"], results["base"]
    assert (sft.overall.value, sft.all_correct.n, sft.all_correct.value) == (1, 4, 1)
    assert (base.overall.value, base.tokens, base.format_compliance) == (0, 4, 0)
    assert set(sft.by_type) == set(KINDS)
    assert {name: (cell.n, cell.value) for name, cell in sft.by_angle.items()} == {
        "20-40": (6, 1),
        "60-80": (3, 1),
        "80-100": (3, 1),
    }


def test_results_survive_a_round_trip_through_json(tmp_path):
    results = run_folder(tmp_path, {"base": "C is", "sft": ""})
    assert Results.read(tmp_path).to_json() == results.to_json()


def test_results_with_older_names_are_read(tmp_path):
    results = run_folder(tmp_path, {"base": "C is", "sft": ""})
    entry = results.to_json()
    for result in entry["sets"]["held out"].values():
        result["joint"] = result.pop("all_correct")
        result["format"] = result.pop("format_compliance")
    for card in entry["examples"]["held out"]:
        for answer in card["answers"].values():
            answer["hit"] = answer.pop("correct")
    assert Results.from_json(entry).to_json() == results.to_json()


def test_page_is_one_self_contained_file(tmp_path):
    run_folder(
        tmp_path,
        {
            "base": "<script>alert(1)</script>",
            "sft": "",
            "grpo": "<think>x</think><answer>B</answer>",
        },
    )
    page = write_report(tmp_path).read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "A &lt;test&gt;" in page
    assert page.count("data:image/png;base64,") == 4
    assert page.count("<svg") == 2  # accuracy and the loss curve
    assert "<?xml" not in page
    for text in (
        "100.0",
        "0.0 to 24.2",
        "all questions of a pair correct",
        "not readable",
        "SFT",
        "GRPO",
        "75.8 to 100.0",
    ):
        assert text in page


def test_same_input_same_page(tmp_path):
    run_folder(tmp_path, {"base": "", "sft": "B"})
    assert write_report(tmp_path).read_bytes() == write_report(tmp_path).read_bytes()


def test_missing_results_are_named(tmp_path):
    with pytest.raises(UserError, match=r"results\.json"):
        write_report(tmp_path)


def test_dollar_signs_of_a_name_are_no_mathematics():
    name = "$\\bad$"
    cell = Cell(n=1, value=Fraction(1), low=0.5, high=1.0, unparsed=0.0, truncated=0.0)
    result = SetResult(overall=cell)
    assert name in forest({name: {name: result}}, [name], {})
    steps = np.arange(20)
    names = {"loss/$\\frac{$": 1.0, "loss/b": 1.0}
    (stage,) = curves([{"stage": "sft", "step": int(s)} | names for s in steps])
    assert "$\\frac{$" in stage["svg"]


def test_curves_sort_metrics_into_panels():
    row = {
        "stage": "grpo",
        "reward/format/mean": 1.0,
        "kl": 0.1,
        "completions/mean_length": 9,
        "lr": 1e-6,
        "reward/accuracy/mean/static": 0.5,
        "reward_std": 0.3,
    }
    rows = [row | {"step": s} for s in range(3)]
    [stage] = curves(rows)
    assert stage["name"] == "GRPO"
    assert all(
        title in stage["svg"]
        for title in (
            "reward",
            "KL to the reference",
            "response length",
            "accuracy by question type",
        )
    )
    assert not any(
        word in stage["svg"] for word in ("loss", "accuracy and format", "reward_std")
    )
    assert curves([{"stage": "x", "step": 1, "lr": 1.0}]) == []


def test_a_panel_names_what_its_curves_differ_in():
    kinds = [f"kind{i}" for i in range(8)]
    row = {"stage": "sft", "loss": 1.0} | {f"loss/{kind}": 0.5 for kind in kinds}
    [stage] = curves([row | {"step": step} for step in range(40)])
    names = re.findall(r"<text[^>]*>(loss|loss/\w+|kind\d)</text>", stage["svg"])
    assert sorted(names) == [*kinds, "loss", "loss"]  # one of them is the panel's title
    assert "stroke-dasharray" in stage["svg"]  # the seventh curve has the first one's color
