"""The other public layouts, written as their projects document them, give the same labels."""

import gzip
import json
import math
import shutil
import sqlite3
import struct
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.posed_captures import (
    FOCAL,
    SIZE,
    Rig,
    random_similarity,
    to_camera_to_world,
    to_pytorch3d,
    write_capture,
)

import actial.build as command_line
from actial.config import GateConfig, PairConfig, SourceConfig, SourceKind
from actial.core.errors import Rejected, UserError
from actial.data.shards import ShardSet
from actial.data.sources.open_source import open_source
from actial.viewpoint import geometry as g
from actial.viewpoint.pairs import view_pairs
from actial.viewpoint.quality_gates import judge_capture

N = 16
W, H = SIZE
RIG = Rig(azimuth=np.linspace(0, 150, N), **random_similarity(np.random.default_rng(3)))


def photo(i: int) -> Image.Image:
    return Image.new("RGB", SIZE, (10 * i, 255 - 10 * i, 40))


def save_photos(folder: Path, name: str) -> list[str]:
    folder.mkdir(parents=True)
    names = [name.format(i) for i in range(N)]
    for i, file in enumerate(names):
        photo(i).save(folder / file, quality=95)
    return names


def write_mvimgnet(root: Path) -> None:
    write_capture(root / "7" / "0000abcd", RIG)


def write_mvimgnet2(root: Path) -> None:
    write_capture(root / "7" / "0000abcd", RIG)
    (root / "7" / "0000abcd" / "masks").mkdir()
    for i in range(N):
        Image.new("L", SIZE).save(root / "7" / "0000abcd" / "masks" / f"{i:03d}.jpg.png")
    (root / "names.json").write_text('{"7": "toy butterfly"}')


def viewpoint(i: int, form: str = "ndc_norm_image_bounds") -> dict:
    R, t = to_pytorch3d(*(v[i] for v in RIG.poses()))
    half = (W / 2, H / 2) if form == "ndc_norm_image_bounds" else (min(SIZE) / 2,) * 2
    focal = [FOCAL / half[0], FOCAL / half[1]]
    return {
        "R": R.tolist(),
        "T": t.tolist(),
        "focal_length": focal,
        "principal_point": [0, 0],
        "intrinsics_format": form,
    }


def write_jgz(path: Path, value: list) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(value, file)


def write_co3d(root: Path, form: str = "ndc_norm_image_bounds") -> None:
    names = save_photos(root / "apple" / "110_13051" / "images", "frame{:06d}.jpg")
    frames = [
        {
            "sequence_name": "110_13051",
            "frame_number": i,
            "frame_timestamp": i / 10,
            "image": {"path": f"apple/110_13051/images/{name}", "size": [H, W]},
            "mask": {"path": f"apple/110_13051/masks/{name}.png", "mass": 9.0},
            "viewpoint": viewpoint(i, form),
        }
        for i, name in enumerate(names)
    ]
    frames.append({**frames[0], "frame_number": N, "viewpoint": None})
    other = [{**frames[0], "sequence_name": "9_9", "frame_number": i} for i in range(3)]
    write_jgz(root / "apple" / "frame_annotations.jgz", [*other, *reversed(frames)])
    sequences = [
        {"sequence_name": "110_13051", "viewpoint_quality_score": 0.9},
        {"sequence_name": "9_9", "viewpoint_quality_score": -2.0},
    ]
    write_jgz(root / "apple" / "sequence_annotations.jgz", sequences)


def write_uco3d(root: Path) -> None:
    folder = root / "fruit" / "apple" / "1-2-3"
    folder.mkdir(parents=True)
    with av.open(str(folder / "rgb_video.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            W,
            H,
            "yuv420p",
            4_000_000,
        )
        for i in range(2 * N):
            video.mux(stream.encode(av.VideoFrame.from_image(photo(i // 2))))
        video.mux(stream.encode())
    base = sqlite3.connect(root / "metadata.sqlite")
    base.execute(
        "CREATE TABLE frame_annots (sequence_name, frame_number, frame_timestamp, _image_path,"
        " _image_size, _viewpoint_R, _viewpoint_T,"
        " _viewpoint_focal_length, _viewpoint_principal_point,"
        " _viewpoint_colmap_distortion_coeffs, _viewpoint_intrinsics_format)"
    )
    base.execute(
        "CREATE TABLE sequence_annots (sequence_name, category, super_category, _video_path,"
        " _reconstruction_quality_viewpoint)"
    )
    base.execute(
        "INSERT INTO sequence_annots VALUES"
        " ('1-2-3', 'apple', 'fruit', 'fruit/apple/1-2-3/rgb_video.mp4', 0.8)"
    )
    for i in range(N):
        v = viewpoint(i)
        row = [
            struct.pack("2i", H, W),
            struct.pack("9f", *np.ravel(v["R"])),
            struct.pack("3f", *v["T"]),
            struct.pack("2f", *v["focal_length"]),
            struct.pack("2f", 0, 0),
            struct.pack("12f", *([0.0] * 12)),
            "ndc_norm_image_bounds",
        ]
        base.execute(
            f"INSERT INTO frame_annots VALUES ({', '.join('?' * 11)})",
            ["1-2-3", i, 0.2 * i, "unused", *row],
        )
    base.commit()
    base.close()


def write_wildrgbd(root: Path) -> None:
    scene = root / "apple" / "scenes" / "scene_257"
    save_photos(scene / "rgb", "{:05d}.png")
    K = np.array([[FOCAL, 0, W / 2], [0, FOCAL, H / 2], [0, 0, 1]])
    (scene / "metadata").write_text(json.dumps({"w": W, "h": H, "K": K.T.ravel().tolist()}))
    poses = [to_camera_to_world(R, t) for R, t in zip(*RIG.poses(), strict=True)]
    (scene / "cam_poses.txt").write_text(
        "".join(
            f"{i} {' '.join(map(repr, map(float, p.ravel())))}\n" for i, p in enumerate(poses)
        )
    )
    (root / "apple" / "scenes" / "scene_3" / "rgb").mkdir(parents=True)
    (root / "apple" / "types.json").write_text('{"scene_257": "single", "scene_3": "hand"}')


def transforms(names: list[str]) -> dict:
    poses = [
        to_camera_to_world(R, t, g.OPENGL_AXES) for R, t in zip(*RIG.poses(), strict=True)
    ]
    return {
        "frames": [
            {"file_path": name, "transform_matrix": p.tolist()}
            for name, p in zip(names, poses, strict=True)
        ]
    }


def write_nerfstudio(root: Path) -> None:
    names = save_photos(root / "cup" / "images", "frame_{:05d}.png")
    expected_fields = {
        "camera_model": "OPENCV",
        "fl_x": FOCAL,
        "fl_y": FOCAL,
        "cx": W / 2,
        "cy": H / 2,
        "w": W,
        "h": H,
        "k1": 0.01,
    }
    (root / "cup" / "transforms.json").write_text(
        json.dumps({**expected_fields, **transforms([f"images/{name}" for name in names])})
    )


def write_blender(root: Path) -> None:
    save_photos(root / "cup" / "train", "r_{:02d}.png")
    expected_fields = {"camera_angle_x": 2 * np.arctan(W / 2 / FOCAL)}
    (root / "cup" / "transforms_train.json").write_text(
        json.dumps({**expected_fields, **transforms([f"./train/r_{i:02d}" for i in range(N)])})
    )


def write_isotropic_co3d(root: Path) -> None:
    write_co3d(root, "ndc_isotropic")


LAYOUTS = {
    "mvimgnet": (SourceKind.mvimgnet, write_mvimgnet, {}),
    "mvimgnet2": (SourceKind.mvimgnet2, write_mvimgnet2, {}),
    "co3d": (SourceKind.co3d, write_co3d, {"min_quality": 0.0}),
    "co3d isotropic": (SourceKind.co3d, write_isotropic_co3d, {"min_quality": 0.0}),
    "uco3d": (SourceKind.uco3d, write_uco3d, {}),
    "wildrgbd": (SourceKind.wildrgbd, write_wildrgbd, {}),
    "nerfstudio": (SourceKind.nerfstudio, write_nerfstudio, {}),
    "blender": (SourceKind.blender, write_blender, {}),
}


# what CO3D's annotations name and lack: masks that were not fetched, the pose of one frame
MISSING = {name: {"mask_missing": N, "frame_pose": 1} for name in ("co3d", "co3d isotropic")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_cameras_give_the_same_labels_through_every_layout(layout, tmp_path):
    kind, write, settings = LAYOUTS[layout]
    write(tmp_path)
    source = open_source(SourceConfig(kind=kind, root=str(tmp_path), **settings))
    (reference,) = source.captures()
    capture, dropped = source.read(reference)
    assert not dropped.keys() - {"with_mask", *MISSING.get(layout, {})}
    assert dropped.items() >= MISSING.get(layout, {}).items()
    R, t = RIG.poses()
    assert np.stack([f.R for f in capture.frames]) == pytest.approx(
        R, abs=1e-5
    )  # uCO3D stores 32 bits
    assert np.stack([f.t for f in capture.frames]) == pytest.approx(t, abs=1e-5)
    assert np.stack([f.K for f in capture.frames]) == pytest.approx(
        np.array([[[FOCAL, 0, W / 2], [0, FOCAL, H / 2], [0, 0, 1]]] * N)
    )
    rows, _ = view_pairs(
        capture, judge_capture(capture, GateConfig(), ordered=True), GateConfig(), PairConfig()
    )
    assert len(rows) == 12
    for row in rows:
        first, second = (
            next(i for i, f in enumerate(capture.frames) if f.name == name)
            for name in row.frame_names
        )
        alpha = RIG.azimuth[second] - RIG.azimuth[first]
        assert row.geometry.alpha_deg == pytest.approx(alpha, abs=0.01)
        assert row.labels.ego_translation == ("right" if alpha > 0 else "left")
        assert row.labels.ego_rotation_deg == pytest.approx(abs(alpha), abs=0.01)
    if kind not in (SourceKind.mvimgnet, SourceKind.mvimgnet2):
        for i in (3, 11, 4):  # back in a video too
            pixels = source.pixels(reference, capture.frames[i].name)
            assert (
                np.abs(pixels.reshape(-1, 3).mean(axis=0) - [10 * i, 255 - 10 * i, 40]).max()
                < 4
            )


@pytest.mark.parametrize("layout", ["co3d", "uco3d", "wildrgbd", "nerfstudio", "blender"])
def test_every_layout_builds_by_the_command(layout, tmp_path, monkeypatch):
    """From the config group to shards: the frames that records name, whatever file they lie in."""
    _, write, settings = LAYOUTS[layout]
    write(tmp_path / "root")
    words = [
        f"source={layout}",
        f"source.root={tmp_path / 'root'}",
        f"out={tmp_path / 'set'}",
        "dataset=captures",
        "workers=1",
    ]
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "actial.build",
            *words,
            *(f"source.{key}={value}" for key, value in settings.items()),
        ],
    )
    command_line.main()
    built = ShardSet(tmp_path / "set", "test")
    assert len(built) == 12
    for row in built.records:
        for name, pixels in zip(row.frame_names, built.images(row), strict=True):
            i = int("".join(c for c in Path(name).stem if c.isdigit()))
            assert (
                np.abs(pixels.reshape(-1, 3).mean(axis=0) - [10 * i, 255 - 10 * i, 40]).max()
                < 4
            )


def test_mvimgnet2_names_classes_by_its_json(tmp_path):
    write_mvimgnet2(tmp_path)
    names = tmp_path / "names.json"

    def class_name() -> str:
        return (
            source_of(tmp_path, SourceKind.mvimgnet2, category_file=str(names))
            .read("7/0000abcd")[0]
            .class_name
        )

    assert class_name() == "toy butterfly"
    names.write_text('{"Toy butterfly ": 7}')
    assert class_name() == "Toy butterfly"
    names.write_text("[7]")
    with pytest.raises(UserError, match=r"category_file=.* is not a JSON object"):
        class_name()
    names.write_bytes('{"Café": 7}'.encode("latin-1"))
    with pytest.raises(
        UserError, match=r"category_file=.* is no text in UTF-8 \(byte 5 is 0xe9"
    ):
        class_name()


def source_of(root: Path, kind: SourceKind, **settings):
    return open_source(SourceConfig(kind=kind, root=str(root), **settings))


def test_annotations_that_are_cut_short_or_no_array_are_one_sentence(tmp_path):
    write_co3d(tmp_path)
    path = tmp_path / "apple" / "frame_annotations.jgz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(
        Rejected, match=r"category_unreadable.*frame_annotations\.jgz cannot be"
    ):
        source_of(tmp_path, SourceKind.co3d).read("apple/110_13051")
    with gzip.open(path, "wt") as file:
        file.write('[{"sequence_name": "a", ')
    with pytest.raises(Rejected, match="cut short"):
        source_of(tmp_path, SourceKind.co3d).read("apple/110_13051")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metadata.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        source_of(tmp_path / "broken", SourceKind.uco3d).captures()


def test_a_broken_category_is_counted_and_does_not_stop_the_others(tmp_path):
    write_co3d(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "sequence_annotations.jgz").write_bytes(b"<html>Access denied</html>")
    source = source_of(tmp_path, SourceKind.co3d)
    references = source.captures()
    assert references[0] == "apple/110_13051"
    assert len(source.read(references[0])[0].frames) == N
    with pytest.raises(Rejected, match="category_unreadable"):
        source.read("bad/?")
    assert references[-1] == "bad/?"
    (tmp_path / "apple" / "sequence_annotations.jgz").write_bytes(b"")
    with pytest.raises(UserError, match=r"sequence_annotations\.jgz .*fetch it again"):
        source_of(tmp_path, SourceKind.co3d).captures()


def read_co3d(root: Path, change):
    """The capture of write_co3d after `change` of its frames' annotations, and its counts.

    They start complete: with masks, and without the frame that has no viewpoint.
    """
    write_co3d(root)
    path = root / "apple" / "frame_annotations.jgz"
    entries = json.loads(gzip.decompress(path.read_bytes()))
    entries = [entry for entry in entries if entry["viewpoint"] is not None]
    of_sequence = [entry for entry in entries if entry["sequence_name"] == "110_13051"]
    (root / "apple" / "110_13051" / "masks").mkdir()
    for entry in of_sequence:
        Image.new("L", SIZE).save(root / entry["mask"]["path"])
    of_sequence.sort(key=lambda entry: entry["frame_number"])
    change(of_sequence)
    write_jgz(path, entries)
    source = source_of(root, SourceKind.co3d, min_quality=0.0)
    capture, counts = source.read("apple/110_13051")
    for frame in capture.frames:
        assert source.pixels("apple/110_13051", frame.name).shape == (H, W, 3)
    return capture, counts


def test_broken_entries_of_co3d_cost_themselves(tmp_path):
    def spoil(frames: list[dict]) -> None:
        frames[1]["viewpoint"]["R"] = None
        frames[2]["image"] = None
        del frames[3]["viewpoint"]["T"]
        frames[4]["frame_number"] = None
        frames[5]["image"]["size"] = [None, W]
        frames[6]["viewpoint"] = None
        frames[7]["image"]["path"] = None
        frames[8]["image"]["path"] = "/etc/passwd"
        frames[9]["image"]["path"] = "../../secret.jpg"

    capture, counts = read_co3d(tmp_path, spoil)
    remaining = len(capture.frames)
    assert (remaining, capture.files_total) == (N - 9, N)
    assert counts == {
        "frame_entry": 5,
        "frame_pose": 1,
        "frame_name": 3,
        "with_mask": remaining,
    }


@pytest.mark.parametrize(
    "mask", ["/etc/hostname", "../../mask.png", "apple/110_13051/masks/none.png", 7, ["x"]]
)
def test_a_mask_of_co3d_that_is_not_there_costs_only_itself(tmp_path, mask):
    def spoil(frames: list[dict]) -> None:
        frames[3]["mask"] = {"path": mask}
        frames[4]["mask"] = mask
        frames[5]["mask"] = None

    capture, counts = read_co3d(tmp_path, spoil)
    assert (len(capture.frames), counts) == (N, {"with_mask": N - 3, "mask_missing": 2})


@pytest.mark.parametrize(
    "root", ["/home/me/CO3D/", "C:\\data\\", "file:///data/", "{here}/", ""]
)
def test_paths_of_co3d_from_any_machine_lead_to_the_photo(tmp_path, root):
    def respell(frames: list[dict]) -> None:
        prefix = root.format(here=tmp_path)
        for frame in frames:
            for field in (frame["image"], frame["mask"]):
                path = prefix + field["path"]
                field["path"] = path.replace("/", "\\") if prefix[1:2] in ("", ":") else path

    capture, counts = read_co3d(tmp_path, respell)
    assert (len(capture.frames), counts) == (N, {"with_mask": N})
    assert capture.frames[3].name == "apple/110_13051/images/frame000003.jpg"


def test_a_scale_in_the_rotations_of_co3d_is_divided_out(tmp_path):
    def scale(frames: list[dict]) -> None:
        for i, frame in enumerate(frames):
            for field in ("R", "T"):
                value = np.array(frame["viewpoint"][field])
                frame["viewpoint"][field] = (value * (1.5 + i / 10)).tolist()

    capture, counts = read_co3d(tmp_path, scale)
    assert counts == {"rotation_scaled": N, "with_mask": N}
    R, t = RIG.poses()
    assert np.stack([frame.R for frame in capture.frames]) == pytest.approx(R)
    assert np.stack([frame.t for frame in capture.frames]) == pytest.approx(t)


def test_a_photo_with_two_poses_is_dropped_and_a_repeated_entry_changes_nothing(tmp_path):
    write_co3d(tmp_path / "co3d")
    path = tmp_path / "co3d" / "apple" / "frame_annotations.jgz"
    entries = json.loads(gzip.decompress(path.read_bytes()))
    of_sequence = [entry for entry in entries if entry["sequence_name"] == "110_13051"]
    other_pose = of_sequence[8]["viewpoint"]
    entries += [of_sequence[2], {**of_sequence[3], "viewpoint": other_pose}]
    write_jgz(path, entries)
    write_wildrgbd(tmp_path / "wild")
    poses = tmp_path / "wild" / "apple" / "scenes" / "scene_257" / "cam_poses.txt"
    lines = poses.read_text().splitlines()
    other_pose = lines[8].partition(" ")[2]
    poses.write_text("\n".join([*lines, lines[2], f"3 {other_pose}"]))
    for kind, root in ((SourceKind.co3d, "co3d"), (SourceKind.wildrgbd, "wild")):
        source = source_of(tmp_path / root, kind)
        capture, dropped = source.read(source.captures()[0])
        expected = {**MISSING.get(root, {}), "frame_repeated": 2}
        if root == "co3d":
            expected["mask_missing"] += 2  # of the entries that are repeated
        assert (len(capture.frames), dropped) == (N - 1, expected)


def test_sequences_of_co3d_without_a_name_are_named_and_repeated_ones_read_once(tmp_path):
    write_co3d(tmp_path)
    path = tmp_path / "apple" / "sequence_annotations.jgz"
    sequence = {"sequence_name": "110_13051", "viewpoint_quality_score": 1.0}
    write_jgz(
        path, [sequence, sequence, {"sequence_name": "b", "viewpoint_quality_score": "x"}]
    )
    assert source_of(tmp_path, SourceKind.co3d, min_quality=0.0).captures() == [
        "apple/110_13051"
    ]
    write_jgz(path, [{"viewpoint_quality_score": 1.0}])
    with pytest.raises(UserError, match="a sequence has no 'sequence_name'"):
        source_of(tmp_path, SourceKind.co3d).captures()


def test_a_broken_frame_of_uco3d_costs_itself(tmp_path):
    write_uco3d(tmp_path)
    with sqlite3.connect(tmp_path / "metadata.sqlite") as base:
        base.execute("UPDATE frame_annots SET _viewpoint_R = x'00' WHERE frame_number = 3")
        base.execute("UPDATE frame_annots SET _viewpoint_R = NULL WHERE frame_number = 4")
        base.execute("UPDATE frame_annots SET _image_size = NULL WHERE frame_number = 5")
    source = source_of(tmp_path, SourceKind.uco3d)
    capture, dropped = source.read(source.captures()[0])
    assert dropped == {"frame_entry": 2, "frame_pose": 1}
    assert len(capture.frames) == N - 3


def test_a_scale_in_the_rotations_of_uco3d_is_divided_out(tmp_path):
    write_uco3d(tmp_path)
    scaled = 2 * to_pytorch3d(*(v[3] for v in RIG.poses()))[0]
    with sqlite3.connect(tmp_path / "metadata.sqlite") as base:
        base.execute(
            "UPDATE frame_annots SET _viewpoint_R = ? WHERE frame_number = 3",
            [struct.pack("9f", *scaled.ravel())],
        )
    source = source_of(tmp_path, SourceKind.uco3d)
    capture, counts = source.read(source.captures()[0])
    assert (len(capture.frames), counts) == (N, {"rotation_scaled": 1})
    R, t = RIG.poses()
    assert pytest.approx(R[3], abs=1e-6) == capture.frames[3].R
    assert capture.frames[3].t == pytest.approx(t[3] / 2, abs=1e-5)


def test_a_scale_in_the_rotations_of_wildrgbd_is_divided_out(tmp_path):
    write_wildrgbd(tmp_path)
    reference = "apple/scenes/scene_257"
    expected, _ = source_of(tmp_path, SourceKind.wildrgbd).read(reference)
    path = tmp_path / reference / "cam_poses.txt"
    lines = []
    for line in path.read_text().splitlines():
        number, *values = line.split()
        matrix = np.array(values, float).reshape(4, 4)
        matrix[:3, :3] *= 1.7
        lines.append(" ".join([number, *map(repr, map(float, matrix.ravel()))]))
    path.write_text("\n".join(lines))
    capture, counts = source_of(tmp_path, SourceKind.wildrgbd).read(reference)
    assert counts == {"rotation_scaled": N}
    for frame, other in zip(capture.frames, expected.frames, strict=True):
        assert pytest.approx(other.R) == frame.R
        assert frame.t == pytest.approx(other.t)


def test_masks_beside_a_layout_that_has_its_own_are_refused(tmp_path):
    write_wildrgbd(tmp_path)
    with pytest.raises(UserError, match=r"mask_root=.* is not read by source=wildrgbd"):
        source_of(tmp_path, SourceKind.wildrgbd, mask_root=str(tmp_path))


def test_bad_fields_cost_one_capture(tmp_path):
    write_wildrgbd(tmp_path)
    scene = tmp_path / "apple" / "scenes" / "scene_257"
    poses = (scene / "cam_poses.txt").read_text().splitlines()
    (scene / "cam_poses.txt").write_text(
        "\n".join([*poses[:2], poses[2].rsplit(" ", 1)[0], *poses[3:]])
    )
    capture, dropped = source_of(tmp_path, SourceKind.wildrgbd).read("apple/scenes/scene_257")
    assert (len(capture.frames), dropped) == (N - 1, {"frame_pose": 1})
    mirrored = " ".join(["2", *map(str, np.diag([-1.0, 1, 1, 1]).ravel())])
    (scene / "cam_poses.txt").write_text(
        "\n".join(
            [
                *poses[:2],
                mirrored,
                *poses[3:-1],
                poses[-1].replace(poses[-1].split()[1], "nan", 1),
            ]
        )
    )
    (scene / "rgb" / "00005.png").unlink()
    capture, dropped = source_of(tmp_path, SourceKind.wildrgbd).read("apple/scenes/scene_257")
    assert dropped == {"frame_pose": 2, "frame_missing": 1}
    assert len(capture.frames) == N - 3
    metadata = (scene / "metadata").read_text()
    (scene / "metadata").write_text("{}")
    with pytest.raises(Rejected, match="poses_corrupt"):
        source_of(tmp_path, SourceKind.wildrgbd).read("apple/scenes/scene_257")
    (scene / "metadata").write_text(metadata)
    (scene / "cam_poses.txt").unlink()
    with pytest.raises(Rejected, match="no_poses"):
        source_of(tmp_path, SourceKind.wildrgbd).read("apple/scenes/scene_257")


def test_a_photo_without_stored_size_costs_itself_and_an_impossible_lens_its_capture(
    tmp_path, monkeypatch
):
    """Blender's files have no w and h: the photo is opened for them. The other capture is built."""
    write_blender(tmp_path / "root")
    write_blender(tmp_path / "other")
    shutil.move(tmp_path / "other" / "cup", tmp_path / "root" / "bowl")
    (tmp_path / "root" / "cup" / "train" / "r_03.png").unlink()
    (tmp_path / "root" / "cup" / "train" / "r_04.png").write_bytes(b"no photo")
    capture, dropped = source_of(tmp_path / "root", SourceKind.blender).read("cup")
    assert (len(capture.frames), capture.files_total, dropped) == (
        N - 2,
        N,
        {"frame_missing": 1, "frame_unreadable": 1},
    )

    poses = tmp_path / "root" / "bowl" / "transforms_train.json"
    expected_fields = json.loads(poses.read_text())
    for broken in ({"camera_angle_x": 0}, {"w": math.inf, "h": 4}):
        poses.write_text(json.dumps(expected_fields | broken))
        out = tmp_path / f"set{len(broken)}"
        words = [
            "source=blender",
            f"source.root={tmp_path / 'root'}",
            f"out={out}",
            "dataset=captures",
            "workers=1",
        ]
        monkeypatch.setattr(sys, "argv", ["actial.build", *words])
        command_line.main()
        assert {row.object_id for row in ShardSet(out, "test").records} == {"cup"}
        assert json.loads((out / "rejects.json").read_text())["frames"]["frame_lens"] == N


def test_names_may_not_leave_the_capture_and_a_missing_video_rejects_it(tmp_path):
    write_nerfstudio(tmp_path / "n")
    path = tmp_path / "n" / "cup" / "transforms.json"
    path.write_text(path.read_text().replace("images/frame_00000.png", "../../secret.png"))
    capture, dropped = source_of(tmp_path / "n", SourceKind.nerfstudio).read("cup")
    assert (len(capture.frames), dropped) == (N - 1, {"frame_name": 1})
    write_uco3d(tmp_path / "u")
    video = tmp_path / "u" / "fruit" / "apple" / "1-2-3" / "rgb_video.mp4"
    video.write_bytes(video.read_bytes()[:900])
    source = source_of(tmp_path / "u", SourceKind.uco3d)
    assert len(source.read("1-2-3")[0].frames) == N
    with pytest.raises(Rejected, match="frame_unreadable"):
        source.pixels("1-2-3", "000004")
    video.unlink()
    with pytest.raises(Rejected, match="no_video"):
        source.read("1-2-3")


@pytest.mark.parametrize(
    "kind",
    [
        SourceKind.co3d,
        SourceKind.uco3d,
        SourceKind.wildrgbd,
        SourceKind.nerfstudio,
        SourceKind.blender,
    ],
)
def test_an_empty_root_names_the_layout_it_wants(tmp_path, kind):
    with pytest.raises(
        UserError, match=rf"holds no capture: expected .* \(source={kind.value}\)"
    ):
        source_of(tmp_path, kind).captures()
