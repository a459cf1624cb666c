"""The launch scripts parse, and the settings they name compose to a run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import hydra
import pytest

from actial.config import Strategy, register
from actial.config.hydra_app import typed
from actial.core.paths import CONF

SCRIPTS = sorted((CONF.parent / "scripts" / "launch").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_parses_and_is_executable(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o111


@pytest.mark.parametrize(
    "script", [s for s in SCRIPTS if s.stem != "serve"], ids=lambda script: script.stem
)
def test_settings_of_the_script_make_a_run(script: Path) -> None:
    register()
    text = script.read_text().replace("\\\n", " ")
    (command,) = re.findall(
        r'^(?!#).*torchrun (.*) -m actial\.train (.*) "\$@"', text, re.MULTILINE
    )
    flags, words = command
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = typed(hydra.compose("train", words.split()))
    assert config.trainer.strategy is Strategy.fsdp2
    assert f"--nproc-per-node {config.trainer.devices}" in flags
    nodes = re.search(r"--nnodes (\d+)", flags)
    assert config.trainer.nodes == (int(nodes[1]) if nodes else 1)
