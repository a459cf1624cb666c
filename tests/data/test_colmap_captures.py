"""Reading posed captures: files are read exactly, and broken ones are counted one by one."""

import json
import os
import struct

import numpy as np
import pycolmap
import pytest
from PIL import Image
from support.posed_captures import SIZE, arc, pack_triple, random_similarity, write_capture

from actial.config import SourceConfig, SourceKind
from actial.core.errors import Rejected, UserError
from actial.data.sources.colmap_reader import read_model
from actial.data.sources.open_source import open_source
from actial.viewpoint.lens import pixel_ray, project


def source(root, kind=SourceKind.mvimgnet, **settings):
    return open_source(SourceConfig(kind=kind, root=str(root), **settings))


@pytest.fixture
def root(tmp_path):
    write_capture(
        tmp_path / "7" / "0000abcd", arc(**random_similarity(np.random.default_rng(5)))
    )
    return tmp_path


def read(root, reference="7/0000abcd", **settings):
    return source(root, **settings).read(reference)


def test_poses_names_and_ids_are_read_exactly(root):
    R, t = arc(**random_similarity(np.random.default_rng(5))).poses()
    capture, dropped = read(root)
    assert not dropped
    assert [f.name for f in capture.frames] == [f"{i:03d}.jpg" for i in range(16)]
    assert np.stack([f.R for f in capture.frames]) == pytest.approx(R, abs=1e-12)
    assert np.stack([f.t for f in capture.frames]) == pytest.approx(t)
    assert (capture.class_id, capture.object_id, capture.group_id) == (
        "7",
        "0000abcd",
        "7/0000abcd",
    )
    assert (capture.files_total, len(capture.points)) == (16, 120)
    assert (capture.point_tracks == 16).all()
    assert capture.reprojection_error_px == pytest.approx(0.3)
    frame = capture.frames[0]
    assert frame.distortion == ("SIMPLE_RADIAL", (90.0, 48.0, 32.0, 0.0))
    assert pytest.approx(np.array([[90, 0, 48], [0, 90, 32], [0, 0, 1]])) == frame.K


def test_projection_and_rays_undo_each_other_under_distortion(root):
    frame = read(root)[0].frames[3]
    frame.distortion = ("OPENCV", (90.0, 95.0, 47.0, 31.0, 0.1, 0.02, 0.001, -0.002))
    point = frame.center + 4 * frame.R[2] + 0.5 * frame.R[0]
    ray = pixel_ray(frame, project(frame, point[None])[0])
    assert ray == pytest.approx(
        (point - frame.center) / np.linalg.norm(point - frame.center), abs=1e-9
    )
    assert np.isnan(project(frame, frame.center[None] - frame.R[2])).all()


def test_exif_orientation_is_never_applied(tmp_path):
    write_capture(tmp_path / "cup", arc(), exif_orientation=6)
    photos = source(tmp_path, SourceKind.colmap)
    capture, dropped = photos.read("cup")
    assert (len(capture.frames), dropped) == (16, {})
    assert photos.pixels("cup", "000.jpg").shape == (SIZE[1], SIZE[0], 3)


def test_bad_photos_are_dropped_and_counted(root):
    images = root / "7" / "0000abcd" / "images"
    (images / "000.jpg").unlink()
    Image.new("RGB", (SIZE[1], SIZE[0])).save(
        images / "001.jpg"
    )  # portrait, as if EXIF had been applied
    (images / "002.jpg").write_bytes(b"\xff\xd8no picture")
    (images / "003.jpg").write_bytes((images / "003.jpg").read_bytes()[:-400])
    capture, dropped = read(root)
    assert dropped == {"frame_missing": 1, "frame_size": 1, "frame_unreadable": 1}
    assert len(capture.frames) == 13
    with pytest.raises(
        Rejected, match="frame_unreadable"
    ):  # its header is whole; the cut shows when it is decoded
        source(root).pixels("7/0000abcd", "003.jpg")


def test_names_may_not_leave_the_capture(root):
    names = [
        "../../../etc/passwd",
        "/etc/passwd",
        "a\\..\\b.jpg",
        *[f"{i:03d}.jpg" for i in range(3, 16)],
    ]
    for name, data in pack_triple(arc(), names).items():
        (root / "7" / "0000abcd" / "sparse" / "0" / name).write_bytes(data)
    capture, dropped = read(root)
    assert dropped == {"frame_name": 3}
    assert len(capture.frames) == 13


def test_a_decompression_bomb_is_dropped_by_its_header(root):
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60_000, 60_000, 8, 2, 0, 0, 0)
        + b"\0" * 40
    )
    (root / "7" / "0000abcd" / "images" / "000.jpg").write_bytes(bomb)
    assert read(root)[1] == {"frame_unreadable": 1}


def test_pipes_folders_and_links_to_nowhere_under_photos_names_are_counted(root):
    """A pipe would make its reader wait forever."""
    images = root / "7" / "0000abcd" / "images"
    for name in ("000.jpg", "001.jpg", "002.jpg", "003.jpg"):
        (images / name).unlink()
    os.mkfifo(images / "000.jpg")
    (images / "001.jpg").mkdir()
    (images / "002.jpg").symlink_to("nowhere.jpg")
    (images / "003.jpg").symlink_to("/dev/zero")
    capture, dropped = read(root)
    assert dropped == {"frame_unreadable": 2, "frame_missing": 2}
    assert len(capture.frames) == 12
    with pytest.raises(Rejected, match="frame_unreadable"):
        source(root).pixels("7/0000abcd", "000.jpg")


def test_missing_sparse_or_images_reject_the_capture(root):
    folder = root / "7" / "0000abcd"
    (folder / "images").rename(folder / "photos")
    with pytest.raises(Rejected) as caught:
        read(root)
    assert caught.value.reasons == ("no_images",)
    (folder / "sparse" / "0" / "points3D.bin").unlink()
    with pytest.raises(Rejected) as caught:
        read(root)
    assert caught.value.reasons == ("no_sparse",)


def _corruptions():
    good = pack_triple(arc(n=3), [f"{i}.jpg" for i in range(3)], points=4)
    cameras, images, points = good["cameras.bin"], good["images.bin"], good["points3D.bin"]
    huge = struct.pack("<Q", 2**62)
    yield "camera count", "cameras.bin", huge + cameras[8:]
    yield "camera model", "cameras.bin", cameras[:12] + struct.pack("<i", 99) + cameras[16:]
    yield "camera size", "cameras.bin", cameras[:16] + struct.pack("<Q", 2**40) + cameras[24:]
    yield "camera nan", "cameras.bin", cameras[:32] + struct.pack("<d", np.nan) + cameras[40:]
    yield "image count", "images.bin", huge + images[8:]
    yield (
        "observation count",
        "images.bin",
        images[:8] + images[8:].replace(struct.pack("<Q", 4), huge, 1),
    )
    yield "unknown camera", "images.bin", images[:68] + struct.pack("<i", 5) + images[72:]
    yield "repeated name", "images.bin", images.replace(b"1.jpg", b"0.jpg")
    yield "point count", "points3D.bin", huge + points[8:]
    yield "track length", "points3D.bin", points[:51] + huge + points[59:]
    yield (
        "track to nowhere",
        "points3D.bin",
        points[:59] + struct.pack("<ii", 1, 77) + points[67:],
    )
    yield (
        "track to another point",
        "points3D.bin",
        points[:59] + struct.pack("<ii", 1, 2) + points[67:],
    )
    yield "trailing bytes", "points3D.bin", points + b"\0"


@pytest.mark.parametrize(
    ("what", "name", "data"), [pytest.param(*c, id=c[0]) for c in _corruptions()]
)
def test_corrupt_triples_are_rejected_before_pycolmap_sees_them(tmp_path, what, name, data):
    good = pack_triple(arc(n=3), [f"{i}.jpg" for i in range(3)], points=4)
    for other, content in good.items():
        (tmp_path / other).write_bytes(content)
    assert len(read_model(tmp_path).views) == 3
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Rejected) as caught:
        read_model(tmp_path)
    assert caught.value.reasons == ("sparse_corrupt",)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_triples_cut_at_any_byte_are_rejected(tmp_path, name):
    good = pack_triple(arc(n=3), [f"{i}.jpg" for i in range(3)], points=4)
    for other, content in good.items():
        (tmp_path / other).write_bytes(content)
    for size in range(0, len(good[name]), 7):
        (tmp_path / name).write_bytes(good[name][:size])
        with pytest.raises(Rejected, match="sparse_corrupt"):
            read_model(tmp_path)


def test_models_written_by_pycolmap_are_read(root, tmp_path):
    """The modern writer leaves rigs.bin and frames.bin beside the triple."""
    folder = root / "7" / "0000abcd" / "sparse" / "0"
    before = read_model(folder)
    pycolmap.Reconstruction(str(folder)).write_binary(str(folder))
    assert (folder / "rigs.bin").is_file()
    after = read_model(folder)
    assert [v.name for v in after.views] == [v.name for v in before.views]
    assert np.stack([v.R for v in after.views]) == pytest.approx(
        np.stack([v.R for v in before.views])
    )


def test_listing_and_empty_roots(root, tmp_path):
    assert source(root).captures() == ["7/0000abcd"]
    assert source(root / "7", SourceKind.colmap).captures() == ["0000abcd"]
    assert source(root / "7" / "0000abcd", SourceKind.colmap).captures() == ["."]
    empty = tmp_path / "empty"
    empty.mkdir()
    for kind in (SourceKind.mvimgnet, SourceKind.procedural, SourceKind.colmap):
        with pytest.raises(UserError, match="holds no capture"):
            source(empty, kind).captures()
    with pytest.raises(UserError, match="is not a folder"):
        source(empty / "nowhere").captures()
    for folder in ("root", "mask_root"):
        given = {"root": str(empty), folder: ""}
        with pytest.raises(UserError, match=rf"source\.{folder}= is not a folder"):
            open_source(SourceConfig(kind=SourceKind.colmap, **given))


def test_class_names_come_from_the_category_list_with_its_stray_spaces(root):
    (root / "names.txt").write_text("0,bottle\n7,Toy butterfly \n")
    assert read(root, category_file=str(root / "names.txt"))[0].class_name == "Toy butterfly"
    assert read(root)[0].class_name == "7"


def test_the_sidecar_of_procedural_objects(root):
    sidecar = root / "7" / "0000abcd" / "object.json"
    sidecar.write_text(
        json.dumps(
            {
                "class_name": "cup",
                "front": [0, 1, 0],
                "centre": [1, 2, 3],
                "attributes": {"body_colour": "red"},
            }
        )
    )
    capture, _ = read(root, kind=SourceKind.procedural)
    assert (capture.class_name, capture.attributes) == ("cup", {"body_colour": "red"})
    assert capture.front_prior == pytest.approx([0, 1, 0])
    assert capture.center_prior == pytest.approx([1, 2, 3])
    sidecar.write_text('{"class_name": "cup", "front": [0, 1]}')
    with pytest.raises(Rejected, match="sidecar"):
        read(root, kind=SourceKind.procedural)


def test_masks_lie_inside_the_capture_or_under_their_own_root(root, tmp_path):
    own = tmp_path / "masks" / "7" / "0000abcd"
    own.mkdir(parents=True)
    Image.new("L", (8, 8)).save(own / "001.jpg.png")
    capture, _ = read(root, mask_root=str(tmp_path / "masks"))
    assert [f.mask_path is not None for f in capture.frames[:3]] == [False, True, False]
    inner = root / "7" / "0000abcd" / "masks"
    inner.mkdir()
    Image.new("L", (8, 8)).save(inner / "002.png")
    assert [f.mask_path is not None for f in read(root)[0].frames[:3]] == [False, False, True]
