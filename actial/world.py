"""`python -m actial.world out=DIR`: the procedural world, made without a download."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actial.config import WorldConfig
from actial.config.hydra_app import hydra_command
from actial.core.errors import UserError

IDENTITY = "world.json"
FREE_SETTINGS = ("out", "workers")  # they change no byte


def generate(config: WorldConfig) -> None:
    """python -m actial.world out=DIR [objects=N] [frames=K] [size=48] [sat_train=N] [seed=S]

    Writes DIR/captures in MVImgNet's layout and DIR/sat/SAT_{train,val,test}.parquet. Run the same
    command again to resume.
    """
    from actial.core.atomic_io import write_json
    from actial.core.progress import Progress
    from actial.synthetic.captures import capture_jobs, write_captures
    from actial.synthetic.sat_writer import write_sat
    from actial.viewpoint.vocabulary import SEEN, UNSEEN

    out = Path(config.out)
    claim(out, config)
    jobs = capture_jobs(config.objects, config.frames, config.size, config.seed, SEEN)
    jobs += capture_jobs(
        config.unseen_objects, config.frames, config.size, config.seed, UNSEEN
    )
    with Progress("captures", total=len(jobs), unit="objects") as progress:
        for count in write_captures(out / "captures", jobs, config.workers):
            progress.advance(count)
    (out / "sat").mkdir(exist_ok=True)
    for split, rows in (
        ("train", config.sat_train),
        ("val", config.sat_val),
        ("test", config.sat_test),
    ):
        path = out / "sat" / f"SAT_{split}.parquet"
        if rows and not path.is_file():
            with Progress(f"SAT {split}", total=rows, unit="questions") as progress:
                for count in write_sat(
                    path, split, rows, config.seed, config.scene_size, config.workers
                ):
                    progress.advance(count)
    write_json(out / IDENTITY, {"finished": True, **identity(config)})
    questions = config.sat_train + config.sat_val + config.sat_test
    print(f"{out}: {len(jobs)} captures, {questions} questions")


def identity(config: WorldConfig) -> dict[str, Any]:
    """Return the settings that decide the bytes of a world."""
    return {key: value for key, value in asdict(config).items() if key not in FREE_SETTINGS}


def claim(out: Path, config: WorldConfig) -> None:
    """Make `out` the folder of this world; raises UserError when it holds anything else."""
    from actial.core.atomic_io import write_json

    marker = out / IDENTITY
    if marker.is_file():
        written = json.loads(marker.read_text())
        changed = [key for key, value in identity(config).items() if written.get(key) != value]
        if changed or written.keys() - {"finished"} != identity(config).keys():
            raise UserError(
                f"out={out} holds a world made with another {', '.join(sorted(changed))}: give "
                "another folder, or remove it."
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out} holds other files: give a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(marker, {"finished": False, **identity(config)})


main: Callable[[], None] = hydra_command("world", folder_key="out")(generate)

if __name__ == "__main__":
    main()
