"""SAT-format questions about scenes: scenes are drawn until one has a clear answer.

The answer is computed from the poses. Margins keep doubtful cases out (an
object nearly straight ahead, two at almost one distance). Wording is our own,
lower-case and short; "i" is the one who holds the camera. Kinds: static
(relation, depth, count), ego_motion, obj_motion, action_conseq, goal_aim,
perspective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from actial.core.seeding import Draw
from actial.synthetic.scenes import (
    Scene,
    all_visible,
    around,
    camera_from,
    draw_scene,
    stacked,
    stands_free,
)

TRIES = 5000
STEPS = (0.8, 2.5)  # "far to the left" holds for every step between these
STILL_OBJECTS = "the objects did not move. how did the camera move from photo 1 to photo 2?"


@dataclass(slots=True, frozen=True)
class SceneQuestion:
    """One question about a scene; `about` are the indices of the objects it names, in order."""

    kind: str
    scene: Scene
    question: str
    answers: tuple[str, ...]
    correct: str
    about: tuple[int, ...] = ()


def ask(kind: str, key: tuple[object, ...], size: int) -> list[SceneQuestion]:
    """Return the questions of one kind about the scene with this key: three of a static scene.

    They depend on the arguments alone. Which form a question takes and which
    answer is to be correct is drawn once (`wish`, the same for every try), so
    that scenes which are seldom wholly in view do not bend the balance of the
    answers.
    """
    draw = Draw(kind, *key)
    count = draw.pick((2, 3, 4) if kind == "static" else (2, 3))
    for _ in range(TRIES):
        scene = draw_scene((kind, *key), draw, size, count)
        if scene is None:
            continue
        questions = KINDS[kind](draw, Draw("wish", kind, *key), scene)
        if questions:
            return [replace(q, answers=_shuffled(q.answers, draw)) for q in questions]
    raise RuntimeError(
        f"no clear {kind} question in {TRIES} scenes of {count} objects, key {key}"
    )


def _shuffled(answers: tuple[str, ...], draw: Draw) -> tuple[str, ...]:
    return tuple(sorted(answers, key=lambda _: draw.uniform()))


def turn_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Return degrees from direction a to b about the vertical, in (-180, 180], left positive."""
    return float(np.degrees(np.arctan2(a[0] * b[1] - a[1] * b[0], a[0] * b[0] + a[1] * b[1])))


def level(v: np.ndarray) -> np.ndarray:
    flat = v * (1.0, 1.0, 0.0)
    return flat / np.linalg.norm(flat)


def two_of(draw: Draw, scene: Scene) -> tuple[int, int]:
    """Return the indices of two objects."""
    first = draw.pick(range(len(scene.places[0])))
    return first, draw.pick([i for i in range(len(scene.places[0])) if i != first])


def left_right(is_left: bool) -> str:
    return "left" if is_left else "right"


# ---------------------------------------------------------------- one photo


def static(draw: Draw, wish: Draw, scene: Scene) -> list[SceneQuestion]:
    """Ask what stands left or right in the photo, what is closer, and how many there are."""
    a, b = two_of(draw, scene)
    pair = two_of(draw, scene)
    x = scene.local[0, :, 0] / scene.local[0, :, 2]
    distance = np.linalg.norm(scene.local[0], axis=1)
    wants_left, wants_first = wish.pick((True, False)), wish.pick((True, False))
    if abs(x[a] - x[b]) < 0.16 or max(distance[list(pair)]) < 1.2 * min(distance[list(pair)]):
        return []
    a, b = (a, b) if (x[a] < x[b]) == wants_left else (b, a)
    first_is_closer = distance[pair[0]] < distance[pair[1]]
    c, d = pair if first_is_closer == wants_first else pair[::-1]
    name = scene.phrases
    relation = f"in the photo, is {name[a]} to the left or to the right of {name[b]}?"
    depth = f"which is closer to the camera, {name[c]} or {name[d]}?"
    return [
        SceneQuestion(
            "relation", scene, relation, ("left", "right"), left_right(wants_left), (a, b)
        ),
        SceneQuestion(
            "depth", scene, depth, (name[c], name[d]), name[c if wants_first else d], (c, d)
        ),
        SceneQuestion(
            "count",
            scene,
            "how many objects are in the photo?",
            ("2", "3", "4"),
            str(len(name)),
        ),
    ]


def goal_aim(draw: Draw, wish: Draw, scene: Scene) -> list[SceneQuestion]:
    """Ask which way to turn to face an object."""
    goal, wants_left = two_of(draw, scene)[0], wish.pick((True, False))
    turn = turn_deg(scene.cameras.R[0, 2], scene.centers[0, goal] - scene.cameras.centers()[0])
    if abs(turn) < 6 or (turn > 0) != wants_left:
        return []
    question = f"i want to face {scene.phrases[goal]}. which way should i turn?"
    return [
        SceneQuestion(
            "goal_aim",
            scene,
            question,
            ("turn left", "turn right"),
            f"turn {left_right(wants_left)}",
            (goal,),
        )
    ]


def action_conseq(draw: Draw, wish: Draw, scene: Scene) -> list[SceneQuestion]:
    """Ask what an imagined turn, walk or side step would change."""
    kind, want = wish.pick(("turn", "walk", "step")), wish.pick((True, False))
    a, b = two_of(draw, scene)
    me = scene.cameras.centers()[0]
    to_a, to_b = scene.centers[0, a] - me, scene.centers[0, b] - me
    if kind == "step":
        return _step_aside(wish, scene, a, b, want)
    beside = turn_deg(to_a, to_b) if kind == "turn" else turn_deg(to_a, to_b - to_a)
    if (beside > 0) != want or not (
        abs(beside) >= 9 if kind == "turn" else 30 <= abs(beside) <= 150
    ):
        return []
    name = scene.phrases
    doing = f"turn to face {name[a]}" if kind == "turn" else f"walk straight to {name[a]}"
    question = f"if i {doing}, will {name[b]} be on my left or on my right?"
    return [
        SceneQuestion(
            f"action_{kind}", scene, question, ("left", "right"), left_right(want), (a, b)
        )
    ]


def _step_aside(
    wish: Draw, scene: Scene, a: int, b: int, first_wins: bool
) -> list[SceneQuestion]:
    way = wish.pick((-1.0, 1.0))
    right = level(scene.cameras.R[0, 0])
    there = [scene.cameras.centers()[0] + way * step * right for step in STEPS]
    ratios = [
        float(
            np.linalg.norm(scene.centers[0, a] - p) / np.linalg.norm(scene.centers[0, b] - p)
        )
        for p in there
    ]
    if max(ratios) > 0.87 and min(ratios) < 1.15:
        return []
    a, b = (a, b) if (ratios[0] < 1) == first_wins else (b, a)
    name = scene.phrases
    question = (
        f"if i step far to the {left_right(way < 0)}, which will be closer to me, "
        f"{name[a]} or {name[b]}?"
    )
    return [
        SceneQuestion(
            "action_step",
            scene,
            question,
            (name[a], name[b]),
            name[a if first_wins else b],
            (a, b),
        )
    ]


def perspective(draw: Draw, wish: Draw, scene: Scene) -> list[SceneQuestion]:
    """Ask where another object is for one that looks out of its own front."""
    beside, want = wish.uniform() < 0.7, wish.pick((True, False))
    a, b = two_of(draw, scene)
    heading = np.radians(scene.places[0][a].heading_deg)
    angle = turn_deg(
        np.array([np.cos(heading), np.sin(heading)]), scene.centers[0, b] - scene.centers[0, a]
    )
    if beside:
        clear, truth, answers, where = (
            30 <= abs(angle) <= 150,
            angle > 0,
            ("left", "right"),
            "on its left or on its right",
        )
    else:
        clear, truth, answers, where = (
            not 60 < abs(angle) < 120,
            abs(angle) < 90,
            ("ahead", "behind"),
            "ahead of it or behind it",
        )
    if not clear or truth != want:
        return []
    question = (
        f"for {scene.phrases[a]}, looking out of its own front, is {scene.phrases[b]} {where}?"
    )
    return [
        SceneQuestion(
            "perspective", scene, question, answers, answers[0 if want else 1], (a, b)
        )
    ]


# ---------------------------------------------------------------- two photos


def ego_motion(draw: Draw, wish: Draw, scene: Scene) -> list[SceneQuestion]:
    """Ask how the camera moved: round, ahead or back, or by turning where it stands."""
    kind, way = wish.pick(("round", "round", "round", "walk", "turn")), wish.pick((-1.0, 1.0))
    camera, me = scene.cameras, scene.cameras.centers()[0]
    if kind == "round":
        answers = ("moved right and turned left", "moved left and turned right")
        distance, height = (
            np.hypot(*me[:2]) * draw.uniform(0.9, 1.1),
            me[2] + draw.uniform(-0.3, 0.3),
        )
        aim = np.array([draw.uniform(-0.3, 0.3), draw.uniform(-0.3, 0.3), 0.3])
        to = around(camera.azimuth_deg[0] + way * draw.uniform(22, 55), distance, height)
        second = camera_from(to, aim, round(2 * float(camera.K[0, 0, 2])), draw.uniform(-2, 2))
    elif kind == "walk":
        answers = ("moved forward", "moved backward")
        to = me + way * draw.uniform(0.8, 1.4) * level(camera.R[0, 2])
        second = replace(camera, t=-camera.R @ to)
    else:
        answers = ("turned left", "turned right")
        angle = np.radians(way * draw.uniform(7, 14))
        c, s = np.cos(angle), np.sin(angle)
        R = camera.R @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
        second = replace(camera, R=R, t=-R @ me)
    after = Scene(scene.key, scene.places * 2, stacked(camera, second))
    if not all_visible(after) or (kind == "round" and not _round_is_clear(after, way)):
        return []
    return [
        SceneQuestion(
            f"ego_{kind}", after, STILL_OBJECTS, answers, answers[0 if way > 0 else 1]
        )
    ]


def _round_is_clear(scene: Scene, way: float) -> bool:
    """Return whether the camera went well to one side and turned well to the other."""
    first, second = scene.cameras.centers()
    went = float((second - first) @ level(scene.cameras.R[0, 0]))
    return way * went > 1.0 and way * turn_deg(*scene.cameras.R[:, 2]) > 12


def obj_motion(draw: Draw, wish: Draw, scene: Scene) -> list[SceneQuestion]:
    """Ask how one object was moved while the camera stood still."""
    kind, want = wish.pick(("which", "aside", "depth")), wish.pick((True, False))
    mover = two_of(draw, scene)[0]
    place, others = (
        scene.places[0][mover],
        [p for i, p in enumerate(scene.places[0]) if i != mover],
    )
    right, forward = level(scene.cameras.R[0, 0]), level(scene.cameras.R[0, 2])
    way = {
        "which": right,
        "aside": -right if want else right,
        "depth": -forward if want else forward,
    }[kind]
    angle = (
        draw.uniform(-np.pi, np.pi) if kind == "which" else np.radians(draw.uniform(-20, 20))
    )
    c, s = np.cos(angle), np.sin(angle)
    step = draw.uniform(0.8, 1.7) * np.array([[c, -s], [s, c]]) @ way[:2]
    moved = replace(place, at=(place.at[0] + float(step[0]), place.at[1] + float(step[1])))
    places = [moved if i == mover else p for i, p in enumerate(scene.places[0])]
    after = Scene(scene.key, [scene.places[0], places], stacked(scene.cameras, scene.cameras))
    if not stands_free(moved, others) or not all_visible(after):
        return []
    name = after.phrases
    if kind == "which":
        question = "the camera did not move. which object moved from photo 1 to photo 2?"
        return [
            SceneQuestion("obj_which", after, question, tuple(name), name[mover], (mover,))
        ]
    question = f"the camera did not move. how did {name[mover]} move from photo 1 to photo 2?"
    answers = (
        ("to the left", "to the right")
        if kind == "aside"
        else ("closer to the camera", "away from the camera")
    )
    return [
        SceneQuestion(
            f"obj_{kind}", after, question, answers, answers[0 if want else 1], (mover,)
        )
    ]


KINDS: dict[str, Callable[[Draw, Draw, Scene], list[SceneQuestion]]] = {
    "static": static,
    "ego_motion": ego_motion,
    "obj_motion": obj_motion,
    "action_conseq": action_conseq,
    "goal_aim": goal_aim,
    "perspective": perspective,
}
