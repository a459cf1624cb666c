"""Files and settings of benchmarks that are not quite what was meant."""

import csv
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import yaml
from support.benchmark_files import (
    WRITERS,
    b64,
    cell,
    write_json,
    write_parquet,
    write_pictures,
    write_tsv,
)

from actial.config import AnswerForm, BenchmarkConfig, ScoreConfig, SubmissionConfig
from actial.config.validation import validate
from actial.core.errors import UserError
from actial.core.sealed_files import read_sealed_json, write_sealed_json
from actial.evaluation.benchmark_results import open_benchmark
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.benchmarks.base import Item, Source, Style
from actial.evaluation.benchmarks.checked_items import checked_truth, read_items
from actial.evaluation.benchmarks.prompts import prompt_text
from actial.evaluation.benchmarks.video import frames
from actial.evaluation.easi import suite_members
from actial.evaluation.easi_submission import write_submission
from actial.evaluation.harness_io import export_lmms, export_vlmeval
from actial.grading.open_ended import grade_open
from actial.score import score

ROW = {"question": "Q?", "A": "x", "B": "y", "answer": "B", "category": "c"}
EIGHT = dict(zip("ABCDEFGH", "stuvwxyz", strict=True))


def table_items(root, rows):
    write_tsv(root / "s.tsv", [{**row, "image": b64()} for row in rows])
    return open_benchmark(BenchmarkConfig(name="tsv", split="s", root=str(root)))[2]


def test_two_questions_of_one_name_are_refused(tmp_path):
    """The second one would be graded as the first, or end in a traceback."""
    rows = [{**ROW, "index": 1}, {**ROW, "index": 2}, {**ROW, "index": 1, "answer": "A"}]
    with pytest.raises(UserError, match="the first tsv/1: give every row a name of its own"):
        table_items(tmp_path, rows)


def test_questions_of_one_picture_in_spar_stay_apart(tmp_path):
    row = {"id": 7, "task": "depth_prediction_oc", "question": "How far?", "answer": "2"}
    rows = [{**row, "image": [cell()]}, {**row, "question": "How near?", "image": [cell()]}]
    write_parquet(tmp_path / "test.parquet", rows)
    items = open_benchmark(BenchmarkConfig(name="spar", root=str(tmp_path)))[2]
    assert len({item.uid for item in items}) == 2


def test_a_table_may_have_more_than_six_options(tmp_path):
    (item,) = table_items(tmp_path, [{**ROW, **EIGHT, "index": 1, "answer": "G"}])
    assert item.options == tuple(EIGHT.values())
    assert item.answer_index == 6


def test_an_exported_table_has_a_column_for_every_option(tmp_path):
    options = tuple(EIGHT.values())
    item = Item(
        uid="u", images=[b"x"], question="Q", options=options, answer_index=6, type="t"
    )
    export_vlmeval([item], tmp_path / "e.tsv")
    with (tmp_path / "e.tsv").open(newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    assert (row["G"], row["H"], row["answer"], row["uid"]) == ("y", "z", "G", "u")


def test_an_exported_task_lies_in_a_folder_with_any_name(tmp_path):
    folder = tmp_path / "run #1: new"
    item = Item(uid="u", images=[b"x"], question="Q", options=("a", "b"), answer_index=0)
    export_lmms([item], folder, "n", Style.LETTER, 8)
    text = (folder / "n.yaml").read_text().replace("!function", "")
    files = yaml.safe_load(text)["dataset_kwargs"]["data_files"]
    assert files["test"] == str(folder / "n.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.replace(b"Q?", b"Q\xe9"), "no table in UTF-8"),
        (lambda data: data[: data.index(b'"x"')], "was cut short"),
    ],
)
def test_a_damaged_table_is_one_sentence(change, message, tmp_path):
    WRITERS["tsv"](tmp_path)
    path = tmp_path / "s.tsv"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        open_benchmark(BenchmarkConfig(name="tsv", split="s", root=str(tmp_path)))


def test_a_mark_before_the_table_is_no_part_of_its_first_column(tmp_path):
    WRITERS["tsv"](tmp_path)
    path = tmp_path / "s.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b'"', b""))
    assert (
        len(open_benchmark(BenchmarkConfig(name="tsv", split="s", root=str(tmp_path)))[2]) == 1
    )


def test_json_in_another_encoding_is_one_sentence(tmp_path):
    (tmp_path / "ViewSpatial-Bench.json").write_bytes(b'[{"question": "\xe9"}]')
    with pytest.raises(UserError, match="not valid JSON"):
        open_benchmark(BenchmarkConfig(name="viewspatial", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("metric", "answer", "want"),
    [
        ("mra_first", "1,200", "1200"),
        ("mra_token", " 4.5 ", "4.5"),
        ("mra_token", "-4e2", "-4e2"),
        ("count", "3.0", "3"),
        ("count", "12", "12"),
        ("exact", "Two chairs", "Two chairs"),
        ("mra_token", None, "no number"),
        ("mra_token", "None", "no number"),
        ("mra_token", "nan", "no number"),
        ("mra_first", "1.5 m", "no number"),
        ("mra_last", "", "no number"),
        ("mra_strict", "1,5", "no number"),
        ("count", "3.5", "no whole number"),
        ("contains", None, "no text"),
        ("exact", "", "no text"),
    ],
)
def test_a_truth_is_what_its_metric_compares_with(metric, answer, want):
    """It was graded after the model had answered, where float("None") ended in a traceback."""
    if want.startswith("no "):
        with pytest.raises(UserError, match=want):
            checked_truth(metric, answer, "x")
    else:
        assert checked_truth(metric, answer, "x") == want
        grade_open("3", metric, want)


def test_a_number_that_is_missing_is_refused_before_a_model_is_asked(tmp_path):
    WRITERS["vsi"](tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    write_json(tmp_path / "test.jsonl", [*rows[:1], rows[1] | {"ground_truth": None}])
    with pytest.raises(UserError, match="vsi/2: the answer 'None' is no number"):
        open_benchmark(BenchmarkConfig(name="vsi", root=str(tmp_path)))
    write_json(tmp_path / "test.jsonl", [*rows[:1], rows[1] | {"ground_truth": "1,200"}])
    items = open_benchmark(BenchmarkConfig(name="vsi", root=str(tmp_path)))[2]
    assert items[1].open["answer"] == "1200"


def rows_of(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".tsv":
        return list(csv.DictReader(path.open(newline=""), delimiter="\t"))
    text = path.read_text()
    return json.loads(text if path.suffix == ".json" else f"[{','.join(text.splitlines())}]")


WRITE = {
    ".parquet": write_parquet,
    ".tsv": write_tsv,
    ".json": write_json,
    ".jsonl": write_json,
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_cell_is_read_or_one_sentence(name, tmp_path):
    """Every cell of every file in turn, empty and of another type."""
    WRITERS[name](tmp_path)
    config = BenchmarkConfig(name=name, root=str(tmp_path), split="s" if name == "tsv" else "")
    files = [p for p in sorted(tmp_path.rglob("*")) if p.is_file() and p.suffix in WRITE]
    for path in files[:3]:
        rows, refused = rows_of(path), 0
        for column in rows[-1]:
            values = ("",) if path.suffix == ".tsv" else (None, 5)
            for value in values:
                WRITE[path.suffix](path, [row | {column: value} for row in rows])
                try:
                    for item in open_benchmark(config)[2]:
                        prompt_text(item, BENCHMARKS[name].style)
                except UserError:
                    refused += 1
        assert refused
        WRITE[path.suffix](path, rows)
    open_benchmark(config)


@pytest.mark.parametrize(
    ("name", "file", "column", "message"),
    [
        ("mmsi", "MMSI_Bench.parquet", "images", "MMSI_Bench.parquet, row 7 cannot be read"),
        ("mmsi", "MMSI_Bench.parquet", "question", "nothing in .*question"),
        ("viewspatial", "ViewSpatial-Bench.json", "choices", "nothing in choices; Attrib"),
        ("mindcube", "raw/MindCube_tinybench.jsonl", "id", "nothing in id; TypeError"),
    ],
)
def test_an_empty_cell_is_named(name, file, column, message, tmp_path):
    WRITERS[name](tmp_path)
    path = tmp_path / file
    WRITE[path.suffix](path, [row | {column: None} for row in rows_of(path)])
    with pytest.raises(UserError, match=message):
        open_benchmark(BenchmarkConfig(name=name, root=str(tmp_path)))


def test_a_fault_of_a_loader_is_no_fault_of_a_file(tmp_path):
    def load(source):
        raise AttributeError("ours")

    with pytest.raises(AttributeError, match="ours"):
        read_items(replace(BENCHMARKS["tsv"], load=load), Source(name="tsv", hub=""))


def test_a_comma_in_the_name_of_a_picture_is_part_of_it(tmp_path):
    row = {**ROW, "index": 1, "image": "", "image_path": "['a, b.jpg', 'c.jpg']"}
    write_tsv(tmp_path / "s.tsv", [row])
    (item,) = open_benchmark(BenchmarkConfig(name="tsv", split="s", root=str(tmp_path)))[2]
    assert [path.name for path in item.images] == ["a, b.jpg", "c.jpg"]


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    names = [f"{number}.jpg" for number in (1, 2, 10, 11)]
    write_pictures(tmp_path, *(f"frames/clip/{name}" for name in names))
    (tmp_path / "frames/clip/._1.jpg").write_bytes(b"\0\5\x16\7 of a disk of macOS")
    source = Source(name="vsi", hub="", root=tmp_path)
    assert [path.name for path in frames(source, "clip", 4)] == names


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "split"), [("cv_bench", "3D"), ("site", "images"), ("vsi", "debias")]
)
def test_a_split_that_does_not_exist_is_refused(name, split, tmp_path):
    WRITERS[name](tmp_path)
    with pytest.raises(UserError, match=f"benchmark.split={split} is no split of {name}"):
        open_benchmark(BenchmarkConfig(name=name, split=split, root=str(tmp_path)))


def test_half_of_a_set_has_no_figure_of_the_leaderboard(tmp_path):
    WRITERS["site"](tmp_path / "site")
    benchmark = BenchmarkConfig(name="site", split="image", root=str(tmp_path / "site"))
    rows = [{"uid": item.uid, "text": "A"} for item in open_benchmark(benchmark)[2]]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    score(ScoreConfig(benchmark=benchmark, predictions=str(answers), out=str(out)))
    assert read_sealed_json(out / "scores.json", "")["easi"] == {}


def test_two_evaluations_of_one_set_are_no_submission(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        easi = {"key": "site", "overall": 1.0, "sub_scores": {}}
        write_sealed_json(tmp_path / name / "scores.json", {"easi": easi})
    who = SubmissionConfig(model_name="lab/model")
    with pytest.raises(UserError, match="are both evaluations of site"):
        write_submission(tmp_path, tmp_path / "out", who)


def test_a_pin_of_a_suite_names_its_set():
    config = BenchmarkConfig(suite="easi_8", sha256={"MMSI_Bench.parquet": "0" * 64})
    with pytest.raises(UserError, match=r"pins MMSI_Bench\.parquet"):
        suite_members(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sets": {"a": "a:test"}, "circular": True}, "circular=True"),
        ({"sets": {"a": "a:test"}, "style": "letter"}, "style=letter"),
        ({"sets": {"a": "a:test"}, "split": "val"}, "split=val"),
        ({"name": "mmsi", "mode": AnswerForm.direct}, "set benchmark.style=letter"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        validate(BenchmarkConfig(**settings))


def test_answers_of_another_choice_of_questions_point_at_the_settings(tmp_path):
    WRITERS["tsv"](tmp_path)
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"uid": "tsv/1#0", "text": "B"}\n')
    benchmark = BenchmarkConfig(name="tsv", split="s", root=str(tmp_path))
    config = ScoreConfig(benchmark=benchmark, predictions=str(path), out=str(tmp_path / "o"))
    with pytest.raises(UserError, match=r"give benchmark\.limit, \.circular"):
        score(config)
