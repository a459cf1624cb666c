"""The frozen protocol: its hash stands beside every score and differs when what it names does."""

import json
import re
import shutil

import pytest
from support.benchmark_files import WRITERS
from support.fake_server import FakeServer
from support.predictions import prediction

import actial.evaluation.protocol
import actial.grading.doubts
import actial.grading.option_rules
from actial.compare.__main__ import compare
from actial.config import (
    BenchmarkConfig,
    CompareConfig,
    EvaluateConfig,
    ModelConfig,
    PromptConfig,
    ScoreConfig,
    ServerConfig,
)
from actial.core.errors import UserError
from actial.evaluate import evaluate
from actial.evaluation.benchmarks.base import Style
from actial.evaluation.benchmarks.prompts import sample_prompt
from actial.evaluation.model_card import model_card
from actial.evaluation.protocol import (
    Protocol,
    freeze_protocol,
    protocol_of,
    protocol_remarks,
    read_protocol,
)
from actial.evaluation.results import Results
from actial.evaluation.set_results import set_results
from actial.grading.multiple_choice import Compat
from actial.grading.reader_probes import reader_fingerprint
from actial.reporting.paper_table import write_paper_table
from actial.reporting.sweep_report import _protocol_section
from actial.runs.run_index import RunRecord
from actial.score import score

SETTINGS = {
    "model": "m",
    "system_prompt": "Think.",
    "pixel_limits": "28:256:4096",
    "temperature": 0.0,
    "max_tokens": 64,
    "seed": 0,
    "benchmark": "mmsi",
    "split": "test",
    "style": "mmsi",
    "circular": False,
    "limit": 0,
    "files": {"MMSI_Bench.parquet": "0" * 64},
}
CHANGES = [
    ({"system_prompt": "Think well."}, "prompt.system_prompt"),
    ({"style": "vlmeval"}, "prompt.style"),
    ({"pixel_limits": "28:256:8192"}, "resolution.pixel_limits"),
    ({"temperature": 0.6}, "decoding.temperature"),
    ({"max_tokens": 128}, "decoding.max_tokens"),
    ({"split": "val"}, "data.split"),
    ({"circular": True}, "data.circular"),
    ({"limit": 10}, "data.limit"),
    ({"files": {"MMSI_Bench.parquet": "1" * 64}}, "data.files"),
]


def frozen(settings=SETTINGS, prompt="Question?", **options):
    return protocol_of(settings, prompt, **options)


@pytest.mark.parametrize(("change", "name"), CHANGES, ids=[name for _, name in CHANGES])
def test_the_hash_differs_with_each_part(change, name):
    changed = frozen({**SETTINGS, **change})
    assert frozen().differences(changed) == [name]
    assert frozen().hash != changed.hash
    assert re.fullmatch("[0-9a-f]{12}", changed.hash)


def test_the_hash_differs_with_prompt_reader_and_version(monkeypatch):
    before = frozen()
    assert before.differences(frozen(prompt="Question: ?")) == ["prompt.text"]
    other = frozen(compat=Compat.EASI)
    assert before.differences(other) == ["reader.name", "reader.readings"]
    monkeypatch.setattr(actial.evaluation.protocol, "__version__", "9.9")
    assert before.differences(frozen()) == ["version"]


def test_the_model_and_the_seed_are_no_part_of_it():
    assert frozen({**SETTINGS, "model": "other", "seed": 7}).hash == frozen().hash
    prompts = {"system_prompt": frozen().values["prompt.system_prompt"], "tokenizer": "t"}
    local = {
        key: value for key, value in SETTINGS.items() if "p" not in key or key == "temperature"
    }
    local |= {"prompts": prompts | {"pixel_limits": "28:256:4096"}, "split": "test"}
    assert frozen(local | {"max_tokens": 64}).differences(frozen()) == []


def test_every_style_and_reader_has_its_own_mark():
    assert (
        len({sample_prompt(style) for style in Style}) >= len(Style) - 1
    )  # image order aside
    assert len({reader_fingerprint(mode.value) for mode in Compat}) == len(Compat)


def test_a_changed_rule_of_the_reader_changes_the_hash(monkeypatch):
    rules = actial.grading.option_rules.RULES
    before = reader_fingerprint.__wrapped__("ladder")
    assert reader_fingerprint.__wrapped__("ladder") == before
    for position in range(len(rules)):
        fewer = [*rules[:position], *rules[position + 1 :]]
        monkeypatch.setattr(actial.grading.option_rules, "RULES", fewer)
        assert reader_fingerprint.__wrapped__("ladder") != before, rules[position][0]


def test_a_changed_doubt_of_the_reader_changes_the_hash(monkeypatch):
    doubts = actial.grading.doubts.DOUBTS
    before = reader_fingerprint.__wrapped__("ladder")
    for position in range(len(doubts)):
        fewer = [*doubts[:position], *doubts[position + 1 :]]
        monkeypatch.setattr(actial.grading.doubts, "DOUBTS", fewer)
        assert reader_fingerprint.__wrapped__("ladder") != before, doubts[position][0]


def test_answers_of_another_protocol_are_not_continued(tmp_path):
    freeze_protocol(tmp_path, frozen())
    freeze_protocol(tmp_path, frozen())
    assert read_protocol(tmp_path) == frozen()
    with pytest.raises(
        UserError, match=r"decoding\.max_tokens=64, now decoding\.max_tokens=9"
    ):
        freeze_protocol(tmp_path, frozen({**SETTINGS, "max_tokens": 9}))
    assert read_protocol(tmp_path / "none") is None


def test_answers_without_a_protocol_were_read_by_an_older_version(tmp_path):
    (tmp_path / "predictions.jsonl").touch()
    marked = freeze_protocol(tmp_path, frozen())
    assert marked.differences(frozen()) == ["reader.readings"]
    assert freeze_protocol(tmp_path, frozen()) == marked == read_protocol(tmp_path)


def test_remarks_name_what_differs():
    other = frozen({**SETTINGS, "temperature": 0.6, "files": {"x": "1"}})
    (remark,) = protocol_remarks([("a", frozen()), ("b", other)])
    assert remark == (
        f"a (protocol {frozen().hash}) and b (protocol {other.hash}) were scored under different "
        "protocols: data.files, decoding.temperature 0.0 and 0.6"
    )
    assert protocol_remarks([("a", frozen()), ("b", frozen())]) == []
    assert protocol_remarks([("a", None), ("b", None)]) == []
    assert protocol_remarks([("a", frozen()), ("b", None)]) == [
        "the protocol of b is not known"
    ]


# ---------------------------------------------------------------- beside every score


def evaluated(root, out, max_pixels=4096, name="mmsi", prompt="none"):
    with FakeServer(content="B") as fake:
        evaluate(
            EvaluateConfig(
                out=str(out),
                model=ModelConfig(path="unused", min_pixels=256, max_pixels=max_pixels),
                prompt=PromptConfig(system_prompt=prompt),
                benchmark=BenchmarkConfig(name=name, root=str(root)),
                server=ServerConfig(url=fake.url, model="m", multiple=16),
            )
        )
    return json.loads((out / "scores.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three evaluations of one set: two alike, one with larger images."""
    root = tmp_path_factory.mktemp("runs")
    WRITERS["mmsi"](root / "files")
    for model, max_pixels in (("one", 4096), ("two", 4096), ("large", 8192)):
        evaluated(root / "files", root / model / "mmsi", max_pixels)
    return root


def test_scores_results_report_and_card_carry_the_hash(runs):
    folder = runs / "one/mmsi"
    scores = json.loads((folder / "scores.json").read_text())
    hash_ = scores["protocol"]["hash"]
    assert Protocol.from_json(scores["protocol"]).hash == hash_
    assert read_protocol(folder).hash == hash_
    results = Results.read(folder)
    assert results.sets["mmsi"]["m"].protocol == scores["protocol"]
    assert f">{hash_}<" in (folder / "report.html").read_text()
    assert f"| {hash_} |" in model_card(results, "m", None)
    others = {
        name: json.loads((runs / name / "mmsi/scores.json").read_text())
        for name in ("two", "large")
    }
    assert others["two"]["protocol"]["hash"] == hash_
    assert others["large"]["protocol"]["hash"] != hash_
    assert scores["easi"]["protocol"] not in ("", hash_)  # EASI's reader is another one
    assert others["two"]["easi"]["protocol"] == scores["easi"]["protocol"]


def test_compare_names_other_protocols(runs, tmp_path, capsys):
    """Models are named after their files here: equal folder names would hide one."""
    for name in ("one", "two", "large"):
        (tmp_path / name).symlink_to(runs / name / "mmsi")

    def told(first, second):
        folders = [str(tmp_path / first), str(tmp_path / second)]
        compare(CompareConfig(models=folders, out=str(tmp_path), resamples=100))
        row = json.loads((tmp_path / "comparison.json").read_text())[0]
        return capsys.readouterr().out, (tmp_path / "comparison.md").read_text(), row

    printed, page, row = told("one", "large")
    sentence = "were scored under different protocols: resolution.pixel_limits 16:256:4096 and"
    assert sentence in " ".join(printed.split())
    assert sentence in page
    assert row["protocol_differences"] == ["resolution.pixel_limits"]
    assert len(set(row["protocols"])) == 2
    printed, page, row = told("one", "two")
    assert "protocols" not in printed + page
    assert (row["protocol_differences"], len(set(row["protocols"]))) == ([], 1)


def test_the_papers_table_names_other_protocols(runs, tmp_path):
    page = write_paper_table(runs, tmp_path)
    assert "large (protocol " in page
    assert "different protocols: resolution.pixel_limits 16:256:8192 and 16:256:4096" in page
    hash_ = read_protocol(runs / "one/mmsi").hash
    assert f"protocol {hash_}" in page


def test_a_sweeps_page_names_other_protocols(tmp_path):
    def run(name, max_tokens):
        protocol = frozen({**SETTINGS, "max_tokens": max_tokens})
        result = set_results([prediction("a", 1)], protocol=protocol)
        folder = tmp_path / name
        folder.mkdir()
        Results(models=["m"], set_names=["s"], sets={"s": {"m": result}}).write(folder)
        return RunRecord(name=name, folder=folder, settings={}, state="finished")

    first, alike, other = run("a", 64), run("b", 64), run("c", 9)
    assert "different" not in _protocol_section([first, alike])
    assert f"| s | {frozen().hash} |" in _protocol_section([first, alike])
    assert "different protocols: decoding.max_tokens 64 and 9" in _protocol_section(
        [first, other]
    )


@pytest.mark.parametrize("damage", ["cut", "another value", "no mapping"])
def test_damaged_protocols_and_scores_are_named(runs, tmp_path, damage):
    def break_(path):
        text = path.read_text()
        changed = {
            "cut": text[: len(text) // 2],
            "another value": re.sub(
                r'("max_tokens"|"decoding.max_tokens"): \d', r"\1: 9", text
            ),
            "no mapping": "[1]",
        }[damage]
        assert changed != text
        path.write_text(changed)

    shutil.copytree(runs, tmp_path / "runs")
    folder = tmp_path / "runs/one/mmsi"
    break_(folder / "scores.json")
    with pytest.raises(UserError, match=r"scores\.json is damaged \(.*\): remove it and run"):
        write_paper_table(tmp_path / "runs", tmp_path / "table")
    break_(folder / "protocol.json")
    for read in (
        lambda: read_protocol(folder),
        lambda: compare(CompareConfig(models=[str(folder)] * 2, out=str(tmp_path / "out"))),
    ):
        with pytest.raises(UserError, match=r"protocol\.json is damaged \(.*\): put a copy"):
            read()


def test_another_reader_is_another_protocol(runs, tmp_path):
    config = ScoreConfig(
        out=str(tmp_path),
        benchmark=BenchmarkConfig(name="mmsi", root=str(runs / "files")),
        predictions=str(runs / "one/mmsi/predictions.jsonl"),
        compat="vlmeval_exact",
    )
    score(config)
    protocol = Protocol.from_json(
        json.loads((tmp_path / "scores.json").read_text())["protocol"]
    )
    before = read_protocol(runs / "one/mmsi")
    assert before.differences(protocol) == ["reader.name", "reader.readings"]
