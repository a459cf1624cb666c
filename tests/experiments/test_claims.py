"""The claims' driver: what is checked exists in the sweeps, verdicts follow the intervals, and each README is what its tables say."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from actial.collect import collect
from actial.config import CollectConfig
from actial.core.errors import UserError
from actial.reporting import analysis, seed_statistics
from actial.runs import run_index

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "notebooks" / "sample"


def driver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims", ROOT / "experiments" / "claims.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


claims = driver()


def test_the_supervised_models_come_first_and_no_sweep_is_run_twice() -> None:
    sweeps = [
        sweep.experiment
        for sweep in claims.needed([claims.load(name) for name in claims.names()])
    ]
    assert sweeps[0] == "ablate_start"
    assert len(sweeps) == len(set(sweeps)) == 10
    assert [sweep.experiment for sweep in claims.needed([claims.load("cold_start")])] == [
        "ablate_cold_start"
    ]  # it starts from the base


def test_words_go_to_the_sweeps_that_they_are_for() -> None:
    chosen = [claims.load("cold_start"), claims.load("reward_weights")]
    words = ["cold_start=share_2", "reward=gated", "seed=1,2", "sft.steps=12"]
    given = {sweep.experiment: sweep.given(words, chosen) for sweep in claims.needed(chosen)}
    shared = ["seed=1,2", "sft.steps=12"]
    assert given == {
        "ablate_start": shared,
        "ablate_cold_start": ["cold_start=share_2", *shared],
        "ablate_reward": ["reward=gated", *shared],
    }


@pytest.mark.parametrize("name", claims.names())
def test_checks_are_about_arms_models_and_sets_of_their_sweep(name: str) -> None:
    claim = claims.load(name)
    first = next(iter(claim.sweeps))
    for check in claim.content["checks"]:
        sweep = claim.sweeps[check.get("sweep", first)]
        jobs = [
            {word for word in job if not word.startswith("seed=")}
            for job in claims.jobs(sweep)
        ]
        conditions = {",".join(sorted(job - set.intersection(*jobs))) for job in jobs}
        assert sweep.against is None or sweep.against in conditions
        assert check["expect"] in ("above", "below", "kept", "all")
        for cell in (check["left"], *([check["right"]] if "right" in check else [])):
            assert cell.get("condition", "*") in {"*", *conditions}
            assert cell["model"] in ("base", "start", "sft", "grpo", "last")
            assert cell["set"] in ("viewpoint", "unseen", "sat", "sat_test", "training")


@pytest.mark.parametrize("name", claims.names())
def test_the_readme_is_what_the_tables_say(name: str) -> None:
    """`python experiments/claims.py --tables` writes it anew."""
    claim = claims.load(name)
    assert (claim.folder / "README.md").read_text() == claims.readme(claim)


@pytest.mark.parametrize(
    "path", sorted(claims.ROOT.glob("**/tidy.csv")), ids=lambda path: path.parent.name
)
def test_committed_tables_are_of_this_version(path: Path) -> None:
    """What every run has: a table that lacks some of it was written before they were defined."""
    table = analysis.read_tidy(path)
    wanted = {"accuracy", "accuracy_of_parsed", "unparsed"} | (
        {"kl_late", "length_rise"} if "grpo" in set(table["model"]) else set()
    )
    assert wanted <= set(table["metric"])
    trained = table[(table["set"] == "training") & (table["model"] == "sft")]
    assert (trained["metric"] == "drop").sum() == trained["run"].nunique()


def test_rewards_beyond_the_paper_are_compared_at_equal_numbers_of_prompts() -> None:
    """Each of them sets its own batch_size, which a word of the claim would override."""
    assert "grpo.batch_size" not in {
        claims.key_of(word)
        for word in claims.load("viewpoint_kept").sweeps["ablate_beyond"].words
    }


def test_the_index_is_what_the_tables_say() -> None:
    assert (claims.ROOT / "README.md").read_text() == claims.index(
        [claims.load(name) for name in claims.names()]
    )


@pytest.mark.parametrize(
    ("low", "high", "reach", "expect", "said"),
    [
        (0.1, 0.2, 0.05, "above", "holds"),
        (0.1, 0.2, 0.11, "above", "leans to it"),
        (-0.1, 0.2, 0.3, "above", "open"),
        (-0.2, -0.1, 0.05, "above", "contradicted"),
        (-0.2, -0.1, 0.2, "above", "leans against"),
        (-0.2, -0.1, 0.05, "below", "holds"),
        (-0.2, -0.1, 0.2, "below", "leans to it"),
        (0.1, 0.2, 0.05, "below", "contradicted"),
        (-0.1, 0.1, 0.2, "below", "open"),
        (-0.01, 0.0, 0.005, "kept", "holds"),
        (-0.01, 0.0, 0.02, "kept", "leans to it"),
        (-0.10, 0.04, 0.2, "kept", "open"),
        (-0.2, -0.1, 0.05, "kept", "contradicted"),
        (-0.2, -0.1, 0.2, "kept", "leans against"),
        (1.0, 1.0, 0.0, "all", "holds"),
        (0.5, 1.0, 0.1, "all", "open"),
        (0.0, 0.0, 0.0, "all", "contradicted"),
        (math.nan, math.nan, math.nan, "above", "open"),
    ],
)
def test_a_verdict_is_where_the_intervals_lie(
    low: float, high: float, reach: float, expect: str, said: str
) -> None:
    """Student's interval reaches `reach` beyond the bootstrap's; 2 points less is still kept, and
    fewer than five seeds settle nothing.
    """
    actual = {
        "mean": (low + high) / 2,
        "low": low,
        "high": high,
        "t_low": low - reach,
        "t_high": high + reach,
    }
    assert claims.verdict(actual | {"seeds": 5}, expect) == said
    leans = {"holds": "leans to it", "contradicted": "leans against"}
    assert claims.verdict(actual | {"seeds": 4}, expect) == leans.get(said, said)
    assert said in claims.KINDS


def test_student_s_interval_is_the_textbook_s() -> None:
    """Three differences 1, 2, 3: mean 2, standard error 1 / sqrt 3, 4.303 of them to each side."""
    where = {"model": "sft", "set": "s", "metric": "accuracy"}
    rows = [
        {"run": str(i), "condition": "a", "seed": i, "value": float(i), **where}
        for i in (1, 2, 3)
    ]
    actual = seed_statistics.compare(pd.DataFrame(rows), where)
    assert (actual["t_low"], actual["t_high"]) == (
        pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-3),
        pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-3),
    )


def test_figures_are_compared_at_equal_seeds() -> None:
    table = analysis.tidy(run_index.load_runs(SAMPLE))
    where = {"model": "last", "set": "viewpoint", "metric": "accuracy"}
    actual = seed_statistics.compare(
        table,
        where | {"condition": "cold_start=hybrid"},
        where | {"condition": "cold_start=none"},
    )
    paired = seed_statistics.paired(table, "cold_start=none")
    row = paired[
        (paired["set"] == "viewpoint")
        & (paired["model"] == "grpo")
        & (paired["metric"] == "accuracy")
    ].iloc[0]
    assert (actual["seeds"], actual["mean"], actual["low"], actual["high"]) == (
        2,
        row["mean"],
        row["low"],
        row["high"],
    )
    alone = seed_statistics.compare(
        table,
        {
            "condition": "cold_start=none",
            "model": "sft",
            "set": "viewpoint",
            "metric": "accuracy",
        },
    )
    results = [
        json.loads((SAMPLE / f"cold_start=none,seed={seed}" / "results.json").read_text())
        for seed in (1, 2)
    ]
    assert alone["mean"] == pytest.approx(
        sum(actual["sets"]["viewpoint"]["sft"]["overall"]["value"] for actual in results) / 2
    )
    with pytest.raises(
        UserError,
        match="more than one figure of a seed: name its condition, one of cold_start=none; cold_start=hybrid",
    ):
        seed_statistics.compare(table, where, where)
    with pytest.raises(UserError, match="no run has condition=none"):
        seed_statistics.compare(table, {"condition": "none"}, where)


def test_every_arm_is_checked_against_itself_or_against_the_one_that_is_named(
    tmp_path: Path,
) -> None:
    table = analysis.tidy(run_index.load_runs(SAMPLE))
    claim = claims.load("cold_start")
    where = {"model": "grpo", "set": "viewpoint", "metric": "accuracy/ego_rotation"}
    star, named = {"condition": "*"} | where, {"condition": "cold_start=none"} | where
    claim.content["checks"] = [
        {"say": "as right as none", "left": star, "right": named, "expect": "kept"},
        {
            "say": "more than before",
            "left": star,
            "right": where | {"model": "sft"},
            "expect": "above",
        },
    ]
    lines = claims.checked(claim, {"ablate_cold_start": table})
    assert [line[0].partition(": ") for line in lines] == [
        ("cold_start=hybrid", ": ", "as right as none"),
        ("cold_start=none", ": ", "more than before"),
        ("cold_start=hybrid", ": ", "more than before"),
    ]
    actual = seed_statistics.compare(table, where | {"condition": "cold_start=hybrid"}, named)
    assert lines[0][1:] == [
        claims.figure_text(actual, 100, signed=True),
        "2",
        claims.verdict(actual, "kept"),
    ]


def test_the_course_of_a_metric_is_in_the_table() -> None:
    """Second half less first half, by hand; a drop is said to be there or not."""
    runs = run_index.load_runs(SAMPLE)
    table = analysis.tidy(runs)
    values = runs[0].metrics("grpo")["completions/mean_length"]
    half = len(values) // 2
    actual = table[(table["run"] == runs[0].name) & (table["metric"] == "length_rise")][
        "value"
    ].item()
    assert actual == pytest.approx(values.iloc[half:].mean() - values.iloc[:half].mean())
    assert set(table[table["metric"] == "drop"]["value"]) <= {0.0, 1.0}


def test_a_claim_with_runs_gets_its_verdicts_and_remarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed sample is a sweep of the cold start with two conditions: four checks can be made, those of other conditions not."""
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    folder = tmp_path / "cold_start"
    folder.mkdir()
    shutil.copy(ROOT / "experiments" / "cold_start" / "claim.yaml", folder)
    (folder / "notes.md").write_text("Runs of a test.\n")
    (folder / "words.txt").write_text("seed=1,2 sft.steps=12\n")
    collect(CollectConfig(runs=str(SAMPLE), out=str(folder)))
    text = claims.readme(claims.load("cold_start"))
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    table = analysis.read_tidy(folder / "tidy.csv")
    assert [line.rsplit("|", 2)[1].strip() for line in lines][-1] == "not run yet"
    difference = seed_statistics.compare(
        table,
        {
            "condition": "cold_start=hybrid",
            "model": "last",
            "set": "sat",
            "metric": "accuracy",
        },
        {"condition": "cold_start=none", "model": "last", "set": "sat", "metric": "accuracy"},
    )
    assert (
        f"| {claims.figure_text(difference, 100, signed=True)} | 2 | {claims.verdict(difference, 'above')} |"
        in lines[4]
    )
    own = "grpo.steps=40 grpo.batch_size=16 benchmark.limit=300"
    assert (
        f"\npython -m actial.train -m +experiment=ablate_cold_start {own} seed=1,2 sft.steps=12\n"
        in text
    )
    assert "seed=4,5" not in text  # other seeds were asked for
    assert "seed=4,5" in (ROOT / "experiments" / "cold_start" / "README.md").read_text()
    assert text.endswith("[ablate_cold_start](ablation.md)\n\nRuns of a test.\n")
    with pytest.raises(UserError, match="no claim is called nothing: there are cold_start"):
        claims.load("nothing")
