"""Gates: good captures pass, each defect is turned away under its own name."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.spatial.transform import Rotation
from support.posed_captures import FOCAL, SIZE, Rig, arc, pack_triple, random_similarity
from support.rig_captures import capture_of

from actial.config import GateConfig
from actial.core.errors import Rejected
from actial.core.records import Capture, Frame
from actial.data.sources.colmap_reader import read_model
from actial.viewpoint.lens import project
from actial.viewpoint.quality_gates import judge_capture, judge_pairs


def judged(rig: Rig, *, ordered=True, gates=None, **fields):
    return judge_capture(capture_of(rig, **fields), gates or GateConfig(), ordered=ordered)


def reasons(rig: Rig, **options) -> tuple[str, ...]:
    with pytest.raises(Rejected) as caught:
        judged(rig, **options)
    return caught.value.reasons


def pair_failures(first: dict, second: dict, **gates) -> set[str]:
    """Gates failed by a pair of views, seen from a capture whose other views make up and centre
    certain.
    """
    n = 30
    rig = arc(n, span=150.0)
    columns = {}
    for name in ("azimuth", "elevation", "rho", "roll", "turn"):
        columns[name] = np.array(np.broadcast_to(getattr(rig, name), n), dtype=float)
        for place, view in ((0, first), (n - 1, second)):
            columns[name][place] = view.get(
                name, columns[name][place] if name != "azimuth" else 0.0
            )
    settings = GateConfig(**gates)
    geometry = judged(Rig(**columns), ordered=False)
    judged_pair = judge_pairs(geometry, np.array([0]), np.array([n - 1]), settings)
    assert judged_pair.horizontal[0] == (not judged_pair.failed)
    return set(judged_pair.failed)


# ---------------------------------------------------------------- captures


def test_a_good_capture_passes_and_its_geometry_is_right():
    rig = arc(
        rotation=Rotation.random(rng=np.random.default_rng(1)).as_matrix(),
        scale=3.0,
        shift=np.array([4.0, -2, 9]),
    )
    geometry = judged(rig)
    assert geometry.center_method == "axes"
    assert geometry.center.point == pytest.approx(rig.shift, abs=1e-9)
    assert geometry.up.up == pytest.approx(rig.rotation @ [0, 0, 1])
    assert geometry.view.elevation == pytest.approx(20)
    assert geometry.angle_ok
    assert geometry.azimuth is None
    assert geometry.central.all()


def test_few_or_poorly_registered_photos():
    assert reasons(arc(11)) == ("few_registered",)
    assert reasons(arc(7)) == ("few_registered", "up_few_cameras")
    assert reasons(arc(16), files_total=27) == ("few_registered_share",)
    assert reasons(arc(16), reprojection_error_px=2.1) == ("reprojection_error",)
    assert reasons(arc(16), reprojection_error_px=float("nan")) == ("reprojection_error",)
    assert reasons(arc(16), points=np.zeros((99, 3))) == ("few_points",)


def test_short_arcs_leave_up_uncertain():
    assert reasons(arc(16, span=30)) == ("up_short_arc",)
    assert reasons(arc(16, span=30), gates=GateConfig(min_up_sv2=0.1)) == ("arc",)


def test_photos_stored_sideways_or_with_any_roll():
    assert "sideways" in reasons(arc(16, roll=90.0))
    assert "up_rolled" in reasons(arc(16, roll=np.random.default_rng(2).uniform(-80, 80, 16)))


def test_moderate_roll_keeps_the_sides_and_drops_the_degrees():
    rolls = 11.0 * np.resize([1, -1], 16)
    geometry = judged(arc(16, roll=rolls))
    assert not geometry.angle_ok
    assert GateConfig().max_up_roll < geometry.up.rms_roll < GateConfig().max_roll


def test_elevation_drift_explains_a_disagreement_of_the_two_ups():
    geometry = judged(arc(16, span=90, elevation=np.linspace(10, 50, 16)))
    assert geometry.up.axis_angle > GateConfig().max_up_axis_angle
    assert reasons(
        arc(16, span=90, elevation=np.linspace(10, 50, 16)),
        gates=GateConfig(drift_elevation_std=20),
    ) == ("up_disagreement",)


@pytest.mark.parametrize("span", [90, 150, 250, 340])
@pytest.mark.parametrize("elevation", [0.0, 20.0])
def test_a_roll_that_grows_steadily_costs_the_degrees_but_never_turns_a_side(span, elevation):
    """From -80 to 80 on a level orbit: about a tilted up it looks like a camera whose elevation
    drifts, which once excused it.
    """
    n = 24
    rig = arc(n, span=span, elevation=elevation, roll=np.linspace(-80, 80, n))
    turned_away = GateConfig(
        max_roll=90, max_up_axis_angle=90
    )  # so that what the gates themselves reject is looked at too
    geometry = judged(rig, gates=turned_away)
    if span > 150:
        assert {"up_rolled", "up_disagreement"} & set(reasons(rig))
    assert not geometry.angle_ok
    first, second = np.triu_indices(n, k=1)
    pairs = judge_pairs(geometry, first, second, GateConfig())
    true = (rig.azimuth[second] - rig.azimuth[first] + 180) % 360 - 180
    assert (np.sign(pairs.motion.alpha) == np.sign(true))[pairs.horizontal].all()


def test_drift_excuses_a_disagreement_only_of_cameras_held_level():
    drift = {"span": 90, "elevation": np.linspace(10, 50, 16)}
    shaken = arc(16, roll=np.resize([6.0, -6.0], 16), **drift)
    assert judged(arc(16, roll=np.resize([2.0, -2.0], 16), **drift)).angle_ok
    assert reasons(shaken) == ("up_disagreement",)
    assert not judged(shaken, gates=GateConfig(max_up_axis_angle=40)).angle_ok


def test_jumps_matter_only_in_a_video():
    jump = Rig(azimuth=np.concatenate([np.linspace(0, 80, 10), np.linspace(150, 200, 10)]))
    assert reasons(jump) == ("continuity_jump",)
    assert judged(jump, ordered=False)
    coarse = Rig(azimuth=np.arange(0, 16 * 30, 30.0))
    assert reasons(coarse) == ("continuity_step",)


def test_a_camera_path_that_looks_at_nothing():
    assert reasons(arc(16, turn=180.0)) == ("centre",)


# ---------------------------------------------------------------- centre


def masked(tmp_path, rig: Rig, target: np.ndarray, radius: float = 0.5) -> Capture:
    """A disc mask about `target` (3,) in every photo."""
    capture = capture_of(rig)
    for frame in capture.frames:
        x, y = project(frame, target[None])[0]
        mask = Image.new("L", SIZE)
        r = FOCAL * radius / 4
        ImageDraw.Draw(mask).ellipse(
            [x - r - 0.5, y - r - 0.5, x + r - 0.5, y + r - 0.5], fill=255
        )
        frame.mask_path = tmp_path / f"{frame.name}.png"
        mask.save(frame.mask_path)
    return capture


def test_masks_find_an_object_beside_the_aim(tmp_path):
    """T12: the optical axes meet 0.25 rho beside it."""
    target = np.array([0.5, 0.3, 0.0])
    capture = masked(tmp_path, arc(), target)
    geometry = judge_capture(capture, GateConfig(), ordered=True)
    assert geometry.center_method == "masks"
    assert geometry.center.point == pytest.approx(target, abs=0.06)
    rng = np.random.default_rng(0)
    capture.points = target + rng.uniform(-0.2, 0.2, (200, 3))
    capture.point_tracks = np.full(200, 5)
    assert judge_capture(capture, GateConfig(), ordered=True).center_method == "masks+points"
    capture.points += np.array(
        [0, 0, 50.0]
    )  # no point lies on the masks: nothing confirms or denies them
    assert judge_capture(capture, GateConfig(), ordered=True).center_method == "masks"


def test_masks_that_cover_nothing_everything_or_the_border_are_ignored(tmp_path):
    for name, box in {
        "dot": [40, 30, 42, 32],
        "all": [0, 0, 95, 63],
        "rim": [0, 0, 95, 36],
    }.items():
        (tmp_path / name).mkdir()
        capture = masked(tmp_path / name, arc(), np.zeros(3))
        for frame in capture.frames:
            mask = Image.new("L", SIZE)
            ImageDraw.Draw(mask).rectangle(box, fill=255)
            mask.save(frame.mask_path)
        assert judge_capture(capture, GateConfig(), ordered=True).center_method == "axes"
    capture.frames[0].mask_path.write_bytes(b"broken")
    assert judge_capture(capture, GateConfig(), ordered=True).center_method == "axes"


def test_masks_through_a_lens_without_an_answer_are_ignored(tmp_path):
    """So strong a barrel maps no ray to the masks' places."""
    capture = masked(tmp_path, arc(), np.array([0.5, 0.3, 0.0]))
    for frame in capture.frames:
        frame.distortion = ("SIMPLE_RADIAL", (FOCAL, SIZE[0] / 2, SIZE[1] / 2, -40.0))
    assert judge_capture(capture, GateConfig(), ordered=True).center_method == "axes"


def test_points_then_the_prior_stand_in_for_axes_that_miss_each_other():
    turns = 18.0 * np.resize([1, -1, 0.5, -0.5], 16)
    rng = np.random.default_rng(0)
    points = {"points": rng.uniform(-0.3, 0.3, (200, 3)), "point_tracks": np.full(200, 9)}
    strict = GateConfig(max_center_residual=0.1)
    assert reasons(arc(turn=turns), gates=strict) == ("centre",)
    by_points = judged(arc(turn=turns), gates=strict, **points)
    assert by_points.center_method == "points"
    assert np.linalg.norm(by_points.center.point) < 0.2
    by_prior = judged(arc(turn=turns), gates=strict, center_prior=np.array([0.01, 0, 0]))
    assert by_prior.center_method == "prior"


# ---------------------------------------------------------------- pairs


def test_a_plain_pair_passes():
    assert pair_failures({}, {"azimuth": 60}) == set()
    assert pair_failures({}, {"azimuth": -60}) == set()


def test_t14_thresholds_are_inclusive():
    for angle, ok in {20: True, 19.999: False, 100: True, 100.001: False, 20.5: True}.items():
        assert (pair_failures({}, {"azimuth": angle}, angle_margin=0.0) == set()) == ok, angle
    assert pair_failures({}, {"azimuth": 20.5}, angle_margin=1.0) == {"angle", "yaw"}


def test_t3_pure_rotation_and_t4_strafe_are_turned_away():
    assert {"angle", "small_motion", "up_free"} <= pair_failures(
        {}, {"azimuth": 0, "turn": 40}, max_off_axis=90.0
    )
    sideways = np.degrees(
        np.arctan(0.5)
    )  # moved by rho / 2 to the right, looking ahead as before
    failed = pair_failures(
        {"elevation": 0.0},
        {"elevation": 0.0, "azimuth": sideways, "rho": 4 * np.hypot(1, 0.5), "turn": sideways},
    )
    assert {"yaw", "angle_yaw_gap", "up_free"} <= failed


def test_each_pair_gate_by_its_name():
    far = {"azimuth": 60}
    assert "angle_yaw_gap" in pair_failures({}, {**far, "turn": -16})
    assert "sign" in pair_failures(
        {"turn": 45}, {"azimuth": 99, "turn": 45}
    )  # T6: moved to its left while going right around
    assert "off_axis" in pair_failures({}, {**far, "turn": 23})
    assert pair_failures({}, {**far, "elevation": 46.0, "rho": 3.0}) == {"elevation_change"}
    assert "elevation" in pair_failures(
        {"elevation": 62.0, "rho": 2.0}, {**far, "elevation": 61.0, "rho": 2.0}
    )
    assert "heading" in pair_failures(
        {"elevation": 62.0, "rho": 2.0}, {**far, "elevation": 61.0, "rho": 2.0}
    )
    assert "elevation" in pair_failures({"elevation": -16.0}, {**far, "elevation": -14.0})
    assert "distance" in pair_failures({}, {**far, "rho": 8.1})
    assert "distance" in pair_failures({}, {**far, "rho": 1.9})
    assert pair_failures({}, {**far, "roll": 15.5}) == {"roll"}
    assert pair_failures({}, {"azimuth": 25, "elevation": 43.0}) == {"vertical"}
    assert "small_motion" in pair_failures(
        {}, {"azimuth": 21, "rho": 2.05, "turn": 0}, min_s=0.2
    )


def kinds(first: dict, second: dict) -> set[str]:
    """Motions that a pair of views shows."""
    n = 30
    columns = {
        name: np.full(n, getattr(arc(), name), dtype=float)
        for name in ("elevation", "rho", "roll", "turn")
    }
    columns["azimuth"] = np.linspace(0, 150, n)
    for place, view in ((0, first), (n - 1, second)):
        for name, value in {"azimuth": 0.0, **view}.items():
            columns[name][place] = value
    pair = judge_pairs(
        judged(Rig(**columns), ordered=False), np.array([0]), np.array([n - 1]), GateConfig()
    )
    return {name for name in ("horizontal", "vertical", "depth") if getattr(pair, name)[0]}


def test_each_motion_has_its_own_pairs():
    assert kinds({}, {"azimuth": 60}) == {"horizontal"}
    assert kinds({}, {"elevation": 45.0, "rho": 3.1}) == {"vertical"}
    assert (
        kinds({}, {"elevation": 45.0, "rho": 3.1, "azimuth": 15}) == set()
    )  # too much to the side
    assert kinds({}, {"elevation": 31.0}) == set()  # not far enough up
    assert kinds({}, {"rho": 5.2}) == {"depth"}
    assert kinds({}, {"rho": 3.0, "azimuth": 5}) == {"depth"}
    assert kinds({}, {"rho": 4.9}) == set()  # a ratio of 1.225
    assert kinds({}, {"rho": 5.2, "turn": 12.0}) == set()


def test_an_off_center_principal_point_puts_the_object_out_of_the_middle():
    capture = capture_of(arc())
    for frame in capture.frames:
        frame.distortion = ("PINHOLE", (FOCAL, FOCAL, SIZE[0] * 0.95, SIZE[1] / 2))
    geometry = judge_capture(capture, GateConfig(), ordered=True)
    pair = judge_pairs(geometry, np.array([0]), np.array([8]), GateConfig())
    assert not pair.horizontal[0]
    assert set(pair.failed) == {"centre_out_of_photo"}


def read_back(folder, rig: Rig) -> Capture:
    """The rig as COLMAP's files tell of it."""
    for name, data in pack_triple(
        rig, [f"{i:03d}.jpg" for i in range(len(rig.azimuth))]
    ).items():
        (folder / name).write_bytes(data)
    model = read_model(folder)
    frames = [
        Frame(
            name=v.name,
            path=None,
            width=v.width,
            height=v.height,
            K=v.K,
            distortion=v.distortion,
            R=v.R,
            t=v.t,
            time_index=i,
        )
        for i, v in enumerate(model.views)
    ]
    noisy_capture = capture_of(
        rig,
        points=model.points,
        point_tracks=model.tracks,
        reprojection_error_px=model.reprojection_error_px,
    )
    noisy_capture.frames = frames
    return noisy_capture


def wrapped(degrees: np.ndarray) -> np.ndarray:
    return (degrees + 180) % 360 - 180


def test_two_hundred_noisy_captures_under_random_similarities_are_labelled_without_a_mistake(
    tmp_path,
):
    """Hand shake in the motion, errors in the reconstruction: sides agree with the truth in every
    accepted pair, degrees within 3 (p95).
    """
    rng = np.random.default_rng(11)
    wrong = total = good = usable = 0
    errors, turns = [], []
    for _ in range(200):
        n, span = 24, rng.uniform(90, 300)
        rig = Rig(
            azimuth=np.linspace(0, span, n) + rng.normal(0, 1.5, n),
            elevation=rng.uniform(5, 35) + rng.normal(0, 2, n),
            rho=4 * np.exp(rng.normal(0, 0.05, n)),
            roll=rng.normal(0, 2, n),
            turn=rng.normal(0, 2, n),
            pose_noise=0.3,
            **random_similarity(rng),
        )
        geometry = judge_capture(read_back(tmp_path, rig), GateConfig(), ordered=True)
        usable += geometry.angle_ok
        first, second = np.triu_indices(n, k=1)
        pairs = judge_pairs(geometry, first, second, GateConfig())
        motion, accepted = pairs.motion, pairs.horizontal
        true = wrapped(rig.azimuth[second] - rig.azimuth[first])
        turned = wrapped(-true + rig.turn[second] - rig.turn[first])
        good += int(((np.abs(true) >= 21) & (np.abs(true) <= 99)).sum())
        total += int(accepted.sum())
        truths = (
            (motion.alpha, true),
            (motion.s, true),
            (motion.s_object, -true),
            (motion.yaw, turned),
        )
        wrong += sum(
            int((np.sign(values) != np.sign(truth))[accepted].sum())
            for values, truth in truths
        )
        errors += list(np.abs(motion.alpha - true)[accepted])
        turns += list(np.abs(np.abs(motion.yaw) - np.abs(turned))[accepted])
    assert wrong == 0
    assert usable == 200
    assert total >= 0.7 * good
    assert np.percentile(errors, 95) <= 3
    assert np.percentile(turns, 95) <= 3


def test_a_rejected_center_names_what_fails_in_each_method():
    """All cameras look the same way: their axes are parallel and meet nowhere."""
    capture = capture_of(arc(24, span=200.0, elevation=15.0))
    with pytest.raises(Rejected) as error:
        judge_capture(capture, GateConfig(max_center_condition=1.0001), ordered=False)
    assert error.value.reasons == ("centre",)
    assert error.value.detail.startswith("axes: rays are nearly parallel (condition ")
    assert error.value.detail.endswith("gates.max_center_condition=1.0001)")


def test_a_rejected_capture_names_measure_and_gate():
    capture = capture_of(arc(14, span=30.0))
    with pytest.raises(Rejected) as error:
        judge_capture(capture, GateConfig(), ordered=True)
    assert error.value.reasons == ("up_short_arc",)
    assert "gates.min_up_sv2=0.17" in error.value.detail
