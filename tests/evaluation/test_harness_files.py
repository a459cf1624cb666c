"""Files exchanged with lmms-eval and VLMEvalKit, where they once disagreed with ours."""

import json

import pandas as pd
import pytest
import yaml
from support.benchmark_files import WRITERS

from actial.config import BenchmarkConfig, ExportConfig, ExportFormat
from actial.core.errors import UserError
from actial.evaluation.benchmark_results import open_benchmark
from actial.evaluation.harness_io import read_answers
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
    return open_benchmark(BenchmarkConfig(name=name, root=str(tmp_path / "files")))[2]


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
