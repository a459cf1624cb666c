"""transforms.json and poses_bounds.npy as exporters really write them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.posed_captures import FOCAL, SIZE, arc, to_camera_to_world

from actial.config import CameraAxes, GateConfig, SourceConfig, SourceKind
from actial.core.errors import Rejected
from actial.core.records import Capture
from actial.data.sources.open_source import open_source
from actial.viewpoint.geometry import OPENGL_AXES, PYTORCH3D_AXES
from actial.viewpoint.quality_gates import judge_capture

N = 16
W, H = SIZE


def write(
    folder: Path,
    *,
    suffix: str = ".jpg",
    path: Callable[[str], str] = str,
    axes: np.ndarray | None = OPENGL_AXES,
    poses: tuple[np.ndarray, np.ndarray] | None = None,
    change: Callable[[dict], object] = lambda _: None,
) -> Path:
    """A capture whose transforms.json is `change`d before it is written."""
    R, t = poses or arc(N).poses()
    frames = []
    for i in range(N):
        name = f"images/{i:03d}{suffix}"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (10 * i, 90, 40)).save(folder / name)
        matrix = to_camera_to_world(R[i], t[i], axes)
        frames.append({"file_path": path(name), "transform_matrix": matrix.tolist()})
    fields = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": W / 2, "cy": H / 2, "w": W, "h": H}
    fields["frames"] = frames
    change(fields)
    (folder / "transforms.json").write_text(json.dumps(fields))
    return folder


def read(
    root: Path, kind: SourceKind = SourceKind.nerfstudio, axes: CameraAxes = CameraAxes.opengl
) -> tuple[Capture, Counter[str]]:
    source = open_source(SourceConfig(kind=kind, root=str(root), axes=axes))
    (reference,) = source.captures()
    capture, counts = source.read(reference)
    for frame in capture.frames:
        assert source.pixels(reference, frame.name).shape == (H, W, 3)
    return capture, counts


def check_poses(capture: Capture) -> None:
    R, t = arc(N).poses()
    assert len(capture.frames) == N
    assert np.stack([frame.R for frame in capture.frames]) == pytest.approx(R, abs=1e-9)
    assert np.stack([frame.t for frame in capture.frames]) == pytest.approx(t, abs=1e-9)


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".png", ".webp"])
def test_a_path_without_suffix_leads_to_the_photo(tmp_path, suffix):
    write(tmp_path / "cup", suffix=suffix, path=lambda name: f"./{name[: -len(suffix)]}")
    check_poses(read(tmp_path)[0])


@pytest.mark.parametrize(
    "path",
    [
        lambda name: name.replace("/", "\\"),
        lambda name: f"../cup/{name}",
        lambda name: f"/home/somebody/data/cup/{name}",
        lambda name: f"C:\\Users\\me\\cup\\{name}".replace("/", "\\"),
        lambda name: f"/home/somebody/{name}"[:-4],
        lambda name: f"data/scans/cup/{name}",  # from the folder that the exporter ran in
        lambda name: f"file:///home/somebody/cup/{name}",
        lambda name: f"file:///C:/Users/me/cup/{name}",
        lambda name: f"//server/share/cup/{name}".replace("/", "\\"),
        lambda name: name.replace(".jpg", ".png"),  # the photos were converted
        lambda name: name.upper(),
        lambda name: f"/home/me/{name.upper()}"[:-4],
    ],
)
def test_paths_of_the_machine_they_were_written_on_lead_to_the_photo(tmp_path, path):
    write(tmp_path / "cup", path=path)
    check_poses(read(tmp_path)[0])


def test_absolute_paths_inside_the_capture_lead_to_the_photo(tmp_path):
    write(tmp_path / "cup", path=lambda name: str(tmp_path / "cup" / name))
    capture, _ = read(tmp_path)
    assert capture.frames[0].name == "images/000.jpg"


@pytest.mark.parametrize("path", ["../../../etc/passwd", "/etc/passwd", "..", ".", "a\0b"])
def test_paths_to_other_files_are_counted(tmp_path, path):
    write(tmp_path / "cup", change=lambda f: f["frames"][3].update(file_path=path))
    capture, counts = read(tmp_path)
    assert (len(capture.frames), counts) == (N - 1, {"frame_name": 1})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_not_json(tmp_path, encoding):
    path = write(tmp_path / "cup") / "transforms.json"
    path.write_bytes(path.read_text().encode(encoding))
    check_poses(read(tmp_path)[0])


@pytest.mark.parametrize(
    "matrix",
    [None, [], [[1, 2], [3]], "x", np.full((4, 4), np.nan).tolist(), np.eye(3).tolist()],
)
def test_a_frame_without_a_matrix_costs_itself(tmp_path, matrix):
    write(tmp_path / "cup", change=lambda f: f["frames"][3].update(transform_matrix=matrix))
    capture, counts = read(tmp_path)
    assert (len(capture.frames), counts) == (N - 1, {"frame_pose": 1})


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (None, "frame_entry"),
        ("x", "frame_entry"),
        ({"transform_matrix": np.eye(4).tolist()}, "frame_entry"),
        ({"file_path": None, "transform_matrix": np.eye(4).tolist()}, "frame_name"),
        ({"file_path": "images/003.jpg"}, "frame_pose"),
    ],
)
def test_an_entry_that_lacks_a_field_costs_itself(tmp_path, entry, reason):
    def spoil(fields: dict) -> None:
        fields["frames"][3] = entry

    write(tmp_path / "cup", change=spoil)
    capture, counts = read(tmp_path)
    assert (len(capture.frames), counts) == (N - 1, {reason: 1})


@pytest.mark.parametrize("length", [1e12, 1e300])
def test_a_camera_at_an_impossible_distance_costs_itself(tmp_path, length):
    def move(fields: dict) -> None:
        fields["frames"][3]["transform_matrix"][0][3] = length

    write(tmp_path / "cup", change=move)
    capture, counts = read(tmp_path)
    assert (len(capture.frames), counts) == (N - 1, {"frame_pose": 1})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("axes", list(CameraAxes))
@pytest.mark.parametrize("matrix", [np.eye(4), np.full((4, 4), 1e300), np.zeros((4, 4))])
def test_matrices_of_no_camera_warn_of_nothing(tmp_path, axes, matrix):
    def spoil(fields: dict) -> None:
        for frame in fields["frames"]:
            frame["transform_matrix"] = matrix.tolist()

    write(tmp_path / "cup", change=spoil)
    capture, _ = read(tmp_path, axes=axes)
    with pytest.raises(Rejected, match=r"few_registered|centre"):
        judge_capture(capture, GateConfig(), ordered=True)


def test_a_photo_that_entries_give_different_poses_is_dropped(tmp_path):
    def mistake(fields: dict) -> None:  # two cameras whose folders were merged into one
        fields["frames"][3]["file_path"] = "left/images/004.jpg"
        fields["frames"].append(fields["frames"][8])

    write(tmp_path / "cup", change=mistake)
    capture, counts = read(tmp_path)
    names = [frame.name for frame in capture.frames]
    assert counts == {"frame_repeated": 2}
    assert names == [f"images/{i:03d}.jpg" for i in range(N) if i not in (3, 4)]


@pytest.mark.parametrize("explicit", [True, False])
def test_masks_are_found_by_mask_path_and_by_their_folder(tmp_path, explicit):
    def name_masks(fields: dict) -> None:
        for i, frame in enumerate(fields["frames"]):
            if explicit and i < N - 2:
                frame["mask_path"] = f"masks/{i:03d}.png"

    folder = write(tmp_path / "cup", change=name_masks)
    (folder / "masks").mkdir()
    for i in range(N - 2):
        Image.new("L", SIZE).save(folder / "masks" / f"{i:03d}.png")
    capture, counts = read(tmp_path)
    assert counts == {"with_mask": N - 2, "without_mask": 2}
    assert capture.frames[3].mask_path == folder / "masks/003.png"


@pytest.mark.parametrize("place", ["cup/masks", "masks_of/cup", "masks_of/cup/masks"])
@pytest.mark.parametrize("name", ["{}.png", "{}"])
def test_masks_follow_the_cameras_folders_without_images(tmp_path, place, name):
    folder = write(tmp_path / "root" / "cup")
    file = folder / "transforms.json"
    fields = json.loads(file.read_text())
    for i, frame in enumerate(fields["frames"]):
        photo = f"cam{i % 2}/{i // 2:03d}.png"
        (folder / "images" / photo).parent.mkdir(exist_ok=True)
        Image.open(folder / frame["file_path"]).save(folder / "images" / photo)
        (folder / frame["file_path"]).unlink()
        frame["file_path"] = f"images/{photo}"
        mask = tmp_path / ("root" if place == "cup/masks" else "") / place / name.format(photo)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", SIZE).save(mask)
    file.write_text(json.dumps(fields))
    settings = {} if place == "cup/masks" else {"mask_root": str(tmp_path / "masks_of")}
    source = open_source(
        SourceConfig(kind=SourceKind.nerfstudio, root=str(tmp_path / "root"), **settings)
    )
    capture, counts = source.read("cup")
    assert counts == {"with_mask": N}
    for frame in capture.frames:
        assert str(frame.mask_path).endswith(name.format(frame.name.removeprefix("images/")))


def test_matrices_of_three_rows_and_flat_ones_are_read(tmp_path):
    def flatten(fields: dict) -> None:
        for i, frame in enumerate(fields["frames"]):
            matrix = np.array(frame["transform_matrix"])
            frame["transform_matrix"] = (matrix[:3] if i % 2 else matrix.ravel()).tolist()

    write(tmp_path / "cup", change=flatten)
    check_poses(read(tmp_path)[0])


def test_a_scale_in_the_rotation_is_divided_out_and_counted(tmp_path):
    def scale(fields: dict) -> None:
        for frame in fields["frames"]:
            matrix = np.array(frame["transform_matrix"])
            matrix[:3, :3] *= 1.7
            frame["transform_matrix"] = matrix.tolist()

    write(tmp_path / "cup", change=scale)
    capture, counts = read(tmp_path)
    check_poses(capture)
    assert counts == {"rotation_scaled": N}


@pytest.mark.parametrize(
    "rounded",
    [
        lambda R: R.round(4),
        lambda R: R.round(3),
        lambda R: R.astype(np.float16).astype(float),
    ],
)
def test_rounded_rotations_are_taken_for_the_nearest(tmp_path, rounded):
    def spoil(fields: dict) -> None:
        for frame in fields["frames"]:
            matrix = np.array(frame["transform_matrix"])
            matrix[:3, :3] = rounded(matrix[:3, :3])
            frame["transform_matrix"] = matrix.tolist()

    write(tmp_path / "cup", change=spoil)
    capture, counts = read(tmp_path)
    R, t = arc(N).poses()
    assert counts == {}
    assert np.stack([frame.R for frame in capture.frames]) == pytest.approx(R, abs=1e-3)
    for i, frame in enumerate(capture.frames):
        assert np.allclose(frame.R @ frame.R.T, np.eye(3), atol=1e-3)
        assert frame.center == pytest.approx(-R[i].T @ t[i], abs=1e-6)


@pytest.mark.parametrize(
    "change", [np.diag([1, 1.003, 1]), [[1, 0.005, 0], [0, 1, 0], [0, 0, 1]]]
)
def test_a_slight_shear_is_no_rounding_and_said(tmp_path, change):
    def spoil(fields: dict) -> None:
        matrix = np.array(fields["frames"][3]["transform_matrix"])
        matrix[:3, :3] = matrix[:3, :3] @ change
        fields["frames"][3]["transform_matrix"] = matrix.tolist()

    write(tmp_path / "cup", change=spoil)
    capture, counts = read(tmp_path)
    assert len(capture.frames) == N - 1
    assert "det R = 1, R R^T is off I by up to 0.00" in counts.examples["frame_pose"]  # type: ignore[attr-defined]


def test_mirrored_and_sheared_matrices_are_no_poses(tmp_path):
    def spoil(fields: dict) -> None:
        for i, factors in ((2, (-1, 1, 1)), (3, (1, 2, 1))):
            matrix = np.array(fields["frames"][i]["transform_matrix"])
            matrix[:3, :3] *= factors
            fields["frames"][i]["transform_matrix"] = matrix.tolist()

    write(tmp_path / "cup", change=spoil)
    capture, counts = read(tmp_path)
    assert len(capture.frames) == N - 2
    assert counts["frame_pose"] == 2


def test_opencv_axes_are_recognized_and_read_when_named(tmp_path):
    write(tmp_path / "cup", axes=None)
    with pytest.raises(Rejected, match=r"axes_look_opencv.*set source\.axes=opencv"):
        read(tmp_path)
    check_poses(read(tmp_path, axes=CameraAxes.opencv)[0])
    write(tmp_path / "cup")
    with pytest.raises(Rejected, match=r"axes_look_opengl.*set source\.axes=opengl"):
        read(tmp_path, axes=CameraAxes.opencv)


def test_pytorch3d_axes_are_read_when_named_and_not_taken_for_opencv(tmp_path):
    write(tmp_path / "cup", axes=PYTORCH3D_AXES)
    both = "x right, y down.*source.axes=opencv; .*x left, y up.*source.axes=pytorch3d"
    with pytest.raises(Rejected, match=f"axes_look_opencv.*{both}"):
        read(tmp_path)
    with pytest.raises(Rejected, match=r"axes_upside_down.*set source\.axes=pytorch3d"):
        read(tmp_path, axes=CameraAxes.opencv)
    check_poses(read(tmp_path, axes=CameraAxes.pytorch3d)[0])
    write(tmp_path / "cup", axes=None)
    with pytest.raises(Rejected, match=r"axes_upside_down.*set source\.axes=opencv"):
        read(tmp_path, axes=CameraAxes.pytorch3d)


def test_cameras_level_with_the_object_are_counted_where_they_do_not_tell_the_axes(tmp_path):
    write(tmp_path / "cup", axes=PYTORCH3D_AXES, poses=arc(N, elevation=3.0).poses())
    for axes in (CameraAxes.opencv, CameraAxes.pytorch3d):
        assert read(tmp_path, axes=axes)[1] == {"axes_unsure": N}


def test_sizes_of_the_original_photos_scale_the_intrinsics(tmp_path):
    double = {"w": 2 * W, "h": 2 * H, "fl_x": 2 * FOCAL, "fl_y": 2 * FOCAL, "cx": W, "cy": H}
    write(tmp_path / "cup", change=lambda fields: fields.update(double))
    capture, counts = read(tmp_path)
    check_poses(capture)
    assert counts == {"rescaled": N}
    assert capture.frames[0].K[0].tolist() == [FOCAL, 0, W / 2]


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({"k1": 0.05, "is_fisheye": True}, "OPENCV_FISHEYE"),
        ({"k1": 0.05, "camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE"),
        ({"k1": 0.05, "camera_model": "OPENCV"}, "OPENCV"),
        ({"k1": None, "camera_model": None}, "PINHOLE"),
    ],
)
def test_lenses_are_those_that_the_file_names(tmp_path, fields, model):
    write(tmp_path / "cup", change=lambda f: f.update(fields))
    assert {frame.distortion[0] for frame in read(tmp_path)[0].frames} == {model}


@pytest.mark.parametrize(
    "fields",
    [
        {"camera_model": "EQUIRECTANGULAR"},
        {"fl_x": None},
        {"fl_x": "x"},
        {"fl_x": 0},
        {"fl_x": math.nan},
        {"fl_y": -FOCAL},
        {"w": "wide"},
        {"w": 0},
    ],
)
def test_frames_without_a_lens_are_counted(tmp_path, fields):
    write(tmp_path / "cup", change=lambda f: f["frames"][3].update(fields))
    capture, counts = read(tmp_path)
    assert (len(capture.frames), counts) == (N - 1, {"frame_lens": 1})


def test_an_angle_of_view_in_degrees_is_no_lens(tmp_path):
    def measure(fields: dict) -> None:
        fields["fl_x"], fields["camera_angle_x"] = None, 40.0

    write(tmp_path / "cup", change=measure)
    _, counts = read(tmp_path)
    assert counts == {"frame_lens": N}
    assert "camera_angle_x=40 is no angle of view in radians" in counts.examples["frame_lens"]


@pytest.mark.parametrize("size", [(None, None), (f"{W}.0", f"{H}.0")])
def test_sizes_may_be_null_or_text(tmp_path, size):
    write(tmp_path / "cup", change=lambda fields: fields.update(w=size[0], h=size[1]))
    check_poses(read(tmp_path)[0])


def test_transposed_matrices_are_named_and_not_taken_for_other_axes(tmp_path):
    def transpose(fields: dict) -> None:
        for frame in fields["frames"]:
            frame["transform_matrix"] = np.transpose(frame["transform_matrix"]).tolist()

    write(tmp_path / "cup", change=transpose)
    _, counts = read(tmp_path)
    assert counts == {"frame_pose": N}
    assert "transform_matrix is transposed" in counts.examples["frame_pose"]


def test_cameras_that_never_move_are_not_taken_for_other_axes(tmp_path):
    def stay(fields: dict) -> None:
        for frame in fields["frames"]:
            frame["transform_matrix"] = np.eye(4).tolist()

    write(tmp_path / "cup", change=stay)
    assert len(read(tmp_path)[0].frames) == N


def test_a_name_too_long_for_the_file_system_costs_its_photo(tmp_path):
    write(tmp_path / "cup", change=lambda f: f["frames"][3].update(file_path="x" * 300))
    capture, counts = read(tmp_path)
    assert (len(capture.frames), counts) == (N - 1, {"frame_unreadable": 1})


def test_a_file_in_another_encoding_is_named_without_its_content(tmp_path):
    file = write(tmp_path / "cup") / "transforms.json"
    file.write_bytes(file.read_bytes().replace(b"{", b'{"by": "Ren\xe9", ', 1))
    with pytest.raises(Rejected, match=r"poses_corrupt.*can't decode") as raised:
        read(tmp_path)
    assert len(raised.value.detail) < 200


def test_captures_lie_at_any_depth_or_are_the_root(tmp_path):
    write(tmp_path / "a" / "b" / "cup")
    assert read(tmp_path)[0].object_id == "a/b/cup"
    assert read(tmp_path / "a" / "b" / "cup")[0].object_id == "cup"


def test_captures_inside_another_are_counted_and_not_read(tmp_path):
    for name in (".", "other1", "more/other2"):
        write(tmp_path / name)
    capture, counts = read(tmp_path)
    assert (len(capture.frames), counts) == (N, {"captures_below": 2})


@pytest.mark.parametrize("mask", ["masks/003.png", "../../003.png", "/etc/hostname", "a\0", 3])
def test_a_missing_mask_is_counted_and_costs_only_itself(tmp_path, mask):
    write(tmp_path / "cup", change=lambda f: f["frames"][3].update(mask_path=mask))
    capture, counts = read(tmp_path)
    assert (len(capture.frames), counts) == (N, {"mask_missing": 1})


def test_poses_bounds_of_llff_are_read(tmp_path):
    folder = write(tmp_path / "cup")
    (folder / "transforms.json").unlink()
    R, t = arc(N).poses()
    rows = []
    for i in range(N):
        right, down, forward = R[i]
        center = -R[i].T @ t[i]
        columns = [down, right, -forward, center, (H, W, FOCAL)]
        rows.append([*np.stack(columns, axis=1).ravel(), 1.0, 9.0])
    np.save(folder / "poses_bounds.npy", np.array(rows))
    for kind in (SourceKind.llff, SourceKind.nerfstudio):
        capture, counts = read(tmp_path, kind)
        check_poses(capture)
        assert counts == {}
    assert judge_capture(capture, GateConfig(), ordered=False).center_method == "axes"
    for place in ("thumbnails", "masks", "@eaDir/000.jpg"):
        copies = folder / "images" / place
        copies.mkdir(parents=True)
        for i in range(N):
            Image.new("L", SIZE).save(copies / f"{i:03d}.png")
            Image.new("L", SIZE).save(folder / "images" / f"{i:03d}_depth.png")
            (folder / "images" / f"{i:03d}.HEIC").write_bytes(
                b"the photo before its conversion"
            )
    capture, counts = read(tmp_path, SourceKind.llff)
    check_poses(capture)
    assert [frame.name for frame in capture.frames] == [
        f"images/{i:03d}.jpg" for i in range(N)
    ]
    scaled = np.array(rows)
    scaled[:, :15].reshape(-1, 3, 5)[:, :, :3] *= 1.7
    np.save(folder / "poses_bounds.npy", scaled)
    capture, counts = read(tmp_path, SourceKind.llff)
    check_poses(capture)
    assert counts == {"rotation_scaled": N}
    np.save(folder / "poses_bounds.npy", np.array(rows[1:]))
    with pytest.raises(Rejected, match=r"poses_corrupt.*15 rows, but photos are"):
        read(tmp_path, SourceKind.llff)
    claims = (
        (folder / "poses_bounds.npy").read_bytes().replace(b"(15, 17)", b"(9999999999, 17)")
    )
    for content in (b"", claims):
        (folder / "poses_bounds.npy").write_bytes(content)
        with pytest.raises(Rejected, match="poses_corrupt"):
            read(tmp_path, SourceKind.llff)


def test_a_dark_photo_has_the_gray_depth_of_its_capture(tmp_path):
    write(tmp_path, suffix=".png")
    for i in range(N):
        gray = np.full((H, W), 150 * 257 if i % 4 else 10 * 257, dtype=np.uint16)
        Image.fromarray(gray).save(tmp_path / "images" / f"{i:03d}.png")
    source = open_source(SourceConfig(kind=SourceKind.nerfstudio, root=str(tmp_path)))
    dark, bright = (source.pixels(".", f"images/{i:03d}.png") for i in (0, 1))
    assert (dark.max(), bright.max()) == (10, 150)
