"""What a run was made from: provenance.json in its folder, and the versions of the software.

Older run folders call the file passport.json; it is read under that name too.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from actial.core.paths import CHECKOUT
from actial.core.sealed_files import read_sealed_json, write_sealed_json

PROVENANCE = "provenance.json"
OLD_PROVENANCE = "passport.json"
PACKAGES = (
    "actial",
    "torch",
    "transformers",
    "lightning",
    "peft",
    "numpy",
    "hydra-core",
    "omegaconf",
)


def read_provenance(run_folder: Path) -> dict[str, Any]:
    """Return what provenance.json (or passport.json) of a run folder holds; {} without either.

    Raises UserError for a damaged file.
    """
    remedy = "put a copy back, or remove this run folder and train anew"
    for name in (PROVENANCE, OLD_PROVENANCE):
        path = run_folder / name
        if path.exists():
            return read_sealed_json(path, remedy)
    return {}


def add_provenance(run_folder: Path, values: Mapping[str, Any]) -> None:
    """Write `values` into provenance.json; a value of the same name is replaced."""
    write_sealed_json(run_folder / PROVENANCE, {**read_provenance(run_folder), **values})


def software_versions() -> dict[str, Any]:
    """Return the versions of Python and of the packages that decide the numbers, and the commit."""
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "python": sys.version.split()[0],
        "packages": package_versions(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(changes),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide the numbers."""
    return {name: version(name) for name in PACKAGES}


def _git(*arguments: str) -> str | None:
    """Return git's answer about the checkout of this package; None when it was installed alone."""
    if not (CHECKOUT / ".git").exists():
        return None
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
