"""Where the package's own files lie, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ASSETS = PACKAGE / "assets"  # report template, the tiny base model
# the repository, where the package is installed with `pip install -e .`
CHECKOUT = PACKAGE.parent
# The wheel carries the Hydra groups inside the package; a checkout has them at its top.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else CHECKOUT / "conf"
