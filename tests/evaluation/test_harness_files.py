"""Files exchanged with lmms-eval and VLMEvalKit, where they once disagreed with ours."""

import json

import pandas as pd
import pytest
import yaml
from support.benchmark_files import WRITERS

from actial.config import BenchmarkConfig, ExportConfig, ExportFormat
from actial.core.errors import UserError
from actial.evaluation.benchmark_results import open_benchmark
from actial.evaluation.harness_answers import read_answers
from actial.export import export


class HarnessLoader(yaml.SafeLoader):
    """Reads the task file as lmms-eval does; functions stay names."""


HarnessLoader.add_constructor("!function", lambda loader, node: node.value)


def exported(name, tmp_path, **options):
    WRITERS[name](tmp_path / "files")
    benchmark = BenchmarkConfig(name=name, root=str(tmp_path / "files"), **options)
    out = tmp_path / "task"
    export(ExportConfig(out=str(out), format=ExportFormat.lmms_eval, benchmark=benchmark))
    task = yaml.load((out / f"actial_{name}.yaml").read_text(), HarnessLoader)
    return task, pd.read_parquet(out / f"actial_{name}.parquet")


def test_an_exported_task_stops_at_no_text(tmp_path):
    """Without `until` some adapters of lmms-eval cut an answer at its first blank line."""
    task, _ = exported("mmsi", tmp_path)
    assert task["generation_kwargs"]["until"] == []
    assert task["process_results"] == "utils.process_results"


def test_an_exported_task_asks_for_a_letter(tmp_path):
    """The form of SAT's answers stands in a system prompt, which the harness does not send."""
    _, rows = exported("sat", tmp_path)
    assert all("letter" in prompt for prompt in rows["prompt"])
    _, thinking = exported("sat", tmp_path / "t", style="think")
    assert not any("letter" in prompt for prompt in thinking["prompt"])


@pytest.mark.parametrize("name", ["blink", "mindcube"])
def test_rows_numbered_by_the_harness_point_at_its_own_table(name, tmp_path):
    """VLMEvalKit numbers the rows of its own TSV; the published files have other names."""
    WRITERS[name](tmp_path / "files")
    _, _, items = open_benchmark(BenchmarkConfig(name=name, root=str(tmp_path / "files")))
    rows = [{"index": i, "prediction": "B"} for i in range(len(items))]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    pd.DataFrame(rows).to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    for path in (tmp_path / "p.json", tmp_path / "p.tsv"):
        with pytest.raises(UserError, match="own TSV; score them with benchmark=tsv"):
            read_answers(path, items)
    named = [{"index": item.source_index, "prediction": "B"} for item in items]
    (tmp_path / "p.json").write_text(json.dumps(named[1:]))
    if len(items) > 1:
        with pytest.raises(UserError, match="run the harness to its end"):
            read_answers(tmp_path / "p.json", items)
    (tmp_path / "p.json").write_text(json.dumps(named))
    assert {text for text, _ in read_answers(tmp_path / "p.json", items).values()} == {"B"}


def items_of(name, tmp_path):
    WRITERS[name](tmp_path / "files")
    split = "s" if name == "tsv" else ""
    config = BenchmarkConfig(name=name, root=str(tmp_path / "files"), split=split)
    return open_benchmark(config)[2]


@pytest.mark.parametrize("response", [[[None]], [None], None, [[]], [], [[""]]])
def test_a_response_that_the_harness_never_got_is_an_empty_answer(response, tmp_path):
    items = items_of("mmsi", tmp_path)
    rows = [{"doc_id": i, "resps": response} for i in range(len(items))]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = {text for text, _ in read_answers(tmp_path / "s.jsonl", items).values()}
    assert texts == {""}


@pytest.mark.parametrize(
    "line", ["[1]", "7", '"B"', "{}", '{"doc_id": 0}', "{", "[" * 100_000]
)
def test_a_line_that_is_no_sample_is_one_sentence(line, tmp_path):
    (tmp_path / "s.jsonl").write_text(line)
    with pytest.raises(
        UserError, match=r"line 1 has neither uid and text nor doc_id and resps"
    ):
        read_answers(tmp_path / "s.jsonl", items_of("mmsi", tmp_path))


@pytest.mark.parametrize("ending", ["json", "xlsx", "tsv"])
def test_answers_that_pandas_takes_for_something_else_stay_text(ending, tmp_path):
    """A number stays an integer beside a missing one, and the answer "None" is no missing value."""
    items = items_of("vsi", tmp_path)
    assert len(items) >= 2
    answers = ["None", None, 3, "NA", "1,200"]
    rows = [
        {"index": item.source_index, "prediction": answers[i % len(answers)]}
        for i, item in enumerate(items)
    ]
    path = tmp_path / f"p.{ending}"
    frame = pd.DataFrame(rows, dtype=object)
    if ending == "json":
        path.write_text(json.dumps(rows))
    elif ending == "xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, sep="\t", index=False)
    texts = [text for text, _ in read_answers(path, items).values()]
    written = ["None", "", "3", "NA", "1,200"]
    assert texts == [written[i % len(written)] for i in range(len(items))]


@pytest.fixture
def tables(tmp_path):
    """Our table of MMSI-Bench, and what `vlmutil circular` makes of it."""
    WRITERS["mmsi"](tmp_path / "files")
    benchmark = BenchmarkConfig(name="mmsi", root=str(tmp_path / "files"))
    form = ExportFormat.vlmeval
    export(ExportConfig(out=str(tmp_path / "x"), format=form, benchmark=benchmark))
    plain = pd.read_csv(tmp_path / "x/actial_mmsi.tsv", sep="\t", dtype=str)
    turned = []
    for turns, order in enumerate(("ABCD", "DABC", "CDAB", "BCDA")):
        copy = plain.copy()
        copy[list("ABCD")] = plain[list(order)].to_numpy()
        copy["answer"] = "ABCD"[order.index("D")]
        copy["index"] = (plain["index"].astype(int) + turns * 1_000_000).astype(str)
        copy["image"] = plain["image"] if not turns else plain["index"]
        turned.append(copy.assign(g_index=plain["index"]))
    rotated = pd.concat(turned)
    rotated.to_csv(tmp_path / "x/actial_mmsi_circular.tsv", sep="\t", index=False)
    return plain, rotated


def read_table(tmp_path, frame, **options):
    settings = {"root": str(tmp_path / "x"), **options}
    items = open_benchmark(BenchmarkConfig(**settings))[2]
    frame.drop(columns="image").to_excel(tmp_path / "p.xlsx", index=False)
    return items, read_answers(tmp_path / "p.xlsx", items)


def test_our_own_table_is_a_benchmark_of_the_harness(tables, tmp_path):
    """Its column uid is of the set that it was made from, not of the table."""
    frame = tables[0].assign(prediction="D")
    _, answers = read_table(tmp_path, frame, name="tsv", split="actial_mmsi")
    assert answers == {"tsv/0": ("D", None)}
    _, answers = read_table(tmp_path, frame, name="mmsi", root=str(tmp_path / "files"))
    assert answers == {"mmsi/7": ("D", None)}


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "tsv", "split": "actial_mmsi_circular"},
        {"name": "tsv", "split": "actial_mmsi", "circular": True},
        {"name": "mmsi", "root": "files", "circular": True},
    ],
)
def test_rotations_of_the_harness_are_ours(settings, tables, tmp_path, capsys):
    rotated = tables[1].assign(prediction=tables[1]["answer"])
    if "root" in settings:
        settings = {**settings, "root": str(tmp_path / settings["root"])}
    items, answers = read_table(tmp_path, rotated, **settings)
    assert len(items) == 4
    for item in items:
        assert answers[item.uid][0] == "ABCD"[item.answer_index]
    assert "not counted" not in capsys.readouterr().err
    with pytest.raises(UserError, match="has no answer to 1 of 4 questions"):
        read_table(tmp_path, rotated[:3], **settings)


@pytest.mark.parametrize("name", ["tsv", "mmsi"])
def test_rotations_that_are_not_asked_for_are_named(name, tables, tmp_path, capsys):
    rotated = tables[1].assign(prediction=tables[1]["answer"])
    root = tmp_path / ("x" if name == "tsv" else "files")
    split = "actial_mmsi" if name == "tsv" else ""
    items, answers = read_table(tmp_path, rotated, name=name, root=str(root), split=split)
    assert answers == {items[0].uid: ("D", None)}
    assert "3 answers to rotated options are not counted" in capsys.readouterr().err


def test_a_number_of_a_row_may_have_become_a_float(tmp_path):
    items = items_of("tsv", tmp_path)
    rows = [{"index": 1.0, "prediction": "B"}]
    (tmp_path / "p.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    assert read_answers(tmp_path / "p.json", items) == {"tsv/1": ("B", None)}
