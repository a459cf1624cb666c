"""Doctor: the table names what would go wrong, and nothing is written."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import hydra
import pytest

from actial import doctor
from actial.config import register
from actial.config.exit_codes import Exit
from actial.config.hydra_app import typed
from actial.core.paths import CONF
from actial.pipeline import doctor_checks
from actial.pipeline.doctor_checks import Status


@pytest.fixture
def overrides(tiny_set: Path, untrained_model: Path, tmp_path: Path) -> list[str]:
    return [
        "+experiment=smoke",
        f"run_dir={tmp_path / 'run'}",
        f"model.path={untrained_model}",
        f"data.sets.viewpoint.root={tiny_set}",
        "mix@grpo.mix=viewpoint",
        "benchmark=viewpoint",
    ]


def findings(*overrides: str) -> dict[str, list[tuple[Status, str]]]:
    """Check name -> its lines."""
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = typed(hydra.compose("train", list(overrides)))
    by_check: dict[str, list[tuple[Status, str]]] = {}
    for finding in doctor_checks.diagnose(config):
        by_check.setdefault(finding.check, []).append((finding.status, finding.text))
    return by_check


def test_a_sound_config_passes_every_check_and_writes_nothing(
    overrides: list[str], tmp_path: Path
) -> None:
    by_check = findings(*overrides)
    assert list(by_check) == list(doctor_checks.CHECKS)
    assert {status for lines in by_check.values() for status, _ in lines} == {Status.PASS}
    assert "starts a new run" in by_check["run folder"][0][1]
    assert "qwen2_5_vl with vision" in by_check["model"][0][1]
    assert not (tmp_path / "run").exists()


def test_cost_counts_the_reference_and_what_trains(overrides: list[str]) -> None:
    """Weights of 4 bytes: 4 copies in SFT (weights, gradients, two moments), the frozen reference besides in GRPO."""
    policy_bytes = sum(
        path.stat().st_size
        for path in Path(overrides[2].partition("=")[2]).glob("*.safetensors")
    )
    supervised, rolled_out = (text for _, text in findings(*overrides)["cost"])
    assert f"trainer {4 * policy_bytes / 2**30:.2f} state" in supervised
    assert f"trainer {5 * policy_bytes / 2**30:.2f} state" in rolled_out
    assert all("TFLOP a step" in text for text in (supervised, rolled_out))


def test_a_model_too_large_for_the_device_is_a_failure(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_checks, "device_memory", lambda _: 1000)
    assert {status for status, _ in findings(*overrides)["cost"]} == {Status.FAIL}


@pytest.mark.parametrize(
    ("override", "check", "status", "words"),
    [
        ("data.sets.viewpoint.root=nowhere", "data", Status.FAIL, "no finished data set"),
        ("benchmark.sets.viewpoint=viewpoint:best", "data", Status.FAIL, "no such split"),
        (
            "model.path=no/such/folder",
            "model",
            Status.FAIL,
            "model.path=no/such/folder does not exist",
        ),
        (
            "sft.optim.warmup_steps=9",
            "schedule",
            Status.WARN,
            "sft.optim.warmup_steps=9 is never over",
        ),
        (
            "model.micro_batch_tokens=20",
            "first batch",
            Status.WARN,
            "exceed model.micro_batch_tokens=20",
        ),
        ("model.min_pixels=8000", "first batch", Status.FAIL, "rebuild the data set"),
        ("sampler=vllm_server", "sampler", Status.FAIL, "does not answer"),
    ],
)
def test_what_is_wrong_is_named(
    overrides: list[str], override: str, check: str, status: Status, words: str
) -> None:
    more = []
    if "micro_batch_tokens" in override:
        more = ["model.sequence_tokens=16"]
    if "server" in override:
        more = [
            "sampler.url=http://127.0.0.1:9",
            "sampler.start=false",
            "sampler.folder=weights",
        ]
    lines = findings(*overrides, override, *more)[check]
    assert any(actual is status and words in text for actual, text in lines), lines


def test_a_changed_data_set_is_a_failure(
    overrides: list[str], tiny_set: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_set, copy)
    with (copy / "index.jsonl").open("a") as index:
        index.write("\n")
    *_, (status, text) = findings(*overrides, f"data.sets.viewpoint.root={copy}")["data"]
    assert status is Status.FAIL
    assert "is not the one its manifest names" in text


def test_a_failure_exits_1_with_the_table(
    overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    monkeypatch.setattr(sys, "argv", ["doctor", *overrides])
    with pytest.raises(Exit) as exit_info:
        doctor.main()
    assert exit_info.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fail  run folder")
    assert all(line.startswith("pass") for line in lines[1:])
