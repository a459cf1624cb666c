"""Files of a run that are cut, changed, deleted or half written: named, or made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import hydra
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actial.config import EvaluateConfig, ModelConfig, TrainConfig, register
from actial.config.hydra_app import typed
from actial.core.errors import UserError
from actial.core.line_counts import check_all_line_counts
from actial.core.paths import CONF
from actial.core.sealed_files import changed_file
from actial.evaluation.results import Results, SetResult
from actial.grading.metrics import Cell, Prediction
from actial.grading.predictions import PredictionLog, read_predictions
from actial.modeling.saved_settings import with_saved_settings
from actial.pipeline.rollout_log import SCHEMA
from actial.runs.provenance import add_provenance, read_provenance
from actial.runs.run_dir import open_run
from actial.runs.run_index import load_runs
from actial.runs.step_log import StepLog
from actial.train import train

Damage = Callable[[Path], None]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def leave_half_written(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + bytes(size - size // 2))


def flip_a_digit(path: Path) -> None:
    """Change a number so that the file is as readable as before."""
    content = path.read_bytes()
    position = next(
        i for i in range(len(content) // 3, len(content)) if content[i : i + 1] == b"1"
    )
    path.write_bytes(content[:position] + b"0" + content[position + 1 :])


DAMAGES = (cut, leave_half_written, flip_a_digit)


def lose_lines(path: Path, lost: int | slice) -> None:
    """Remove whole lines, so that each of the others is as it was written."""
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[lost]
    path.write_bytes(b"".join(lines))


def config(folder: Path, *overrides: str) -> TrainConfig:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(
            hydra.compose("train", ["+experiment=smoke", f"run_dir={folder}", *overrides])
        )


def results() -> Results:
    cell = Cell(n=16, value=Fraction(11, 16), low=0.4, high=0.9, unparsed=0.0, truncated=0.0)
    return Results(
        models=["base"],
        set_names=["viewpoint"],
        sets={"viewpoint": {"base": SetResult(overall=cell)}},
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_results_are_not_reported(tmp_path: Path, damage: Damage) -> None:
    results().write(tmp_path)
    assert Results.read(tmp_path) == results()
    damage(tmp_path / "results.json")
    with pytest.raises(
        UserError, match=r"results\.json is damaged .*: remove it and run the same"
    ):
        Results.read(tmp_path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_configuration_is_neither_resumed_nor_analyzed(
    tmp_path: Path, damage: Damage
) -> None:
    with open_run(config(tmp_path / "run")):
        pass
    assert len(load_runs(tmp_path)) == 1
    damage(tmp_path / "run" / "config.yaml")
    for read in (lambda: open_run(config(tmp_path / "run")), lambda: load_runs(tmp_path)):
        with pytest.raises(
            UserError, match=r"config\.yaml is damaged \(.*\): put a copy back"
        ):
            read()


def test_a_configuration_without_any_content_is_damaged(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run")):
        pass
    for content in (b"", b"\0" * 100, b"a: [", b"\xff\xfe"):
        (tmp_path / "run" / "config.yaml").write_bytes(content)
        with pytest.raises(UserError, match=r"config\.yaml is damaged"):
            open_run(config(tmp_path / "run"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_provenance_is_named(tmp_path: Path, damage: Damage) -> None:
    add_provenance(
        tmp_path, {"seed": 11, "data": {"pairs": "a1b1c1"}, "later": list(range(30))}
    )
    assert read_provenance(tmp_path)["seed"] == 11
    damage(tmp_path / "provenance.json")
    with pytest.raises(
        UserError, match=r"provenance\.json is damaged \(.*\): put a copy back"
    ):
        add_provenance(tmp_path, {"seed": 12})


def test_a_damaged_line_of_the_metrics_is_named(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "metrics.jsonl")
    for step in range(1, 9):
        log.write("sft", step, {"loss": step + 0.111})
    flip_a_digit(log.path)
    with pytest.raises(UserError, match=r"metrics\.jsonl line \d is damaged \(its checksum"):
        log.entries()


@pytest.mark.parametrize("damage", [cut, leave_half_written])
def test_metrics_that_lack_steps_are_not_continued(tmp_path: Path, damage: Damage) -> None:
    log = StepLog(tmp_path / "metrics.jsonl")
    for step in range(1, 9):
        log.write("sft", step, {"loss": 1.0})
    log.check_complete("sft", 8, 1)
    damage(log.path)
    with pytest.raises(
        UserError,
        match=r"[45] entries of sft are missing, the first of step [45]\): put a copy",
    ):
        log.check_complete("sft", 8, 1)
    log.path.unlink()
    with pytest.raises(UserError, match=r"8 entries of sft are missing, the first of step 1"):
        log.check_complete("sft", 8, 1)
    log.check_complete("grpo", 0, 5)


@pytest.mark.parametrize("lost", [0, 2, 5, slice(1, 4)])
def test_lines_lost_within_the_metrics_of_an_unfinished_run_are_noticed(
    tmp_path: Path, lost: int | slice
) -> None:
    log = StepLog(tmp_path / "metrics.jsonl")
    for step in (5, 10, 15, 20, 25, 27):
        log.write("sft", step, {"loss": 1.0})
    log.check_complete("sft", 27, 5)
    lose_lines(log.path, lost)
    with pytest.raises(UserError, match=r"[13] entries of sft are missing, the first of step"):
        log.check_complete("sft", 27, 5)


@pytest.mark.parametrize("lost", [0, 3, 6, slice(1, 5), slice(0, 7)])
@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl",
        "scores/base/viewpoint/predictions.jsonl",
        "viewpoint/predictions.jsonl",
        "predictions.jsonl",
        "viewpoint/diagnostics/predictions.jsonl",
    ],
)
def test_lines_lost_from_a_log_of_finished_results_are_noticed(
    tmp_path: Path, name: str, lost: int | slice
) -> None:
    path = tmp_path / name
    if name == "metrics.jsonl":
        for step in range(1, 8):
            StepLog(path).write("grpo", step, {"reward": 0.5})
        read: Callable[[], object] = StepLog(path).entries
    else:
        log = PredictionLog(path.parent, {"model": "m1"})
        log.append([prediction(number) for number in range(7)])
        read = partial(read_predictions, path)
    results().write(tmp_path)
    assert len(read()) == 7
    check_all_line_counts(tmp_path)
    lose_lines(path, lost)
    left = len(path.read_bytes().splitlines())
    for check in (read, partial(check_all_line_counts, tmp_path)):
        with pytest.raises(
            UserError,
            match=rf"{name} is damaged \({left} lines instead of 7\): put a copy back",
        ):
            check()
    path.unlink()
    with pytest.raises(UserError, match=r"0 lines instead of 7"):
        check_all_line_counts(tmp_path)


def test_lost_answers_are_asked_again_by_the_same_command(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, {"model": "m1"})
    log.append([prediction(number) for number in range(7)])
    results().write(tmp_path)
    lose_lines(log.path, 3)
    assert "q3" not in PredictionLog(tmp_path, {"model": "m1"}).done


def prediction(number: int) -> Prediction:
    return Prediction(
        uid=f"q{number}",
        text=f"turn by 11 degrees {number}: A",
        letter="A",
        choice="left",
        answer="A",
        rule="leading",
        outcome="parsed",
        score=1.0,
        format_ok=True,
        finish="stop",
        tokens=11,
        type="static",
        example="e",
        categories={},
        group={},
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_predictions_are_named_and_lost_ones_are_asked_again(
    tmp_path: Path, damage: Damage
) -> None:
    log = PredictionLog(tmp_path, {"model": "m1"})
    log.append([prediction(number) for number in range(7)])
    assert len(read_predictions(log.path)) == 7
    damage(log.path)
    with pytest.raises(UserError, match=r"predictions\.jsonl line \d is damaged"):
        read_predictions(log.path)  # of a finished run
    if damage is not flip_a_digit:  # resumed: what a kill can leave
        assert len(PredictionLog(tmp_path, {"model": "m1"}).done) < 7


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_settings_of_predictions_are_named(tmp_path: Path, damage: Damage) -> None:
    settings = {"model": "m1", "seed": 11, "limits": [1, 11, 111], "temperature": 1.1}
    PredictionLog(tmp_path, settings)
    PredictionLog(tmp_path, settings)
    damage(tmp_path / "settings.json")
    with pytest.raises(UserError, match=r"settings\.json is damaged .*: remove its folder"):
        PredictionLog(tmp_path, settings)


def test_a_flipped_bit_in_logged_rollouts_is_noticed(tmp_path: Path) -> None:
    line = {"step": 1, "uid": "q", "text": "one two three" * 50, "images": [bytes(range(256))]}
    path = tmp_path / "grpo-000001.parquet"
    pq.write_table(
        pa.Table.from_pylist([line], schema=SCHEMA),
        path,
        compression="zstd",
        write_page_checksum=True,
    )
    content = bytearray(path.read_bytes())
    content[content.index(bytes(range(100, 200)))] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"CRC"):
        pq.read_table(path, page_checksum_verification=True)


# ---------------------------------------------------------------- models


@pytest.mark.slow
def test_a_damaged_model_is_set_aside_and_written_again(
    tmp_path: Path, tiny_set: Path, untrained_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        "benchmark=none",
        "stages=[sft]",
        "trainer.threads=1",
        "sft.steps=2",
        f"model.path={untrained_model}",
        "data.sets={viewpoint:{task:viewpoint,root:'" + str(tiny_set) + "'}}",
        "mix@sft.mix=viewpoint",
    ]
    train(config(tmp_path / "run", *settings))
    model = tmp_path / "run" / "sft" / "model"
    assert changed_file(model) is None
    shutil.copytree(model, tmp_path / "intact")
    for name, damage in (("model.safetensors", cut), ("config.json", flip_a_digit)):
        damage(model / name)
        (tmp_path / "run" / "results.json").unlink()
        train(config(tmp_path / "run", *settings))
        assert f"model {model} is damaged: {name} differs" in capsys.readouterr().out
        assert (model.parent / "damaged-model" / name).exists()
        for path in (tmp_path / "intact").iterdir():
            assert (model / path.name).read_bytes() == path.read_bytes(), path.name
    (model / "tokenizer.json").unlink()
    assert changed_file(model) == "tokenizer.json"
    with pytest.raises(
        UserError, match=r"model.path=.* is damaged .*: tokenizer\.json differs"
    ):
        train(config(tmp_path / "other", *settings, f"model.path={model}"))
    with pytest.raises(UserError, match=r"model.path=.* is damaged"):
        with_saved_settings(EvaluateConfig(model=ModelConfig(path=str(model))))
    log = StepLog(tmp_path / "run" / "metrics.jsonl")
    assert pd.DataFrame(log.entries()).step.tolist() == [1, 2]

    # a line of the log is lost: named by the finished run, and by one that has yet to be scored
    lose_lines(log.path, 0)
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged \(1 lines instead of 2\)"):
        train(config(tmp_path / "run", *settings))
    (tmp_path / "run" / "results.json").unlink()
    with pytest.raises(UserError, match=r"1 entries of sft are missing, the first of step 1"):
        train(config(tmp_path / "run", *settings))
