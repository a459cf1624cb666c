"""What a run prints as its deviations: its data, its texts and its length, not its settings alone."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from support.tiny_world import IMAGES, SIZE, pair_row, write_questions

from actial.config import ImportReleaseConfig, RewardTerm, TrainConfig, register
from actial.config.hydra_app import typed
from actial.core.paths import CONF
from actial.data.build.settings import fixed_settings
from actial.data.images import encode
from actial.data.release_texts import import_release
from actial.data.shards import Sample, write_set
from actial.pipeline.doctor_checks import check_fidelity
from actial.pipeline.fidelity_report import all_deviations
from actial.pipeline.findings import Status

PROMPT = "Actial thinks: <think> it </think><answer> it </answer>"
PAIRS = 7


@cache
def composed(command: str, *words: str) -> Any:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(hydra.compose(command, list(words)))


def write_pairs(out: Path, dataset: str) -> None:
    """Pairs whose manifest has the settings of a build with `dataset`."""
    words = ("source=mvimgnet", f"dataset={dataset}", "source.root=x", "out=x")
    settings = fixed_settings(composed("build", *words))
    azimuths = np.arange(PAIRS + 1) * 60.0
    rows = [pair_row(f"pair{i}", "mug", {}, azimuths, i) for i in range(PAIRS)]
    picture = encode(np.zeros((SIZE, SIZE, 3), np.uint8), IMAGES)
    pictures = {f"f{i:03d}.png": picture for i in range(PAIRS + 1)}
    sample = Sample(key="object", images=pictures, rows=rows)
    write_set(out, {"train": [sample]}, 4, {"config": settings})


def write_release(root: Path) -> None:
    """The release's texts as import_release takes them from a clone and rows."""
    (root / "clone").mkdir()
    (root / "clone" / "train.sh").write_text(f'run data.system_prompt="{PROMPT}"')
    stems = {
        "Where did it go?": ("Move to the", "No movement"),
        "From the object, where did it go?": ("Move to the", "No movement"),
        "How did it turn?": ("Rotate to the", "No rotation"),
    }
    texts = [
        f"{stem} A: {verb} left B: {none} C: {verb} right\nThe letter alone."
        for stem, (verb, none) in stems.items()
    ]
    rows = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    (root / "rows.json").write_text(json.dumps(rows))
    clone, rows_file = str(root / "clone"), str(root / "rows.json")
    import_release(ImportReleaseConfig(release=clone, rows=rows_file, out="release"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that fidelity=paper needs, at the names of the documentation."""
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "data" / "viewpoint_100k", "viewpoint_100k_paper")
    write_questions(tmp_path / "sat")
    config = fixed_settings(
        composed("build", "source=sat", "dataset=viewpoint_100k", "source.root=x", "out=x")
    )
    manifest = json.loads((tmp_path / "sat" / "manifest.json").read_text())
    (tmp_path / "sat" / "manifest.json").write_text(json.dumps({**manifest, "config": config}))
    (tmp_path / "sat").rename(tmp_path / "data" / "sat")
    write_release(tmp_path)
    (tmp_path / "data" / "chains").mkdir()
    entry = {"uid": "pair0", "type": "ego_translation", "chain": "It moved to its right."}
    (tmp_path / "data" / "chains" / "chains.jsonl").write_text(json.dumps(entry) + "\n")
    return tmp_path


def paper_run(*words: str) -> TrainConfig:
    config = composed("train", "+experiment=actial_7b", "fidelity=paper", *words)
    assert isinstance(config, TrainConfig)
    return deepcopy(config)


def test_the_documented_run_deviates_in_nothing(place: Path) -> None:
    assert list(all_deviations(paper_run())) == []
    assert [status for status, _ in check_fidelity(paper_run())] == [Status.PASS]


def test_pairs_of_the_recommended_data_set_are_named(place: Path) -> None:
    write_pairs(place / "other", "viewpoint_100k")
    config = paper_run("data.sets.viewpoint.root=other")
    lines = [
        "viewpoint was built with gates.angle_margin=1.0 (paper: 0.0)",
        "viewpoint was built with pairs.unseen_class_fraction=0.05 (guess: 0.0)",
    ]
    assert list(all_deviations(config)) == lines
    assert list(check_fidelity(config)) == [
        (Status.WARN, f"deviates from the paper: {line}") for line in lines
    ]


def test_a_capped_sat_is_named(place: Path) -> None:
    path = place / "data" / "sat" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["qa"]["max_rows"] = 77_000
    path.write_text(json.dumps(manifest))
    assert list(all_deviations(paper_run())) == [
        "sat was built with qa.max_rows=77000 (guess: all)"
    ]


def test_a_text_of_ones_own_in_the_release_s_place_is_named(place: Path) -> None:
    (place / "release" / "system_prompt.txt").write_text("Think of Actial.")
    (named,) = all_deviations(paper_run())
    assert named.startswith("prompt.system_prompt: release/system_prompt.txt is not the text")


def test_changed_settings_are_named(place: Path) -> None:
    config = paper_run(
        "sft.steps=3",
        "data.sets.sat.types=[static]",
        "mix@grpo.mix=viewpoint",
        "grpo.overlong=mask",
    )
    config.sft.mix.weights["sat"] = 1.0
    config.reward.terms["more"] = RewardTerm(kind="verified", weight=0.2)
    assert set(all_deviations(config)) == {
        "sft.steps: 3 (sft.epochs=2 takes 1)",
        "sft.mix.weights: {'viewpoint': 1.0, 'sat': 1.0} (paper: {'viewpoint': 1.0})",
        "data.sets.sat.types: ['static'] (paper: all records)",
        "grpo.mix.weights: {'viewpoint': 1.0} (paper: {'sat': 1.0})",
        "grpo.overlong: mask (guess: keep)",
        "reward.terms.more: verified with weight 0.2 (paper: none)",
    }
