"""Pass rates: measured with a real model and with one whose answers are known, and what they leave to train on."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from support import tiny_world
from support.fake_server import FakeServer

import actial.passrates as command
from actial.config import (
    BenchmarkConfig,
    ColdStartConfig,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PassRatesConfig,
    ServerConfig,
    SetConfig,
    Task,
)
from actial.config.validation import validate
from actial.core.errors import UserError
from actial.core.records import AnswerMode
from actial.data.datasets import open_set
from actial.data.shards import ShardSet
from actial.evaluate import evaluate
from actial.evaluation.pass_rates import measure_pass_rates
from actial.viewpoint.questions import qa_question

TRIES = 4


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("qa") / "sat"
    tiny_world.write_questions(root, 12)
    return root


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def on_server(url: str, questions: Path, out: Path, **settings) -> PassRatesConfig:
    return PassRatesConfig(
        **{"out": str(out), "set": "sat", "samples": TRIES, **settings},
        data=DataConfig(sets={"sat": SetConfig(task=Task.qa, root=str(questions))}),
        model=ModelConfig(path="unused", min_pixels=256, max_pixels=4096),
        server=ServerConfig(url=url, model="m", multiple=16),
    )


def scored(config: PassRatesConfig) -> EvaluateConfig:
    """The same set, asked once, as actial.evaluate does."""
    requests_made = BenchmarkConfig(sets={"sat": "sat:train"}, max_tokens=4, controls=0)
    return EvaluateConfig(
        out=config.out,
        model=config.model,
        data=config.data,
        server=config.server,
        benchmark=requests_made,
    )


def opened(
    root: Path, rates: Path | None, task: Task = Task.qa, split: str = "train", **settings
):
    config = SetConfig(task=task, root=str(root), pass_rates=rates and str(rates), **settings)
    return open_set(
        config,
        split,
        DataConfig(questions_per_pair=3),
        ColdStartConfig(),
        supervised=False,
        mode=AnswerMode.THINK,
    )


@pytest.fixture(scope="module")
def measured(questions, tmp_path_factory):
    """By a model that always says A: right where the shuffled options have the right one first."""
    out = tmp_path_factory.mktemp("rates") / "out"
    with FakeServer(content="<answer>A</answer>") as fake:
        measure_pass_rates(on_server(fake.url, questions, out))
        assert (
            len({body["seed"] for body in fake.bodies}) == len(fake.bodies) == 12 * TRIES
        )  # tries at one question are not copies
    return out


def test_each_try_has_its_own_order_of_options_and_is_counted(measured, questions):
    rows = {row.uid: row for row in ShardSet(questions, "train").records}
    actual = lines(measured / "passrates.jsonl")
    assert {entry["uid"] for entry in actual} == set(rows)
    for entry in actual:
        letters = [
            qa_question(rows[entry["uid"]], AnswerMode.THINK, epoch=k).answer_letter
            for k in range(TRIES)
        ]
        assert (entry["solved"], entry["samples"], entry["type"]) == (
            letters.count("A"),
            TRIES,
            rows[entry["uid"]].type,
        )
    counts = json.loads((measured / "summary.json").read_text())
    assert sum(sum(by_state.values()) for by_state in counts.values()) == 12
    assert sum(by_state["never"] for by_state in counts.values()) == sum(
        entry["solved"] == 0 for entry in actual
    )


@pytest.mark.parametrize("ask", [measure_pass_rates, lambda config: evaluate(scored(config))])
def test_answers_are_not_continued_over_a_set_that_was_built_anew(ask, tmp_path):
    """Its rows keep their ids, so old answers would pass for answers to the new pictures."""
    tiny_world.write_questions(tmp_path / "set", 4)
    with FakeServer(content="<answer>A</answer>") as fake:
        config = on_server(fake.url, tmp_path / "set", tmp_path / "out", samples=1)
        ask(config)
        ask(config)
        assert len(fake.bodies) == 4
        shutil.rmtree(tmp_path / "set")
        tiny_world.write_questions(tmp_path / "set", 5)
        with pytest.raises(
            UserError,
            match=r"holds predictions made with index=\w+, now index=\w+: give another output folder",
        ):
            ask(config)


def test_what_is_always_or_never_solved_is_not_trained_on(measured, questions):
    rate = {
        entry["uid"]: entry["solved"] / TRIES for entry in lines(measured / "passrates.jsonl")
    }
    between = {uid for uid, share in rate.items() if 0 < share < 1}
    assert 0 < len(between) < 12
    remaining = opened(questions, measured / "passrates.jsonl")
    assert {remaining.example(i, 0).uid for i in range(len(remaining))} == between
    hard = opened(questions, measured / "passrates.jsonl", pass_rate_range=[0.0, 0.5])
    assert {hard.example(i, 0).uid for i in range(len(hard))} == {
        uid for uid, share in rate.items() if 0 < share < 0.5
    }
    assert len(opened(questions, None)) == 12


def test_of_a_pair_only_the_barred_questions_go(tiny_set, tmp_path):
    rows = ShardSet(tiny_set, "train").records
    kinds = ("ego_translation", "object_translation", "ego_rotation")
    solved = [
        {"uid": f"{rows[0].uid}/{kind}", "type": kind, "samples": 8, "solved": n}
        for kind, n in zip(kinds, (8, 3, 0), strict=True)
    ]
    solved += [
        {"uid": f"{rows[1].uid}/{kind}", "type": kind, "samples": 8, "solved": 8}
        for kind in kinds
    ]
    (tmp_path / "rates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in solved))
    pairs = opened(tiny_set, tmp_path / "rates.jsonl", Task.viewpoint)
    assert len(pairs) == len(rows) - 1  # the second is always solved; those not measured stay
    assert [question.type for question in pairs.example(0, 0).questions] == [
        "object_translation"
    ]
    assert pairs.example(1, 0).uid == rows[2].uid
    held = opened(tiny_set, tmp_path / "rates.jsonl", Task.viewpoint, split="test")
    assert len(held) == len(ShardSet(tiny_set, "test"))


def test_a_file_of_another_set_or_no_file_is_one_sentence(questions, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        opened(questions, tmp_path / "none.jsonl")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"uid": "sat:0"}\n')
    with pytest.raises(UserError, match="is not what"):
        opened(questions, broken)
    broken.write_text('{"uid": "elsewhere", "samples": 4, "solved": 2}\n')
    with pytest.raises(UserError, match="has rates for 0 of their questions"):
        opened(questions, broken)
    with pytest.raises(UserError, match=r"pass_rate_range=\[0\.9, 0\.1\]"):
        validate(SetConfig(task=Task.qa, root="x", pass_rate_range=[0.9, 0.1]))


def test_the_command_with_a_model_in_process_goes_on_where_it_stopped(
    questions, untrained_model, tmp_path, monkeypatch, capsys
):
    words = [
        f"out={tmp_path / 'out'}",
        "set=sat",
        "samples=2",
        "max_tokens=4",
        "model=tiny",
        f"model.path={untrained_model}",
        "model.max_pixels=4096",
    ]
    words += [f"data.sets.sat.root={questions}"]
    monkeypatch.setattr(sys, "argv", ["actial.passrates", *words])
    command.main()
    first = (tmp_path / "out" / "passrates.jsonl").read_bytes()
    log = tmp_path / "out" / "predictions.jsonl"
    log.write_bytes(
        b"".join(log.read_bytes().splitlines(keepends=True)[:7]) + b'{"torn'
    )  # a kill in the middle
    command.main()
    assert (tmp_path / "out" / "passrates.jsonl").read_bytes() == first
    assert "of 12 questions" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["actial.passrates", *words, "set=clock"])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 1
    assert "set=clock" in capsys.readouterr().err
