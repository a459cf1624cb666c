"""Several objects on a floor, seen by one camera: what the SAT-format questions are about.

World axes: z up, the floor is z = 0. Objects of one scene differ in category and in body color, so
that "the red car" names one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from actial.core.seeding import Draw
from actial.synthetic.meshes import Mesh, joined
from actial.synthetic.objects import ObjectSpec, make_object
from actial.synthetic.rasterizer import EMPTY, visible_faces
from actial.synthetic.render import SAMPLES, Cameras, develop, look_at, pinhole, scaled, shaded
from actial.viewpoint.vocabulary import PALETTE, SEEN

FOCAL = 1.25  # focal length over image size: 44 degrees across
GROUND = 1.8  # objects stand within this distance of the origin
RADII = (0.65, 0.85)  # of the bounding spheres
NEAREST = 1.5  # of an object to a camera
# of bounding radii in the image (objects fill less): from each other, and from the border
APART, INSIDE = 0.72, 0.82


@dataclass(slots=True, frozen=True)
class Place:
    """Where an object stands."""

    at: tuple[float, float]
    heading_deg: float  # of its front from the world's x axis, counter-clockwise
    radius: float

    @property
    def center(self) -> np.ndarray:
        return np.array([*self.at, 0.55 * self.radius])


@dataclass(frozen=True)
class Scene:
    """One camera per photo, and the same objects at places[photo][object].

    Which objects these are, the light and the floor follow from `key`. Objects are made on first
    use: answers depend on places and cameras alone, and most drawn scenes are rejected.
    """

    key: tuple[object, ...]
    places: list[list[Place]]
    cameras: Cameras

    @cached_property
    def specs(self) -> list[ObjectSpec]:
        return draw_specs(Draw("scene objects", *self.key), len(self.places[0]))

    @cached_property
    def phrases(self) -> list[str]:
        return [f"the {spec.attributes['body_colour']} {spec.category}" for spec in self.specs]

    @cached_property
    def centers(self) -> np.ndarray:
        """(photos, objects, 3) in the world."""
        return np.array([[place.center for place in places] for places in self.places])

    @cached_property
    def local(self) -> np.ndarray:
        """Object centers (photos, objects, 3) in the axes of each photo's camera."""
        return (
            np.einsum("nij,nvj->nvi", self.cameras.R, self.centers) + self.cameras.t[:, None]
        )

    def mesh(self, photo: int) -> Mesh:
        return joined(
            [
                _standing(spec, place)
                for spec, place in zip(self.specs, self.places[photo], strict=True)
            ]
        )


def _standing(spec: ObjectSpec, place: Place) -> Mesh:
    c, s = np.cos(np.radians(place.heading_deg)), np.sin(np.radians(place.heading_deg))
    foot = np.array([*place.at, -place.radius * spec.mesh.vertices[:, 2].min()])
    return spec.mesh.moved(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), foot, place.radius)


# ---------------------------------------------------------------- layout


def draw_scene(key: tuple[object, ...], draw: Draw, size: int, count: int) -> Scene | None:
    """Return one photo of `count` objects that stand apart and are all in view.

    None when this draw gives no such photo.
    """
    places: list[Place] = []
    for _ in range(6 * count):
        angle, distance = draw.uniform(0, 2 * math.pi), GROUND * math.sqrt(draw.uniform())
        place = Place(
            (distance * math.cos(angle), distance * math.sin(angle)),
            draw.uniform(0, 360),
            draw.uniform(*RADII),
        )
        if stands_free(place, places):
            places.append(place)
        if len(places) == count:
            break
    else:
        return None
    aim = np.array([draw.uniform(-0.4, 0.4), draw.uniform(-0.4, 0.4), 0.3])
    center = around(draw.uniform(0, 360), draw.uniform(4.0, 4.8), draw.uniform(1.9, 3.2))
    scene = Scene(key, [places], camera_from(center, aim, size, draw.uniform(-2, 2)))
    return scene if all_visible(scene) else None


def stands_free(place: Place, others: list[Place]) -> bool:
    return all(
        math.dist(place.at, other.at) > 0.85 * (place.radius + other.radius)
        for other in others
    )


def draw_specs(draw: Draw, count: int) -> list[ObjectSpec]:
    """Return `count` objects, all of different category and body color."""
    categories, colors = list(SEEN), list(PALETTE)
    specs = []
    for _ in range(count):
        category, color = draw.pick(categories), draw.pick(colors)
        categories.remove(category)
        colors.remove(color)
        specs.append(make_object(int(draw.uniform(0, 2**48)), category, color))
    return specs


def camera_from(
    center: np.ndarray, aim: np.ndarray, size: int, roll_deg: float = 0.0
) -> Cameras:
    """Return one camera at `center` (3,) aimed at `aim` (3,).

    Its azimuth and elevation are those about the world's origin.
    """
    R, t = look_at(center, aim, roll_deg)
    azimuth = np.degrees(np.arctan2(center[1], center[0])) % 360
    elevation = np.degrees(np.arctan2(center[2], np.hypot(center[0], center[1])))
    return Cameras(
        R[None],
        t[None],
        pinhole(size, FOCAL)[None],
        np.array([azimuth]),
        np.array([elevation]),
    )


def around(azimuth_deg: float, distance: float, height: float) -> np.ndarray:
    """Return the point at an azimuth, a distance from the vertical axis, and a height."""
    return np.array(
        [
            distance * np.cos(np.radians(azimuth_deg)),
            distance * np.sin(np.radians(azimuth_deg)),
            height,
        ]
    )


def stacked(*cameras: Cameras) -> Cameras:
    return Cameras(
        *(
            np.concatenate([getattr(c, name) for c in cameras])
            for name in ("R", "t", "K", "azimuth_deg", "elevation_deg")
        )
    )


def all_visible(scene: Scene) -> bool:
    """Return whether every object is wholly in every photo, and at most an edge is hidden.

    Judged by the bounding circles.
    """
    for places, local, K in zip(scene.places, scene.local, scene.cameras.K, strict=True):
        if (local[:, 2] < NEAREST).any():
            return False
        xy = (local[:, :2] / local[:, 2:]) * K[0, 0] + K[:2, 2]
        r = np.array([place.radius for place in places]) * K[0, 0] / local[:, 2]
        edge = INSIDE * r[:, None]
        if (xy < edge).any() or (xy + edge > 2 * K[:2, 2]).any():
            return False
        i, j = np.triu_indices(len(places), 1)
        if (np.linalg.norm(xy[i] - xy[j], axis=1) < APART * (r[i] + r[j])).any():
            return False
    return True


# ---------------------------------------------------------------- images


def render_scene(scene: Scene) -> np.ndarray:
    """Return uint8 (photos, size, size, 3): the objects before a tiled floor and a wall.

    The lamp stays where it is.
    """
    draw = Draw("scene light", *scene.key)
    floor = Floor.drawn(draw)
    lamp = np.array([draw.uniform(-1, 1), draw.uniform(-1, 1), draw.uniform(1.0, 1.8)])
    ambient = draw.uniform(0.5, 0.65)
    images = []
    for photo in range(len(scene.places)):
        mesh = scene.mesh(photo)
        colors = shaded(mesh.colors, mesh.normals(), lamp, ambient)
        images.append(
            develop(
                _faces(mesh, scene.cameras, photo), colors, floor.seen(scene.cameras, photo)
            )
        )
    return np.stack(images)


def owners(scene: Scene, photo: int) -> np.ndarray:
    """Return the index of the object seen at each oversampled pixel, EMPTY where there is none."""
    mesh = scene.mesh(photo)
    faces = _faces(mesh, scene.cameras, photo)
    return np.where(faces == EMPTY, EMPTY, mesh.owner[faces])


def _faces(mesh: Mesh, cameras: Cameras, photo: int) -> np.ndarray:
    raster = round(2 * float(cameras.K[photo, 0, 2])) * SAMPLES
    local = mesh.vertices @ cameras.R[photo].T + cameras.t[photo]
    return visible_faces(
        local[None], mesh.faces, scaled(cameras.K[photo : photo + 1]), raster, raster
    )[0]


@dataclass(slots=True, frozen=True)
class Floor:
    """A chequered floor that fades into the wall."""

    tile: float
    turn: float  # radians
    light: np.ndarray  # (3,) colors
    dark: np.ndarray
    wall: np.ndarray

    @staticmethod
    def drawn(draw: Draw) -> Floor:
        base = draw.uniform(120, 190) + draw.uniforms(-12, 12, 3)
        wall = draw.uniform(150, 225) + draw.uniforms(-10, 10, 3)
        return Floor(
            draw.uniform(0.7, 1.1),
            draw.uniform(0, np.pi / 2),
            base,
            base * draw.uniform(0.8, 0.92),
            wall,
        )

    def seen(self, cameras: Cameras, photo: int) -> np.ndarray:
        """Return the floor's color, float (size, size, 3), where each pixel's ray meets z = 0."""
        K, R, C = cameras.K[photo], cameras.R[photo], cameras.centers()[photo]
        at = np.arange(round(2 * K[0, 2])) + 0.5
        x, y = np.meshgrid((at - K[0, 2]) / K[0, 0], (at - K[1, 2]) / K[1, 1])
        ray = np.stack([x, y, np.ones_like(x)], -1) @ R
        ground = (C + ray * (C[2] / np.clip(-ray[..., 2:], 1e-3, None)))[..., :2]
        c, s = np.cos(self.turn), np.sin(self.turn)
        cell = np.floor(ground @ np.array([[c, -s], [s, c]]) / self.tile).sum(
            -1, keepdims=True
        )
        fade = np.clip((np.linalg.norm(ground, axis=-1, keepdims=True) - 4.0) / 5.0, 0.0, 1.0)
        return np.where(cell % 2 == 0, self.light, self.dark) * (1 - fade) + self.wall * fade
