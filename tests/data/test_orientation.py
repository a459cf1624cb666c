"""Photos with EXIF orientations: photo, pose and label stay together, or the photo is dropped."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from support.posed_captures import FOCAL, SIZE, Rig, arc, pack_triple, to_camera_to_world

from actial.build import build
from actial.config import (
    BuildConfig,
    ExifRule,
    ImageConfig,
    PairConfig,
    SourceConfig,
    SourceKind,
)
from actial.core.errors import UserError
from actial.core.records import Capture
from actial.data.photos import QUARTER_TURNS
from actial.data.sources.open_source import open_source
from actial.viewpoint.geometry import OPENGL_AXES, estimate_up
from actial.viewpoint.lens import project

W, H = SIZE
N = 16


def upright_photo(i: int, size: tuple[int, int]) -> np.ndarray:
    """A picture whose top is red, whose left half is dark, and which differs by i."""
    width, height = size
    pixels = np.full((height, width, 3), 200, dtype=np.uint8)
    pixels[:, : width // 2] = 60
    pixels[: height // 4] = (220, 10, 5 * i)
    return pixels


def write(
    root,
    tags: list[int],
    *,
    posed_on: str,
    rig: Rig | None = None,
    size: tuple[int, int] = SIZE,
) -> None:
    """A capture "cup" of upright photos of `size`, stored turned with the tags that undo it.

    posed_on="stored": the poses belong to the stored pixels; "turned": to the upright ones.
    """
    names = [f"{i:03d}.png" for i in range(N)]
    folder = root / "cup"
    (folder / "images").mkdir(parents=True)
    (folder / "sparse" / "0").mkdir(parents=True)
    rig = rig or arc(N)
    R, t = rig.poses()
    stored_size = size
    for i, (name, tag) in enumerate(zip(names, tags, strict=True)):
        turns = QUARTER_TURNS[tag]
        exif = Image.Exif()
        exif[0x0112] = tag
        stored = np.rot90(upright_photo(i, size), -turns)
        Image.fromarray(np.ascontiguousarray(stored)).save(folder / "images" / name, exif=exif)
        if posed_on == "stored":
            stored_size = (stored.shape[1], stored.shape[0])
            R[i], t[i] = turned_axes(R[i], -turns), turned_axes(t[i], -turns)
    posed = GivenPoses(R, t, rig.scale)
    for name, data in pack_triple(posed, names, size=stored_size).items():  # type: ignore[arg-type]
        (folder / "sparse" / "0" / name).write_bytes(data)


class GivenPoses:
    """Poses in the place of a rig's."""

    rotation, shift = np.eye(3), np.zeros(3)

    def __init__(self, R: np.ndarray, t: np.ndarray, scale: float) -> None:
        self.R, self.t, self.scale = R, t, scale

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        return self.R, self.t


def turned_axes(rows: np.ndarray, turns: int) -> np.ndarray:
    """Axes after counter-clockwise quarter turns of the photo, by the rotation's matrix."""
    angle = np.pi / 2 * turns
    c, s = round(np.cos(angle)), round(np.sin(angle))
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]]) @ rows


def read(
    root, exif: ExifRule = ExifRule.auto
) -> tuple[Capture, Counter[str], list[np.ndarray]]:
    source = open_source(SourceConfig(kind=SourceKind.colmap, root=str(root), exif=exif))
    capture, counts = source.read("cup")
    return capture, counts, [source.pixels("cup", frame.name) for frame in capture.frames]


def check_upright(capture: Capture, photos: list[np.ndarray], size: tuple[int, int]) -> None:
    """Photos stand upright, poses are those of the upright rig, and intrinsics belong to them."""
    R, _ = arc(N).poses()
    assert len(capture.frames) == N
    for i, (frame, pixels) in enumerate(zip(capture.frames, photos, strict=True)):
        assert np.array_equal(pixels, upright_photo(i, size))
        assert (frame.width, frame.height) == size
        assert pytest.approx(R[i], abs=1e-9) == frame.R
        center = project(frame, np.zeros((1, 3)))[0]
        assert center == pytest.approx(np.array(size) / 2, abs=1e-6)
        assert frame.K[0, 0] == pytest.approx(FOCAL)


@pytest.mark.parametrize("tag", [6, 8])
@pytest.mark.parametrize("posed_on", ["stored", "turned"])
@pytest.mark.parametrize("size", [SIZE, SIZE[::-1]])
def test_photos_on_their_side_are_turned_with_or_without_their_poses(
    tmp_path, tag, posed_on, size
):
    write(tmp_path, [tag] * N, posed_on=posed_on, size=size)
    capture, counts, photos = read(tmp_path)
    check_upright(capture, photos, size)
    assert counts == {"turned": N}


@pytest.mark.parametrize("tag", [6, 8])
@pytest.mark.parametrize(
    ("posed_on", "rule"),
    [
        ("stored", ExifRule.auto),
        ("stored", ExifRule.both),
        ("turned", ExifRule.auto),
        ("turned", ExifRule.photos),
    ],
)
@pytest.mark.parametrize("centered", [True, False])
def test_transforms_without_a_size_take_that_of_the_pixels_they_belong_to(
    tmp_path, tag, posed_on, rule, centered
):
    write(tmp_path, [tag] * N, posed_on=posed_on)
    shutil.rmtree(tmp_path / "cup" / "sparse")
    R, t = arc(N).poses()
    turns = -QUARTER_TURNS[tag] if posed_on == "stored" else 0
    fields: dict = {"fl_x": FOCAL, "frames": []}
    if centered:
        width, height = SIZE[::-1] if posed_on == "stored" else SIZE
        fields |= {"cx": width / 2, "cy": height / 2}
    for i in range(N):
        matrix = to_camera_to_world(
            turned_axes(R[i], turns), turned_axes(t[i], turns), OPENGL_AXES
        )
        name = f"images/{i:03d}.png"
        fields["frames"].append({"file_path": name, "transform_matrix": matrix.tolist()})
    (tmp_path / "cup" / "transforms.json").write_text(json.dumps(fields))
    source = open_source(
        SourceConfig(kind=SourceKind.nerfstudio, root=str(tmp_path), exif=rule)
    )
    capture, counts = source.read("cup")
    photos = [source.pixels("cup", frame.name) for frame in capture.frames]
    check_upright(capture, photos, SIZE)
    assert counts == {"turned": N}


@pytest.mark.parametrize("posed_on", ["stored", "turned"])
def test_some_photos_upside_down_are_turned_with_or_without_their_poses(tmp_path, posed_on):
    tags = [3 if i % 3 else 1 for i in range(N)]
    write(tmp_path, tags, posed_on=posed_on)
    capture, counts, photos = read(tmp_path)
    check_upright(capture, photos, SIZE)
    assert counts == {"turned": tags.count(3)}


def test_photos_all_upside_down_are_turned_where_their_cameras_look_up(tmp_path):
    """Poses on the stored pixels: seen from them, the photographer stands on the ceiling."""
    write(tmp_path, [3] * N, posed_on="stored")
    capture, counts, photos = read(tmp_path)
    check_upright(capture, photos, SIZE)
    assert counts == {"turned": N}


def test_photos_all_upside_down_with_level_poses_are_dropped_unless_the_user_says_what_holds(
    tmp_path,
):
    write(tmp_path, [3] * N, posed_on="turned")
    capture, counts, _ = read(tmp_path)
    assert not capture.frames
    assert counts == {"frame_orientation": N}
    capture, counts, photos = read(tmp_path, ExifRule.photos)
    check_upright(capture, photos, SIZE)
    assert counts == {"turned": N}
    capture, counts, photos = read(tmp_path, ExifRule.stored)
    assert counts == {}
    assert np.array_equal(photos[3], np.rot90(upright_photo(3, SIZE), 2))


def test_a_build_says_which_photos_it_turned_and_which_it_dropped(tmp_path, capsys):
    write(tmp_path / "level", [3] * N, posed_on="turned")
    with pytest.raises(
        UserError, match=r"frame_orientation 16 times.*set source\.exif=stored"
    ):
        build(config(tmp_path / "level", tmp_path / "out"))
    write(tmp_path / "sideways", [6] * N, posed_on="stored")
    build(config(tmp_path / "sideways", tmp_path / "out"))
    assert "16 photos turned by their EXIF orientation" in capsys.readouterr().out
    rejects = json.loads((tmp_path / "out" / "rejects.json").read_text())
    assert rejects["frames"] == {"turned": N, "usable": N}


def config(root, out) -> BuildConfig:
    return BuildConfig(
        source=SourceConfig(kind=SourceKind.colmap, root=str(root), ordered=False),
        pairs=PairConfig(val_fraction=0.0, test_fraction=0.0),
        image=ImageConfig(max_pixels=4096, multiple=16),
        out=str(out),
        workers=1,
    )


def test_a_stale_tag_turns_nothing(tmp_path):
    """The pixels were turned by a program that left the tag behind: poses stand upright."""
    write(tmp_path, [1] * N, posed_on="stored")
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (tmp_path / "cup" / "images").iterdir():
        Image.open(path).save(path, exif=exif)
    capture, counts, photos = read(tmp_path)
    check_upright(capture, photos, SIZE)
    assert counts == {}


def test_mirrored_photos_are_dropped_and_counted(tmp_path):
    write(tmp_path, [1] * N, posed_on="stored")
    exif = Image.Exif()
    exif[0x0112] = 2
    path = tmp_path / "cup" / "images" / "004.png"
    Image.open(path).save(path, exif=exif)
    capture, counts, _ = read(tmp_path)
    assert (len(capture.frames), counts) == (N - 1, {"frame_mirrored": 1})


def test_turned_cameras_give_the_up_direction_of_the_scene(tmp_path):
    write(tmp_path, [6] * N, posed_on="stored")
    capture, _, _ = read(tmp_path)
    up = estimate_up(np.stack([frame.R for frame in capture.frames]))
    assert not up.sideways
    assert up.up == pytest.approx([0, 0, 1], abs=1e-6)
