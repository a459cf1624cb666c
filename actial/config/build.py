"""The build command."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from actial.config.validation import num, reject
from actial.core.set_records import QuestionType


class SourceKind(Enum):
    mvimgnet = "mvimgnet"  # ROOT/class/object/{images,sparse/0}
    procedural = "procedural"  # the same, with object.json beside images/
    colmap = "colmap"  # ROOT/NAME/{images,sparse/0}
    mvimgnet2 = "mvimgnet2"  # the same as mvimgnet, masks inside each object
    co3d = "co3d"  # ROOT/category/{frame,sequence}_annotations.jgz
    uco3d = "uco3d"  # ROOT/metadata.sqlite; the frames lie in videos
    wildrgbd = "wildrgbd"  # ROOT/category/scenes/SCENE/{rgb,cam_poses.txt,metadata}
    nerfstudio = "nerfstudio"  # ROOT/NAME/transforms.json (instant-ngp too)
    blender = "blender"  # ROOT/NAME/transforms_train.json, of the NeRF synthetic set
    llff = "llff"  # ROOT/NAME/{images,poses_bounds.npy}
    # a published set of questions, named by source.name: no captures, no pairs
    named = "named"
    sat = "sat"  # parquet files of multiple-choice questions: no captures, no pairs


class ExifRule(Enum):
    """What the EXIF orientation of a photo means for its pose (data/sources/orientation.py)."""

    # sizes and the cameras' roll decide; photos that neither decides are dropped
    auto = "auto"
    stored = "stored"  # poses belong to the pixels as stored, and the tag is stale
    both = "both"  # poses belong to the pixels as stored: turn photo and pose
    photos = "photos"  # poses were made on turned pixels: turn the photo alone


class CameraAxes(Enum):
    """The camera axes of transform_matrix in transforms.json."""

    opengl = "opengl"  # x right, y up, z back: nerfstudio, instant-ngp, Blender
    opencv = "opencv"  # x right, y down, z forward
    pytorch3d = "pytorch3d"  # x left, y up, z forward


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """Which captures or questions are read."""

    kind: SourceKind = MISSING
    root: str = MISSING
    mask_root: str | None = None  # None: masks/ inside each capture, when there
    category_file: str | None = None  # lines `id,name`; None: the folder's name is the class
    # file names follow time, as in a video: large steps between neighbors reject the capture
    ordered: bool = True
    name: str | None = None  # named: which set
    numbers: bool = False  # named: keep the questions that are answered by a number
    # co3d, uco3d: least viewpoint quality score of a sequence; None = all
    min_quality: float | None = None
    license: str = "unknown"
    exif: ExifRule = ExifRule.auto
    axes: CameraAxes = CameraAxes.opengl  # nerfstudio, blender


@dataclass(kw_only=True, slots=True)
class GateConfig:
    """Thresholds that captures and pairs must pass: degrees, and lengths relative to the distance
    of the first camera.
    """

    min_registered: int = num(12, "[3, inf)")
    min_registered_share: float = num(0.6, "[0, 1]")
    max_reprojection_px: float = num(2.0, "(0, inf]")
    min_points: int = num(100, "[0, inf)")
    min_up_cameras: int = num(8, "[3, inf)")
    min_up_sv2: float = num(0.17, "[0, 1]")
    max_up_roll: float = num(
        8.0, "[0, 90]"
    )  # rms; above it labels keep sides and lose degrees
    # between the two estimators of up, unless elevation drifts
    max_up_axis_angle: float = num(15.0, "[0, 90]")
    drift_elevation_std: float = num(8.0, "[0, 90]")
    # rms; a roll that grows steadily resembles a drift of the estimated up: no degrees above it
    max_drift_roll: float = num(4.0, "[0, 90]")
    max_center_condition: float = num(50.0, "[1, inf]")
    max_center_residual: float = num(0.12, "[0, inf]")
    min_center_in_front: float = num(0.95, "[0, 1]")
    # between the center by masks and the center by masked points
    max_mask_center_gap: float = num(0.25, "[0, inf]")
    min_mask_area: float = num(0.01, "[0, 1]")
    max_mask_area: float = num(0.8, "[0, 1]")
    max_mask_border: float = num(
        0.4, "[0, 1]"
    )  # share of the photo's border that the mask touches
    max_median_step: float = num(25.0, "[0, 180]")
    max_step: float = num(60.0, "[0, 180]")
    min_arc: float = num(40.0, "[0, 360]")
    min_angle: float = num(20.0, "[0, 180]")  # of both alpha and yaw, inclusive (paper A.1)
    max_angle: float = num(100.0, "[0, 180]")
    angle_margin: float = num(1.0, "[0, 90]")
    max_angle_gap: float = num(15.0, "[0, 180]")  # between |alpha| and |yaw|
    max_up_free_gap: float = num(20.0, "[0, 180]")  # between |alpha| and the full rotation
    max_off_axis: float = num(20.0, "[0, 90]")
    max_off_axis_fov: float = num(0.8, "[0, 1]")  # of half the field of view
    min_elevation: float = num(-15.0, "[-90, 90]")
    max_elevation: float = num(60.0, "[-90, 90]")
    min_heading_level: float = num(0.5, "[0, 1]")
    max_elevation_change: float = num(25.0, "[0, 180]")
    max_distance_ratio: float = num(2.0, "[1, inf]")
    max_roll: float = num(15.0, "[0, 180]")
    min_s: float = num(0.15, "[0, inf)")
    # of alpha and yaw, in pairs that go up or down, forward or backward
    max_side_angle: float = num(10.0, "[0, 90]")
    min_rise: float = num(12.0, "[0, 90]")  # change of elevation in pairs that go up or down
    # ratio of the distances in pairs that go forward or backward
    min_approach: float = num(1.25, "[1, inf]")
    # of both sides of the photo, in which the object's center must lie
    central_share: float = num(0.8, "[0, 1]")

    def check(self, path: str) -> None:
        if self.min_angle + self.angle_margin >= self.max_angle - self.angle_margin:
            reject(
                path + "min_angle",
                self.min_angle,
                f"no angle passes with max_angle={self.max_angle} and "
                f"angle_margin={self.angle_margin}",
            )


@dataclass(kw_only=True, slots=True)
class PairConfig:
    per_object: int = num(12, "[1, inf)")  # horizontal pairs
    vertical_per_object: int = num(
        0, "[0, inf)"
    )  # pairs that go up or down and hardly sideways
    depth_per_object: int = num(0, "[0, inf)")  # forward or backward
    # the same frame twice, once cropped by up to 5 %: "no movement" is right
    still_per_object: int = num(0, "[0, inf)")
    views: int = num(
        2, "[2, 6]"
    )  # photos of a record; questions are about the first and the last
    questions: list[str] = field(
        default_factory=lambda: ["ego_translation", "object_translation", "ego_rotation"]
    )  # actial.core.records.QuestionType
    angle_bins: int = num(8, "[1, inf)")
    seed: int = 0
    val_fraction: float = num(0.02, "[0, 1]")
    test_fraction: float = num(0.02, "[0, 1]")
    # class names or ids that make up the split test_unseen
    unseen_classes: list[str] = field(default_factory=list)
    # share of the classes that is drawn by hash into test_unseen, besides those listed
    unseen_class_fraction: float = num(0.0, "[0, 1)")
    max_per_class: int = num(0, "[0, inf)")  # pairs of one class in one split; 0 = no cap
    # split -> most records; drawn evenly over angle and side
    max_rows: dict[str, int] = field(default_factory=dict)

    def check(self, path: str) -> None:
        if self.val_fraction + self.test_fraction > 1:
            reject(
                path + "val_fraction",
                self.val_fraction,
                f"with test_fraction={self.test_fraction} it must add up to at most 1",
            )
        types = [kind.value for kind in QuestionType]
        if not self.questions or not set(self.questions) <= set(types):
            reject(path + "questions", self.questions, f"name some of {', '.join(types)}")
        for split, rows in self.max_rows.items():
            if split not in ("train", "val", "test", "test_unseen") or rows < 0:
                reject(
                    f"{path}max_rows.{split}",
                    rows,
                    "give a number of 0 or more for train, val, test or test_unseen",
                )


class ImageFormat(Enum):
    jpg = "jpg"
    png = "png"


@dataclass(kw_only=True, slots=True)
class ImageConfig:
    """Photos are shrunk once, to the size the model sees: never enlarged or cropped.

    The aspect is kept, but for `square`.
    """

    max_pixels: int = num(518_400, "[1, inf)")  # 960 x 540, paper release
    multiple: int = num(28, "[1, inf)")  # of both sides; patch size x merge size of the model
    square: bool = False  # equal sides, for SmolVLM and InternVL, as their own processors do
    format: ImageFormat = ImageFormat.jpg
    quality: int = num(90, "[1, 100]")  # jpg

    def check(self, path: str) -> None:
        if self.max_pixels < self.multiple**2:
            reject(
                path + "max_pixels",
                self.max_pixels,
                f"give at least multiple x multiple = {self.multiple**2}",
            )


@dataclass(kw_only=True, slots=True)
class QuestionConfig:
    """Which multiple-choice records are kept (source=sat, named); val and test stay whole."""

    # question type -> share of the training records; empty = all records
    shares: dict[str, float] = field(default_factory=dict)
    max_rows: int = num(0, "[0, inf)")  # training records; 0 = no cap
    # named: a file of scene names, one a line, that benchmarks use; questions that show them are
    # left out
    blacklist: str | None = None
    seed: int = 0

    def check(self, path: str) -> None:
        if self.shares and (min(self.shares.values()) < 0 or sum(self.shares.values()) <= 0):
            reject(
                path + "shares",
                self.shares,
                "give non-negative shares, at least one of them positive",
            )


@dataclass(kw_only=True, slots=True)
class BuildShardConfig:
    """`build.shard=I build.num_shards=N` prepares shard I of N in `out`.

    The command without these settings joins the shards.
    """

    shard: int = num(0, "[0, inf)")
    num_shards: int = num(1, "[1, 1e6]")

    def check(self, path: str) -> None:
        if self.shard >= self.num_shards:
            reject(
                path + "shard",
                self.shard,
                f"shards count from 0: give 0 to {self.num_shards - 1}",
            )


@dataclass(kw_only=True, slots=True)
class BuildConfig:
    """`python -m actial.build`: captures -> shards."""

    source: SourceConfig = field(default_factory=SourceConfig)
    gates: GateConfig = field(default_factory=GateConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    qa: QuestionConfig = field(default_factory=QuestionConfig)
    build: BuildShardConfig = field(default_factory=BuildShardConfig)
    out: str = MISSING
    groups_per_shard: int = num(256, "[1, inf)")  # captures in one tar
    workers: int = num(0, "[0, inf)")  # processes; 0 = one per core
    audit_pairs: int = num(6, "[1, inf)")  # pairs drawn per class on the audit page
    audit_classes: int = num(16, "[1, inf)")
