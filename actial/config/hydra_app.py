"""What every command shares: a Hydra config becomes a checked typed object, and each way to fail has its exit code.

0 done; 1 the user's input is wrong (one sentence on stderr); 2 a fault of ours (traceback kept in the run folder); 143 training stopped
by a signal, all saved; 130 another Ctrl-C. In a sweep a job of code 1 or 2 leaves its error.txt and the others
run on. Imports nothing heavy: a command imports what it needs inside its own function.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from actial.config import register
from actial.config.error_messages import explain, unknown_key, unknown_keys
from actial.config.validation import validate
from actial.core.errors import UserError
from actial.core.paths import CONF

ERROR = "error.txt"  # in the folder of a run: why it ended
LONGEST_NAME = 140  # characters of a job's folder
USER_ERROR, OUR_FAULT, INTERRUPTED, STOPPED = (
    1,
    2,
    130,
    143,
)  # the last two are 128 + SIGINT, 128 + SIGTERM, as shells report them


class Exit(SystemExit):
    """The end of the process with an exit code of this module, its message already printed."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(code)
        self.message = message


class JobFailed(Exception):
    """A job of a sweep ended with code 1 or 2; Hydra lets the others run before it raises this."""


def hydra_command(
    config_name: str,
    *,
    folder_key: str | None,
    plus: tuple[str, ...] = (),
    shared: Callable[[DictConfig], bool] = lambda raw: False,
) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Decorate `run(config)` into the command line of conf/<config_name>.yaml, whose first default is its schema.

    `folder_key` names the config's output folder, None where a command writes none; in a multirun each job gets a subfolder of it, named
    by what is swept.
    Jobs for which `shared` holds work in the one folder the command names.
    A sweep that looks for something, as Optuna's does, gets what `run` returns.
    `plus` are groups outside the defaults list, chosen by `+group=name`. The docstring of `run` heads the --help page.

    >>> @hydra_command("train", folder_key="run_dir", plus=("experiment",))
    ... def main(config: TrainConfig) -> None: ...
    """

    def decorate(run: Callable[[Any], Any]) -> Callable[[], None]:
        fixed: set[str] = set()

        def job(raw: DictConfig) -> Any:
            register()  # the worker process of a launcher starts without our resolvers
            sweeping = HydraConfig.get().mode is RunMode.MULTIRUN
            key = folder_key or ""
            has_folder = bool(key) and not OmegaConf.is_missing(raw, key)
            if sweeping and has_folder and not shared(raw):
                swept = [
                    word
                    for word in HydraConfig.get().overrides.task
                    if word.partition("=")[0] not in fixed
                ]
                raw[key] = str(Path(raw[key]) / job_name(",".join(sorted(swept))))
            folder = [Path(raw[key])] if has_folder else []
            try:
                with errors_reported(folder):
                    result = run(typed(raw))
                for place in folder:
                    (place / ERROR).unlink(missing_ok=True)  # of an earlier try
                return result
            except Exit as left:
                if sweeping and left.code in (USER_ERROR, OUR_FAULT):
                    raise _job_failed(left, folder) from None
                raise

        def command() -> None:
            register()
            words = sys.argv[1:]
            with errors_reported([]):
                if "--help" in words or "-h" in words:
                    print(help_text(config_name, plus, run.__doc__ or ""))
                    return
                if not {"-m", "--multirun"}.isdisjoint(words) and not {"-c", "--cfg"}.isdisjoint(
                    words
                ):
                    raise UserError(
                        "--cfg shows the settings of one run: leave out -m, and name one value of what is swept."
                    )
                os.environ["HYDRA_FULL_ERROR"] = (
                    "1"  # Hydra then raises what it would print, and errors_reported says it in a sentence
                )
                lines = sweeps_apart(values_quoted(words), plus, folder_key)
                codes = [one_sweep(line, keep_on=len(lines) > 1) for line in lines]
                if any(codes):
                    raise Exit(max(codes))

        def one_sweep(words: Sequence[str], keep_on: bool) -> int:
            """Runs a command line, a single run or a sweep; its exit code, where others are to follow whatever comes of it."""
            sys.argv[1:] = words
            fixed.clear()
            fixed.update(fixed_keys(words))
            try:
                with errors_reported([]):
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(
                        job
                    )()
            except Exit as left:
                if not keep_on or left.code not in (USER_ERROR, OUR_FAULT):
                    raise
                return int(left.code)
            return 0

        return command

    return decorate


def values_quoted(words: Sequence[str]) -> list[str]:
    """The words with quotes around values that hold "=", as paths into a sweep do; Hydra's grammar refuses them bare.

    >>> values_quoted(["model.path=runs/sweep/seed=1/sft/model", "seed=1"])
    ["model.path='runs/sweep/seed=1/sft/model'", 'seed=1']
    """
    sweeping = not {"-m", "--multirun"}.isdisjoint(words)

    def bare(value: str) -> bool:
        return (
            "=" in value
            and value[0] not in "'\"[{"
            and not set("($").intersection(value)
            and not (sweeping and "," in value)
        )

    cut = [word.partition("=") for word in words]
    return [
        f"{key}={quoted(value)}" if bare(value) else f"{key}{sign}{value}"
        for key, sign, value in cut
    ]


def quoted(text: str) -> str:
    """For Hydra, in single quotes; as it is where it has quotes already."""
    if text[:1] in "'\"":
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def fixed_keys(words: Sequence[str]) -> set[str]:
    """The keys that a command line sets to one value for all jobs of a sweep."""
    parser, found = OverridesParser.create(), set()
    for word in words:
        with suppress(
            HydraException
        ):  # a flag or its argument; a word that is meant as an override is Hydra's to complain about
            override = parser.parse_override(word)
            if not override.is_sweep_override():
                found.add(override.get_key_element())
    return found


def sweeps_apart(
    words: Sequence[str], plus: Sequence[str], folder_key: str | None
) -> list[list[str]]:
    """The command lines of a multirun over several choices of a group in `plus`: one sweep each, in a folder of its own.

    What an experiment sweeps stands in its file, and Hydra reads no sweep from a file that only some of the jobs have: the experiments
    would silently run at one point each. Raises MissingConfigException for a choice that conf/ does not have, before anything is run.

    >>> sweeps_apart(["-m", "+experiment=ablate_kl,ablate_mix", "run_dir=runs/x"], ["experiment"], "run_dir")[0]
    ['-m', '+experiment=ablate_kl', 'run_dir=runs/x/ablate_kl']
    """
    parser = OverridesParser.create()
    at = [
        i for i, word in enumerate(words) if word.startswith(tuple(f"+{group}=" for group in plus))
    ]
    if (
        {"-m", "--multirun"}.isdisjoint(words)
        or not at
        or not (sweep := parser.parse_override(words[at[0]])).is_sweep_override()
    ):
        return [list(words)]
    group, names = sweep.get_key_element().lstrip("+"), list(sweep.sweep_string_iterator())
    there = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    for name in names:
        if name not in there:
            raise MissingConfigException("", f"{group}/{name}", there)

    def own(word: str, name: str) -> str:
        if word.startswith(f"{folder_key}="):
            return f"{folder_key}={quoted(f'{parser.parse_override(word).value()}/{name}')}"
        return f"+{group}={name}" if word == words[at[0]] else word

    return [[own(word, name) for word in words] for name in names]


def job_name(overrides: str) -> str:
    """A folder name for one job of a sweep: its own overrides, replaced where a path cannot hold them and cut when long; always distinct.

    >>> job_name("cold_start=none,seed=1")
    'cold_start=none,seed=1'
    """
    plain = re.sub(r"[^\w.=,+@\[\]-]+", "_", overrides)
    if plain == overrides and len(plain) <= LONGEST_NAME:
        return plain
    return f"{plain[:LONGEST_NAME]}-{blake2b(overrides.encode(), digest_size=4).hexdigest()}"


def _job_failed(left: Exit, folder: list[Path]) -> JobFailed:
    """Keep a user's error where a sweep's table finds it (a fault's traceback lies there already); the error that stands for the job."""
    if left.code == USER_ERROR and folder:
        folder[0].mkdir(parents=True, exist_ok=True)
        (folder[0] / ERROR).write_text(f"error: {left.message}\n")
    where = f"{folder[0] / ERROR}" if folder else "the line above"
    return JobFailed(
        f"a job of the sweep failed, see {where}; the other jobs have run: the same command again runs only what is missing"
    )


def help_text(config_name: str, plus: tuple[str, ...], about: str) -> str:
    """What --help prints: the command and the choices of each group, read from the defaults list.

    Hydra's own page takes three seconds, because it opens every group anew, and fails where a choice is mandatory.
    """
    chosen: dict[str, str | None] = {f"+{group}": None for group in plus}
    for entry in OmegaConf.load(CONF / f"{config_name}.yaml").defaults:
        if isinstance(entry, DictConfig) and not any(
            str(key).startswith("override ") for key in entry
        ):
            chosen |= {
                str(key): None if OmegaConf.is_missing(entry, key) else str(entry[key])
                for key in entry
            }
    lines = [inspect.cleandoc(about), "", "choices (group=name), in brackets the default:"]
    for group, used in chosen.items():
        names = sorted(
            path.stem for path in (CONF / group.lstrip("+").partition("@")[0]).glob("*.yaml")
        )
        lines.append(
            f"  {group}: " + ", ".join(f"[{name}]" if name == used else name for name in names)
        )
    return "\n".join(
        [
            *lines,
            "",
            "Add --cfg job to see every setting (key=value) as composed, -m and comma lists to sweep.",
        ]
    )


def typed(raw: DictConfig) -> Any:
    """The composed config as its dataclass, every key, range and cross-field rule checked.

    Raises UserError with the key, the value and the remedy.
    """
    for full_key, owner in unknown_keys(raw):
        raise UserError(unknown_key(full_key, owner))
    try:
        config = OmegaConf.to_object(raw)
    except MissingMandatoryValue as missing:
        raise UserError(
            f"{missing.full_key} is not set: add {missing.full_key}=VALUE to the command."
        ) from missing
    validate(config)
    return config


@contextmanager
def errors_reported(folder: list[Path]) -> Iterator[None]:
    """Turn exceptions into the exit codes of this module; `folder` may be filled inside the block with where a traceback belongs."""
    try:
        yield
    except Exit:
        raise
    except SystemExit as leaving:  # the argument parser has printed what it did not understand
        raise SystemExit(USER_ERROR if leaving.code else 0) from None
    except (UserError, JobFailed) as error:
        _leave(str(error), USER_ERROR)
    except (HydraException, OmegaConfBaseException) as error:
        _leave(explain(error), USER_ERROR)
    except KeyboardInterrupt:
        _leave("interrupted: run the same command again to go on.", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader left (`| head`): nothing to report
    except Exception as error:
        if disk_full(error):
            where = f" ({name})" if (name := getattr(error, "filename", None)) else ""
            _leave(
                f"the disk is full{where}: free some space and run the same command again.",
                USER_ERROR,
            )
        _leave(_keep_traceback(error, folder), OUR_FAULT)


def _leave(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise Exit(code, message)


def _keep_traceback(error: Exception, folder: list[Path]) -> str:
    text = "".join(traceback.format_exception(error))
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    if not folder or not folder[0].is_dir():
        print(text, file=sys.stderr)
        return f"this is a fault of actial: {summary}; the traceback stands above."
    path = folder[0] / ERROR
    path.write_text(text)
    return f"this is a fault of actial: {summary}; the traceback is in {path}."


def disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or one behind it, says that the disk is full: Python's error number, or the text that Rust extensions raise."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
