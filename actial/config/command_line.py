"""The words of a command line: flags, overrides in Hydra's grammar, and the sweeps they ask for."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from actial.config.text_settings import TextSetting, text_setting, with_home
from actial.core.errors import UserError
from actial.core.paths import CONF

LONGEST_NAME = 140  # characters of a job's folder name
QUOTES = ("'", '"')
BRACKETS = ("[", "{")
GRAMMAR = (*QUOTES, *BRACKETS)  # a value that begins so has a grammar of its own
FUNCTION = re.compile(
    r"(?:choice|range|interval|glob|sort|shuffle|tag|int|float|str|bool|extend_list)\("
)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the user typed: overrides such as "seed=1" in Hydra's grammar, and Hydra's flags."""

    overrides: tuple[str, ...]
    multirun: bool = False
    show: str | None = None  # --cfg: job, hydra or all
    resolve: bool = False  # with --cfg: interpolations are resolved
    package: str | None = None  # with --cfg: only this part
    info: str | None = None  # --info: how the config was composed


def parse_command_line(
    words: Sequence[str], positional: str | None = None, schema: type | None = None
) -> CommandLine:
    """Return the flags and overrides of a command line.

    `positional` is the setting that a first word without "=" stands for, or a path with
    one; "models[]" is a list that takes all such words. `schema` is the dataclass of the
    command's config: its text settings get the text as it is typed. Raises UserError for flags that
    exclude each other and SystemExit, with a message printed, for a flag that does not
    exist.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-p", "--package")
    parser.add_argument("-i", "--info", nargs="?", const="all")
    parser.add_argument("-cd", "--config-dir")
    flags = parser.parse_intermixed_args(words)
    if flags.multirun and flags.cfg:
        raise UserError(
            "--cfg shows the settings of one run: leave out -m, and name one value of each "
            "swept setting."
        )
    overrides = list(flags.overrides)
    if positional:
        bare = [index for index, word in enumerate(overrides) if not _is_override(word)]
        if bare and positional.endswith("[]"):
            values = ",".join(quoted(overrides[index]) for index in bare)
            overrides = [word for word in overrides if _is_override(word)]
            overrides.append(f"{positional.removesuffix('[]')}=[{values}]")
        elif bare:
            overrides[bare[0]] = f"{positional}={quoted(overrides[bare[0]])}"
    if flags.config_dir:
        folder = Path(flags.config_dir).absolute()
        if not folder.is_dir():
            raise UserError(f"--config-dir {flags.config_dir} does not exist: name a folder.")
        overrides.append(f"hydra.searchpath=[{quoted(f'file://{folder}')}]")
    return CommandLine(
        overrides=tuple(quote_values(overrides, flags.multirun, schema)),
        multirun=flags.multirun,
        show=flags.cfg,
        resolve=flags.resolve,
        package=flags.package,
        info=flags.info,
    )


def _is_override(word: str) -> bool:
    """Return whether a word is key=value, and not a path such as runs/sweep/seed=1/scores."""
    key, sign, _ = word.partition("=")
    if not sign or ("/" not in key and Path(word).exists()):
        return False
    group = key.lstrip("+~").partition("@")[0]
    return "/" not in group or group.startswith("hydra/") or (CONF / group).is_dir()


def quote_values(
    overrides: Sequence[str], multirun: bool, schema: type | None = None
) -> list[str]:
    """Return the overrides with quotes around values that Hydra's grammar reads otherwise.

    Such are paths with "=", letters beyond ASCII, quotes, parentheses, commas
    and other signs, and in text settings of `schema` what looks like a number,
    a list or null. Values in a grammar of their own (quoted, lists, dicts,
    functions, interpolations, choices of a sweep) stay as they are. Raises
    UserError for a value that cannot be read even so, and for a text setting
    without text.

    >>> quote_values(["model.path=runs/sweep/seed=1/sft/model", "seed=1"], multirun=False)
    ["model.path='runs/sweep/seed=1/sft/model'", 'seed=1']
    """
    parser = OverridesParser.create()
    words = []
    for override in overrides:
        key, sign, value = override.partition("=")
        setting = text_setting(schema, key) if sign else None
        if setting is not None:
            value = (
                ",".join(map(with_home, value.split(","))) if multirun else with_home(value)
            )
            override = f"{key}={value}"
            if _is_other_text(parser, override, setting, multirun):
                words.append(f"{key}={_quoted_choices(value, multirun)}")
                continue
        words.append(_quoted_override(parser, override, multirun))
    return words


def _is_other_text(
    parser: OverridesParser, override: str, setting: TextSetting, multirun: bool
) -> bool:
    """Return whether Hydra's grammar makes something else than the typed text of a value."""
    key, _, value = override.partition("=")
    try:
        parsed = parser.parse_override(override)
    except HydraException:
        return value[:1] in BRACKETS
    if parsed.is_sweep_override():
        choices = getattr(parsed.value(), "list", None) or []
        if multirun:
            plain = getattr(parsed.value(), "simple_form", False) and "'" not in value
            return plain and not all(isinstance(choice, str) for choice in choices)
        return Path(value).exists()
    if FUNCTION.match(value):
        return False
    text = parsed.value()
    if text in ("", "''", '""') and setting.needs_text:
        raise UserError(f"{key}= has no value: write {key}=VALUE, or leave it out.")
    if text is None:
        return not setting.may_be_null
    return not isinstance(text, str) or ("${" in value and Path(value).exists())


def _quoted_choices(value: str, multirun: bool) -> str:
    choices = value.split(",") if multirun else [value]
    return ",".join(quoted(choice.replace("${", r"\${")) for choice in choices)


def _quoted_override(parser: OverridesParser, override: str, multirun: bool) -> str:
    key, sign, value = override.partition("=")
    try:
        as_given = parser.parse_override(override)
    except HydraException:
        as_given = None
    if as_given is not None:
        # Of one run, a list of choices with a slash is one path that holds a comma.
        is_path = "/" in value and not multirun and as_given.is_sweep_override()
        is_path = is_path and value[:1] not in QUOTES and not FUNCTION.match(value)
        return f"{key}{sign}{quoted(value)}" if is_path or value != value.strip() else override
    if sign and value[:1] not in GRAMMAR and not FUNCTION.match(value):
        choices = value.split(",") if multirun else [value]
        word = f"{key}{sign}{','.join(quoted(choice) for choice in choices)}"
        with suppress(HydraException):
            parser.parse_override(word)
            return word
    if value[:1] in QUOTES and "/" in value:
        raise UserError(
            f"{override} cannot be read: a value that begins with a quote must end with it; write "
            f"a path that begins with one as {key}=./{value}"
        )
    return override  # Hydra's own message names what is wrong with a list or a function


def quoted(text: str) -> str:
    """Return a value in single quotes for Hydra's grammar.

    A value that begins with a quote stays as it is. Backslashes count as escapes only before a
    quote and at the end.
    """
    if text[:1] in QUOTES:
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def fixed_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that have one value for all jobs of a sweep."""
    parser, keys = OverridesParser.create(), set()
    for word in overrides:
        with suppress(HydraException):  # Hydra itself reports what it cannot parse
            override = parser.parse_override(word)
            if not override.is_sweep_override():
                keys.add(override.get_key_element())
    return keys


def split_sweep(
    line: CommandLine, plus: Sequence[str], folder_key: str | None
) -> list[CommandLine]:
    """Return one command line per choice of a swept group in `plus`, each with a folder of its
    own.

    An experiment names in its file what it sweeps, and Hydra reads no sweep from a
    file that only some of the jobs have: swept together, the experiments would
    silently run at one point each. Raises MissingConfigException for a choice that
    does not exist.

    >>> words = ("+experiment=ablate_kl,ablate_mix", "run_dir=runs/x")
    >>> split_sweep(CommandLine(words, multirun=True), ["experiment"], "run_dir")[0].overrides
    ('+experiment=ablate_kl', "run_dir='runs/x/ablate_kl'")
    """
    parser = OverridesParser.create()
    prefixes = tuple(f"+{group}=" for group in plus)
    choices = [word for word in line.overrides if word.startswith(prefixes)]
    if not line.multirun or not choices:
        return [line]
    sweep = parser.parse_override(choices[0])
    if not sweep.is_sweep_override():
        return [line]
    group = sweep.get_key_element().lstrip("+")
    names = list(sweep.sweep_string_iterator())
    shipped = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    has_own_folder = any(word.startswith("hydra.searchpath=") for word in line.overrides)
    for name in names:
        if name not in shipped and not has_own_folder:
            raise MissingConfigException("", f"{group}/{name}", shipped)

    def of_choice(word: str, name: str) -> str:
        if word == choices[0]:
            return f"+{group}={name}"
        if word.startswith(f"{folder_key}="):
            return f"{folder_key}={quoted(f'{parser.parse_override(word).value()}/{name}')}"
        return word

    return [
        replace(line, overrides=tuple(of_choice(word, name) for word in line.overrides))
        for name in names
    ]


def job_name(overrides: str) -> str:
    """Return a folder name for one job of a sweep: its overrides, without what a path cannot hold.

    Long names are cut; a hash keeps cut and changed names distinct.

    >>> job_name("cold_start=none,seed=1")
    'cold_start=none,seed=1'
    """
    plain = re.sub(r"[^\w.=,+@\[\]-]+", "_", overrides)
    if plain == overrides and len(plain) <= LONGEST_NAME:
        return plain
    return f"{plain[:LONGEST_NAME]}-{blake2b(overrides.encode(), digest_size=4).hexdigest()}"


def help_text(config_name: str, plus: Sequence[str], about: str) -> str:
    """Return the --help page: the command and the choices of each group of its defaults list.

    Hydra's own page takes three seconds, since it opens every group anew, and fails where a
    choice is mandatory.
    """
    defaults: dict[str, str | None] = {f"+{group}": None for group in plus}
    for entry in OmegaConf.load(CONF / f"{config_name}.yaml").defaults:
        if not isinstance(entry, DictConfig):
            continue
        for key in map(str, entry):
            if not key.startswith("override "):
                defaults[key] = None if OmegaConf.is_missing(entry, key) else str(entry[key])
    lines = [inspect.cleandoc(about), "", "choices (group=name), in brackets the default:"]
    for group, default in defaults.items():
        folder = CONF / group.lstrip("+").partition("@")[0]
        names = sorted(path.stem for path in folder.glob("*.yaml"))
        marked = [f"[{name}]" if name == default else name for name in names]
        lines.append(f"  {group}: {', '.join(marked)}")
    lines += [
        "",
        "Add --cfg job to see every setting (key=value), -m and comma lists to sweep.",
    ]
    return "\n".join(lines)
