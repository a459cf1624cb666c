"""What the tiny base model knows of scenes in words: facts, and what follows from them.

A fact tells what one photo shows: on which half a thing stands, which
of two is further to the left, which is closer, which side of it is
seen. A rule exercise gives such facts as text, without a photo, and
asks what a turn, a step or a walk changes. The answer is computed on
the ground plane of a scene drawn for the exercise. Photo exercises only
ever ask for the facts themselves (actial/data/exercise_sets.py):
putting both together is left to GRPO.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from actial.core.multiple_choice_format import LETTERS
from actial.core.records import AnswerMode, Question
from actial.core.seeding import Draw, hash_shuffle, hash_unit
from actial.viewpoint.perception_exercises import free_question, side
from actial.viewpoint.questions import multiple_choice_text
from actial.viewpoint.rationales import think_target
from actial.viewpoint.vocabulary import PALETTE, SEEN

COLUMNS, HALF_WIDTH = 8, 0.28  # of x / z: objects are wholly in view up to about HALF_WIDTH
DISTANCES, NEAREST, DISTANCE_STEP = 7, 3.75, 0.5  # level 1 is about NEAREST away
# share of the chains of thought that begin with the facts about the things in question
DESCRIBED_FIRST = 0.35
RADIUS = 1.8  # objects stand within it around the point that the camera orbits
ORBIT = 4.4  # distance of that point from the camera, along the ground
APART = 1.25  # between two objects
TRIES = 400


def describe_thing(phrase: str, offset: float, distance: float, azimuth_deg: float) -> str:
    """Return "the red car 25 front left.": column 2, distance level 5, the side that is seen.

    Args:
        phrase: Color and category with their article.
        offset: x / z of the object's center in the camera's axes, positive to the right.
        distance: Of the center from the camera, in the scene's unit.
        azimuth_deg: Of the camera about the object, counter-clockwise from its front.
    """
    column = math.floor((offset + HALF_WIDTH) / (2 * HALF_WIDTH) * COLUMNS) + 1
    level = round((distance - NEAREST) / DISTANCE_STEP) + 1
    column, level = min(max(column, 1), COLUMNS), min(max(level, 1), DISTANCES)
    return f"{phrase} {column}{level} {side(azimuth_deg)}."


@dataclass(slots=True, frozen=True)
class Line:
    """What a line of a description says of a thing; see `describe_thing`."""

    phrase: str
    column: int
    level: int
    side: str

    @property
    def half(self) -> str:
        return f"{self.phrase} is on the {'left' if 2 * self.column <= COLUMNS else 'right'}."

    @property
    def visible_side(self) -> str:
        return f"{self.phrase} shows the {self.side} side."


def read_description(description: str) -> list[Line]:
    """Return the lines of a description, in its order."""
    lines = []
    for text in description.removesuffix(".").split(".\n"):
        *name, place, seen = text.split(maxsplit=4)
        lines.append(Line(" ".join(name), int(place[0]), int(place[1]), seen))
    return lines


def named_lines(description: str, text: str) -> list[Line]:
    """Return the lines about the things that `text` names, in the order of their names."""
    named = [line for line in read_description(description) if line.phrase in text]
    return sorted(named, key=lambda line: text.index(line.phrase))


def relation(a: Line, b: Line) -> list[str]:
    """Return on which side of `a` the thing `b` is, and which is closer, as far as it is clear."""
    statements = []
    if a.column != b.column:
        side_name = "left" if b.column < a.column else "right"
        statements.append(f"{b.phrase} is to the {side_name} of {a.phrase}.")
    if a.level != b.level:
        statements.append(f"{a.phrase if a.level < b.level else b.phrase} is closer.")
    return statements


def named_facts(description: str, text: str) -> str:
    """Return the facts about the one or two things that `text` names; "" where it names none."""
    lines = named_lines(description, text)
    if len(lines) == 2:
        return "\n".join(relation(*lines))
    return lines[0].half if len(lines) == 1 else ""


def fact_list(lines: Sequence[Line]) -> str:
    """Return facts in words: each thing beside the one before it, then each thing's half.

    The first of three or more is told beside the last. A pair in one
    column is left out: "is closer" alone would not name it.
    """
    pairs = list(itertools.pairwise(lines))
    if len(lines) > 2:
        pairs.append((lines[-1], lines[0]))
    statements: list[str] = []
    for a, b in pairs:
        if a.column != b.column:
            statements += relation(a, b)
    return "\n".join([*statements, *(line.half for line in lines)])


def list_question(uid: str, photo: str, description: str) -> Question:
    """Return the exercise that tells a whole scene in words.

    The facts follow the order in which the question names the things, so
    that all that is left to tell is in the photo.
    """
    lines = hash_shuffle(read_description(description), "order", uid)
    names = ", ".join(line.phrase for line in lines)
    text = f"what is where in {photo}: {names}?"
    return free_question(f"{uid}/facts", "facts", text, fact_list(lines))


def scene_question(
    uid: str,
    kind: str,
    text: str,
    options: Sequence[str],
    answer_index: int,
    statements: str,
    draw: str,
) -> Question:
    """Return a question with a drawn answer form: the letter alone, or a chain of thought.

    Some of the chains begin with `statements`, which are empty where the
    question names no thing.
    """
    mode = AnswerMode.DIRECT if hash_unit("mode", uid, draw) < 0.3 else AnswerMode.THINK
    answer = options[answer_index]
    target = letter = LETTERS[answer_index]
    if mode is AnswerMode.THINK:
        describes = statements and hash_unit("describes", uid, draw) < DESCRIBED_FIRST
        chain = f"{statements}\nSo {answer}." if describes else f"So {answer}."
        target = think_target(chain, letter, options)
    return Question(
        uid=uid,
        type=kind,
        text=multiple_choice_text(text, options, mode),
        options=tuple(options),
        answer_index=answer_index,
        mode=mode,
        target=target,
    )


# ---------------------------------------------------------------- a scene on the ground plane


@dataclass(slots=True, frozen=True)
class Thing:
    """An object: its place (right, forward) of a camera that looks forward, and its heading.

    `heading` is in radians from the camera's right, counter-clockwise.
    """

    phrase: str
    right: float
    forward: float
    heading: float

    def moved(self, right: float, forward: float) -> Thing:
        return replace(self, right=self.right + right, forward=self.forward + forward)


@dataclass(slots=True, frozen=True)
class View:
    """The things of a scene before a camera at `height`, pitched down by `pitch` radians."""

    things: tuple[Thing, ...]
    height: float
    pitch: float

    def offset(self, thing: Thing) -> float:
        c, s = math.cos(self.pitch), math.sin(self.pitch)
        return thing.right / (c * thing.forward + s * self.height)

    def distance(self, thing: Thing) -> float:
        return math.hypot(thing.right, thing.forward, self.height)

    def visible(self) -> bool:
        """Return whether all things are in view."""
        return all(
            thing.forward > 1.0
            and abs(self.offset(thing)) < HALF_WIDTH
            and NEAREST - 0.6 < self.distance(thing) < NEAREST + DISTANCES * DISTANCE_STEP
            for thing in self.things
        )

    def describe(self) -> str:
        """Return a line for each thing, from left to right."""
        lines = []
        for thing in sorted(self.things, key=self.offset):
            camera = math.atan2(-thing.forward, -thing.right)
            azimuth = math.degrees(camera - thing.heading) % 360
            lines.append(
                describe_thing(thing.phrase, self.offset(thing), self.distance(thing), azimuth)
            )
        return "\n".join(lines)


def draw_view(draw: Draw) -> View | None:
    """Return two or three things in view of a camera; None when this draw gives none."""
    colors, names = list(PALETTE), list(SEEN)
    things: list[Thing] = []
    shift = (draw.uniform(-0.4, 0.4), ORBIT + draw.uniform(-0.4, 0.4))
    for _ in range(draw.pick((2, 3))):
        color, name = draw.pick(colors), draw.pick(names)
        colors.remove(color)
        names.remove(name)
        angle, away = draw.uniform(0, 2 * math.pi), RADIUS * math.sqrt(draw.uniform())
        things.append(
            Thing(
                f"the {color} {name}",
                shift[0] + away * math.cos(angle),
                shift[1] + away * math.sin(angle),
                draw.uniform(0, 2 * math.pi),
            )
        )
    height = draw.uniform(1.6, 2.8)
    view = View(tuple(things), height, math.atan2(height, ORBIT))
    apart = all(
        math.dist((a.right, a.forward), (b.right, b.forward)) > APART
        for i, a in enumerate(things)
        for b in things[:i]
    )
    return view if apart and view.visible() else None


def turn_to(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the degrees from direction a to b, (right, forward) each, left positive."""
    return math.degrees(math.atan2(a[0] * b[1] - a[1] * b[0], a[0] * b[0] + a[1] * b[1]))


# ---------------------------------------------------------------- questions


@dataclass(slots=True, frozen=True)
class Rule:
    """A question that the facts answer; `answers` has the right one at `correct`."""

    question: str
    answers: tuple[str, str]
    correct: int


def _goal_aim(draw: Draw, view: View, a: Thing, b: Thing) -> Rule | None:
    turn = turn_to((0, 1), (a.right, a.forward))
    if abs(turn) < 6:
        return None
    text = f"i want to face {a.phrase}. which way should i turn?"
    return Rule(text, ("turn left", "turn right"), int(turn < 0))


def _turn(draw: Draw, view: View, a: Thing, b: Thing) -> Rule | None:
    beside = turn_to((a.right, a.forward), (b.right, b.forward))
    if abs(beside) < 9:
        return None
    text = f"if i turn to face {a.phrase}, will {b.phrase} be on my left or on my right?"
    return Rule(text, ("left", "right"), int(beside < 0))


def _walk(draw: Draw, view: View, a: Thing, b: Thing) -> Rule | None:
    onward = (b.right - a.right, b.forward - a.forward)
    beside = turn_to((a.right, a.forward), onward)
    if not 30 <= abs(beside) <= 150:
        return None
    text = f"if i walk straight to {a.phrase}, will {b.phrase} be on my left or on my right?"
    return Rule(text, ("left", "right"), int(beside < 0))


def _step(draw: Draw, view: View, a: Thing, b: Thing) -> Rule | None:
    way = draw.pick((-1.0, 1.0))
    ratios = [
        view.distance(a.moved(-way * step, 0)) / view.distance(b.moved(-way * step, 0))
        for step in (0.8, 2.5)
    ]
    if max(ratios) > 0.87 and min(ratios) < 1.15:
        return None
    side_name = "left" if way < 0 else "right"
    text = (
        f"if i step far to the {side_name}, which will be closer to me, "
        f"{a.phrase} or {b.phrase}?"
    )
    return Rule(text, (a.phrase, b.phrase), int(ratios[0] > 1))


def _perspective(draw: Draw, view: View, a: Thing, b: Thing) -> Rule | None:
    front = (math.cos(a.heading), math.sin(a.heading))
    angle = turn_to(front, (b.right - a.right, b.forward - a.forward))
    start = f"for {a.phrase}, looking out of its own front, is {b.phrase}"
    if draw.uniform() < 0.7:
        if not 30 <= abs(angle) <= 150:
            return None
        return Rule(f"{start} on its left or on its right?", ("left", "right"), int(angle < 0))
    if 60 < abs(angle) < 120:
        return None
    answers = ("ahead", "behind")
    return Rule(f"{start} ahead of it or behind it?", answers, int(abs(angle) > 90))


RULES = {
    "goal_aim": _goal_aim,
    "turn": _turn,
    "walk": _walk,
    "step": _step,
    "perspective": _perspective,
}
KINDS = (*RULES, "goal_aim")  # drawn as often as they stand here


def rule_question(draw_key: str) -> Question:
    """Return a text-only exercise: some facts, and what a turn, a step or a walk changes.

    It depends on `draw_key` alone. Raises RuntimeError when no scene with
    a clear answer is drawn.
    """
    draw = Draw("rule", draw_key)
    kind = draw.pick(KINDS)
    wanted = draw.pick((0, 1))  # which of the answers is right: the same for every try
    for _ in range(TRIES):
        view = draw_view(draw)
        if view is None:
            continue
        a = draw.pick(view.things)
        b = draw.pick([thing for thing in view.things if thing is not a])
        rule = RULES[kind](draw, view, a, b)
        if rule is None or rule.correct != wanted:
            continue
        statements = _told_facts(view.describe(), kind, rule.question)
        if statements:
            return _as_question(f"rule/{draw_key}", kind, view, rule, statements, draw)
    raise RuntimeError(f"no clear {kind} exercise in {TRIES} scenes, key {draw_key}")


def _told_facts(description: str, kind: str, text: str) -> list[str]:
    """Return the facts that answer the question, and others; none where they do not suffice."""
    named = named_lines(description, text)
    others = [line for line in read_description(description) if line not in named]
    statements = [line.half for line in (*named, *others)]
    if kind != "goal_aim":
        related = relation(*named)
        if len(related) < 2:
            return []
        statements += related
    if kind == "perspective":
        statements.append(named[0].visible_side)
    return statements


def _chain_facts(description: str, kind: str, text: str) -> str:
    statements = named_facts(description, text)
    if kind != "perspective":
        return statements
    return f"{named_lines(description, text)[0].visible_side}\n{statements}"


def _as_question(
    uid: str, kind: str, view: View, rule: Rule, statements: list[str], draw: Draw
) -> Question:
    statement_text = " ".join(sorted(statements, key=lambda _: draw.uniform()))
    order = sorted((0, 1), key=lambda _: draw.uniform())
    return scene_question(
        uid,
        f"rule_{kind}",
        f"{statement_text}\n{rule.question}",
        [rule.answers[i] for i in order],
        order.index(rule.correct),
        _chain_facts(view.describe(), kind, rule.question),
        "",
    )
