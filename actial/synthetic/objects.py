"""Sixteen categories of objects made of simple parts; their front is plain to see at 64 pixels.

One rule keeps all azimuths apart in every category: the front carries white
with black (lamps, eyes, door, screen), the back gray, the object's own left
side a mark in the accent color, its own right side nothing of these. Four
categories are held out (`unseen`). Sizes below are in units of roughly the
object's length; every object ends up centered with a bounding sphere of radius
1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from actial.core.seeding import Draw
from actial.synthetic.meshes import BLACK, DARK, GRAY, PALE, WHITE, Color, Mesh, Model
from actial.viewpoint.vocabulary import PALETTE, SEEN, UNSEEN

FRONT = (1.0, 0.0, 0.0)  # where every object faces, in its own frame
LEFT = (0.0, 1.0, 0.0)


@dataclass(slots=True, frozen=True)
class ObjectSpec:
    category: str
    seed: int
    attributes: dict[str, str]  # body_colour, accent_colour
    mesh: Mesh


@dataclass(slots=True, frozen=True)
class Category:
    class_id: int
    name: str
    unseen: bool
    build: Callable[
        [Model, Draw, Color, Color], None
    ]  # (model, draw, body color, accent color)


def make_object(seed: int, category: str, body_color: str | None = None) -> ObjectSpec:
    """Return object number `seed` of a category; KeyError for an unknown category or color."""
    draw = Draw("object", category, seed)
    names = list(PALETTE)
    at = draw.pick(range(len(names)))
    at = at if body_color is None else names.index(body_color)
    body, accent = (
        names[at],
        names[(at + draw.pick((2, 3, 4, 5, 6))) % len(names)],
    )  # no neighbours: they are alike in shade
    model = Model(draw)
    CATEGORIES[category].build(model, draw, PALETTE[body], PALETTE[accent])
    return ObjectSpec(
        category,
        seed,
        {"body_colour": body, "accent_colour": accent},
        model.mesh(draw.uniform(0.0, 0.10)),
    )


def _car(m: Model, d: Draw, body: Color, accent: Color) -> None:
    w, h, cabin = d.uniform(0.48, 0.58), d.uniform(0.24, 0.30), d.uniform(0.20, 0.27)
    m.box((0, 0, h / 2 + 0.1), (1.15, w, h), body)
    m.box(
        (-0.12, 0, h + 0.1 + cabin / 2),
        (0.66, w * 0.92, cabin),
        body,
        top=(0.68, 0.86),
        shift=(-0.04, 0),
    )
    m.box(
        (0.15, 0, h + 0.1 + cabin * 0.45),
        (0.16, w * 0.78, cabin * 0.7),
        BLACK,
        top=(0.5, 0.9),
        shift=(-0.05, 0),
    )
    for x in (-0.36, 0.36):
        for y in (-w / 2, w / 2):
            m.tube((x, y - 0.05, 0.13), (x, y + 0.05, 0.13), 0.14, BLACK)
    for y in (-0.33, 0.33):
        m.box((0.57, y * w, h * 0.62 + 0.1), (0.06, w * 0.28, h * 0.5), WHITE)
    m.box((0.57, 0, 0.14), (0.06, w * 0.9, 0.08), BLACK)
    m.box((-0.57, 0, h * 0.55 + 0.1), (0.05, w * 0.8, h * 0.62), GRAY)
    m.box((-0.05, w / 2, h * 0.6 + 0.1), (0.4, 0.04, h * 0.6), accent)


def _mug(m: Model, d: Draw, body: Color, accent: Color) -> None:
    r, h = d.uniform(0.34, 0.40), d.uniform(0.78, 0.95)
    m.tube((0, 0, 0), (0, 0, h), r, body, end_radius=r * d.uniform(0.98, 1.1), sides=14)
    m.tube((0, 0, h - 0.02), (0, 0, h + 0.012), r * 0.84, DARK, sides=14)
    for z in (0.24, 0.76):
        m.box((0, -r - 0.1, h * z), (0.11, 0.34, 0.1), body)
    m.box((0, -r - 0.26, h / 2), (0.11, 0.1, h * 0.62), body)
    m.tube((r * 0.86, 0, h * 0.52), (r * 1.12, 0, h * 0.52), 0.24, WHITE)
    m.tube((r * 0.86, 0, h * 0.52), (r * 1.16, 0, h * 0.52), 0.11, BLACK)
    m.box((-r * 0.98, 0, h * 0.5), (0.1, 0.3, h * 0.8), GRAY)
    m.box((0, r * 0.98, h * 0.5), (0.3, 0.1, h * 0.75), accent)


def _chair(m: Model, d: Draw, body: Color, accent: Color) -> None:
    w, seat, back = d.uniform(0.52, 0.62), d.uniform(0.36, 0.44), d.uniform(0.5, 0.62)
    m.box((0, 0, seat), (0.56, w, 0.12), body)
    for x in (-0.23, 0.23):
        for y in (-w / 2 + 0.05, w / 2 - 0.05):
            m.box((x, y, seat / 2 - 0.03), (0.09, 0.09, seat), DARK)
    m.box((-0.25, 0, seat + back / 2), (0.1, w, back), body)
    m.box((-0.19, 0, seat + back * 0.55), (0.05, w * 0.72, back * 0.66), WHITE)
    m.box((-0.31, 0, seat + back * 0.55), (0.05, w * 0.8, back * 0.75), GRAY)
    m.box((0.25, 0, seat - 0.02), (0.1, w * 0.8, 0.16), BLACK)
    m.box((-0.02, w / 2, seat + 0.02), (0.5, 0.1, 0.22), accent)


def _house(m: Model, d: Draw, body: Color, accent: Color) -> None:
    x, w, h, roof = (
        d.uniform(0.75, 0.9),
        d.uniform(0.75, 0.9),
        d.uniform(0.45, 0.58),
        d.uniform(0.28, 0.42),
    )
    m.box((0, 0, h / 2), (x, w, h), body)
    m.box((0, 0, h + roof / 2), (x * 1.12, w * 1.12, roof), DARK, top=(0.0, 1.0))
    m.box((x / 2, 0, h * 0.36), (0.06, w * 0.26, h * 0.72), BLACK)
    for y in (-0.32, 0.32):
        m.box((x / 2, y * w, h * 0.58), (0.07, w * 0.26, h * 0.46), WHITE)
    m.box((-x / 2, 0, h * 0.45), (0.06, w * 0.7, h * 0.45), GRAY)
    m.box((0, w / 2, h * 0.5), (x * 0.55, 0.07, h * 0.6), accent)
    m.box((-0.1, w * 0.33, h + roof * 0.8), (0.15, 0.15, roof * 0.9), accent)


def _robot(m: Model, d: Draw, body: Color, accent: Color) -> None:
    w, h, head = d.uniform(0.42, 0.52), d.uniform(0.44, 0.54), d.uniform(0.3, 0.38)
    m.box((0, 0, 0.26 + h / 2), (0.34, w, h), body)
    m.box((0, 0, 0.3 + h + head / 2), (0.34, w * 0.82, head), body)
    for y in (-0.13, 0.13):
        m.box((0, y, 0.13), (0.2, 0.14, 0.28), DARK)
        m.box((0.18, y, 0.32 + h + head * 0.55), (0.06, 0.18, 0.17), WHITE)
        m.box((0.21, y, 0.32 + h + head * 0.55), (0.04, 0.08, 0.09), BLACK)
    m.box((0.18, 0, 0.3 + h * 0.5), (0.05, w * 0.6, h * 0.5), WHITE)
    m.box((0.2, 0, 0.3 + h * 0.5), (0.05, w * 0.3, h * 0.22), BLACK)
    m.box((-0.25, 0, 0.3 + h * 0.55), (0.2, w * 0.8, h * 0.75), GRAY)
    m.box((0, w / 2 + 0.09, 0.3 + h * 0.55), (0.2, 0.15, h * 0.9), accent)
    m.box((0, -w / 2 - 0.09, 0.3 + h * 0.55), (0.2, 0.15, h * 0.9), body)
    m.tube((0, 0, 0.3 + h + head), (0, 0, 0.48 + h + head), 0.03, DARK)


def _duck(m: Model, d: Draw, body: Color, accent: Color) -> None:
    w, head = d.uniform(0.3, 0.36), d.uniform(0.2, 0.25)
    m.ball((0, 0, 0.3), (0.52, w, 0.3), body, sides=12)
    m.ball((0.36, 0, 0.72), head, body)
    m.tube((0.36, 0, 0.3), (0.36, 0, 0.72), 0.15, WHITE)
    m.box((0.36 + head + 0.06, 0, 0.68), (0.26, 0.2, 0.1), BLACK, top=(0.8, 0.8))
    for y in (-1, 1):
        m.ball((0.36 + head * 0.72, y * head * 0.55, 0.8), 0.085, WHITE, sides=8)
        m.ball((0.36 + head * 0.98, y * head * 0.6, 0.81), 0.045, BLACK, sides=8)
    m.tube((-0.38, 0, 0.36), (-0.7, 0, 0.58), 0.2, GRAY, end_radius=0.04)
    m.ball((-0.04, w * 0.88, 0.36), (0.34, 0.1, 0.18), accent, sides=10)


def _teapot(m: Model, d: Draw, body: Color, accent: Color) -> None:
    r, h = d.uniform(0.38, 0.44), d.uniform(0.32, 0.4)
    m.ball((0, 0, h), (r, r, h), body, sides=12)
    m.tube((0, 0, 2 * h - 0.06), (0, 0, 2 * h + 0.03), r * 0.45, DARK)
    m.ball((0, 0, 2 * h + 0.09), 0.09, DARK, sides=8)
    m.tube((r * 0.7, 0, h * 0.7), (r + 0.38, 0, h * 1.75), 0.15, WHITE, end_radius=0.09)
    m.tube((r + 0.37, 0, h * 1.72), (r + 0.41, 0, h * 1.8), 0.07, BLACK)
    for z in (0.6, 1.45):
        m.box((-r - 0.1, 0, h * z), (0.4, 0.11, 0.1), GRAY)
    m.box((-r - 0.27, 0, h * 1.03), (0.1, 0.11, h * 0.95), GRAY)
    m.tube((0, r * 0.8, h), (0, r * 1.08, h), 0.22, accent)


def _plane(m: Model, d: Draw, body: Color, accent: Color) -> None:
    r, span = d.uniform(0.13, 0.17), d.uniform(0.6, 0.72)
    m.tube((-0.62, 0, 0.05), (0.5, 0, 0), r * 0.5, body, end_radius=r)
    m.tube((0.5, 0, 0), (0.72, 0, 0), r, WHITE, end_radius=r * 0.35)
    m.tube((0.7, 0, 0), (0.78, 0, 0), r * 0.42, BLACK, end_radius=r * 0.3)
    m.box((0.3, 0, r * 0.8), (0.26, r * 1.4, r * 0.9), BLACK, top=(0.6, 0.7), shift=(-0.03, 0))
    m.box((0.08, -span / 2, 0), (0.34, span, 0.06), body, shift=(0, 0))
    m.box((0.08, span / 2, 0), (0.34, span, 0.06), accent)
    m.box((-0.54, 0, 0.08), (0.2, 0.5, 0.05), GRAY)
    m.box((-0.52, 0, 0.26), (0.26, 0.06, 0.36), GRAY, top=(0.6, 1.0), shift=(-0.06, 0))


def _boat(m: Model, d: Draw, body: Color, accent: Color) -> None:
    w, h = d.uniform(0.44, 0.54), d.uniform(0.24, 0.3)
    m.box((-0.12, 0, h / 2), (0.9, w * 0.75, h), body, top=(1.06, 1.33))
    m.box((0.5, 0, h / 2), (0.36, w * 0.75, h), body, top=(1.2, 1.33), shift=(0.06, 0))
    m.box((0.76, 0, h * 0.55), (0.24, w * 0.5, h * 0.9), WHITE, top=(1.1, 1.1))
    m.box((-0.1, 0, h + 0.17), (0.46, w * 0.66, 0.34), PALE)
    m.box((0.13, 0, h + 0.2), (0.05, w * 0.56, 0.2), BLACK)
    m.box((-0.6, 0, h * 0.7), (0.08, w * 0.85, h * 0.9), GRAY)
    m.tube((-0.2, 0, h + 0.3), (-0.2, 0, h + 0.78), 0.035, DARK)
    m.box((-0.05, w / 2 + 0.02, h * 0.75), (0.62, 0.08, h * 0.5), accent)
    m.box((-0.2, 0.17, h + 0.64), (0.06, 0.3, 0.22), accent)


def _dog(m: Model, d: Draw, body: Color, accent: Color) -> None:
    w, leg, length = d.uniform(0.3, 0.36), d.uniform(0.26, 0.34), d.uniform(0.66, 0.8)
    top = leg + 0.32
    m.box((0, 0, leg + 0.16), (length, w, 0.32), body)
    for x in (-length / 2 + 0.08, length / 2 - 0.08):
        for y in (-w / 2 + 0.06, w / 2 - 0.06):
            m.box((x, y, leg / 2), (0.12, 0.11, leg), DARK)
    x = length / 2 + 0.06
    m.box((x, 0, top + 0.13), (0.34, 0.36, 0.34), body)
    m.box((x + 0.24, 0, top + 0.06), (0.2, 0.24, 0.17), WHITE)
    m.box((x + 0.34, 0, top + 0.1), (0.05, 0.12, 0.1), BLACK)
    for y in (-0.1, 0.1):
        m.box((x + 0.17, y, top + 0.22), (0.04, 0.1, 0.1), WHITE)
        m.box((x + 0.19, y, top + 0.22), (0.03, 0.05, 0.06), BLACK)
        m.box((x - 0.06, y * 1.4, top + 0.36), (0.08, 0.1, 0.16), DARK, top=(1, 0.4))
    m.tube((-length / 2, 0, top - 0.06), (-length / 2 - 0.18, 0, top + 0.26), 0.07, GRAY)
    m.box((-length / 2 - 0.01, 0, leg + 0.16), (0.05, w * 0.8, 0.26), GRAY)
    m.box((-0.04, w / 2 + 0.03, leg + 0.2), (0.42, 0.1, 0.26), accent)


def _television(m: Model, d: Draw, body: Color, accent: Color) -> None:
    w, h, depth = d.uniform(0.9, 1.05), d.uniform(0.6, 0.7), d.uniform(0.3, 0.4)
    m.box((0, 0, 0.2 + h / 2), (depth, w, h), body)
    m.box((depth / 2, 0, 0.2 + h / 2), (0.06, w * 0.86, h * 0.82), WHITE)
    m.box((depth / 2 + 0.02, 0, 0.2 + h / 2), (0.06, w * 0.62, h * 0.55), BLACK)
    m.box((-depth / 2 - 0.08, 0, 0.2 + h * 0.45), (0.24, w * 0.6, h * 0.6), GRAY)
    m.box((0, 0, 0.1), (0.16, 0.2, 0.22), DARK)
    m.box((0, 0, 0.03), (0.4, 0.6, 0.06), DARK)
    m.box((0.02, w / 2 + 0.05, 0.2 + h * 0.5), (depth * 0.8, 0.14, h * 0.8), accent)


def _train(m: Model, d: Draw, body: Color, accent: Color) -> None:
    r, w = d.uniform(0.2, 0.24), d.uniform(0.44, 0.5)
    m.box((0, 0, 0.2), (1.2, w, 0.14), DARK)
    m.tube((-0.2, 0, 0.46), (0.55, 0, 0.46), r, body, sides=12)
    m.tube((0.55, 0, 0.46), (0.6, 0, 0.46), r * 1.02, BLACK, sides=12)
    m.tube((0.58, 0, 0.46), (0.64, 0, 0.46), r * 0.62, WHITE)
    m.box((0.64, 0, 0.16), (0.2, w, 0.24), WHITE, top=(0.3, 0.8), shift=(-0.06, 0))
    m.tube((0.36, 0, 0.6), (0.36, 0, 0.92), 0.08, BLACK, end_radius=0.13)
    m.box((-0.38, 0, 0.56), (0.42, w, 0.6), body)
    m.box((-0.38, 0, 0.89), (0.52, w * 1.15, 0.07), DARK)
    m.box((-0.6, 0, 0.55), (0.05, w * 0.75, 0.5), GRAY)
    for x in (-0.38, 0.0, 0.38):
        for y in (-w / 2, w / 2):
            m.tube((x, y - 0.04, 0.14), (x, y + 0.04, 0.14), 0.15, BLACK)
    m.box((-0.38, w / 2, 0.62), (0.34, 0.06, 0.38), accent)
    m.box((0.2, r, 0.46), (0.62, 0.06, 0.16), accent)


def _camera(m: Model, d: Draw, body: Color, accent: Color) -> None:
    w, h = d.uniform(0.86, 1.0), d.uniform(0.56, 0.64)
    m.box((0, 0, h / 2), (0.36, w, h), body)
    m.tube((0.16, 0, h * 0.48), (0.46, 0, h * 0.48), h * 0.42, WHITE, sides=14)
    m.tube((0.4, 0, h * 0.48), (0.48, 0, h * 0.48), h * 0.27, BLACK, sides=12)
    m.box((0, 0, h + 0.08), (0.3, 0.3, 0.18), DARK, top=(0.7, 0.7))
    m.box((0.13, 0, h + 0.09), (0.08, 0.24, 0.13), WHITE)
    m.box((-0.18, 0, h * 0.5), (0.06, w * 0.72, h * 0.7), GRAY)
    m.box((0.04, w / 2 - 0.02, h * 0.48), (0.42, 0.2, h * 0.9), accent)


def _shoe(m: Model, d: Draw, body: Color, accent: Color) -> None:
    w, h = d.uniform(0.38, 0.46), d.uniform(0.36, 0.46)
    m.box((0, 0, 0.06), (1.2, w * 1.06, 0.12), DARK)
    m.box((0.12, 0, 0.24), (0.86, w, 0.26), body, top=(0.8, 0.84), shift=(-0.05, 0))
    m.box((-0.3, 0, 0.1 + h / 2 + 0.1), (0.5, w * 0.94, h + 0.16), body, top=(0.86, 0.88))
    m.tube((-0.3, 0, h + 0.24), (-0.3, 0, h + 0.3), w * 0.36, BLACK)
    m.ball((0.5, 0, 0.16), (0.2, w * 0.5, 0.17), WHITE)
    for x in (0.06, 0.24):
        m.box((x, 0, 0.39 - 0.1 * x), (0.08, w * 0.7, 0.06), WHITE)
    m.box((0.62, 0, 0.07), (0.16, w * 0.7, 0.14), BLACK)
    m.box((-0.56, 0, 0.12 + h / 2), (0.08, w * 0.75, h), GRAY)
    m.box((-0.16, w / 2 - 0.01, 0.3), (0.5, 0.08, 0.24), accent)


def _bear(m: Model, d: Draw, body: Color, accent: Color) -> None:
    r, head = d.uniform(0.3, 0.35), d.uniform(0.25, 0.29)
    top = 2 * r + head * 0.75
    m.ball((0, 0, r), (r * 0.9, r, r), body)
    m.ball((0, 0, top), head, body)
    m.ball((r * 0.45, 0, r), (r * 0.6, r * 0.62, r * 0.66), WHITE)
    m.ball((head * 0.75, 0, top - 0.06), (0.15, 0.15, 0.11), WHITE)
    m.ball((head * 0.75 + 0.13, 0, top - 0.02), 0.06, BLACK, sides=8)
    for y in (-1, 1):
        m.ball((head * 0.82, y * 0.12, top + 0.1), 0.055, BLACK, sides=8)
        m.ball((0, y * head * 0.8, top + head * 0.75), 0.11, DARK, sides=8)
        m.ball((r * 0.8, y * r * 0.7, 0.1), (0.22, 0.13, 0.13), DARK, sides=8)
    m.ball((0.06, -r - 0.06, r * 1.25), (0.14, 0.13, 0.26), body, sides=8)
    m.ball((0.06, r + 0.06, r * 1.25), (0.18, 0.16, 0.28), accent, sides=8)
    m.ball((-r * 0.8, 0, r * 1.0), (0.16, r * 0.62, r * 0.66), GRAY)
    m.ball((-head * 0.72, 0, top), (0.12, 0.18, 0.16), GRAY, sides=8)


def _truck(m: Model, d: Draw, body: Color, accent: Color) -> None:
    w, h, load = d.uniform(0.46, 0.54), d.uniform(0.5, 0.62), d.uniform(0.66, 0.8)
    m.box((0, 0, 0.2), (1.2, w, 0.1), DARK)
    m.box((0.6 - load / 2 - 0.42, 0, 0.25 + h / 2), (load, w * 1.04, h), body)
    m.box((0.42, 0, 0.25 + h * 0.4), (0.32, w, h * 0.8), PALE)
    m.box((0.57, 0, 0.25 + h * 0.57), (0.05, w * 0.84, h * 0.34), BLACK)
    for y in (-0.33, 0.33):
        m.box((0.58, y * w, 0.25 + h * 0.14), (0.06, w * 0.26, h * 0.22), WHITE)
    m.box((0.58, 0, 0.2), (0.06, w, 0.09), BLACK)
    m.box((0.18 - load, 0, 0.25 + h * 0.5), (0.05, w * 0.84, h * 0.8), GRAY)
    for x in (-0.42, 0.4):
        for y in (-w / 2, w / 2):
            m.tube((x, y - 0.05, 0.15), (x, y + 0.05, 0.15), 0.15, BLACK)
    m.box((0.18 - load / 2, w / 2, 0.25 + h * 0.55), (load * 0.7, 0.08, h * 0.55), accent)


_BUILDERS = (
    _car,
    _mug,
    _chair,
    _house,
    _robot,
    _duck,
    _teapot,
    _plane,
    _boat,
    _dog,
    _television,
    _train,
    _camera,
    _shoe,
    _bear,
    _truck,
)
CATEGORIES = {
    name: Category(number, name, name in UNSEEN, build)
    for number, (name, build) in enumerate(zip((*SEEN, *UNSEEN), _BUILDERS, strict=True))
}
