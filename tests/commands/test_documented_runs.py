"""Every command of README.md and docs/ runs, on tiny inputs, and leaves what its page promises.

The commands run in one folder, in the order of the pages and in their own words. `STANDS_FOR` and
the words behind a command bring them to a tiny model, small data and one CPU. A command that
another test runs, or that cannot run here, is in `ELSEWHERE` with the reason.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.documented import (
    FILLED_IN,
    IMAGES,
    OTHER_WAYS,
    ROOT,
    TINY_TRAINING,
    WALK,
    all_commands,
    call,
    commands_before,
)
from support.documented_place import BASES, write_place
from transformers import AutoModelForImageTextToText

from actial.data.shards import ShardSet
from actial.evaluation.easi import SUITES
from actial.grading.predictions import read_predictions
from actial.modeling.adapter_folder import WEIGHTS, adapter_settings
from actial.runs.run_index import load_runs

# words of the pages -> what stands for them here
STANDS_FOR = FILLED_IN | {
    "source.root=CAPTURES": "source.root=world/captures/0",
    "source.root=MVIMGNET": "source.root=world/captures",
    "source.root=SAT": "source.root=world/sat",
    "benchmark.root=CV-Bench": "benchmark.root=benchmarks/cv_bench",
    "benchmark.root=FOLDER": "benchmark.root=benchmarks/blink",
    "benchmark.root=BLINK": "benchmark.root=benchmarks/blink",
    "benchmark.root=easi": "benchmark.root=benchmarks",
    "benchmark:mmsi:MMSI": "benchmark:mmsi:benchmarks/mmsi",
    "predictions=FILE": "predictions=scores/easi/mmsi/predictions.jsonl",
    "model.path=MODEL": "model.path=runs/r02/grpo/model",
    "run_dir=RUN": "run_dir=runs/r02",
    "cold_start.ratio=0,0.1,1": "cold_start.ratio=0,1",
}
# folders that the pages name and no command writes -> what stands for them here
LINKS = {
    "runs/7b": "r02",
    "runs/a": "sweep/cold_start.ratio=0,seed=1",
    "runs/b": "sweep/cold_start.ratio=1,seed=1",
    **{f"s{n}": f"runs/sweep/cold_start.ratio=0,seed={n}/scores/grpo/sat" for n in (1, 2, 3)},
    **{f"t{n}": f"runs/sweep/cold_start.ratio=1,seed={n}/scores/grpo/sat" for n in (1, 2, 3)},
}

TRAIN = (
    *TINY_TRAINING,
    "sft.log_every=1",
    "grpo.optim.warmup_steps=0",
    "benchmark.controls=0",
)
TRAIN_7B = (*TRAIN, "sft.epochs=0")
TRAIN_24GB = (
    *TRAIN_7B,
    "model.frozen_weights=half",
)  # bitsandbytes is no part of `make setup`
QUICKSTART = (*TRAIN, "benchmark.diagnostics=0")
TWO_SETS = ("~benchmark.sets.unseen", "~benchmark.sets.sat_test")
QWEN3 = ("model.min_pixels=1024", "data.sets.viewpoint.root=data/qwen3")
QWEN3_BUILD = ("image.multiple=32", "image.max_pixels=4096", "image.format=png", "workers=1")
EVALUATE = ("accelerator=cpu", "benchmark.max_tokens=8")
FOUR_SETS = ("sampler.kind=hf", "benchmark.root=benchmarks/${benchmark.name}")

GPU_TESTS = "tests/pipeline/test_gpu_experiments.py"
TWO_RANKS = f"{GPU_TESTS}::test_actial_7b_runs_on_two_ranks_is_killed_and_resumes"
EVERY_POINT = "tests/pipeline/test_sweeps.py::test_every_point_takes_two_steps"
SEVERAL = "tests/pipeline/test_sweeps.py::test_several_experiments_are_one_sweep_each"
ADAPTER = (
    "tests/pipeline/test_adapter_run.py::test_an_adapter_is_evaluated_as_its_merged_model"
)
ENGINE = "tests/evaluation/test_vllm_evaluate.py::test_vllm_answers_as_the_policy_does"
WALKED = "tests/pipeline/test_walk.py::test_models_of_the_table_are_four"
# command -> why it is not run here
ELSEWHERE = {
    "python -m actial.train -m +experiment=ablate_beyond": (
        f"eighteen jobs; each of its points: {EVERY_POINT}"
    ),
    "python -m actial.train +experiment=actial_7b fidelity=paper": (
        f"as docs/reproduce.md trains the paper's model: {WALKED}"
    ),
    "python -m actial.import_release DIR": f"with rows in a file of their own: {WALKED}",
    "python -m actial.train -m +experiment=from_start +sweep=reward_optuna": (
        f"Optuna is an extra that the tests do not install; from a start: {EVERY_POINT}"
    ),
    "python -m actial.dashboard entity=ACCOUNT group=cold_start.ratio": (
        "wandb asks for an account: tests/runs/test_dashboard.py::"
        "test_the_workspace_holds_every_panel_and_groups_by_a_setting"
    ),
    "python -m actial.train +experiment=actial_7b run_dir=runs/7b": (
        f"FSDP2, an engine in each rank: {TWO_RANKS}"
    ),
    "python -m actial.train +experiment=actial_7b stages=[sft] sft.steps=2 sft.epochs=0 "
    "sft.save_every=1 run_dir=runs/first_sft": (
        f"the SFT of the same experiment on two ranks, killed and resumed: {TWO_RANKS}"
    ),
    "python -m actial.train +experiment=actial_7b stages=[grpo] grpo.steps=1 "
    "run_dir=runs/first_grpo": f"a GRPO step of the same experiment on two ranks: {TWO_RANKS}",
    "python -m actial.train +experiment=actial_7b stages=[grpo] grpo.steps=3 "
    "run_dir=runs/recompiles": f"GRPO steps of the same experiment on two ranks: {TWO_RANKS}",
    "python -m actial.evaluate benchmark=blink model.path=runs/lora/grpo/adapter "
    "sampler=vllm_evaluate out=scores/lora_vllm": f"vLLM on an adapter folder: {ADAPTER}",
    "python -m actial.evaluate benchmark=cv_bench benchmark.root=CV-Bench model=qwen2_5_vl_7b "
    "sampler=vllm_evaluate out=scores/base_cv": (
        f"sampler=vllm_evaluate on another set: {ENGINE}; without the engine it is run here"
    ),
    "python -m actial.train -m +experiment=ablate_reward seed=1,2,3,4,5": (
        f"thirty jobs; each of its points: {EVERY_POINT}"
    ),
    "python -m actial.train -m +experiment=ablate_kl hydra/launcher=pool": (
        f"eighteen jobs, by joblib, which the tests do not install; its points: {EVERY_POINT}"
    ),
    "python -m actial.train -m +experiment=ablate_start,ablate_mix,ablate_kl seed=1,2,3": (
        f"thirty-six jobs; each of its points: {EVERY_POINT}; one sweep after the other: {SEVERAL}"
    ),
}


@dataclass(frozen=True, slots=True)
class Run:
    """How a documented command is run here, and what it must have left."""

    words: tuple[str, ...]  # behind its own
    check: Callable[[str], None]  # of what it printed, in the folder where it ran


RUNS: dict[str, Run] = {}
Check = Callable[[str], None]


def after(command: str, *words: str) -> Callable[[Check], Check]:
    """Decorate the check of what `python -m actial.COMMAND WORDS` leaves."""

    def register(check: Check) -> Check:
        name = f"python -m actial.{command}"
        assert name not in RUNS
        RUNS[name] = Run(words, check)
        return check

    return register


# ---------------------------------------------------------------- what files must hold


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def table_rows(path: str, delimiter: str = ",") -> list[dict[str, str]]:
    with Path(path).open() as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def check_set(folder: str, *splits: str) -> dict[str, int]:
    """Records by split; all photos decode, gates and answers are counted and drawn."""
    counts = read(f"{folder}/manifest.json")["rows"]
    assert set(counts) == set(splits)
    for split, count in counts.items():
        records = ShardSet(folder, split)
        assert len(records.records) == count > 0
        assert all(
            image.size for record in records.records for image in records.images(record)
        )
    assert read(f"{folder}/rejects.json")
    assert "<img" in Path(f"{folder}/audit.html").read_text()
    return counts


def check_run(folder: str, *stages: str, base: str = BASES[0]) -> dict[str, Any]:
    """Results of a finished run, which left all that README.md says a run folder holds."""
    run = Path(folder)
    results = read(run / "results.json")
    assert list(results["models"]) == ["base", *stages]
    assert all((run / name).stat().st_size for name in ("config.yaml", "report.html"))
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {entry["stage"] for entry in entries} == set(stages)
    assert set(stages) <= set(read(run / "provenance.json"))
    for stage in stages:
        assert list((run / "checkpoints" / stage).iterdir())
        AutoModelForImageTextToText.from_pretrained(run / stage / "model")
        if (run / stage / "adapter").exists():
            assert (run / stage / "adapter" / WEIGHTS).is_file()
            settings = adapter_settings(run / stage / "adapter")
            assert settings["base_model_name_or_path"] == base
    return results


def check_answers(folder: str, count: int) -> dict[str, Any]:
    """Scores of an evaluation of `count` questions, with the files beside them."""
    assert len(read_predictions(Path(folder) / "predictions.jsonl")) == count
    scores = read(f"{folder}/scores.json")
    assert scores["n"] == count
    assert scores["scores"]
    assert read(f"{folder}/protocol.json")
    return scores


def check_doctor(printed: str) -> None:
    """All checks are listed, none of them failed."""
    statuses = re.findall(r"^(pass|warn|fail) +([a-z ]+?)  ", printed, re.MULTILINE)
    assert {name for _, name in statuses} >= {
        "data",
        "model",
        "first batch",
        "cost",
        "sampler",
    }
    assert "fail" not in {status for status, _ in statuses}


# ---------------------------------------------------------------- README.md


@after("build source=colmap source.root=CAPTURES out=data/mine", *IMAGES)
def own_captures(printed: str) -> None:
    counts = check_set("data/mine", "train")
    assert f"{counts['train']} pairs of 1 captures" in printed


MVIMGNET = "build source=mvimgnet source.root=MVIMGNET out=data/viewpoint_100k"


@after(f"{MVIMGNET} dataset=viewpoint_100k", *IMAGES, "pairs.test_fraction=0.2")
def mvimgnet_pairs(printed: str) -> None:
    """One class of twelve is held out; angles are those of the gate."""
    check_set("data/viewpoint_100k", "train", "test", "test_unseen")
    train = ShardSet("data/viewpoint_100k", "train").records
    unseen = ShardSet("data/viewpoint_100k", "test_unseen").records
    assert not {pair.class_name for pair in train} & {pair.class_name for pair in unseen}
    assert all(21 <= abs(pair.geometry.alpha_deg) <= 99 for pair in train)


@after("build source=sat source.root=SAT out=data/sat", *IMAGES)
def sat_questions(printed: str) -> None:
    assert check_set("data/sat", "train", "val", "test") == {"train": 24, "val": 6, "test": 12}


@after("train +experiment=actial_7b_lora_1gpu run_dir=runs/lora", *TRAIN_7B)
def lora_run(printed: str) -> None:
    """GRPO's adapter holds SFT's: its rank is the sum of both."""
    check_run("runs/lora", "sft", "grpo")
    ranks = [adapter_settings(Path(f"runs/lora/{s}/adapter"))["r"] for s in ("sft", "grpo")]
    assert ranks == [64, 128]


@after("train +experiment=actial_24gb run_dir=runs/24gb", *TRAIN_24GB)
def card_of_24gb(printed: str) -> None:
    check_run("runs/24gb", "sft", "grpo", base=BASES[1])


LARGER_QWEN3 = "train +experiment=actial_24gb model=qwen3_vl_4b run_dir=runs/24gb_4b"


@after(LARGER_QWEN3, *TRAIN_24GB, *QWEN3, "mix@grpo.mix=viewpoint")
def qwen3_on_24gb(printed: str) -> None:
    check_run("runs/24gb_4b", "sft", "grpo", base="Qwen/Qwen3-VL-4B-Instruct")
    assert read("runs/24gb_4b/grpo/model/config.json")["model_type"] == "qwen3_vl"


@after("doctor +experiment=actial_7b", *TRAIN_7B)
def doctor_of_the_7b(printed: str) -> None:
    check_doctor(printed)


@after(
    "train +experiment=quickstart cold_start.ratio=0.2 seed=1 run_dir=runs/r02", *QUICKSTART
)
def changed_quickstart(printed: str) -> None:
    results = check_run("runs/r02", "sft", "grpo", base="")
    assert set(results["sets"]) == {"viewpoint", "unseen", "sat", "sat_test"}
    assert read("runs/r02/provenance.json")["seed"] == 1
    assert "finished: runs/r02/report.html" in printed


SWEEP = (
    "train -m +experiment=quickstart cold_start.ratio=0,0.1,1 seed=1,2,3 run_dir=runs/sweep"
)


@after(SWEEP, *QUICKSTART, *TWO_SETS)
def sweep_of_two_settings(printed: str) -> None:
    runs = load_runs("runs/sweep")
    assert [run.state for run in runs] == ["finished"] * 6
    settings = {(run.settings["cold_start.ratio"], run.seed) for run in runs}
    assert settings == {(ratio, seed) for ratio in (0.0, 1.0) for seed in (1, 2, 3)}


@after("collect runs/sweep out=tables/sweep")
def tables_of_the_sweep(printed: str) -> None:
    """A row per run, intervals over three seeds, figures."""
    assert len(table_rows("tables/sweep/ablation.csv")) == 6
    assert "95 % bootstrap interval" in Path("tables/sweep/ablation.md").read_text()
    assert Path("tables/sweep/figures/accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert printed.startswith("6 runs: ")


@after(
    "passrates set=sat model=qwen2_5_vl_7b sampler=vllm out=rates/sat",
    *("sampler.kind=hf", "data.sets.sat.root=data/sat", "samples=2", "limit=4"),
    *("max_tokens=4", "accelerator=cpu"),
)
def pass_rates(printed: str) -> None:
    lines = Path("rates/sat/passrates.jsonl").read_text().splitlines()
    rates = [json.loads(line) for line in lines]
    assert len([rate for rate in rates if "uid" in rate]) == 4


CV = "evaluate benchmark=cv_bench benchmark.root=CV-Bench"


@after(f"{CV} model.path=runs/7b/grpo/model out=scores/cv", *EVALUATE)
def trained_model_on_cv_bench(printed: str) -> None:
    scores = check_answers("scores/cv", 4)["scores"]
    assert {"micro", "cambrian", "task/Depth"} <= set(scores)


@after(f"{CV} model=qwen2_5_vl_7b out=scores/base_cv", *EVALUATE)
def base_on_cv_bench(printed: str) -> None:
    check_answers("scores/base_cv", 4)
    base, trained = (read(f"scores/{name}/settings.json") for name in ("base_cv", "cv"))
    assert base["model"] != trained["model"]
    assert base["files"] == trained["files"]


EASI = "evaluate benchmark=easi_8 benchmark.root=easi model=qwen2_5_vl_7b out=scores/easi"


@after(EASI, *EVALUATE, "benchmark.controls=0")
def easi_8(printed: str) -> None:
    scores = read("scores/easi/scores.json")
    total = scores["easi_8"]
    assert total["missing"] == []
    assert total["overall"] == pytest.approx(sum(total["sets"].values()) / 8, abs=1e-4)
    for name in SUITES["easi_8"]:
        check_answers(f"scores/easi/{name}", scores[name]["n"])
    assert f"EASI-8: {total['overall']:.2f} %" in printed


@after("compare scores/base_cv scores/cv")
def paired_tests(printed: str) -> None:
    assert "base_cv │ cv" in printed
    assert "scored under different protocols" in printed  # the tiny checkpoint's own limits


@after("audit data/viewpoint_100k data/sat out=audit")
def audit_of_two_sets(printed: str) -> None:
    check_certificate("viewpoint_100k:train", "sat:train")


def check_certificate(*sets: str) -> None:
    """Three checks of each set and three of both."""
    certificate = read("audit/certificate.json")
    assert set(certificate["sets"]) == set(sets)
    checks = [check["name"] for check in certificate["checks"]]
    assert len(checks) == 9
    assert {"blind solver", "shared scenes", "near-duplicate images"} <= set(checks)
    assert Path("audit/leaked_images.tsv").is_file()
    assert "near-duplicate images" in Path("audit/audit.html").read_text()


MMSI = "benchmark.root=benchmarks/mmsi"


@after("score benchmark=mmsi predictions=FILE out=scores/mmsi", MMSI)
def scored_again(printed: str) -> None:
    """The answers of an evaluation get the scores that it gave them."""
    again, first = (read(f"scores/{name}/scores.json") for name in ("mmsi", "easi/mmsi"))
    assert again["scores"] == first["scores"]


@after("export benchmark=mmsi format=vlmeval out=DIR", MMSI)
def exported_to_vlmevalkit(printed: str) -> None:
    (row,) = table_rows("DIR/actial_mmsi.tsv", "\t")
    assert row["answer"] == "D"
    assert row["image"].startswith("[")  # two photos


# ---------------------------------------------------------------- docs/adapters.md

LORA = "train +experiment=actial_7b_lora_1gpu"
FROM_ADAPTER = f"{LORA} model.path=runs/lora/sft/adapter stages=[grpo] run_dir=runs/next"


@after(FROM_ADAPTER, *TRAIN_7B)
def run_from_an_adapter(printed: str) -> None:
    check_run("runs/next", "grpo")
    assert adapter_settings(Path("runs/next/grpo/adapter"))["r"] == 128


ADAPTER_SCORES = "evaluate benchmark=blink model.path=runs/lora/grpo/adapter out=scores/lora"


@after(ADAPTER_SCORES, *EVALUATE, "benchmark.root=benchmarks/blink")
def scores_of_an_adapter(printed: str) -> None:
    check_answers("scores/lora", 3)


@after("export format=merged adapter=runs/lora/grpo/adapter out=merged")
def merged_adapter(printed: str) -> None:
    """The merged model is that of the run, but for bfloat16 of the frozen weights."""
    AutoModelForImageTextToText.from_pretrained("merged")
    merged, model = (
        load_file(f"{folder}/model.safetensors")
        for folder in ("merged", "runs/lora/grpo/model")
    )
    assert merged.keys() == model.keys()
    for name, tensor in model.items():
        torch.testing.assert_close(merged[name].float(), tensor.float(), rtol=0.01, atol=0.01)


@after("export format=model_card run_dir=runs/lora out=runs/lora/grpo/adapter")
def card_of_an_adapter(printed: str) -> None:
    card = Path("runs/lora/grpo/adapter/README.md").read_text()
    assert "library_name: peft" in card
    assert f"base_model: {BASES[0]}" in card


# ---------------------------------------------------------------- docs/benchmarks.md

SUBMITTED = "submission.model_name=lab/model"


@after(f"{EASI} {SUBMITTED}", *EVALUATE, "benchmark.controls=0")
def easi_submission(printed: str) -> None:
    """The answers of the command before are taken, and sent under the model's name."""
    assert check_submission("scores/easi")["modelName"] == "lab/model"


@after(f"collect scores/easi out=submission {SUBMITTED} submission.model_type=rl")
def collected_submission(printed: str) -> None:
    assert check_submission("submission")["modelType"] == "rl"


def check_submission(folder: str) -> dict[str, Any]:
    """Eight scores, and the answers to the eight sets."""
    results = read(f"{folder}/easi_results.json")
    assert len(results["scores"]) == 8
    with zipfile.ZipFile(f"{folder}/easi_results.zip") as archive:
        assert len(archive.namelist()) == 16
    return results


@after(
    "evaluate benchmark=NAME benchmark.root=FOLDER model=NAME out=DIR", *EVALUATE, "out=blink"
)
def any_benchmark(printed: str) -> None:
    check_answers("blink", 3)


# ---------------------------------------------------------------- docs/comparing.md


@after("compare runs/a/scores/grpo/sat runs/b/scores/grpo/sat out=compare")
def two_runs_compared(printed: str) -> None:
    differences = read("compare/comparison.json")
    assert [row["items"] for row in differences if not row["task"]] == [2]
    assert Path("compare/comparison.md").is_file()


@after("compare s1,s2,s3 t1,t2,t3 cluster=example")
def three_seeds_each_compared(printed: str) -> None:
    assert "s1,s2,s3" in printed


@after("audit data/viewpoint_100k:train benchmark:mmsi:MMSI out=audit")
def audit_against_a_benchmark(printed: str) -> None:
    check_certificate("viewpoint_100k:train", "mmsi")


@after("export format=model_card run_dir=RUN certificate=audit/certificate.json out=card")
def card_with_a_certificate(printed: str) -> None:
    card = Path("card/README.md").read_text()
    assert "## Audit of the data" in card
    assert "viewpoint_100k:train and mmsi" in card


# ---------------------------------------------------------------- docs/data.md

POSED = (*IMAGES, "source.root=world/captures", "pairs.test_fraction=0.2")


@after("build source=mvimgnet source.root=DIR out=DIR", *POSED, "out=data/posed")
def posed_photos(printed: str) -> None:
    check_set("data/posed", "train", "test", "test_unseen")


@after(
    "build source=mvimgnet dataset=viewpoint_100k_paper source.root=DIR "
    "out=data/viewpoint_100k",
    *POSED,
    "out=data/paper",
)
def pairs_of_the_paper(printed: str) -> None:
    """No class is held out."""
    check_set("data/paper", "train", "test")


@after(
    "build source=sat source.root=DIR out=data/sat",
    *IMAGES,
    "source.root=world/sat",
    "out=data/sat_again",
)
def sat_again(printed: str) -> None:
    assert check_set("data/sat_again", "train", "val", "test")["train"] == 24


@after(
    "build source=sat_release source.root=DIR out=data/sat",
    *IMAGES,
    "source.root=world/sat",
    "out=data/sat_release",
)
def sat_of_the_release(printed: str) -> None:
    assert check_set("data/sat_release", "train", "val", "test")["train"] == 24


@after(
    "build source=named source.name=NAME source.root=DIR out=DIR",
    *IMAGES,
    "source.root=llava",
    "out=data/llava",
)
def conversations(printed: str) -> None:
    check_set("data/llava", "train")


@after(
    "build source=viewpoint_100k dataset=released source.root=DIR out=data/viewpoint_100k_release",
    *IMAGES,
    "source.root=release/viewpoint_100k",
    "out=data/released",
)
def released_pairs_elsewhere(printed: str) -> None:
    assert check_set("data/released", "train", "test")["test"] == 6


RELEASED = "build source=viewpoint_100k dataset=released source.root=release/viewpoint_100k"


@after(f"{RELEASED} out=data/viewpoint_100k_release", *IMAGES)
def released_pairs(printed: str) -> None:
    counts = check_set("data/viewpoint_100k_release", "train", "test")
    assert counts == {"train": 24 + 6, "test": 6}


@after(
    "train +experiment=sft_viewpoint data=viewpoint_100k_release",
    *TRAIN_7B,
    "model.min_pixels=256",
)
def sft_on_released_pairs(printed: str) -> None:
    check_run("runs/sft_viewpoint", "sft")
    chains = read("runs/sft_viewpoint/provenance.json")["chains_of_thought"]
    assert chains == {"viewpoint": "6 of its own"}


# ---------------------------------------------------------------- docs/diagnostics.md

WORLD = "evaluate benchmark=world benchmark.diagnostics=50 model.path=MODEL out=OUT"
BLINK = "evaluate benchmark=blink benchmark.root=BLINK benchmark.diagnostics=133"


@after(WORLD, *EVALUATE, "benchmark.limit=2", "benchmark.diagnostics=2")
def diagnostics_of_the_world(printed: str) -> None:
    results = read("OUT/results.json")
    (figures,) = results["diagnostics"]["viewpoint"].values()
    assert {"swap", "mirror", "options", "shortcuts", "visual dependence"} <= set(figures)
    assert figures["accuracy"]["n"] > 0
    assert "Geometry or shortcut?" in Path("OUT/report.html").read_text()


@after(f"{BLINK} model.path=MODEL out=OUT", *EVALUATE, "out=OUT_BLINK")
def diagnostics_of_blink(printed: str) -> None:
    """The one question about motion is asked in changed ways."""
    check_answers("OUT_BLINK", 3)
    (figures,) = read("OUT_BLINK/results.json")["diagnostics"]["blink"].values()
    assert figures["accuracy"]["n"] == 1


# ---------------------------------------------------------------- docs/gpu.md


@after("doctor +experiment=actial_24gb", *TRAIN_24GB)
def doctor_of_the_24gb(printed: str) -> None:
    check_doctor(printed)


@after("train +experiment=actial_24gb", *TRAIN_24GB, "run_dir=runs/24gb")
def card_of_24gb_again(printed: str) -> None:
    """The run of README.md, which is finished: the same command says so."""
    assert "runs/24gb is finished" in printed


SMALLER_QWEN3 = "train +experiment=actial_24gb model=qwen3_vl_2b run_dir=runs/24gb_2b"


@after(SMALLER_QWEN3, *TRAIN_24GB, *QWEN3, "mix@grpo.mix=viewpoint")
def smaller_qwen3_on_24gb(printed: str) -> None:
    check_run("runs/24gb_2b", "sft", "grpo", base="Qwen/Qwen3-VL-2B-Instruct")


# ---------------------------------------------------------------- docs/reproduce.md, With less

FOUR = "benchmark=3dsrbench,cv_bench,blink,mmsi sampler=vllm_evaluate"


@after("doctor +experiment=actial_7b_lora_1gpu", *TRAIN_7B)
def doctor_of_the_adapters(printed: str) -> None:
    check_doctor(printed)


@after(f"evaluate -m +paper_model=base {FOUR} out=scores/base", *EVALUATE, *FOUR_SETS)
def base_on_four_sets(printed: str) -> None:
    check_four_sets("base")


ADAPTED = "+paper_model=grpo model.path=runs/lora/grpo/model"


@after(f"evaluate -m {ADAPTED} {FOUR} out=scores/grpo", *EVALUATE, *FOUR_SETS)
def adapted_model_on_four_sets(printed: str) -> None:
    check_four_sets("grpo")


def check_four_sets(model: str) -> None:
    for name, count in {"3dsrbench": 8, "cv_bench": 4, "blink": 3, "mmsi": 1}.items():
        check_answers(f"scores/{model}/benchmark={name}", count)


WITHOUT_MVIMGNET = "fidelity=paper data=viewpoint_100k_release run_dir=runs/paper"


@after(f"train +experiment=actial_7b {WITHOUT_MVIMGNET}", *TRAIN_7B, "model.min_pixels=256")
def paper_run_on_released_pairs(printed: str) -> None:
    check_run("runs/paper", "sft", "grpo")
    provenance = read("runs/paper/provenance.json")
    assert provenance["fidelity"]["named"] == "paper"
    assert provenance["chains_of_thought"] == {"viewpoint": "6 of its own"}


# ---------------------------------------------------------------- docs/sweeps.md


@after(
    "train -m +experiment=ablate_cold_start",
    *("cold_start=none,hybrid", "seed=1,2", "stages=[sft]"),
    *TRAIN,
    *TWO_SETS,
)
def sweep_of_an_ablation(printed: str) -> None:
    """The jobs of one seed share the base model's answers."""
    runs = load_runs("runs/ablate_cold_start")
    assert [run.state for run in runs] == ["finished"] * 4
    assert {run.settings["cold_start.ratio"] for run in runs} == {0.0, 0.1}
    answers = [read(run.folder / "provenance.json")["answers"]["base/sat"] for run in runs]
    assert len(set(answers)) == 2


AGAINST = "collect runs/ablate_cold_start out=experiments/cold_start against=cold_start=hybrid"


@after(AGAINST)
def table_against_a_condition(printed: str) -> None:
    table = Path("experiments/cold_start/ablation.md").read_text()
    for condition in ("cold_start=none", "cold_start=hybrid"):
        assert f"| {condition} | accuracy | 2 |" in table


# ---------------------------------------------------------------- the runs


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseException | None]:
    """Command -> what it or its check raised, of all that are run here."""
    root = tmp_path_factory.mktemp("documented")
    threads = torch.get_num_threads()
    raised: dict[str, BaseException | None] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_place(root)
        qwen3 = ("source=procedural", "source.root=world/captures", "out=data/qwen3")
        call("actial.build", *qwen3, *QWEN3_BUILD)
        (root / "runs").mkdir()
        for name, target in LINKS.items():
            (root / name).symlink_to(target)
        for command in all_commands():
            if command in RUNS:
                raised[command] = outcome(command)
    torch.set_num_threads(threads)
    return raised


def outcome(command: str) -> BaseException | None:
    """Run a command and its check; return what was raised, an exit with its message."""
    words = [STANDS_FOR.get(word, word) for word in command.split()[2:]]
    printed, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            call(*words, *RUNS[command].words)
        RUNS[command].check(printed.getvalue())
    except SystemExit as ended:
        return AssertionError(f"exit code {ended.code}: {errors.getvalue()[-3000:]}")
    except Exception as error:  # the test of this command raises it
        return error
    return None


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS, ids=[run.check.__name__ for run in RUNS.values()])
def test_command_leaves_what_its_page_promises(
    command: str, outcomes: dict[str, BaseException | None]
) -> None:
    if error := outcomes[command]:
        raise error


def test_every_documented_command_is_run_or_listed_once() -> None:
    walked = set(commands_before(WALK, OTHER_WAYS))  # by tests/pipeline/test_walk.py
    groups = [set(RUNS), set(ELSEWHERE), walked]
    assert set.union(*groups) == set(all_commands())
    assert sum(map(len, groups)) == len(all_commands())


@pytest.mark.parametrize("reason", ELSEWHERE.values())
def test_tests_that_run_the_others_exist(reason: str) -> None:
    tests = re.findall(r"(tests/\S+\.py)::(\w+)", reason)
    assert tests
    for path, name in tests:
        assert f"def {name}(" in (ROOT / path).read_text()
