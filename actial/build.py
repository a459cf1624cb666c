"""`python -m actial.build source=KIND source.root=DIR out=DIR`: make a data set in shards.

Posed photos become view pairs; SAT and published question sets become questions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from actial.config import BuildConfig, SourceKind
from actial.config.hydra_app import hydra_command
from actial.core.errors import UserError
from actial.data.build.build_pairs import build_pairs, pairs_origin
from actial.data.build.resumable import WORK, refuse_other_config, refuse_other_origin
from actial.data.build.settings import config_hash, fixed_settings
from actial.data.shards import MANIFEST


def build(config: BuildConfig) -> None:
    """Run or resume a build, or one shard of it; raises UserError for what the user can mend."""
    if is_built(config):
        print(f"{config.out} is already built with this configuration; nothing to do.")
        return
    kind = config.source.kind
    if kind in (SourceKind.sat, SourceKind.named):
        # Imported here: they bring the readers of the benchmarks along.
        from actial.data.qa.build_public_set import build_named
        from actial.data.qa.build_sat import build_sat

        build_questions = build_sat if kind is SourceKind.sat else build_named
        build_questions(config, fixed_settings(config), config_hash(config))
        return
    build_pairs(config)


def is_built(config: BuildConfig) -> bool:
    """Tell whether the output folder holds this set, finished; raises UserError for another."""
    out = Path(config.out)
    manifest = out / MANIFEST
    if not manifest.is_file():
        return False
    try:
        written = json.loads(manifest.read_text(encoding="utf-8"))
        if not isinstance(written, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise UserError(
            f"{manifest} is damaged ({error}): remove {out} and run the same command again."
        ) from error
    refuse_other_config(written, config_hash(config), out, "finished")
    if "captures" in written:  # not in sets of earlier versions
        refuse_other_origin(written, _origin(config), out, "finished")
    # Work files stay behind when a build is killed between the manifest and their removal.
    shutil.rmtree(out / WORK, ignore_errors=True)
    return True


def _origin(config: BuildConfig) -> dict[str, str]:
    """Return what tells the captures or questions in source.root from others."""
    # Imported here: they bring the readers of the benchmarks along.
    if config.source.kind is SourceKind.sat:
        from actial.data.qa.build_sat import sat_origin

        return sat_origin(config)
    if config.source.kind is SourceKind.named:
        from actial.data.qa.build_public_set import named_origin

        return named_origin(config)
    return pairs_origin(config)


main: Callable[[], None] = hydra_command(
    "build", folder_key="out", shared=lambda raw: raw.build.num_shards > 1
)(build)

if __name__ == "__main__":
    main()
