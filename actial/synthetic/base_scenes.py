"""`python -m actial.synthetic.base_scenes out=DIR`: the scenes that the tiny base model reads.

Each scene is asked what a photo alone answers (where things stand,
which is closer, how many, which side is seen), and has a description in
words (actial/viewpoint/scene_rules.py) and a layout: which thing covers
which cell of the photo. No question speaks of motion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actial.config import BaseScenesConfig
from actial.config.hydra_app import hydra_command
from actial.core.errors import UserError
from actial.core.progress import Progress
from actial.core.seeding import Draw
from actial.synthetic.captures import in_processes, jpeg
from actial.synthetic.render import SAMPLES
from actial.synthetic.sat_writer import write_rows
from actial.synthetic.scene_questions import SceneQuestion, ask, two_of
from actial.synthetic.scenes import Scene, owners, render_scene
from actial.viewpoint.perception_exercises import SIDES, side
from actial.viewpoint.scene_rules import describe_thing

DESCRIPTION = "what does the photo show?"
LAYOUT = "which thing covers which part of the photo?"
EMPTY_CELL, UNCLEAR_CELL = ".", "?"
CELL = 16  # pixels, both sides: a visual token of the tiny model
# of a cell: a thing that covers as much, and twice as much as any other, is what the cell shows
COVERED = 0.18
BARE = 0.06  # of a cell: where all things together cover less, it shows none
CENTER = 0.03  # of x / z: an object nearer to the middle is on neither side


@dataclass(slots=True, frozen=True)
class SceneJob:
    """One scene to describe and to ask about."""

    index: int
    seed: int
    size: int


def describe_scene(scene: Scene) -> str:
    """Return a line for each object of the first photo, from left to right."""
    offsets = _offsets(scene)
    distances = np.linalg.norm(scene.local[0], axis=1)
    lines = []
    for i in np.argsort(offsets):
        line = describe_thing(
            scene.phrases[i], float(offsets[i]), float(distances[i]), _azimuth(scene, int(i))
        )
        lines.append(line)
    return "\n".join(lines)


def _offsets(scene: Scene) -> np.ndarray:
    """Return x / z of the objects of the first photo, (objects,)."""
    offsets: np.ndarray = scene.local[0, :, 0] / scene.local[0, :, 2]
    return offsets


def layout(scene: Scene) -> str:
    """Return rows of cells of the first photo, joined by "/".

    A digit is the line of the description about the thing that the cell
    shows, counted from 1.
    """
    owner = owners(scene, 0)
    side = CELL * SAMPLES
    count = len(owner) // side
    # (rows, columns, samples of a cell)
    cells = owner.reshape(count, side, count, side).swapaxes(1, 2).reshape(count, count, -1)
    # (lines, rows, columns)
    shares = np.stack([(cells == i).mean(-1) for i in np.argsort(_offsets(scene))])
    marks = np.where(shares.sum(0) < BARE, EMPTY_CELL, UNCLEAR_CELL)
    largest = (shares.argmax(0) + 1).astype(str)
    second, first = np.sort(shares, axis=0)[-2:]
    marks = np.where((first >= COVERED) & (first >= 2 * second), largest, marks)
    return "/".join("".join(row) for row in marks)


def _azimuth(scene: Scene, thing: int) -> float:
    """Return the camera's azimuth in degrees about an object, from the object's front."""
    away = scene.cameras.centers()[0] - scene.centers[0, thing]
    from_x = float(np.degrees(np.arctan2(away[1], away[0])))
    return (from_x - scene.places[0][thing].heading_deg) % 360


def further_questions(scene: Scene, draw: Draw) -> list[SceneQuestion]:
    """Return two questions beside the three static ones: a half of the photo, a visible side."""
    a, b = two_of(draw, scene)
    offset = _offsets(scene)[a]
    seen = f"the {side(_azimuth(scene, b))} side"
    others = [f"the {name} side" for name in SIDES if f"the {name} side" != seen]
    wrong = draw.pick(others)
    questions = [
        SceneQuestion(
            "side",
            scene,
            f"which side of {scene.phrases[b]} faces the camera?",
            (seen, wrong) if draw.uniform() < 0.5 else (wrong, seen),
            seen,
            (b,),
        )
    ]
    if abs(offset) > CENTER:
        questions.append(
            SceneQuestion(
                "half",
                scene,
                f"is {scene.phrases[a]} on the left or on the right of the photo?",
                ("left", "right"),
                "left" if offset < 0 else "right",
                (a,),
            )
        )
    return questions


def scene_rows(job: SceneJob) -> list[dict]:
    """Return the rows of one scene.

    The first is its description beside that of a wrong order, the second
    its layout.
    """
    questions = ask("static", (job.seed, "base", job.index), job.size)
    scene = questions[0].scene
    questions += further_questions(scene, Draw("further", job.seed, job.index))
    images = [jpeg(image) for image in render_scene(scene)]
    description = describe_scene(scene)
    reversed_lines = "\n".join(reversed(description.split("\n")))
    answers = (description, reversed_lines)
    described = SceneQuestion("description", scene, DESCRIPTION, answers, description)
    cells = layout(scene)
    laid_out = SceneQuestion("layout", scene, LAYOUT, (cells, "unknown"), cells)
    types = {id(described): "description", id(laid_out): "layout"}
    return [
        {
            "image_bytes": images,
            "question": item.question,
            "answers": list(item.answers),
            "question_type": types.get(id(item), "other"),
            "correct_answer": item.correct,
        }
        for item in (described, laid_out, *questions)
    ]


def write_scenes(config: BaseScenesConfig) -> Iterator[int]:
    """Write OUT/SAT_train.parquet; yield 1 for each scene, for a progress bar."""
    jobs = [SceneJob(i, config.seed, config.size) for i in range(config.scenes)]
    table: list[dict] = []
    for rows in in_processes(scene_rows, jobs, config.workers):
        table += rows
        yield 1
    write_rows(Path(config.out) / "SAT_train.parquet", table)


def generate(config: BaseScenesConfig) -> None:
    """python -m actial.synthetic.base_scenes out=DIR [scenes=N] [seed=S]

    Writes DIR/SAT_train.parquet; `python -m actial.build source=sat` makes a set of it.
    """
    out = Path(config.out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"out={out} holds other files: give a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    with Progress("scenes", total=config.scenes, unit="scenes") as progress:
        for count in write_scenes(config):
            progress.advance(count)
    print(f"{out}: {config.scenes} scenes")


main = hydra_command("base_scenes", folder_key="out")(generate)

if __name__ == "__main__":
    main()
