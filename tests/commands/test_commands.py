"""evaluate, score and export from their configs to the files they write, with a real (untrained) model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hydra
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from support.benchmark_files import b64, picture, threedsr_rows, write_parquet, write_tsv
from support.fake_server import FakeServer

from actial.config import (
    Accelerator,
    BenchmarkConfig,
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    ExportFormat,
    ModelConfig,
    ScoreConfig,
    ServerConfig,
    SetConfig,
    Task,
    register,
)
from actial.config.hydra_app import typed
from actial.core.errors import UserError
from actial.core.paths import CONF
from actial.evaluate import evaluate
from actial.evaluation.audit.certificate import Certificate, Check
from actial.evaluation.benchmark_results import open_benchmark
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.benchmarks.base import Item
from actial.evaluation.harness_answers import read_answers
from actial.evaluation.harness_io import export_vlmeval
from actial.export import export
from actial.grading.predictions import read_predictions
from actial.score import score

SIDES = ("left", "right", "ahead", "behind")


@pytest.fixture
def mcq(tmp_path) -> Path:
    """A TSV of six four-option questions about two pictures each; the right letters are A B C D A B."""
    rows = [
        {
            "index": 10 + i,
            "question": f"Where is thing {i}?",
            **dict(zip("ABCD", SIDES, strict=True)),
            "answer": "ABCD"[i % 4],
        }
        | {"category": "even" if i % 2 == 0 else "odd", "image": str([b64(i), b64(i + 1)])}
        for i in range(6)
    ]
    write_tsv(tmp_path / "sides.tsv", rows)
    return tmp_path


def benchmark(root: Path, **options) -> BenchmarkConfig:
    return BenchmarkConfig(
        **{
            "name": "tsv",
            "root": str(root),
            "split": "sides",
            "max_tokens": 6,
            "batch_size": 4,
        }
        | options
    )


def local(root: Path, model: Path, out: Path, **options) -> EvaluateConfig:
    tiny = ModelConfig(path=str(model), min_pixels=256, max_pixels=4096)
    return EvaluateConfig(out=str(out), model=tiny, benchmark=benchmark(root, **options))


def test_evaluate_writes_answers_scores_and_report(mcq, untrained_model, tmp_path):
    out = tmp_path / "out"
    evaluate(local(mcq, untrained_model, out))
    rows = read_predictions(out / "predictions.jsonl")
    scores = json.loads((out / "scores.json").read_text())
    assert [p.uid for p in rows] == [f"tsv/{10 + i}" for i in range(6)]
    assert (
        scores["n"],
        scores["scores"]["overall"]["n"],
        scores["scores"]["type"]["odd"]["n"],
    ) == (6, 6, 3)
    assert set(scores["scores"]["overall"]) >= {
        "n",
        "value",
        "low",
        "high",
        "unparsed",
        "truncated",
        "round1",
        "trunc1",
    }
    assert len(scores["sha256"]["sides.tsv"]) == 64
    assert (out / "report.html").stat().st_size > 5000
    before = (out / "predictions.jsonl").read_bytes()
    evaluate(local(mcq, untrained_model, out))
    assert (out / "predictions.jsonl").read_bytes() == before
    with pytest.raises(UserError, match="max_tokens=6, now max_tokens=7"):
        evaluate(local(mcq, untrained_model, out, max_tokens=7))


def test_circular_and_pinned_files(mcq, untrained_model, tmp_path):
    evaluate(local(mcq, untrained_model, tmp_path / "circular", circular=True, style="letter"))
    scores = json.loads((tmp_path / "circular/scores.json").read_text())
    assert (scores["n"], scores["scores"]["circular"]["n"]) == (24, 6)
    with pytest.raises(UserError, match=r"sides\.tsv has sha256 .*pinned is 00"):
        open_benchmark(benchmark(mcq, sha256={"sides.tsv": "00"}))
    with pytest.raises(UserError, match=r"pins side\.tsv, but the files read are sides\.tsv"):
        open_benchmark(benchmark(mcq, sha256={"side.tsv": "00"}))
    with pytest.raises(UserError, match=r"none of other\.tsv, sha256 00 \(columns index, "):
        open_benchmark(benchmark(mcq, split="other", sha256={"other.tsv": "00"}))
    with pytest.raises(UserError, match=r"style=loud is unknown"):
        evaluate(local(mcq, untrained_model, tmp_path / "x", style="loud"))
    with pytest.raises(
        UserError, match=r"benchmark\.name=cvbench is unknown: use one of .*cv_bench"
    ):
        open_benchmark(benchmark(mcq, name="cvbench"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named(mcq, untrained_model, tmp_path):
    config = local(mcq, untrained_model, tmp_path / "out")
    with pytest.raises(
        UserError,
        match=r"accelerator=cuda, but torch sees no CUDA device: set accelerator=cpu, or auto",
    ):
        evaluate(replace(config, accelerator=Accelerator.cuda))


def test_diagnostics_of_a_built_set(tiny_set, untrained_model, tmp_path, capsys):
    config = EvaluateConfig(
        out=str(tmp_path / "out"),
        model=ModelConfig(path=str(untrained_model), min_pixels=256, max_pixels=4096),
        data=DataConfig(
            sets={"pairs": SetConfig(task=Task.viewpoint, root=str(tiny_set))},
            questions_per_pair=3,
        ),
        benchmark=BenchmarkConfig(
            sets={"held out": "pairs:test"}, limit=8, max_tokens=4, diagnostics=5
        ),
    )
    evaluate(config)
    progress = capsys.readouterr().err
    for label in ("controls", "diagnostics"):
        assert f"{label} of {untrained_model.name} on held out, " in progress
    for condition in ("no image", "mirrored images", "options moved by 2", "wrong pair"):
        assert f"on held out, {condition}: " in progress
    results = json.loads((tmp_path / "out/results.json").read_text())
    [actual] = results["diagnostics"]["held out"].values()
    assert set(actual) >= {
        "swap",
        "mirror",
        "options",
        "three questions",
        "by angle",
        "shortcuts",
        "above best shortcut",
        "visual dependence",
    }
    assert set(actual["shortcuts"]) == {
        "blind",
        "first view only",
        "last view only",
        "wrong pair",
        "2-D centroid",
        "answer prior",
    }
    assert actual["visual dependence"]["n"] == actual["accuracy"]["n"] > 0
    [controls] = results["controls"]["held out"].values()
    assert set(controls["accuracy"]) == {
        "thinking",
        "direct answer",
        "no image",
        "swapped images",
    }
    assert set(controls["gains"]) == {"thinking", "images"}
    answers = read_predictions(tmp_path / "out/held out/diagnostics/predictions.jsonl")
    assert len({p.uid for p in answers}) == len(answers)
    page = (tmp_path / "out/report.html").read_text()
    diagnostics = page.partition("Geometry or shortcut?")[2]
    assert '<th scope="col">n</th>' in diagnostics  # the number of items of each row
    assert "what thinking adds" in page
    assert "all questions of a pair correct" in page


def test_evaluate_through_a_server(mcq, tmp_path):
    with FakeServer(content="<answer>B</answer>") as fake:
        server = ServerConfig(url=fake.url, model="m", multiple=16)
        model = ModelConfig(path="unused", min_pixels=256, max_pixels=4096)
        evaluate(
            EvaluateConfig(
                out=str(tmp_path / "out"),
                model=model,
                benchmark=benchmark(mcq, controls=0),
                server=server,
            )
        )
        assert len(fake.bodies) == 6
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["scores"]["overall"]["value"] == pytest.approx(2 / 6)


# ---------------------------------------------------------------- score


def scored(mcq, predictions: Path, out: Path, **options) -> dict:
    score(
        ScoreConfig(
            out=str(out), benchmark=benchmark(mcq), predictions=str(predictions), **options
        )
    )
    return json.loads((out / "scores.json").read_text())["scores"]


def harness_files(folder: Path) -> list[Path]:
    """The same six answers, all B, as both harnesses write them; rows out of order."""
    right = "ABCDAB"
    frame = pd.DataFrame(
        {
            "index": [15, 14, 13, 12, 11, 10],
            "answer": list(right[::-1]),
            "prediction": ["<answer>B</answer>"] * 6,
        }
    )
    frame.to_excel(folder / "m_sides.xlsx", index=False)
    frame.to_csv(folder / "m_sides.tsv", sep="\t", index=False)
    frame.to_json(folder / "m_sides.json", orient="records")
    lines = [
        {
            "doc_id": i,
            "target": right[i],
            "resps": [["<answer>B</answer>"]],
            "filtered_resps": ["answerBanswer"],
        }
        for i in range(6)
    ]
    (folder / "x_samples_sides.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines)
    )
    return [
        folder / name
        for name in ("m_sides.xlsx", "m_sides.tsv", "m_sides.json", "x_samples_sides.jsonl")
    ]


def test_both_harnesses_files_give_one_score(mcq, tmp_path):
    (tmp_path / "h").mkdir()
    for path in harness_files(tmp_path / "h"):
        actual = scored(mcq, path, tmp_path / path.suffix.strip("."))
        assert actual["overall"]["value"] == pytest.approx(2 / 6), path
        assert actual["type"]["odd"]["value"] == pytest.approx(2 / 3)
    exact = scored(mcq, tmp_path / "h/m_sides.tsv", tmp_path / "exact", compat="vlmeval_exact")
    assert (exact["overall"]["value"], exact["overall"]["unparsed"]) == (
        0,
        1,
    )  # that reader cannot unwrap the tag


def test_rows_of_another_order_are_refused(mcq, tmp_path):
    """Names that fit by chance, such as ids counted from 1 against places counted from 0, must not mix answers up."""
    _, _, items = open_benchmark(benchmark(mcq))
    line = {"doc_id": 0, "target": "(B)", "resps": [["B"]], "filtered_resps": ["B"]}
    (tmp_path / "s.jsonl").write_text(
        "".join(json.dumps(line | {"doc_id": i}) + "\n" for i in range(6))
    )
    with pytest.raises(
        UserError,
        match=r"right answer of row 0 is \(B\), of tsv/10 it is A: the harness ran on another",
    ):
        read_answers(tmp_path / "s.jsonl", items)
    pd.DataFrame({"index": range(10, 16), "answer": "right", "prediction": "B"}).to_csv(
        tmp_path / "p.tsv", sep="\t", index=False
    )
    with pytest.raises(UserError, match="right answer of row 10 is right"):
        read_answers(tmp_path / "p.tsv", items)


def test_answers_to_an_exported_set_find_their_questions(mcq, tmp_path):
    """VLMEvalKit hands on the columns of our TSV; lmms-eval names documents by their place in our parquet file."""
    requests_made = benchmark(mcq, limit=4)
    _, _, items = open_benchmark(requests_made)
    for form in (ExportFormat.vlmeval, ExportFormat.lmms_eval):
        export(
            ExportConfig(out=str(tmp_path / form.value), format=form, benchmark=requests_made)
        )
    frame = pd.read_csv(tmp_path / "vlmeval/actial_tsv.tsv", sep="\t", dtype=str).drop(
        columns="image"
    )
    frame.assign(prediction=frame["answer"])[::-1].to_excel(tmp_path / "p.xlsx", index=False)
    docs = pd.read_parquet(tmp_path / "lmms_eval/actial_tsv.parquet")
    lines = [
        {"doc_id": i, "target": a, "resps": [[a]], "filtered_resps": [a]}
        for i, a in enumerate(docs["answer"])
    ]
    (tmp_path / "x_samples_y.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines[::-1])
    )
    want = {item.uid: "ABCD"[item.answer_index] for item in items}
    for name in ("p.xlsx", "x_samples_y.jsonl"):
        assert {
            uid: text for uid, (text, _) in read_answers(tmp_path / name, items).items()
        } == want


def test_our_own_predictions_are_graded_anew(mcq, untrained_model, tmp_path):
    evaluate(local(mcq, untrained_model, tmp_path / "out"))
    before = json.loads((tmp_path / "out/scores.json").read_text())["scores"]
    assert scored(mcq, tmp_path / "out/predictions.jsonl", tmp_path / "again") == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "x", r"has the ending \.csv"),
        ("p.tsv", "index\tanswer\n1\tB\n", "lacks the columns index and prediction"),
        ("p.tsv", "index\tprediction\n10\tB\n10\tC\n", "answers question 10 twice"),
        (
            "p.tsv",
            "index\tprediction\n10\tB\n",
            "no answer to 5 of 6 questions, the first tsv/11",
        ),
        ("p.jsonl", '{"doc_id": 1}\n', "line 1 has neither"),
        ("p.jsonl", '{"uid": "tsv/10", "text": null}\n', "line 1 has neither"),
        ("p.jsonl", "{", "line 1 has neither"),
        ("p.json", "{", r"is not a readable \.json file"),
        ("p.xlsx", "no sheet", r"is not a readable \.xlsx file"),
    ],
)
def test_bad_prediction_files(mcq, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    _, _, items = open_benchmark(benchmark(mcq))
    with pytest.raises(UserError, match=message):
        read_answers(tmp_path / name, items)
    with pytest.raises(UserError, match="is no file"):
        read_answers(tmp_path / "gone.tsv", items)


def test_paper_stands_beside_ours(tmp_path):
    write_tsv(tmp_path / "3dsrbench_v1_vlmevalkit_circular.tsv", threedsr_rows())
    config = BenchmarkConfig(name="3dsrbench", root=str(tmp_path))
    _, _, items = open_benchmark(config)
    answers = pd.DataFrame(
        {
            "index": [i.source_index for i in items],
            "prediction": ["ABCD"[i.answer_index] for i in items],
        }
    )
    answers.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    score(
        ScoreConfig(
            out=str(tmp_path / "out"), benchmark=config, predictions=str(tmp_path / "p.tsv")
        )
    )
    paper = json.loads((tmp_path / "out/results.json").read_text())["paper"]["3dsrbench"]
    assert paper["columns"] == [
        "3DSR avg",
        "3DSR Height",
        "3DSR Location",
        "3DSR Orientation",
        "3DSR Multi",
    ]
    assert paper["rows"]["Actial-7B"] == [47.7, 46.4, 60.3, 35.5, 43.0]
    assert paper["ours"] == [100.0, 100.0, None, 100.0, None]
    page = (tmp_path / "out/report.html").read_text()
    assert "Actial-7B without K.I." in page
    assert (
        "3 questions were asked, 5157 are published: not comparable with published figures."
        in page
    )
    assert json.loads((tmp_path / "out/scores.json").read_text())["notes"] == paper["notes"]
    assert "47.7" in page


# ---------------------------------------------------------------- export


def test_vlmeval_export_reads_back_as_the_same_set(tmp_path):
    rows = [
        {"images": [picture(), picture(1)], "id": i, "answer": "B", "question_type": "MSR"}
        for i in range(2)
    ]
    requests_made = 'Where "is" it?\tHere? Options: A: left, B: right, C: up, D: down'
    write_parquet(
        tmp_path / "MMSI_Bench.parquet", [row | {"question": requests_made} for row in rows]
    )
    config = BenchmarkConfig(name="mmsi", root=str(tmp_path))
    export(
        ExportConfig(out=str(tmp_path / "out"), format=ExportFormat.vlmeval, benchmark=config)
    )
    _, _, before = open_benchmark(config)
    _, _, after = open_benchmark(
        BenchmarkConfig(name="tsv", root=str(tmp_path / "out"), split="actial_mmsi")
    )
    for one, other in zip(before, after, strict=True):
        assert (one.question, one.options, one.answer_index, one.images) == (
            other.question,
            other.options,
            other.answer_index,
            other.images,
        )
    frame = pd.read_csv(tmp_path / "out/actial_mmsi.tsv", sep="\t")
    assert list(frame["index"]) == [0, 1]
    assert frame["image"][0].startswith("['")


def test_lmms_export_is_a_working_task(mcq, tmp_path):
    export(
        ExportConfig(
            out=str(tmp_path / "task"), format=ExportFormat.lmms_eval, benchmark=benchmark(mcq)
        )
    )
    frame = pd.read_parquet(tmp_path / "task/actial_tsv.parquet")
    assert "task: actial_tsv" in (tmp_path / "task/actial_tsv.yaml").read_text()
    functions: dict = {}
    exec((tmp_path / "task/utils.py").read_text(), functions)
    doc = frame.iloc[1].to_dict()
    assert [image.size for image in functions["doc_to_visual"](doc)] == [(80, 60)] * 2
    assert functions["doc_to_text"](doc).startswith("Question: Where is thing 1?")
    assert functions["process_results"](doc, ["<think>A</think><answer>B</answer>"]) == {
        "accuracy": 1.0
    }
    assert functions["process_results"](doc, ["I see A"]) == {"accuracy": 0.0}


def test_open_answers_cannot_be_exported(tmp_path):
    write_tsv(
        tmp_path / "omni3dbench.tsv",
        [{"index": 0, "image": b64(), "question": "?", "answer": "3", "answer_type": "int"}],
    )
    config = BenchmarkConfig(name="omni3d", root=str(tmp_path))
    with pytest.raises(UserError, match="has no options"):
        export(
            ExportConfig(
                out=str(tmp_path / "out"), format=ExportFormat.vlmeval, benchmark=config
            )
        )


def test_a_missing_certificate_is_named(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"models": ["m"], "sets": {}}))
    config = ExportConfig(out="x", format=ExportFormat.model_card, run_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"give the certificate\.json"):
        export(replace(config, certificate=str(tmp_path / "none.json")))


def test_model_card(tmp_path):
    cell = {"n": 4, "value": 0.75, "low": 0.3, "high": 0.95, "unparsed": 0.0}
    results = {
        "models": ["base", "grpo"],
        "sets": {"held out": {"base": {"overall": cell}, "grpo": {"overall": cell}}},
        "meta": {"seed": 0},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    export(
        ExportConfig(
            out=str(tmp_path / "card"), format=ExportFormat.model_card, run_dir=str(tmp_path)
        )
    )
    assert (
        "base_model" not in (tmp_path / "card/README.md").read_text()
    )  # an evaluation alone does not know
    (tmp_path / "config.yaml").write_text("model: {path: Qwen/Qwen2.5-VL-7B-Instruct}\n")
    controls = {
        "accuracy": {"thinking": cell, "direct answer": cell | {"value": 0.5}},
        "tokens": {},
        "gains": {"thinking": {"n": 4, "value": 0.25, "low": -0.05, "high": 0.6}},
    }
    with_controls = results | {"controls": {"held out": {"grpo": controls}}}
    (tmp_path / "results.json").write_text(json.dumps(with_controls))
    leak = Check(
        name="near-duplicate images",
        sets=["a", "b"],
        clean=False,
        finding="2 pairs of items share an image",
    )
    audit = Certificate(sets={"a": 3, "b": 4}, checks=[leak])
    (tmp_path / "certificate.json").write_text(json.dumps(audit.to_json()))
    config = ExportConfig(
        out=str(tmp_path / "card"), format=ExportFormat.model_card, run_dir=str(tmp_path)
    )
    export(replace(config, certificate=str(tmp_path / "certificate.json")))
    card = (tmp_path / "card/README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "\nbase_model: Qwen/Qwen2.5-VL-7B-Instruct\n" in card
    assert "value: 0.7500" in card
    assert "| held out | 4 | 75.0 | 30.0 to 95.0 | 0.0 |" in card
    assert "| held out |  | 75.0 | 50.0 |  |  | +25.0 [-5.0, +60.0] |  |" in card
    assert "`python -m actial.audit` over a (3), b (4): **leaks**." in card
    assert (
        "| near-duplicate images | a and b | leak | 2 pairs of items share an image |" in card
    )
    read = ModelCard(card)  # as hubs read it
    [result] = read.data.eval_results
    assert (read.data.model_name, result.dataset_name, result.metric_value) == (
        "grpo",
        "held out",
        0.75,
    )


# ---------------------------------------------------------------- command lines


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_named(name):
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = typed(hydra.compose("evaluate", [f"benchmark={name}", "out=x"]))
    assert config.benchmark.name == name
    assert BENCHMARKS[name].paper.startswith("https://") or name == "tsv"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "benchmark=nope", "out=x"], "nope"),
        (
            [
                "evaluate",
                "benchmark=cv_bench",
                "benchmark.root=/nowhere",
                "server.url=http://127.0.0.1:9/v1",
                "out=x",
            ],
            "server.model",
        ),
        (
            [
                "evaluate",
                "benchmark=cv_bench",
                "server.url=http://127.0.0.1:9/v1",
                "server.model=m",
                "sampler=vllm_evaluate",
                "out=x",
            ],
            "sampler.kind=vllm cannot be used: the server at server.url=http://127.0.0.1:9/v1",
        ),
        (
            [
                "passrates",
                "set=sat",
                "server.url=http://127.0.0.1:9/v1",
                "server.model=m",
                "sampler=vllm_evaluate",
                "out=x",
            ],
            "sampler.kind=vllm cannot be used: the server at server.url=http://127.0.0.1:9/v1",
        ),
        (
            ["evaluate", "benchmark=cv_bench", "server.model=m", "out=x"],
            "server.model=m cannot be used: without server.url no server is asked",
        ),
        (
            [
                "score",
                "benchmark=cv_bench",
                "benchmark.root=/nowhere",
                "predictions=p.tsv",
                "out=x",
            ],
            "has none of test_2d.parquet",
        ),
    ],
)
def test_wrong_input_is_one_sentence(tmp_path, words, message):
    done = subprocess.run(
        [sys.executable, "-m", f"actial.{words[0]}", *words[1:]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# ---------------------------------------------------------------- files of the harnesses


def test_samples_without_raw_responses_are_read(tmp_path):
    """lmms-eval leaves `resps` out where it equals `filtered_resps`."""
    items = [Item(uid=f"u{i}", images=[], question="?", options=("a", "b")) for i in range(2)]
    samples = [
        {"doc_id": 0, "target": "", "filtered_resps": ["B"]},
        {"doc_id": 1, "target": "", "filtered_resps": ["x"], "resps": [["A"]]},
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    answers = read_answers(path, items)
    assert [answers["u0"][0], answers["u1"][0]] == ["B", "A"]


@pytest.mark.parametrize(
    "texts",
    [
        ("4", "None", "4.0", "NA", "left"),
        ("true", "FALSE", "#NA", "-1.#IND", "-NaN"),
        ("True", "null", "1e5", "#N/A N/A", ""),
    ],
)
def test_texts_survive_the_reader_of_the_harness(texts, tmp_path):
    items = [
        Item(uid=f"u{i}", images=[b"x" * 99], question=text, type=text, hint=text)
        for i, text in enumerate(texts)
    ]
    for item in items:
        item.options, item.answer_index = (*texts, "last"), 5
    export_vlmeval(items, tmp_path / "t.tsv")
    frame = pd.read_csv(tmp_path / "t.tsv", sep="\t")  # as VLMEvalKit reads it
    for row, item in zip(frame.to_dict("records"), items, strict=True):
        assert tuple(str(row[letter]).strip() for letter in "ABCDEF") == item.options
        for column in ("question", "category", "hint"):
            cell = "" if pd.isna(row[column]) else row[column].strip()
            assert cell == item.question
    read = open_benchmark(BenchmarkConfig(name="tsv", root=str(tmp_path), split="t"))[2]
    for item, again in zip(items, read, strict=True):
        assert (again.question, again.type, again.options) == (
            item.question,
            item.type,
            item.options,
        )
        assert again.hint == ("" if item.hint.lower() == "nan" else item.hint)


def test_circular_copies_of_our_table_are_recognized(tmp_path):
    items = [Item(uid=f"u{i}", images=[], question="?", options=("a", "b")) for i in range(2)]
    rows = [
        {"index": i + k * 1_000_000, "uid": f"u{i}", "prediction": "AB"[k]}
        for i in range(2)
        for k in range(2)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    assert [a[0] for a in read_answers(tmp_path / "m.tsv", items).values()] == ["A", "A"]
