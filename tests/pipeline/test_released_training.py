"""`python -m actial.train +experiment=sft_viewpoint` on a release in miniature, counted."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from support.released import chain_of, write_release
from transformers import AutoTokenizer

import actial.build
import actial.train
from actial.config import StageName, TrainConfig, register
from actial.core.records import AnswerMode
from actial.pipeline.jobs import open_mixture
from actial.runs.run_dir import read_settings

BUILD = (
    "source=viewpoint_100k dataset=released image.max_pixels=4096 image.multiple=16 workers=1"
)
SMALL = (
    "model=tiny trainer=cpu trainer.threads=1 logger=none benchmark=none data.workers=0 "
    "sft.steps=12 sft.epochs=0 sft.batch_size=8 sft.optim.lr=1e-4 sft.log_every=1"
)
RATIO = 0.3


def run(monkeypatch: pytest.MonkeyPatch, command, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [command.__name__, *words])
    command.main()


def test_letters_and_chains_are_learned_in_the_ratio_asked(
    untrained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_release(tmp_path / "release", "parquet", letters=60, chains=6, tests=4)
    data = tmp_path / "data"
    words = [*BUILD.split(), f"source.root={tmp_path / 'release'}", f"out={data}"]
    run(monkeypatch, actial.build, *words)
    words = [
        "+experiment=sft_viewpoint",
        "data=viewpoint_100k_release",
        *SMALL.split(),
        f"data.sets.viewpoint.root={data}",
        f"model.path={untrained_model}",
        f"cold_start.ratio={RATIO}",
        f"run_dir={tmp_path / 'run'}",
    ]
    run(monkeypatch, actial.train, *words)

    config = composed(tmp_path / "run")
    questions = [
        question
        for example in open_mixture(config, StageName.sft).head(12 * 8)
        for question in example.questions
    ]
    chains = [question for question in questions if question.mode is AnswerMode.THINK]
    assert len(questions) == 96
    deviation = math.sqrt(RATIO * (1 - RATIO) / 96)
    assert len(chains) / 96 == pytest.approx(RATIO, abs=2.5 * deviation)
    for question in questions:
        answer = question.options[question.answer_index]
        if question.mode is AnswerMode.DIRECT:
            assert question.target == question.answer_letter
        else:
            assert chain_of("right" if "right" in answer else "left") in question.target
    # What the run was supervised on is these targets, each with the token that ends an answer.
    tokenizer = AutoTokenizer.from_pretrained(untrained_model)
    lengths = [len(tokenizer(question.target)["input_ids"]) + 1 for question in questions]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    tokens = [entry["tokens"] for entry in map(json.loads, lines)]
    assert tokens == [sum(lengths[i : i + 8]) for i in range(0, 96, 8)]
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["chains_of_thought"] == {"viewpoint": "6 of its own"}


def composed(run_folder: Path) -> TrainConfig:
    """Return the configuration that a run stored."""
    from omegaconf import OmegaConf

    from actial.config.hydra_app import typed

    register()
    schema = OmegaConf.structured(TrainConfig)
    return typed(OmegaConf.merge(schema, OmegaConf.create(read_settings(run_folder))))
