"""The procedural world: closed parts, the z-buffer, handedness, and captures like real ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from omegaconf import OmegaConf
from PIL import Image
from scipy.optimize import minimize

from actial.config import WorldConfig
from actial.core.errors import UserError
from actial.core.paths import CONF
from actial.core.seeding import Draw
from actial.synthetic.captures import arc, capture_jobs, write_captures
from actial.synthetic.meshes import Model
from actial.synthetic.objects import CATEGORIES, FRONT, LEFT, UNSEEN, ObjectSpec, make_object
from actial.synthetic.rasterizer import EMPTY, visible_faces
from actial.synthetic.render import Cameras, orbit_cameras, render_views, scaled, to_camera
from actial.viewpoint.geometry import azimuth
from actial.viewpoint.vocabulary import PALETTE, SEEN
from actial.world import generate

EVERY = sorted(CATEGORIES)


# ---------------------------------------------------------------- parts and raster


def test_draws_depend_on_the_key_alone_and_come_one_by_one_or_at_once() -> None:
    single, many = Draw("a", 1), Draw("a", 1)
    assert many.uniforms(-1, 2, 2, 3).ravel() == pytest.approx(
        [single.uniform(-1, 2) for _ in range(6)], abs=1e-12
    )
    assert many.uniform() == single.uniform()
    assert Draw("a", 2).uniform() != Draw("a", 1).uniform()


@pytest.mark.parametrize("category", EVERY)
def test_every_part_is_closed_and_faces_outward(category: str) -> None:
    """The signed volume is positive, and every directed edge meets its opposite once."""
    model = Model(Draw("part", category))
    CATEGORIES[category].build(model, Draw("part", category), PALETTE["red"], PALETTE["blue"])
    for part in model.parts:
        a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
        assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 > 0
        edges = np.concatenate(
            [part.faces[:, [0, 1]], part.faces[:, [1, 2]], part.faces[:, [2, 0]]]
        ).tolist()
        assert sorted(edges) == sorted([e[::-1] for e in edges])
        assert len({tuple(e) for e in edges}) == len(edges)


def test_the_z_buffer_fills_exactly_the_covered_pixels_and_keeps_the_nearest() -> None:
    """Two squares face the camera: x, y in 1..3 at depth 2 and in 2..5 at depth 1; one does not."""
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    corners = [
        np.c_[2 * (1 + 2 * square), np.full(4, 2.0)],
        np.c_[2 + 3 * square, np.full(4, 1.0)],
        np.c_[5 * square, np.full(4, 0.5)],
    ]
    towards = np.array(
        [(0, 2, 1), (0, 3, 2)]
    )  # counter-clockwise for a viewer whose y points down
    faces = np.concatenate([towards, 4 + towards, 8 + towards[:, ::-1]])
    seen = visible_faces(np.concatenate(corners)[None], faces, np.eye(3)[None], 6, 5)[0] // 2
    expected = np.full((5, 6), EMPTY)
    expected[1:3, 1:3] = 0
    expected[2:5, 2:5] = 1
    assert seen.tolist() == expected.tolist()


# ---------------------------------------------------------------- fronts and handedness


def test_sixteen_categories_four_of_them_held_out() -> None:
    assert len(SEEN) == 12
    assert len(UNSEEN) == 4
    assert [c.class_id for c in CATEGORIES.values()] == list(range(16))


def test_azimuth_zero_looks_at_the_front_and_ninety_at_the_own_left() -> None:
    """From the front the own left is on the right; from the left the front is on the left."""
    cameras = orbit_cameras(np.array([0.0, 90.0, 180.0, 270.0]), 64, Draw("sides"))
    marks = to_camera(np.array([FRONT, LEFT, (0.0, 0.0, 0.0)]), cameras)
    front, left, middle = (marks[:, i] for i in range(3))
    assert [
        front[0, 2] < middle[0, 2],
        front[2, 2] > middle[2, 2],
        left[1, 2] < middle[1, 2],
        left[3, 2] > middle[3, 2],
    ] == [True] * 4
    x = marks[..., 0] / marks[..., 2]
    assert x[0, 1] > x[0, 2]
    assert x[1, 0] < x[1, 2]
    assert x[2, 1] < x[2, 2]
    assert x[3, 0] > x[3, 2]


def _share(mask: np.ndarray) -> np.ndarray:
    return mask.mean((1, 2))


@pytest.mark.parametrize("category", EVERY)
def test_every_side_shows_its_own_mark(category: str) -> None:
    """At 64 pixels, white is at the front and not the back, the accent left and not right."""
    white, accent = [], []
    for seed in range(4):
        spec = make_object(seed, category)
        cameras = orbit_cameras(
            np.array([0.0, 90.0, 180.0, 270.0]), 64, Draw("marks", category, seed)
        )
        pictures, cameras = render_views(spec, cameras, 64, 0)
        faces = silhouette(spec, cameras, 64)
        colors = spec.mesh.colors[faces]
        mark = np.array(PALETTE[spec.attributes["accent_colour"]])
        inside = faces != EMPTY
        white.append(_share(inside & (colors.min(-1) > 225)))
        accent.append(_share(inside & (np.linalg.norm(colors - mark, axis=-1) < 45)))
        assert pictures.shape == (4, 64, 64, 3)
    front, _, back, _ = np.mean(white, 0)
    _, left, _, right = np.mean(accent, 0)
    assert front > 0.004
    assert front > 4 * back
    assert left > 0.015
    assert left > 3 * right


def silhouette(spec: ObjectSpec, cameras: Cameras, size: int) -> np.ndarray:
    """Visible faces under the cameras of a photo: a second rendering, crop included."""
    return visible_faces(
        to_camera(spec.mesh.vertices, cameras),
        spec.mesh.faces,
        scaled(cameras.K),
        2 * size,
        2 * size,
    )


def test_returned_cameras_are_the_ones_of_the_crop() -> None:
    """Rendered with them again, saturated faces lie where the photo's saturated pixels are."""
    spec = make_object(3, "mug")
    pictures, cameras = render_views(
        spec, orbit_cameras(np.arange(0, 360, 60.0), 64, Draw("crop")), 64, 0
    )
    faces = silhouette(spec, cameras, 64)
    strong = (faces != EMPTY) & (np.ptp(spec.mesh.colors, axis=1)[faces] > 100)
    expected = strong.reshape(6, 64, 2, 64, 2).mean((2, 4)) >= 0.5
    found = np.ptp(pictures.astype(int), axis=-1) > 60
    shifts = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    agreement = [(np.roll(found, shift, (1, 2)) == expected).mean((1, 2)) for shift in shifts]
    assert (np.argmax(agreement, axis=0) == 0).all()  # not even a pixel off
    assert agreement[0].min() > 0.9


# ---------------------------------------------------------------- the position in the frame


def fit_probe(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logistic regression with an intercept and a little weight decay."""
    x = np.c_[x, np.ones(len(x))]
    return minimize(
        lambda w: np.logaddexp(0, -(2 * y - 1) * (x @ w)).mean() + 1e-3 * (w**2).sum(),
        np.zeros(x.shape[1]),
    ).x


def probe_accuracy(x: np.ndarray, y: np.ndarray) -> float:
    """Fitted on the first half, scored on the second."""
    half = len(y) // 2
    weights = fit_probe(x[:half], y[:half])
    return float(((np.c_[x[half:], np.ones(len(y) - half)] @ weights > 0) == y[half:]).mean())


def test_a_probe_that_sees_both_centroids_is_at_chance() -> None:
    """800 disjoint pairs, 400 scored: accuracy within 0.5 +- 0.065 (99 % of a fair coin)."""
    features, right = [], []
    for seed in range(200):
        draw = Draw("probe", seed)
        around = arc(16, draw)[::2] + draw.uniforms(-8.0, 8.0, 8)
        spec = make_object(seed, SEEN[seed % len(SEEN)])
        _, cameras = render_views(spec, orbit_cameras(around, 32, draw), 32, seed)
        covered = silhouette(spec, cameras, 32) != EMPTY
        centroids = (
            np.array([[np.mean(axis) for axis in np.nonzero(mask)[::-1]] for mask in covered])
            / 64
        )
        for i in range(0, 8, 2):
            swap = draw.pick((0, 1))
            first, second = (i + 1, i) if swap else (i, i + 1)
            features.append([*centroids[first], *centroids[second]])
            right.append((around[second] - around[first]) > 0)
    x, y = np.array(features) - 0.5, np.array(right, float)
    assert len(y) == 800
    assert abs(y.mean() - 0.5) < 0.05
    assert x.std(0).min() > 0.04  # the objects do move about
    interactions = np.c_[x, (x[:, :, None] * x[:, None]).reshape(len(x), -1)]
    assert abs(probe_accuracy(x * 10, y) - 0.5) < 0.065
    assert abs(probe_accuracy(interactions * 10, y) - 0.5) < 0.065
    leaking = x + np.array([0.03, 0, -0.03, 0]) * (2 * y - 1)[:, None]
    assert probe_accuracy(leaking * 10, y) > 0.65


# ---------------------------------------------------------------- captures on disk


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    assert (
        sum(write_captures(root, capture_jobs(16, 14, 64, 5, list(CATEGORIES)), workers=1))
        == 16
    )
    return root


def folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/*/object.json"))


def test_layout_is_mvimgnets(captures: Path) -> None:
    assert (captures / "categories.csv").read_text().splitlines()[12] == "12,camera"
    for folder in folders(captures):
        assert len(folder.name) == 8
        assert int(folder.name, 16) >= 0
        assert sorted(p.name for p in folder.iterdir()) == ["images", "object.json", "sparse"]
        assert sorted(p.name for p in (folder / "images").iterdir()) == [
            f"{i:03d}.jpg" for i in range(14)
        ]
        assert CATEGORIES[
            json.loads((folder / "object.json").read_text())["class_name"]
        ].class_id == int(folder.parent.name)


def test_pycolmap_reads_the_triple_and_its_points_reproject(captures: Path) -> None:
    for folder in folders(captures):
        model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
        assert model.num_reg_images() == 14
        assert model.num_points3D() >= 100
        errors = []
        for image in model.images.values():
            for observation in image.points2D:
                if observation.has_point3D():
                    errors.append(
                        np.linalg.norm(
                            image.project_point(model.points3D[observation.point3D_id].xyz)
                            - observation.xy
                        )
                    )
        assert 0.2 < np.mean(errors) < 0.6
        assert model.compute_mean_reprojection_error() == pytest.approx(
            np.mean(errors), abs=0.05
        )


def test_world_frames_are_turned_and_scaled_at_random(captures: Path) -> None:
    known = [json.loads((folder / "object.json").read_text()) for folder in folders(captures)]
    ups = np.array([k["up"] for k in known])
    assert np.abs(ups.mean(0)).max() < 0.5
    distance = []
    for folder, k in zip(folders(captures), known, strict=True):
        images = pycolmap.Reconstruction(str(folder / "sparse" / "0")).images.values()
        distance.append(
            np.mean([np.linalg.norm(i.projection_center() - k["centre"]) for i in images])
        )
        assert np.dot(np.cross(k["up"], k["front"]), k["left"]) == pytest.approx(
            1.0, abs=1e-9
        )  # a turned frame, not a mirrored one
    assert max(distance) / min(distance) > 3


def test_sidecar_front_gives_the_azimuth_the_picture_was_taken_from(captures: Path) -> None:
    """The accent's share in the photos is largest on the own left, by poses and sidecar alone."""
    by_side: dict[str, list[float]] = {"left": [], "right": []}
    for folder in folders(captures):
        k = {
            key: np.array(v) if isinstance(v, list) else v
            for key, v in json.loads((folder / "object.json").read_text()).items()
        }
        mark = np.array(PALETTE[k["attributes"]["accent_colour"]], float)
        images = pycolmap.Reconstruction(str(folder / "sparse" / "0")).images.values()
        for image in images:
            angle = (
                float(azimuth(image.projection_center(), k["centre"], k["up"], k["front"]))
                % 360
            )
            pixels = np.asarray(Image.open(folder / "images" / image.name), float)
            hue = (pixels @ mark) / np.maximum(
                np.linalg.norm(pixels, axis=-1) * np.linalg.norm(mark), 1
            )
            share = float(((hue > 0.97) & (np.ptp(pixels, axis=-1) > 60)).mean())
            if 45 < angle < 135 or 225 < angle < 315:
                by_side["left" if angle < 180 else "right"].append(share)
    assert np.mean(by_side["left"]) > 4 * np.mean(by_side["right"])


def test_bytes_do_not_depend_on_the_workers_and_an_interrupted_run_is_taken_up(
    captures: Path, tmp_path: Path
) -> None:
    jobs = capture_jobs(16, 14, 64, 5, list(CATEGORIES))[:4]
    unfinished = jobs[0].folder(tmp_path).with_name("." + jobs[0].object_id)
    (unfinished / "images").mkdir(parents=True)
    list(write_captures(tmp_path, jobs, workers=2))
    assert not unfinished.exists()
    for job in jobs:
        for path in sorted(job.folder(tmp_path).rglob("*.*")):
            assert path.read_bytes() == (captures / path.relative_to(tmp_path)).read_bytes()


# ---------------------------------------------------------------- the command


def test_the_command_resumes_its_own_world_and_refuses_another(tmp_path: Path) -> None:
    config = WorldConfig(
        out=str(tmp_path / "w"),
        objects=2,
        unseen_objects=1,
        frames=12,
        size=32,
        sat_train=0,
        sat_val=0,
        sat_test=2,
        workers=1,
    )
    generate(config)
    written = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "w").rglob("*.*")
        if path.suffix in (".jpg", ".parquet")
    }
    assert len(written) == 3 * 12 + 1
    generate(config)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    with pytest.raises(UserError, match="another objects, seed"):
        generate(dataclasses.replace(config, objects=3, seed=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        generate(dataclasses.replace(config, out=str(tmp_path / "full")))


def test_the_build_preset_holds_out_the_unseen_categories() -> None:
    assert (
        tuple(OmegaConf.load(CONF / "dataset" / "world.yaml").pairs.unseen_classes) == UNSEEN
    )
