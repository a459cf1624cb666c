"""Acceptance gates for captures and for pairs of their photos.

Is a capture's geometry to be trusted? Does a pair show an honest motion,
horizontal or otherwise? Every failing gate is counted under its own name, per
capture and per pair (a pair can fail several).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from actial.config import GateConfig
from actial.core.records import Capture, Frame
from actial.viewpoint import geometry as g
from actial.viewpoint.checks import Faults, failed_checks, reject_if
from actial.viewpoint.object_center import find_center, in_the_middle, read_masks

MAX_FRAMES = 256  # pairs are quadratic in frames: of longer captures an even sample is used
TOLERANCE_DEG = 1e-6  # thresholds are inclusive whatever the last bit says


@dataclass(slots=True, kw_only=True)
class CaptureGeometry:
    """What all pairs of one capture share; arrays run over `frames`."""

    frames: list[Frame]
    R: np.ndarray  # (n, 3, 3)
    C: np.ndarray  # (n, 3)
    up: g.UpEstimate
    center: g.Focus
    center_method: str
    view: g.ViewGeometry
    azimuth: np.ndarray | None  # about the object's own front, where it is known
    angle_ok: bool  # False: sides are sure, degrees are not
    half_fov: np.ndarray  # of the longer side
    central: np.ndarray  # (n,) the center projects into the middle of the photo
    usable_masks: int


def judge_capture(capture: Capture, gates: GateConfig, *, ordered: bool) -> CaptureGeometry:
    """Return up, center and per-view geometry of one capture.

    Raises Rejected with every failing gate of the first failing group.
    """
    reject_if(_model_faults(capture, gates))
    frames = capture.frames[:: -(-len(capture.frames) // MAX_FRAMES)]
    R, C = np.stack([f.R for f in frames]), np.stack([f.center for f in frames])
    up = g.estimate_up(R)
    masks = read_masks(frames, gates)
    center, method = find_center(capture, frames, masks, R, C, gates)
    view = g.view_geometry(R, C, center.point, up.up)
    faults, angle_ok = _up_faults(up, view, gates)
    reject_if(faults)
    around = g.azimuth(C, center.point, up.up, frames[0].R[0])
    reject_if(_arc_faults(around, gates, ordered=ordered))
    azimuth = None
    if capture.front_prior is not None:
        azimuth = g.azimuth(C, center.point, up.up, capture.front_prior)
    half_sides = [max(f.width / f.K[0, 0], f.height / f.K[1, 1]) / 2 for f in frames]
    return CaptureGeometry(
        frames=frames,
        R=R,
        C=C,
        up=up,
        center=center,
        center_method=method,
        view=view,
        azimuth=azimuth,
        angle_ok=angle_ok,
        half_fov=np.degrees(np.arctan(half_sides)),
        central=in_the_middle(frames, center.point, gates.central_share),
        usable_masks=len(masks),
    )


def _model_faults(capture: Capture, gates: GateConfig) -> Faults:
    n, error = len(capture.frames), capture.reprojection_error_px
    points = None if capture.points is None else len(capture.points)
    share = n / max(1, capture.files_total)
    return failed_checks(
        {
            "few_registered": (
                n >= gates.min_registered,
                f"{n} photos can be used, gates.min_registered={gates.min_registered}",
            ),
            "few_registered_share": (
                n >= gates.min_registered_share * capture.files_total,
                f"{share:.0%} of {capture.files_total} photos can be used, "
                f"gates.min_registered_share={gates.min_registered_share:g}",
            ),
            "reprojection_error": (  # NaN fails too
                error is None or error <= gates.max_reprojection_px,
                f"mean reprojection error {error} px, "
                f"gates.max_reprojection_px={gates.max_reprojection_px:g}",
            ),
            "few_points": (
                points is None or points >= gates.min_points,
                f"{points} points, gates.min_points={gates.min_points}",
            ),
            "up_few_cameras": (
                n >= gates.min_up_cameras,
                f"{n} cameras, gates.min_up_cameras={gates.min_up_cameras}",
            ),
        }
    )


def _up_faults(
    up: g.UpEstimate, view: g.ViewGeometry, gates: GateConfig
) -> tuple[Faults, bool]:
    """Return the rejecting faults of up, and whether degrees may be trusted.

    Moderate roll alone costs the degrees, not the sides. A camera that rolls steadily on a level
    orbit is, but for its larger rms roll, a level camera whose elevation drifts about a tilted up:
    sides stay right, degrees do not.
    """
    drifts = float(np.std(view.elevation)) > gates.drift_elevation_std
    trusted_roll = (
        min(gates.max_up_roll, gates.max_drift_roll) if drifts else gates.max_up_roll
    )
    agree = up.axis_angle <= gates.max_up_axis_angle
    faults = failed_checks(
        {
            "sideways": (not up.sideways, "the photos are stored turned by 90 degrees"),
            "up_short_arc": (
                up.sv2 >= gates.min_up_sv2,
                f"the cameras' right axes span {up.sv2:.3f}, gates.min_up_sv2={gates.min_up_sv2:g}",
            ),
            # Beyond this roll most photos fail the roll gate, and up itself is in doubt.
            "up_rolled": (
                up.rms_roll <= gates.max_roll,
                f"roll of {up.rms_roll:.1f} degrees rms, gates.max_roll={gates.max_roll:g}",
            ),
            "up_disagreement": (
                agree or (drifts and up.rms_roll <= trusted_roll),
                f"two estimates of up are {up.axis_angle:.1f} degrees apart, "
                f"gates.max_up_axis_angle={gates.max_up_axis_angle:g}",
            ),
        }
    )
    return faults, up.rms_roll <= trusted_roll


def _arc_faults(around: np.ndarray, gates: GateConfig, *, ordered: bool) -> Faults:
    steps, span = g.azimuth_steps(around), g.azimuth_span(around)
    step, jump = float(np.median(steps)), float(steps.max())
    return failed_checks(
        {
            "arc": (
                span >= gates.min_arc,
                f"the cameras span {span:.0f} degrees, gates.min_arc={gates.min_arc:g}",
            ),
            "continuity_step": (
                not ordered or step <= gates.max_median_step,
                f"neighboring photos are {step:.0f} degrees apart, "
                f"gates.max_median_step={gates.max_median_step:g}; "
                "source.ordered=false for photos that do not follow a walk",
            ),
            "continuity_jump": (
                not ordered or jump <= gates.max_step,
                f"neighboring photos jump by {jump:.0f} degrees, gates.max_step="
                f"{gates.max_step:g}; source.ordered=false for photos that do not follow a walk",
            ),
        }
    )


# ---------------------------------------------------------------- pairs


@dataclass(slots=True, kw_only=True)
class JudgedPairs:
    """Ordered pairs (m,) of frame indices and what each shows.

    A pair belongs to one motion at most.
    """

    first: np.ndarray
    second: np.ndarray
    motion: g.PairMotion
    horizontal: np.ndarray  # (m,) bool: the accepted ones
    vertical: np.ndarray
    depth: np.ndarray
    failed: Counter[str]  # how many fail each gate of a horizontal pair


def usable_views(capture: CaptureGeometry, gates: GateConfig) -> dict[str, np.ndarray]:
    """Return gate -> (n,) bool over the frames.

    The gates tell from where, and how held, a photo shows the object well enough to ask about it.
    """
    view = capture.view
    max_off_axis = np.minimum(gates.max_off_axis, gates.max_off_axis_fov * capture.half_fov)
    low_enough = view.elevation <= gates.max_elevation
    return {
        "off_axis": view.off_axis <= max_off_axis,
        "elevation": (gates.min_elevation <= view.elevation) & low_enough,
        "heading": view.heading_level >= gates.min_heading_level,
        "roll": np.abs(view.roll) <= gates.max_roll,
        "centre_out_of_photo": capture.central,
    }


def judge_pairs(
    capture: CaptureGeometry, first: np.ndarray, second: np.ndarray, gates: GateConfig
) -> JudgedPairs:
    """Tell which ordered pairs (m,) of frames show an honest motion, and of which kind."""
    R, C, view = capture.R, capture.C, capture.view
    p = g.pair_motion(
        R[first], C[first], R[second], C[second], capture.center.point, capture.up.up
    )
    low = gates.min_angle + gates.angle_margin - TOLERANCE_DEG
    high = gates.max_angle - gates.angle_margin + TOLERANCE_DEG
    alpha, yaw = np.abs(p.alpha), np.abs(p.yaw)
    ratio = view.rho[second] / view.rho[first]
    rise = np.abs(view.elevation[first] - view.elevation[second])
    frame_ok = {
        name: ok[first] & ok[second] for name, ok in usable_views(capture, gates).items()
    }
    checks = {
        "angle": (low <= alpha) & (alpha <= high),
        "yaw": (low <= yaw) & (yaw <= high),
        "sign": (np.sign(p.alpha) == np.sign(p.s)) & (np.sign(p.alpha) == -np.sign(p.yaw)),
        "angle_yaw_gap": np.abs(alpha - yaw) <= gates.max_angle_gap,
        "up_free": np.abs(p.rotation_full - alpha) <= gates.max_up_free_gap,
        "elevation_change": rise <= gates.max_elevation_change,
        "vertical": np.abs(p.vertical) <= p.horizontal,
        "distance": (1 / gates.max_distance_ratio <= ratio)
        & (ratio <= gates.max_distance_ratio),
        "small_motion": np.abs(p.s) >= gates.min_s,
        **frame_ok,
    }
    # Vertical and forward motions are straight: hardly around the object, hardly turned.
    hardly_around = np.maximum(alpha, yaw) <= gates.max_side_angle
    straight = np.logical_and.reduce(list(frame_ok.values())) & hardly_around
    rises = np.abs(p.vertical) >= np.maximum(gates.min_s, p.horizontal)
    failed = {name: int((~ok).sum()) for name, ok in checks.items() if not ok.all()}
    return JudgedPairs(
        first=first,
        second=second,
        motion=p,
        horizontal=np.logical_and.reduce(list(checks.values())),
        vertical=straight & (rise >= gates.min_rise) & rises,
        depth=straight
        & (rise < gates.min_rise)
        & _approaches(capture, p, first, second, gates),
        failed=Counter(failed),
    )


def _approaches(
    capture: CaptureGeometry,
    p: g.PairMotion,
    first: np.ndarray,
    second: np.ndarray,
    gates: GateConfig,
) -> np.ndarray:
    """Tell per pair (m,) whether the camera comes clearly nearer or goes farther.

    It must move along its own axis more than across it.
    """
    far = np.linalg.norm(capture.C - capture.center.point, axis=1)
    change = np.abs(np.log(far[second] / far[first]))
    ahead = p.t[:, 2]
    same_sign = np.sign(ahead) == np.sign(far[first] - far[second])
    along_axis = np.abs(ahead) >= np.linalg.norm(p.t[:, :2], axis=1)
    approaches: np.ndarray = (change >= np.log(gates.min_approach)) & same_sign & along_axis
    return approaches
