"""`hydra_command`: a function of a typed configuration becomes a command line.

Imports nothing heavy: a command imports what it needs inside its own function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from actial.config import SCHEMAS, register
from actial.config.command_line import (
    CommandLine,
    fixed_keys,
    help_text,
    job_name,
    parse_command_line,
    split_sweep,
)
from actial.config.error_messages import unknown_key, unknown_keys
from actial.config.exit_codes import (
    ERROR,
    OUR_FAULT,
    USER_ERROR,
    Exit,
    errors_reported,
    job_failed,
)
from actial.config.validation import validate
from actial.core.errors import UserError
from actial.core.paths import CONF

Run = Callable[[Any], Any]  # a command's function: typed config -> result


def hydra_command(
    config_name: str,
    *,
    folder_key: str | None,
    plus: tuple[str, ...] = (),
    positional: str | None = None,
    shared: Callable[[DictConfig], bool] = lambda raw: False,
) -> Callable[[Run], Callable[[], None]]:
    """Decorate `run(config)` into the command line of conf/<config_name>.yaml.

    `folder_key` names the setting of the output folder, None where a command writes none; in a
    multirun each job gets a subfolder named by what is swept. `plus` are groups outside the
    defaults list, chosen by `+group=name`. `positional` is the setting that a word without "="
    gives. Jobs for which `shared` holds work in the one folder the command names. The docstring
    of `run` heads the
    --help page; a sweep that searches (Optuna) gets what `run` returns.

    >>> @hydra_command("train", folder_key="run_dir", plus=("experiment",))
    ... def main(config: TrainConfig) -> None: ...
    """

    schema = SCHEMAS[f"{config_name}_schema"]

    def decorate(run: Run) -> Callable[[], None]:
        def command() -> None:
            register()
            words = sys.argv[1:]
            if not {"-h", "--help"}.isdisjoint(words):
                with errors_reported([]):
                    print(help_text(config_name, plus, run.__doc__ or ""))
                return
            codes = []
            with errors_reported([]):
                typed_words = parse_command_line(words, positional, schema)
                lines = split_sweep(typed_words, plus, folder_key)
                for line in lines:
                    job = _job(run, folder_key, shared, fixed_keys(line.overrides))
                    codes.append(_code(line, config_name, job, stop=len(lines) == 1))
            if any(codes):
                raise Exit(max(codes))

        return command

    return decorate


def typed(raw: DictConfig) -> Any:
    """Return the composed config as its dataclass, with every key, range and cross-field rule
    checked.

    Raises UserError with the key, the value and the remedy.
    """
    for full_key, owner in unknown_keys(raw):
        raise UserError(unknown_key(full_key, owner))
    try:
        config = OmegaConf.to_object(raw)
    except MissingMandatoryValue as missing:
        key = missing.full_key
        raise UserError(f"{key} is not set: add {key}=VALUE to the command.") from missing
    validate(config)
    return config


def _job(
    run: Run, folder_key: str | None, shared: Callable[[DictConfig], bool], fixed: set[str]
) -> Callable[[DictConfig], Any]:
    """Return the function that Hydra calls once per job, in this process or in a launcher's."""

    def job(raw: DictConfig) -> Any:
        register()  # a launcher's worker process starts without the project's resolvers
        sweeping = HydraConfig.get().mode is RunMode.MULTIRUN
        folder: list[Path] = []
        if folder_key and not OmegaConf.is_missing(raw, folder_key):
            if sweeping and not shared(raw):
                raw[folder_key] = str(Path(raw[folder_key]) / _swept_name(fixed))
            folder = [Path(raw[folder_key])]
        result = None  # stays so where the reader of a pipe has ended
        try:
            with errors_reported(folder):
                result = run(typed(raw))
        except Exit as ended:
            if sweeping and ended.code in (USER_ERROR, OUR_FAULT):
                raise job_failed(ended, folder) from None
            raise
        if folder:
            (folder[0] / ERROR).unlink(missing_ok=True)  # of an earlier attempt
        return result

    return job


def _swept_name(fixed: set[str]) -> str:
    """Return the folder name of the running job: its overrides without those that all jobs
    share.
    """
    words = HydraConfig.get().overrides.task
    swept = [word for word in words if word.partition("=")[0] not in fixed]
    return job_name(",".join(sorted(swept)))


def _code(
    line: CommandLine, config_name: str, job: Callable[[DictConfig], Any], stop: bool
) -> int:
    """Run one command line and return its exit code; with `stop` a failure ends the process."""
    try:
        with errors_reported([]):
            _execute(line, config_name, job)
    except Exit as ended:
        if stop or ended.code not in (USER_ERROR, OUR_FAULT):
            raise
        return int(ended.code)
    return 0


def _execute(line: CommandLine, config_name: str, job: Callable[[DictConfig], Any]) -> None:
    """Compose the config and do what the flags say: print it, run one job, or sweep."""
    words: Sequence[str] = line.overrides
    with initialize_config_dir(str(CONF), job_name=config_name, version_base="1.3"):
        app = GlobalHydra.instance().hydra
        assert app is not None
        if line.show:
            app.show_cfg(config_name, [*words], line.show, line.package, line.resolve)
        elif line.info:
            app.show_info(line.info, config_name, [*words])
        elif line.multirun:
            app.multirun(config_name, job, [*words, "hydra.mode=MULTIRUN"])
        else:
            app.run(config_name, job, [*words, "hydra.mode=RUN"])
