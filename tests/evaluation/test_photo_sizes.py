"""Photos arrive at the paper's size: from every benchmark, under every documented command.

A recording server stands in for the model and measures the images of each request.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from PIL import Image
from support import benchmark_files
from support.benchmark_files import WRITERS
from support.documented import FILLED_IN, all_commands
from support.fake_server import FakeServer

from actial.config import EvaluateConfig, register
from actial.config.command_line import parse_command_line
from actial.config.hydra_app import typed
from actial.core.paths import ASSETS, CONF
from actial.evaluate import evaluate
from actial.evaluation.benchmarks import BENCHMARKS
from actial.evaluation.easi import SUITES

PHOTO = (1024, 768)
PAPER_SIZE = (840, 616)  # multiples of 28, at most 518,400 pixels, nearest to 4 : 3


@pytest.fixture(scope="module", autouse=True)
def schemas() -> None:
    register()


@pytest.fixture
def large_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmark files are written with photos of 1024 x 768 pixels."""

    def photo(level: int = 0, size: Any = None, form: str = "PNG") -> bytes:
        pixels = np.full((PHOTO[1], PHOTO[0], 3), 90 + level % 100, np.uint8)
        pixels[: 40 + level % 50] = 20
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
        return buffer.getvalue()

    monkeypatch.setattr(benchmark_files, "picture", photo)


def composed(words: Sequence[str]) -> EvaluateConfig:
    overrides = list(parse_command_line(words).overrides)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = typed(hydra.compose("evaluate", overrides))
    assert isinstance(config, EvaluateConfig)
    return config


def arriving_sizes(config: EvaluateConfig) -> set[tuple[int, int]]:
    """Run an evaluation against a recording server; sizes in pixels of the images it gets."""
    with FakeServer() as fake:
        evaluate(replace(config, server=replace(config.server, url=fake.url, model="m")))
    parts = [part for body in fake.bodies for part in body["messages"][-1]["content"]]
    images = {part["image_url"]["url"] for part in parts if part["type"] == "image_url"}
    return {
        Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in images
    }


@pytest.mark.parametrize("name", BENCHMARKS)
def test_photos_of_every_benchmark_arrive_at_the_papers_size(
    name: str, large_photos: None, tmp_path: Path
) -> None:
    WRITERS[name](tmp_path / "files")
    split = ["benchmark.split=s"] if name == "tsv" else []
    words = [f"benchmark={name}", f"benchmark.root={tmp_path / 'files'}", *split]
    words += ["model=qwen2_5_vl_7b", "benchmark.controls=0", f"out={tmp_path / 'out'}"]
    assert arriving_sizes(composed(words)) == {PAPER_SIZE}


def evaluations() -> list[str]:
    """The documented evaluation commands of published sets, each once."""
    return sorted(
        line
        for line in all_commands()
        if line.startswith("python -m actial.evaluate ") and "benchmark=world" not in line
    )


def trained_checkpoint(folder: Path) -> Path:
    """The tiny base with the settings that a run of the 7B saves beside its weights."""
    shutil.copytree(ASSETS / "tiny_base", folder)
    settings = json.loads((folder / "actial.json").read_text())
    (folder / "actial.json").write_text(json.dumps(settings | {"max_pixels": 518_400}))
    return folder


def jobs(command: str) -> list[list[str]]:
    """The words of jobs of a command: of a sweep, those with the first or last of its values."""
    given = [FILLED_IN.get(word, word) for word in shlex.split(command)[3:]]
    words = [word for word in given if word != "-m"]
    words = [word for word in words if not word.startswith("submission.")]
    last = [word.rpartition(",")[2] for word in words]
    return [
        [word.partition(",")[0] for word in words],
        *[
            [
                f"{word.partition('=')[0]}={end}" if i == j else word.partition(",")[0]
                for j, (word, end) in enumerate(zip(words, last, strict=True))
            ]
            for i, word in enumerate(words)
            if "," in word
        ],
    ]


def documented_jobs() -> list[list[str]]:
    """The jobs of all commands; those that differ in the folder of their answers once."""
    by_words = {
        tuple(word for word in words if not word.startswith("out=")): words
        for command in evaluations()
        for words in jobs(command)
    }
    return list(by_words.values())


def test_commands_of_published_sets_are_documented() -> None:
    assert len(documented_jobs()) > 8


@pytest.mark.parametrize("words", documented_jobs(), ids=" ".join)
def test_documented_commands_ask_with_photos_of_the_papers_size(
    words: list[str], large_photos: None, tmp_path: Path
) -> None:
    given = dict(word.split("=", 1) for word in words)
    files = tmp_path / "files"
    given |= {"out": str(tmp_path / "out"), "benchmark.limit": "1"}
    given |= {"benchmark.controls": "0", "benchmark.diagnostics": "0"}
    given["benchmark.root"] = str(files)
    name = given["benchmark"]
    for member in SUITES.get(name, (name,)):
        WRITERS[member](files / member if name in SUITES else files)
    config = composed([f"{key}={value}" for key, value in given.items()])
    if not config.model.path.startswith("Qwen/"):
        folder = trained_checkpoint(tmp_path / "model")
        config = replace(config, model=replace(config.model, path=str(folder)))
    assert arriving_sizes(config) == {PAPER_SIZE}
