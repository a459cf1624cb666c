"""Tables of a sweep: what is swept, intervals over seeds, paired differences, and what collect writes from real runs."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from actial.collect import collect
from actial.config import CollectConfig
from actial.core.errors import UserError
from actial.evaluation.results import SampleAnswer, SampleCard
from actial.reporting import analysis, seed_statistics
from actial.reporting.csv_text import csv_text, inert_cell
from actial.reporting.figures import condition_figure, counts_figure, sample_figure, save
from actial.reporting.loss_curves import sudden_drop
from actial.reporting.sweep_report import figure_text
from actial.runs import run_index

SAMPLE = Path(__file__).resolve().parents[2] / "notebooks" / "sample"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The committed runs, one of them stopped before its results, one refused before it began."""
    folder = tmp_path / "sweep"
    shutil.copytree(SAMPLE, folder)
    (folder / "cold_start=hybrid,seed=2" / "results.json").unlink()
    (folder / "cold_start=all,seed=1").mkdir()
    (folder / "cold_start=all,seed=1" / "error.txt").write_text(
        "error: the disk is full: free some space.\n"
    )
    (folder / ".submitit").mkdir()
    return folder


def test_bootstrap_takes_every_resample_of_few_seeds() -> None:
    """Two seeds 0 and 1: the means of the four resamples are 0, 1/2, 1/2, 1."""
    assert seed_statistics.bootstrap([0.0, 1.0]) == (0.5, 0.0, 1.0)
    mean, low, high = seed_statistics.bootstrap(
        [1.0, 2.0, 6.0]
    )  # 27 resamples; one in 27 is all 1, which is more than 2.5 %
    assert (mean, low, high) == (3.0, 1.0, 6.0)
    mean, low, high = seed_statistics.bootstrap([0.4])
    assert mean == 0.4
    assert math.isnan(low)
    assert math.isnan(high)


def test_bootstrap_of_many_seeds_is_close_to_the_normal_interval() -> None:
    values = np.linspace(0, 1, 40)
    mean, low, high = seed_statistics.bootstrap(values)
    half = 1.96 * values.std() / math.sqrt(40)
    assert mean == pytest.approx(0.5)
    assert (low, high) == (
        pytest.approx(0.5 - half, abs=0.01),
        pytest.approx(0.5 + half, abs=0.01),
    )
    assert seed_statistics.bootstrap(values) == (mean, low, high)


def test_a_figure_names_every_model_once_though_the_first_arm_lacks_some() -> None:
    table = analysis.tidy(run_index.load_runs(SAMPLE))
    first = table["condition"].iloc[0]
    table = table[(table["condition"] != first) | (table["model"] != "grpo")]
    legend = condition_figure(table, seed_statistics.summary(table)).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [
        "base",
        "SFT",
        "GRPO",
        "95 % interval over seeds",
        "one seed",
    ]


@pytest.mark.parametrize("name", ["$\\bad$", "a_$\\frac{$", "$5 and $6"])
def test_dollar_signs_of_a_name_are_no_mathematics(name: str, tmp_path: Path) -> None:
    """Matplotlib would read what is between them as TeX, and fail where it is none."""
    table = analysis.tidy(run_index.load_runs(SAMPLE)).replace("sft", name)
    table["condition"] = name + table["condition"]
    save(condition_figure(table, seed_statistics.summary(table)), tmp_path / "c.png")
    answer = SampleAnswer(text=name, choice=name, outcome="parsed", correct=False)
    card = SampleCard(
        uid="u",
        images=[],
        question=f"$\\boxed{{B}}$ {name}",
        answer=name,
        answers={name: answer},
    )
    save(sample_figure([card], tmp_path), tmp_path / "s.png")
    counts = pd.Series([1, 2], index=[name, "b"])
    save(counts_figure({name: counts}), tmp_path / "n.png")


def test_a_text_of_a_run_is_no_formula_of_a_spreadsheet() -> None:
    cells = {
        '=HYPERLINK("http://x","y")': True,
        "+x": True,
        "-x": True,
        "@x": True,
        "\t=x": True,
        "-1.5": False,
        "+2e3": False,
        "a=b": False,
        "": False,
    }
    for cell, is_formula in cells.items():
        assert inert_cell(cell) == (f"'{cell}" if is_formula else cell)
    table = pd.DataFrame({"=a": ["=b", "c"], "n": [-1.5, None]})
    assert csv_text(table).splitlines() == ["'=a,n", "'=b,-1.5", "c,"]


def frame(values: dict[tuple[str, int], float]) -> pd.DataFrame:
    where = {"model": "sft", "set": "s", "metric": "accuracy"}
    return pd.DataFrame(
        [
            {
                "run": f"{condition}{seed}",
                "condition": condition,
                "seed": seed,
                "value": v,
                **where,
            }
            for (condition, seed), v in values.items()
        ]
    )


def test_differences_are_taken_at_equal_seeds() -> None:
    """Condition b is 0.1 above condition a at each common seed, however far apart the seeds are; seed 3 has no partner."""
    table = frame({("a", 1): 0.1, ("b", 1): 0.2, ("a", 2): 0.7, ("b", 2): 0.8, ("b", 3): 0.0})
    (row,) = seed_statistics.paired(table, "a").to_dict("records")
    assert (row["condition"], row["seeds"]) == ("b", 2)
    assert [row["mean"], row["low"], row["high"]] == pytest.approx([0.1, 0.1, 0.1])
    (a, b) = seed_statistics.summary(table).to_dict("records")
    assert (a["seeds"], b["seeds"]) == (2, 3)
    assert b["mean"] == pytest.approx(1 / 3)
    with pytest.raises(
        UserError, match="against=c is no condition of these runs: use one of a; b"
    ):
        seed_statistics.paired(table, "c")


def test_arms_that_end_with_different_stages_are_compared_by_their_last_models() -> None:
    """SFT alone (0.9) against SFT, 0.2, and GRPO after it, 0.7: 0.2 above, not 0.7."""
    where = {"set": "s", "metric": "accuracy"}
    rows = [
        {
            "run": f"{condition}{seed}",
            "condition": condition,
            "seed": seed,
            "model": model,
            "value": value,
            **where,
        }
        for seed in (1, 2)
        for condition, model, value in (
            ("one", "sft", 0.9),
            ("two", "sft", 0.2),
            ("two", "grpo", 0.7),
        )
    ]
    (row,) = seed_statistics.paired(pd.DataFrame(rows), "two").to_dict("records")
    assert (row["condition"], row["model"], row["mean"]) == ("one", "last", pytest.approx(0.2))


def test_what_a_run_of_grpo_alone_starts_from_has_a_name_of_its_own() -> None:
    def record(path: str) -> run_index.RunRecord:
        return run_index.RunRecord(
            name="x", folder=Path(), settings={"model.path": path}, state="finished"
        )

    assert record("runs/ablate_start/seed=1/sft/model").label("base") == "start"
    assert record("actial/assets/tiny_base").label("base") == "base"
    assert record("runs/ablate_start/seed=1/sft/model").label("grpo") == "grpo"


def test_the_sudden_drop_is_found_behind_the_first_fall() -> None:
    """Form learnt in the first tenth (5 to 1), a plateau to step 59, then 0.2."""
    steps = np.arange(1, 101)
    loss = np.where(steps <= 8, 5.0, np.where(steps < 60, 1.0 + 0.02 * (-1.0) ** steps, 0.2))
    drop = sudden_drop(pd.DataFrame({"loss": loss}, index=steps))
    assert drop is not None
    assert drop.step == 60
    assert drop.before == pytest.approx(1.0, abs=0.01)
    assert drop.after == pytest.approx(0.2)
    assert sudden_drop(pd.DataFrame({"loss": np.linspace(1.0, 0.9, 100)}, index=steps)) is None
    smooth = {
        tau: 0.1 + 3 * np.exp(-steps / tau) * (1 + 0.1 * (-1.0) ** steps)
        for tau in (5, 20, 80)
    }
    assert [
        tau
        for tau, loss in smooth.items()
        if sudden_drop(pd.DataFrame({"loss": loss}, index=steps))
    ] == []


def test_where_a_checkout_lies_is_no_arm() -> None:
    places = (
        "/home/a/actial/actial/assets/tiny_base",
        "/scratch/b/actial/assets/tiny_base",
        "/models/qwen",
    )
    runs = [
        run_index.RunRecord(
            name=f"seed={i}",
            folder=Path(),
            settings={"seed": i, "model.path": path},
            state="finished",
        )
        for i, path in enumerate(places)
    ]
    assert run_index.swept_keys(runs[:2]) == []
    assert run_index.swept_keys(runs) == ["model.path"]


def test_runs_are_sorted_and_nothing_is_dropped_silently(sweep: Path) -> None:
    runs = run_index.load_runs(sweep)
    assert {run.name: run.state for run in runs} == {
        "cold_start=all,seed=1": "failed",
        "cold_start=hybrid,seed=1": "finished",
        "cold_start=hybrid,seed=2": "unfinished",
        "cold_start=none,seed=1": "finished",
        "cold_start=none,seed=2": "finished",
    }
    done = run_index.finished(runs)
    assert [run.seed for run in done] == [1, 2, 1]  # ratio 0 before ratio 0.1
    assert run_index.swept_keys(done) == ["cold_start.ratio"]
    assert set(run_index.conditions(done).values()) == {"cold_start=none", "cold_start=hybrid"}


def test_a_path_that_names_the_seed_is_not_swept(sweep: Path) -> None:
    done = run_index.finished(run_index.load_runs(sweep))
    for run in done:
        run.settings["model.path"] = f"runs/start/seed={run.seed}/model"
    assert run_index.swept_keys(done) == ["cold_start.ratio"]
    for run in done:
        run.settings["grpo.group_size"] = 4 * run.seed
    assert run_index.swept_keys(done) == ["cold_start.ratio", "grpo.group_size"]
    assert (
        "cold_start.ratio=0.1, grpo.group_size=4" in run_index.conditions(done).values()
    )  # the folders' names say too little


def test_the_tidy_table_says_what_the_results_say() -> None:
    runs = run_index.load_runs(SAMPLE)
    table = analysis.tidy(runs)
    one = table[
        (table["run"] == "cold_start=none,seed=2")
        & (table["set"] == "viewpoint")
        & (table["model"] == "sft")
    ]
    cell = json.loads((SAMPLE / "cold_start=none,seed=2" / "results.json").read_text())[
        "sets"
    ]["viewpoint"]["sft"]["overall"]
    row = one[one["metric"] == "accuracy"].iloc[0]
    assert (row["value"], row["low"], row["high"], row["n"]) == (
        cell["value"],
        cell["low"],
        cell["high"],
        cell["n"],
    )
    assert (row["seed"], row["cold_start.ratio"]) == (2, 0.0)
    assert not table.duplicated(["run", "model", "set", "metric"]).any()
    assert table["data"].nunique() == 1  # one data set
    assert table["config"].nunique() == 4
    assert len(analysis.one_row_per_run(table)) == 4


def test_collect_writes_one_row_per_run_and_lists_the_others(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    collect(CollectConfig(runs=str(sweep), out=str(out), against="cold_start=none"))
    assert (
        capsys.readouterr().out == f"3 runs, 2 unfinished or failed: {out / 'ablation.md'}\n"
    )
    written = pd.read_csv(out / "ablation.csv")
    assert list(written["run"]) == [
        "cold_start=none,seed=1",
        "cold_start=none,seed=2",
        "cold_start=hybrid,seed=1",
    ]
    assert {
        "cold_start.ratio",
        "seed",
        "data",
        "commit",
        "config",
        "log",
        "viewpoint/grpo/accuracy",
    } <= set(written.columns)
    text = (out / "ablation.md").read_text()
    assert "| `cold_start=all,seed=1` | failed | the disk is full: free some space. |" in text
    assert "| `cold_start=hybrid,seed=2` | unfinished |" in text
    assert "## Differences from cold_start=none, at equal seeds" in text
    assert (
        "| *paper, 7B, its own data* | accuracy | \N{EN DASH} | 12.9 | 92.2 | 81.4 |" in text
    )
    for name in ("accuracy", "training_sft", "training_grpo"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(figures/{name}.png)" in text


def test_an_arm_may_be_given_as_it_is_written(tmp_path: Path) -> None:
    words = [str(SAMPLE), f"out={tmp_path / 'out'}", "against=cold_start=hybrid"]
    done = subprocess.run(
        [sys.executable, "-m", "actial.collect", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert "## Differences from cold_start=hybrid" in text
    assert (
        f"`python -m actial.collect {' '.join(words)}`" in text
    )  # the command that writes it again


def test_figures_in_text() -> None:
    assert (
        figure_text({"mean": 0.0056, "low": 0.001, "high": 0.01}, 1)
        == "0.0056 [0.0010, 0.0100]"
    )
    assert (
        figure_text({"mean": -0.00001, "low": -0.05, "high": 0.101}, 100, signed=True)
        == "+0.0 [\N{MINUS SIGN}5.0, +10.1]"
    )
    assert figure_text({"mean": 0.5, "low": math.nan, "high": math.nan}, 1) == "0.50"


def test_a_folder_without_runs_is_refused_with_a_sentence(tmp_path: Path, sweep: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds no run of actial\.train: give the folder of a sweep"
    ):
        run_index.load_runs(tmp_path / "nothing")
    for path in sweep.glob("*/results.json"):
        path.unlink()
    with pytest.raises(UserError, match="none of the 5 runs is finished"):
        analysis.tidy(run_index.load_runs(sweep))


def test_mistakes_and_agreement_of_a_run() -> None:
    run = next(run for run in run_index.load_runs(SAMPLE) if (run.folder / "scores").exists())
    actual = analysis.mistakes(run)
    assert actual[["correct", "swapped", "no_movement", "unparsed"]].sum(
        axis=1
    ).to_numpy() == pytest.approx(1.0)
    said = analysis.answers(run)
    per_set = said.groupby(["model", "set"])["score"].mean()
    assert per_set["sft", "viewpoint"] == pytest.approx(
        float(run.results.sets["viewpoint"]["sft"].overall.value)
    )
    assert set(analysis.agreement(run)["metric"]) == {"consistent", "consistent_correct"}


def test_a_copy_of_a_run_is_no_further_seed(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "sweep")
    run = next(path for path in SAMPLE.iterdir() if (path / "results.json").exists())
    shutil.copytree(run, tmp_path / "sweep" / f"{run.name} backup")
    with pytest.raises(UserError, match="are runs of one condition"):
        analysis.tidy(run_index.load_runs(tmp_path / "sweep"))


def test_runs_that_lost_their_provenance_are_still_collected(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "sweep")
    for name in ("provenance.json", "passport.json"):
        for path in (tmp_path / "sweep").glob(f"*/{name}"):
            path.unlink()
    table = analysis.tidy(run_index.load_runs(tmp_path / "sweep"))
    assert set(table["commit"]) == {"unknown"}
