"""COLMAP captures in the layouts, forms and states in which people keep them."""

from __future__ import annotations

import os
import shutil
import struct
import unicodedata
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image
from support.posed_captures import FOCAL, SIZE, arc, pack_triple, write_capture

from actial.config import GateConfig, SourceConfig, SourceKind
from actial.core.errors import Rejected, UserError
from actial.core.records import Capture
from actial.data.sources.colmap_model import find_models
from actial.data.sources.colmap_reader import read_model
from actial.data.sources.open_source import open_source
from actial.viewpoint.lens import camera_models
from actial.viewpoint.quality_gates import judge_capture

N = 16
NAMES = [f"{i:03d}.jpg" for i in range(N)]


def source(root: Path, kind: SourceKind = SourceKind.colmap, **settings):
    return open_source(SourceConfig(kind=kind, root=str(root), ordered=False, **settings))


def only(root: Path, kind: SourceKind = SourceKind.colmap, **settings) -> Capture:
    """The one capture below `root`, all of whose photos decode."""
    opened = source(root, kind, **settings)
    (reference,) = opened.captures()
    capture, _ = opened.read(reference)
    for frame in capture.frames:
        assert opened.pixels(reference, frame.name).shape[2] == 3
    return capture


def write_model(folder: Path, frames: int = N) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rig = arc(N)
    rig.azimuth = rig.azimuth[:frames]
    for name, data in pack_triple(rig, NAMES[:frames]).items():
        (folder / name).write_bytes(data)


@pytest.fixture
def cup(tmp_path) -> Path:
    return write_capture(tmp_path / "root" / "cup", arc(N))


# ---------------------------------------------------------------- layouts


def test_the_largest_of_several_models_is_read(cup):
    shutil.rmtree(cup / "sparse")
    for number, frames in (("0", 3), ("1", N), ("10", 5)):
        write_model(cup / "sparse" / number, frames)
    assert len(only(cup.parent).frames) == N


def test_of_equal_models_the_first_is_read(cup):
    write_model(cup / "sparse" / "1")
    assert next(iter(find_models(cup / "sparse"))).folder.name == "0"
    (cup / "sparse" / "1" / "points3D.bin").write_bytes(b"broken")
    assert len(only(cup.parent).frames) == N


def test_a_model_whose_header_claims_too_much_is_not_the_largest(cup):
    write_model(cup / "sparse" / "1")
    (cup / "sparse" / "1" / "images.bin").write_bytes(struct.pack("<Q", 2**40) + bytes(100))
    assert len(only(cup.parent).frames) == N


def test_another_model_takes_the_place_of_a_broken_one(cup):
    broken = cup / "sparse" / "0" / "images.bin"
    broken.write_bytes(broken.read_bytes()[:-50])
    with pytest.raises(Rejected, match=r"sparse_corrupt.*0/images\.bin: claims 120"):
        source(cup.parent).read("cup")
    write_model(cup / "sparse" / "1", 12)
    write_model(cup / "sparse" / "2", 3)
    capture, counts = source(cup.parent).read("cup")
    assert (len(capture.frames), counts) == (12, {"models_broken": 1})
    assert "0/images.bin: claims 120" in counts.examples["models_broken"]


def test_the_larger_of_two_forms_of_a_model_is_read(cup):
    folder = cup / "sparse" / "0"
    pycolmap.Reconstruction(str(folder)).write_text(str(folder))
    write_model(folder, 3)
    assert len(only(cup.parent).frames) == N


def test_an_empty_folder_of_photos_gives_way_to_a_filled_one(cup):
    (cup / "images").rename(cup / "images_4")
    (cup / "images").mkdir()
    (cup / "images" / ".gitkeep").write_text("")
    assert len(only(cup.parent).frames) == N


def test_a_model_in_sparse_itself_is_read(cup):
    for path in (cup / "sparse" / "0").iterdir():
        path.rename(cup / "sparse" / path.name)
    (cup / "sparse" / "0").rmdir()
    assert len(only(cup.parent).frames) == N


LAYOUTS = {
    "colmap": [],
    "undistorter beside": [("images", "dense/images"), ("sparse/0", "dense/sparse")],
    "3dgs": [("images", "input"), ("sparse", "distorted/sparse")],
    "masks and depth": [("images", "masks"), ("images", "stereo/depth_maps")],
    "smaller copies": [("images", "images_2"), ("images", "images_4")],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_root_itself_is_the_capture_whatever_lies_beside_its_photos(cup, name):
    for original, copy in LAYOUTS[name]:
        shutil.copytree(cup / original, cup / copy)
    assert source(cup).captures() == ["."]
    assert only(cup).class_id == "cup"


@pytest.mark.parametrize(
    ("moves", "reference"),
    [
        ([("sparse", "colmap/sparse")], "."),  # nerfstudio
        ([("images", "dense/images"), ("sparse/0", "dense/sparse")], "dense"),
        ([("images", "0/images"), ("sparse/0", "0/sparse")], "0"),  # automatic reconstructor
        ([("images", "input"), ("sparse", "distorted/sparse")], "."),
        ([("images", "images_4")], "."),
    ],
)
def test_photos_and_model_are_paired_in_every_tools_layout(cup, moves, reference):
    for old, new in moves:
        (cup / new).parent.mkdir(exist_ok=True, parents=True)
        (cup / old).rename(cup / new)
    if (cup / "sparse").is_dir() and not os.listdir(cup / "sparse"):
        (cup / "sparse").rmdir()
    assert source(cup).captures() == [reference]
    capture = only(cup)
    assert len(capture.frames) == N
    assert capture.object_id == ("0" if reference == "0" else "cup")


def test_captures_lie_at_any_depth(tmp_path):
    write_capture(tmp_path / "mvi_00" / "7" / "0000abcd", arc(N))
    capture = only(tmp_path, SourceKind.mvimgnet)
    assert (capture.class_id, capture.object_id) == ("7", "0000abcd")
    deep = only(tmp_path)
    assert deep.object_id == "mvi_00/7/0000abcd"


@pytest.mark.parametrize(
    "names",
    [
        ["cup", "mask", "masks", "depth", "depths", "input", "colmap", "stereo"],
        ["mask/0000aaaa", "mask/0000bbbb", "7/0000cccc"],
        ["colmap/cup"],
        ["mask"],
        ["cup/colmap"],
    ],
)
def test_captures_may_be_called_as_parts_of_captures_are(tmp_path, names):
    for name in names:
        write_capture(tmp_path / name, arc(N))
    opened = source(tmp_path)
    assert opened.captures() == sorted(names)
    assert all(len(opened.read(name)[0].frames) == N for name in names)


def test_captures_inside_another_are_counted_and_not_read(cup):
    shutil.copytree(cup, cup / "dense")  # the capture's own photos, undistorted
    shutil.copytree(cup / "images", cup / "notes" / "images")
    assert source(cup).read(".")[1] == {}
    for name in ("other1", "more/other2"):
        write_capture(cup / name, arc(N))
    assert source(cup).captures() == ["."]
    assert source(cup).read(".")[1] == {"captures_below": 2}


@pytest.mark.parametrize("kind", [SourceKind.colmap, SourceKind.nerfstudio])
def test_captures_in_many_folders_are_read_beside_others(cup, kind):
    (cup / "transforms.json").write_text("{}")
    deep = cup.parent / "a/b/c/d/e/f/g/h"
    shutil.copytree(cup, deep)
    assert source(cup.parent, kind).captures() == ["a/b/c/d/e/f/g/h", "cup"]


def test_links_that_lead_to_each_other_are_followed_once(cup):
    for name, other in (("left", "right"), ("right", "left")):
        (cup.parent / name).mkdir()
        (cup.parent / name / "link").symlink_to(f"../{other}")
    cup.rename(cup.parent / "left" / "cup")
    assert source(cup.parent).captures() == ["left/cup", "right/link/cup"]


@pytest.mark.parametrize("target", ["all", "."])
@pytest.mark.parametrize("kind", [SourceKind.colmap, SourceKind.nerfstudio])
def test_a_link_that_leads_in_a_circle_lists_nothing_twice(cup, target, kind):
    (cup / "transforms.json").write_text("{}")
    (cup.parent / "all").symlink_to(target)
    assert source(cup.parent, kind).captures() == ["cup"]


def test_the_same_object_twice_is_refused(tmp_path):
    for archive in ("mvi_00", "mvi_01"):
        write_capture(tmp_path / archive / "7" / "0000abcd", arc(N))
    with pytest.raises(UserError, match="holds the object 7/0000abcd twice"):
        source(tmp_path, SourceKind.mvimgnet).captures()


def test_a_folder_without_a_model_is_listed_and_says_what_it_holds(cup):
    (cup / "sparse" / "0" / "cameras.bin").unlink()
    assert source(cup.parent).captures() == ["cup"]
    with pytest.raises(
        Rejected, match=r"no_sparse.*0 has a COLMAP model without cameras\.bin"
    ):
        source(cup.parent).read("cup")
    for name in ("images.bin", "points3D.bin"):
        (cup / "sparse" / "0" / name).unlink()
    with pytest.raises(Rejected, match=r"no_sparse.*it holds 0"):
        source(cup.parent).read("cup")


# ---------------------------------------------------------------- forms of models


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_text_model_is_read_as_the_binary_one(cup, newline):
    folder = cup / "sparse" / "0"
    binary = read_model(folder)
    pycolmap.Reconstruction(str(folder)).write_text(str(folder))
    for path in folder.glob("*.bin"):
        path.unlink()
    for path in folder.glob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", newline.encode()))
    text = read_model(folder)
    assert [view.name for view in text.views] == [view.name for view in binary.views]
    for view, expected in zip(text.views, binary.views, strict=True):
        assert pytest.approx(expected.R, abs=1e-9) == view.R
        assert view.t == pytest.approx(expected.t, abs=1e-9)
        assert view.distortion == expected.distortion
    assert sorted(map(tuple, text.points.round(6))) == sorted(
        map(tuple, binary.points.round(6))
    )
    assert text.reprojection_error_px == pytest.approx(binary.reprojection_error_px)


@pytest.mark.parametrize(
    ("file", "old", "new", "outcome"),
    [
        ("cameras.txt", " 96 64 ", " 96.0 6.4e1 ", {}),
        ("cameras.txt", " 96 64 90", " 96 64 0", {"frame_lens": N}),
        ("images.txt", "\n16 ", f"\n{10**20} ", "too large"),
    ],
)
def test_numbers_of_text_models_are_read_or_named(cup, file, old, new, outcome):
    folder = cup / "sparse" / "0"
    pycolmap.Reconstruction(str(folder)).write_text(str(folder))
    for path in folder.glob("*.bin"):
        path.unlink()
    (folder / "cameras.txt").write_text("1 PINHOLE 96 64 90 90 48 32\n")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    if isinstance(outcome, str):
        with pytest.raises(Rejected, match=f"sparse_corrupt.*{outcome}"):
            source(cup.parent).read("cup")
    else:
        assert source(cup.parent).read("cup")[1] == outcome


def test_an_image_that_sees_no_point_and_a_broken_line_in_text_models(tmp_path):
    (tmp_path / "cameras.txt").write_text("# a comment\n1 PINHOLE 96 64 90 90 48 32\n")
    (tmp_path / "images.txt").write_text(
        "1 1 0 0 0 0 0 4 1 a b.jpg\n\n2 1 0 0 0 0 0 5 1 c.jpg\n1.5 2.5 7\n"
    )
    (tmp_path / "points3D.txt").write_text("7 0 0 0 1 2 3 0.4 2 0\n")
    model = read_model(tmp_path)
    assert [view.name for view in model.views] == ["a b.jpg", "c.jpg"]
    assert model.tracks.tolist() == [1]
    for name in ("cameras", "images", "points3D"):
        whole = (tmp_path / f"{name}.txt").read_text()
        (tmp_path / f"{name}.txt").write_text(whole + "nonsense 1 2\n")
        with pytest.raises(Rejected, match=rf"sparse_corrupt.*{name}\.txt"):
            read_model(tmp_path)
        (tmp_path / f"{name}.txt").write_text(whole)


@pytest.mark.parametrize("model", [m for m in camera_models() if m != 17])
def test_every_camera_model_of_the_installed_pycolmap_is_read(cup, model):
    name, count = camera_models()[model]
    camera = pycolmap.Camera.create_from_model_name(1, name, FOCAL, *SIZE)
    packed = struct.pack("<QIiQQ", 1, 1, model, *SIZE) + struct.pack(
        f"<{count}d", *camera.params
    )
    (cup / "sparse" / "0" / "cameras.bin").write_bytes(packed)
    capture = only(cup.parent)
    assert len(capture.frames) == N
    assert capture.frames[0].K[0, 0] == pytest.approx(FOCAL)


def test_panoramas_and_unknown_models_are_named(cup):
    path = cup / "sparse" / "0" / "cameras.bin"
    path.write_bytes(struct.pack("<QIiQQ2d", 1, 1, 17, *SIZE, *SIZE))
    with pytest.raises(Rejected, match=r"camera_model.*EQUIRECTANGULAR"):
        source(cup.parent).read("cup")
    path.write_bytes(struct.pack("<QIiQQ2d", 1, 1, 99, *SIZE, *SIZE))
    with pytest.raises(Rejected, match="model 99, which is not one of pycolmap's"):
        source(cup.parent).read("cup")


def test_a_model_without_points_passes_where_no_points_are_required(cup):
    points = cup / "sparse" / "0" / "points3D.bin"
    write = pack_triple(arc(N), NAMES, points=0)
    for name, data in write.items():
        (points.parent / name).write_bytes(data)
    capture = only(cup.parent)
    assert capture.reprojection_error_px is None
    assert (
        judge_capture(capture, GateConfig(min_points=0), ordered=False).center_method == "axes"
    )
    with pytest.raises(Rejected, match="few_points"):
        judge_capture(capture, GateConfig(), ordered=False)


def test_points_and_images_taken_away_by_a_script_are_not_missed(cup):
    folder = cup / "sparse" / "0"
    rig = arc(N)
    fewer_points = pack_triple(rig, NAMES, points=100)["points3D.bin"]
    (folder / "points3D.bin").write_bytes(fewer_points)
    assert len(only(cup.parent).points) == 100
    rig.azimuth = rig.azimuth[:15]
    (folder / "images.bin").write_bytes(pack_triple(rig, NAMES[:15])["images.bin"])
    assert len(only(cup.parent).frames) == 15


@pytest.mark.parametrize("field", [4, 20, 36])  # bytes behind the id: quaternion, position
def test_an_image_whose_pose_is_nan_costs_itself(cup, field):
    path = cup / "sparse" / "0" / "images.bin"
    data = bytearray(path.read_bytes())
    data[8 + field : 16 + field] = struct.pack("<d", np.nan)
    path.write_bytes(bytes(data))
    capture, counts = source(cup.parent).read("cup")
    assert counts == {"frame_pose": 1}
    assert len(capture.frames) == len(NAMES) - 1


@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (0.5, 0, 0, 0), (1e10, 0, 0, 0)])
def test_an_image_whose_quaternion_is_none_costs_itself(cup, quaternion):
    path = cup / "sparse" / "0" / "images.bin"
    data = bytearray(path.read_bytes())
    data[12:44] = struct.pack("<4d", *quaternion)
    path.write_bytes(bytes(data))
    capture, counts = source(cup.parent).read("cup")
    assert (len(capture.frames), counts) == (N - 1, {"frame_pose": 1})


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e10])
def test_a_point_without_coordinates_costs_itself(cup, value):
    path = cup / "sparse" / "0" / "points3D.bin"
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack("<d", value)
    path.write_bytes(bytes(data))
    capture, counts = source(cup.parent).read("cup")
    assert (len(capture.points), len(capture.point_tracks)) == (119, 119)
    assert (len(capture.frames), counts) == (N, {"points_lost": 1})
    judge_capture(capture, GateConfig(), ordered=False)


def test_quaternions_of_one_other_length_are_rotations(cup):
    images = cup / "sparse" / "0" / "images.bin"
    data = bytearray(images.read_bytes())
    expected = [view.R for view in read_model(images.parent).views]
    at = 8
    for name in NAMES:
        quaternion = np.frombuffer(bytes(data), "<f8", 4, at + 4) * 2
        data[at + 4 : at + 36] = quaternion.tobytes()
        at += 64 + len(name) + 1
        at += 8 + 24 * int.from_bytes(data[at : at + 8], "little")
    images.write_bytes(bytes(data))
    rotations = np.stack([view.R for view in read_model(images.parent).views])
    assert rotations == pytest.approx(np.stack(expected))


# ---------------------------------------------------------------- photos and their names


def rename_in_model(cup: Path, old: bytes, new: bytes) -> None:
    path = cup / "sparse" / "0" / "images.bin"
    path.write_bytes(path.read_bytes().replace(old + b"\0", new + b"\0"))


@pytest.mark.parametrize(
    ("in_model", "on_disk"),
    [
        ("café.jpg".encode(), "café.jpg".encode()),
        ("caf\xe9.jpg".encode("latin-1"), "café.jpg".encode()),  # COLMAP on Windows
        ("caf\xe9.jpg".encode("latin-1"), "caf\xe9.jpg".encode("latin-1")),
        ("café.jpg".encode(), unicodedata.normalize("NFD", "café.jpg").encode()),  # macOS
        ("图 1/照.jpg".encode(), "图 1/照.jpg".encode()),
        (b"000.jpg", b"000.JPG"),
        (b"left\\000.jpg", b"left/000.jpg"),  # of a Windows tool
    ],
)
def test_names_in_any_bytes_lead_to_their_photo(cup, in_model, on_disk):
    rename_in_model(cup, b"000.jpg", in_model)
    target = os.fsencode(cup / "images") + b"/" + on_disk
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(os.fsencode(cup / "images" / "000.jpg"), target)
    capture = only(cup.parent)
    assert len(capture.frames) == N
    for frame in capture.frames:
        frame.name.encode()  # what goes into the index


def test_a_name_too_long_for_the_file_system_costs_its_photo(cup):
    rename_in_model(cup, b"000.jpg", b"x" * 300 + b".jpg")
    capture, counts = source(cup.parent).read("cup")
    assert (len(capture.frames), counts) == (N - 1, {"frame_unreadable": 1})


def test_two_images_that_lead_to_one_photo_are_dropped(cup):
    rename_in_model(cup, b"008.jpg", b"A.jpg")
    rename_in_model(cup, b"000.jpg", b"a.jpg")
    (cup / "images" / "008.jpg").unlink()
    (cup / "images" / "000.jpg").rename(cup / "images" / "a.JPG")
    capture, counts = source(cup.parent).read("cup")
    assert (len(capture.frames), counts) == (N - 2, {"frame_repeated": 2})


def test_a_folder_in_any_bytes_is_a_capture(cup):
    os.rename(cup, os.fsencode(cup.parent) + b"/caf\xe9 #1")
    capture = only(cup.parent)
    assert (len(capture.frames), capture.object_id) == (N, "caf\xe9 #1")


def test_what_programs_leave_beside_photos_is_not_counted(cup):
    for name in NAMES:
        (cup / "images" / f"._{name}").write_bytes(b"\0\5\x16\7" + bytes(100))
        shutil.copy(cup / "images" / name, cup / "images" / f"{name[:3]}_bg_removed.jpg")
    (cup / "images" / "__MACOSX").mkdir()
    shutil.copy(cup / "images" / "000.jpg", cup / "images" / "__MACOSX" / "000.jpg")
    assert only(cup.parent).files_total == N


@pytest.mark.parametrize(
    "copy",
    [
        "@eaDir/{stem}.jpg/SYNOPHOTO_THUMB_XL.jpg",
        ".Trashes/{stem}.jpg",
        "#recycle/other_{stem}.jpg",
        "thumbnails/{stem}.jpg",
        "masks/{stem}.jpg.png",
        "{stem}_depth.png",
        "{stem}.HEIC",
    ],
)
def test_copies_of_posed_photos_are_not_photos_without_a_pose(cup, copy):
    for name in NAMES:
        path = cup / "images" / copy.format(stem=name[:3])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((cup / "images" / name).read_bytes())
    assert only(cup.parent).files_total == N


def test_photos_of_another_camera_without_poses_are_counted(cup):
    for name in NAMES:
        rename_in_model(cup, name.encode(), f"left/{name}".encode())
        for camera in ("left", "right"):
            (cup / "images" / camera).mkdir(exist_ok=True)
            shutil.copy(cup / "images" / name, cup / "images" / camera / name)
        (cup / "images" / name).unlink()
    capture = only(cup.parent)
    assert (len(capture.frames), capture.files_total) == (N, 2 * N)


@pytest.mark.parametrize("factor", [0.5, 2.0, 0.75])
def test_photos_at_another_size_scale_the_intrinsics(cup, factor):
    size = tuple(round(side * factor) for side in SIZE)
    for path in (cup / "images").iterdir():
        Image.open(path).resize(size).save(path)
    capture, counts = source(cup.parent).read("cup")
    assert counts == {"rescaled": N}
    frame = capture.frames[0]
    assert (frame.width, frame.height) == size
    assert pytest.approx(np.diag([factor, factor, 1.0]) @ _camera()) == frame.K


def _camera() -> np.ndarray:
    return np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])


def test_a_single_photo_of_another_size_is_dropped(cup):
    for name, size in (("004.jpg", (48, 32)), ("005.jpg", (40, 40))):
        Image.open(cup / "images" / name).resize(size).save(cup / "images" / name)
    capture, counts = source(cup.parent).read("cup")
    assert (len(capture.frames), counts) == (N - 2, {"frame_size": 2})
    other_size = f"48x32 pixels, most photos of its camera have {SIZE[0]}x{SIZE[1]}"
    assert counts.examples["frame_size"].endswith(other_size)


# ---------------------------------------------------------------- masks


def write_masks(cup: Path, folder: str, name: str, inside: int = 255) -> None:
    for photo in NAMES:
        mask = np.zeros(SIZE[::-1], dtype=np.uint8)
        mask[20:44, 36:60] = inside
        path = cup / folder / name.format(photo=photo, stem=photo[:3])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("masks", "{photo}.png"),
        ("masks", "{stem}.png"),
        ("masks", "{photo}"),
        ("masks", "{stem}_mask.png"),
        ("masks", "mask_{stem}.png"),
        ("mask", "{stem}.tif"),
        ("object_masks", "{photo}.png"),
        ("masks", "{stem}.JPG.PNG"),
    ],
)
def test_masks_are_found_by_the_rules_that_tools_use(cup, folder, name):
    write_masks(cup, folder, name)
    capture, counts = source(cup.parent).read("cup")
    assert counts == {"with_mask": N}
    geometry = judge_capture(capture, GateConfig(), ordered=False)
    assert (geometry.center_method, geometry.usable_masks) == ("masks+points", N)


def test_masks_beside_undistorted_photos_and_below_a_root_of_masks_are_found(cup, tmp_path):
    write_masks(cup, "masks", "{photo}.png")
    shutil.copytree(cup / "masks", tmp_path / "of_all" / "cup" / "masks")
    for name in ("images", "sparse"):
        (cup / "dense").mkdir(exist_ok=True)
        (cup / name).rename(cup / "dense" / name)
    for settings in ({}, {"mask_root": str(tmp_path / "of_all")}):
        capture, counts = source(cup.parent, **settings).read("cup/dense")
        assert counts == {"with_mask": N}
        assert capture.frames[0].mask_path.parent.name == "masks"


@pytest.mark.parametrize("inside", [1, 3, 128, 255])
def test_masks_of_labels_and_of_any_brightness_are_used(cup, inside):
    write_masks(cup, "masks", "{photo}.png", inside)
    capture = only(cup.parent)
    assert judge_capture(capture, GateConfig(), ordered=False).usable_masks == N


@pytest.mark.parametrize("label", [(1, 0, 0), (0, 0, 1), "palette"])
def test_labels_that_look_black_are_masks(cup, label):
    write_masks(cup, "masks", "{photo}.png", 1)
    for path in (cup / "masks").iterdir():
        labels = np.asarray(Image.open(path))
        if label == "palette":
            mask = Image.fromarray(labels)
            mask.putpalette([0] * 768)
        else:
            mask = Image.fromarray(labels[..., None] * np.array(label, dtype=np.uint8))
        mask.save(path)
    capture = only(cup.parent)
    assert judge_capture(capture, GateConfig(), ordered=False).usable_masks == N


def test_an_alpha_channel_and_16_bits_are_masks(cup):
    write_masks(cup, "masks", "{photo}.png")
    for i, path in enumerate(sorted((cup / "masks").iterdir())):
        mask = Image.open(path)
        if i % 2:
            white = Image.new("L", mask.size, 255)
            Image.merge("LA", [white, mask]).save(path)
        else:
            Image.fromarray(np.asarray(mask).astype(np.uint16) * 257).save(path)
    capture = only(cup.parent)
    assert judge_capture(capture, GateConfig(), ordered=False).usable_masks == N


@pytest.mark.parametrize(
    ("shape", "usable"), [((48, 32), N), ((96, 66), N), ((64, 64), 0), ((48, 64), 0)]
)
def test_masks_of_another_shape_than_their_photo_are_not_used(cup, shape, usable):
    """They may be stretched or cut, and the two put the object in different places."""
    write_masks(cup, "masks", "{photo}.png")
    for path in (cup / "masks").iterdir():
        Image.open(path).resize(shape).save(path)
    capture = only(cup.parent)
    assert judge_capture(capture, GateConfig(), ordered=False).usable_masks == usable


def test_masks_follow_the_folders_of_their_photos(cup):
    """Two cameras with photos of the same names: a mask without a folder belongs to neither."""
    for i, name in enumerate(NAMES):
        new = f"cam{i % 2}/{i // 2:03d}.jpg"
        rename_in_model(cup, name.encode(), new.encode())
        (cup / "images" / new).parent.mkdir(exist_ok=True)
        (cup / "images" / name).rename(cup / "images" / new)
        mask = cup / "masks" / (f"{new}.png" if i % 2 else f"{i // 2:03d}.jpg.png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", SIZE).save(mask)
    capture, counts = source(cup.parent).read("cup")
    assert counts == {"with_mask": N // 2, "without_mask": N // 2}
    assert all(
        frame.name.startswith("cam1") == bool(frame.mask_path) for frame in capture.frames
    )


def test_a_mistyped_folder_of_masks_is_said(cup, tmp_path):
    with pytest.raises(UserError, match=r"source\.mask_root=.*is not a folder"):
        source(cup.parent, mask_root=str(tmp_path / "maskz"))
    (tmp_path / "masks" / "cupp").mkdir(parents=True)
    _, counts = source(cup.parent, mask_root=str(tmp_path / "masks")).read("cup")
    assert counts == {"without_mask": N}
