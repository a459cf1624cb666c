"""A small procedural data set and an untrained model of the tiny kind, made once for the
whole run.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from actial.build import build
from actial.config import (
    BuildConfig,
    ColdStartConfig,
    DataConfig,
    ImageConfig,
    ImageFormat,
    PairConfig,
    SetConfig,
    SourceConfig,
    SourceKind,
    Task,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: begun last, one of them leaves the other core idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """View pairs of 24 procedural objects at 64 x 64 pixels, splits train, val and test."""
    from actial.synthetic.captures import capture_jobs, write_captures
    from actial.viewpoint.vocabulary import SEEN

    root = tmp_path_factory.mktemp("world")
    for _ in write_captures(
        root / "captures", capture_jobs(24, 12, 64, 0, list(SEEN)[:4]), workers=1
    ):
        pass
    build(
        BuildConfig(
            source=SourceConfig(kind=SourceKind.procedural, root=str(root / "captures")),
            pairs=PairConfig(per_object=6, val_fraction=0.1, test_fraction=0.2),
            image=ImageConfig(max_pixels=4096, multiple=16, format=ImageFormat.png),
            out=str(root / "set"),
            workers=1,
        )
    )
    return root / "set"


@pytest.fixture(scope="session")
def untrained_model(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL folder whose tokenizer knows the set's questions and chains."""
    from actial.data.datasets import open_set
    from actial.synthetic.tiny_model import save_untrained, train_tokenizer

    pairs = open_set(
        SetConfig(task=Task.viewpoint, root=str(tiny_set)),
        "train",
        DataConfig(questions_per_pair=3),
        ColdStartConfig(ratio=1.0),
        supervised=True,
    )
    corpus = [
        str(text)
        for index in range(min(60, len(pairs)))
        for question in pairs.example(index, 0).questions
        for text in (question.text, question.target)
    ]
    folder = tmp_path_factory.mktemp("models") / "untrained"
    save_untrained(
        folder,
        train_tokenizer(corpus, 512),
        0,
        width=64,
        layers=2,
        vision_width=64,
        vision_layers=2,
    )
    return folder


@pytest.fixture(scope="session")
def spread_model(untrained_model: Path) -> Path:
    """The untrained model with its weights spread so widely that attention and laws are far from
    uniform.
    """
    from support.engine_world import load_policy, shake

    policy = load_policy(untrained_model)
    shake(policy, seed=0, scale=0.06)
    folder = untrained_model.with_name("spread")
    policy.save_pretrained(folder)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, in memory; mounting takes root's rights."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
