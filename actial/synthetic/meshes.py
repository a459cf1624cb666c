"""Closed parts with outward faces, one color each, of which the world's objects consist.

Object axes: x to the object's own front, y to its own left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actial.core.seeding import Draw

WHITE, PALE, GRAY, DARK, BLACK = (
    (248, 248, 244),
    (205, 205, 200),
    (130, 130, 132),
    (62, 62, 66),
    (22, 22, 24),
)
Vector = tuple[float, float, float]
Pair = tuple[float, float]
Color = tuple[int, int, int]


@dataclass(slots=True)
class Mesh:
    """Triangles with colors."""

    vertices: np.ndarray  # (V, 3)
    faces: np.ndarray  # (M, 3), counter-clockwise from outside
    colors: np.ndarray  # (M, 3) in 0..255
    owner: np.ndarray  # (M,) index of the object

    def normals(self) -> np.ndarray:
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        n = np.cross(b - a, c - a)
        return n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-12)

    def moved(self, R: np.ndarray, t: np.ndarray, scale: float = 1.0) -> Mesh:
        return Mesh(scale * self.vertices @ R.T + t, self.faces, self.colors, self.owner)


def joined(meshes: list[Mesh]) -> Mesh:
    """Return one mesh out of several; owner = index of the mesh that a face came from."""
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + s for m, s in zip(meshes, starts, strict=True)]),
        np.concatenate([m.colors for m in meshes]),
        np.concatenate([np.full(len(m.faces), i) for i, m in enumerate(meshes)]),
    )


class Model:
    """Collects the parts of an object."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.parts: list[Mesh] = []

    def _add(self, vertices: np.ndarray, faces: np.ndarray, color: Color) -> None:
        shade = np.asarray(color, float) * self.draw.uniform(0.94, 1.06)
        self.parts.append(
            Mesh(
                vertices,
                faces,
                np.tile(shade, (len(faces), 1)),
                np.zeros(len(faces), np.int64),
            )
        )

    def box(
        self,
        center: Vector,
        size: Vector,
        color: Color,
        top: Pair = (1.0, 1.0),
        shift: Pair = (0.0, 0.0),
    ) -> None:
        """Add a box whose top face is scaled by `top` (0 = ridge) and shifted along x and y."""
        sign = np.array(
            [
                (x, y, z)
                for z in (-0.5, 0.5)
                for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
            ]
        )
        v = sign * np.asarray(size, float)
        v[4:, :2] = v[4:, :2] * np.asarray(top, float) + np.asarray(shift, float)
        self._add(v + np.asarray(center, float), _BOX_FACES, color)

    def tube(
        self,
        start: Vector,
        end: Vector,
        radius: float,
        color: Color,
        end_radius: float | None = None,
        sides: int = 10,
    ) -> None:
        """Add a closed cylinder, frustum or cone between two points."""
        p, q = np.asarray(start, float), np.asarray(end, float)
        axis = (q - p) / np.linalg.norm(q - p)
        u = np.cross(axis, (0.0, 0.0, 1.0) if abs(axis[2]) < 0.9 else (1.0, 0.0, 0.0))
        u /= np.linalg.norm(u)
        w = np.cross(axis, u)
        angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides
        ring = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * w
        v = np.concatenate(
            [
                p + radius * ring,
                q + (radius if end_radius is None else end_radius) * ring,
                [p, q],
            ]
        )
        i, j = np.arange(sides), (np.arange(sides) + 1) % sides
        first, last = np.full(sides, 2 * sides), np.full(sides, 2 * sides + 1)
        quads = [
            np.stack(f, 1)
            for f in (
                (i, j, sides + j),
                (i, sides + j, sides + i),
                (first, j, i),
                (last, sides + i, sides + j),
            )
        ]
        self._add(v, np.concatenate(quads), color)

    def ball(
        self,
        center: Vector,
        radii: Vector | float,
        color: Color,
        sides: int = 10,
        rings: int = 6,
    ) -> None:
        """Add an ellipsoid."""
        polar = np.pi * np.arange(1, rings) / rings
        angle = 2 * np.pi * np.arange(sides) / sides
        down, round_ = np.meshgrid(polar, angle, indexing="ij")
        body = np.stack(
            [np.sin(down) * np.cos(round_), np.sin(down) * np.sin(round_), np.cos(down)], -1
        )
        v = np.concatenate([body.reshape(-1, 3), [(0, 0, 1), (0, 0, -1)]]) * np.broadcast_to(
            radii, 3
        ) + np.asarray(center, float)
        i, j = np.arange(sides), (np.arange(sides) + 1) % sides
        faces = [np.stack((np.full(sides, len(v) - 2), i, j), 1)]
        for r in range(rings - 2):
            a, b = r * sides, (r + 1) * sides
            faces += [np.stack((a + i, b + i, b + j), 1), np.stack((a + i, b + j, a + j), 1)]
        last = (rings - 2) * sides
        faces.append(np.stack((np.full(sides, len(v) - 1), last + j, last + i), 1))
        self._add(v, np.concatenate(faces), color)

    def mesh(self, texture: float) -> Mesh:
        """Return all parts, centered on their bounding box, in a bounding sphere of radius 1.

        `texture` is the spread of brightness from face to face (0 = none).
        """
        whole = joined(self.parts)
        center = (whole.vertices.max(0) + whole.vertices.min(0)) / 2
        scale = 1.0 / np.linalg.norm(whole.vertices - center, axis=1).max()
        spread = (
            1.0
            + texture * self.draw.uniforms(-1.0, 1.0, 17)[np.arange(len(whole.faces)) * 7 % 17]
        )
        colors = np.clip(whole.colors * spread[:, None], 0, 255)
        return Mesh(
            (whole.vertices - center) * scale,
            whole.faces,
            colors,
            np.zeros(len(whole.faces), np.int64),
        )


_BOX_FACES = np.array(
    [
        (0, 2, 1),
        (0, 3, 2),
        (4, 5, 6),
        (4, 6, 7),
        (0, 1, 5),
        (0, 5, 4),
        (1, 2, 6),
        (1, 6, 5),
        (2, 3, 7),
        (2, 7, 6),
        (3, 0, 4),
        (3, 4, 7),
    ]
)
