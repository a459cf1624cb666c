"""Every command of README.md, docs/ and CONTRIBUTING.md composes and validates."""

from __future__ import annotations

import shlex

import hydra
import pytest
from support.documented import FILLED_IN, all_commands

from actial.config import register
from actial.config.command_line import parse_command_line
from actial.config.hydra_app import typed
from actial.core.paths import CONF

CONFIGS = {"doctor": "train", "synthetic.tiny_model": "tiny"}
POSITIONAL = {
    "collect": "runs",
    "import_release": "release",
    "compare": "models[]",
    "audit": "sets[]",
}


def first_choices(overrides: tuple[str, ...]) -> list[str]:
    """One job of a sweep: the first of each list of values."""
    words = []
    for override in overrides:
        key, _, value = override.partition("=")
        swept = "," in value and value[0] not in "[{'\""
        words.append(f"{key}={value.partition(',')[0]}" if swept else override)
    return words


def test_pages_hold_commands() -> None:
    assert len(all_commands()) > 10


@pytest.mark.parametrize("command", all_commands())
def test_command_composes(command: str) -> None:
    register()
    if "reward_optuna" in command:
        pytest.importorskip("optuna", reason="a sweeper of the extra sweeps")
    module, *words = [FILLED_IN.get(word, word) for word in shlex.split(command)[2:]]
    name = module.removeprefix("actial.")
    line = parse_command_line(words, POSITIONAL.get(name))
    overrides = first_choices(line.overrides) if line.multirun else list(line.overrides)
    # Launchers are an extra of their own.
    overrides = [word for word in overrides if not word.startswith("hydra/launcher=")]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        typed(hydra.compose(CONFIGS.get(name, name), overrides))
