"""Errors of Hydra and OmegaConf about a command line or a config file, as one sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from difflib import get_close_matches

from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from actial.config.renamed_keys import renamed
from actial.core.paths import CONF

SEVERAL_VALUES = re.compile(
    r"(?:Sweep parameters|Ambiguous value for argument) '([^'=]+=\S*?)'(?: requires|\s|$)"
)


def explain(error: BaseException) -> str:
    """Return one sentence that names the key or the group, the value and the remedy."""
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    override = re.match(r"Could not override '([^@']+)(@\S+)?'\.", str(error))
    if override and (CONF / override[1]).is_dir():
        group = override[1]
        return f"{group} is not in the defaults of this command: write +{group}=NAME."
    if several := SEVERAL_VALUES.match(str(error)):
        return (
            f"{several[1]} names several values: add -m to run each, or write a path as "
            f"{several[1].replace('=', '=./', 1)}."
        )
    if isinstance(error, InterpolationKeyError) and error.full_key:
        unknown = str(error).splitlines()[0].removeprefix("Interpolation key ").split("'")[1]
        return (
            f"{error.full_key} refers to ${{{unknown}}}, which is no setting: name one, or write "
            f"\\${{{unknown}}} in single quotes for these letters."
        )
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(
        cause.object_type, type
    ):
        return unknown_key(cause.full_key or str(cause.key), cause.object_type)
    if isinstance(cause, ValidationError) and "is not a subclass of" in str(cause):
        return (
            f"{cause.full_key} is a new entry with settings of its own: name it in a YAML file, "
            "not on the command line."
        )
    if isinstance(cause, ValidationError) and cause.full_key:
        return f"{cause.full_key} cannot be set: {str(cause).splitlines()[0].rstrip('.')}."
    return " ".join(str(error).split()).rstrip(".") + "."


def unknown_key(full_key: str, owner: type) -> str:
    """Return the sentence for a key that a dataclass, or a mapping, does not have."""
    if new_key := renamed(full_key):
        return f"{full_key} is now called {new_key}: write {new_key} instead."
    if not is_dataclass(owner):
        return f"{full_key} does not exist: write +{full_key} to add it."
    names = [item.name for item in fields(owner)]
    hint = _nearest(full_key.rpartition(".")[2], names)
    return f"{full_key} is not a setting of {owner.__name__}{hint}; it has {', '.join(names)}."


def unknown_keys(node: object, prefix: str = "") -> Iterable[tuple[str, type]]:
    """Yield the full keys that `+key=value` added to typed nodes, with the dataclass that lacks
    them.

    OmegaConf attaches such keys without an error.
    """
    if not isinstance(node, DictConfig):
        return
    owner = OmegaConf.get_type(node)
    for key in map(str, node):
        full_key = f"{prefix}{key}"
        if owner is not None and is_dataclass(owner) and key not in owner.__dataclass_fields__:
            yield full_key, owner
        elif not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            yield from unknown_keys(node[key], f"{full_key}.")


def _missing_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    choices = sorted(error.options or [])
    hint = _nearest(name, choices)
    return f"there is no {group or 'config'} named {name!r}{hint}; there are {', '.join(choices)}."


def _nearest(word: str, choices: Iterable[str]) -> str:
    close = get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
