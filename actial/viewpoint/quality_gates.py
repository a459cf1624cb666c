"""Acceptance gates: is this capture's geometry to be trusted, and does this pair of photos show an honest horizontal motion?

Every failing gate is counted under its own name, per capture and per pair (a pair can fail several).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from actial.config import GateConfig
from actial.core.errors import Rejected
from actial.core.records import Capture, Frame
from actial.viewpoint import geometry as g
from actial.viewpoint.lens import pixel_ray, project
from actial.viewpoint.masks import read_mask

MASK_BORDER = 2  # pixels
POINT_MASK_SHARE = 0.6  # a point belongs to the object when it falls on the mask in this share of the masked photos,
POINT_MASK_FRAMES = 3  # and in at least so many
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
    central: np.ndarray  # (n,) the centre projects into the middle of the photo
    usable_masks: int


def judge_capture(capture: Capture, gates: GateConfig, *, ordered: bool) -> CaptureGeometry:
    """Up, centre and per-view geometry of one capture; raises Rejected with every failing gate of the first failing group."""
    frames = capture.frames[:: -(-len(capture.frames) // MAX_FRAMES)] if capture.frames else []
    _reject_if(_model_faults(capture, gates))
    R, C = np.stack([f.R for f in frames]), np.stack([f.center for f in frames])
    up = g.estimate_up(R)
    masks = _read_masks(frames, gates)
    center, method = _find_center(capture, frames, masks, R, C, gates)
    view = g.view_geometry(R, C, center.point, up.up)
    faults, angle_ok = _up_faults(up, view, gates)
    _reject_if(faults)
    around = g.azimuth(C, center.point, up.up, frames[0].R[0])
    _reject_if(_arc_faults(around, gates, ordered=ordered))
    return CaptureGeometry(
        frames=frames,
        R=R,
        C=C,
        up=up,
        center=center,
        center_method=method,
        view=view,
        azimuth=None
        if capture.front_prior is None
        else g.azimuth(C, center.point, up.up, capture.front_prior),
        angle_ok=angle_ok,
        half_fov=np.degrees(
            np.arctan([max(f.width / f.K[0, 0], f.height / f.K[1, 1]) / 2 for f in frames])
        ),
        central=_in_the_middle(frames, center.point, gates.central_share),
        usable_masks=len(masks),
    )


def _reject_if(faults: list[str]) -> None:
    if faults:
        raise Rejected(*faults)


def _model_faults(capture: Capture, gates: GateConfig) -> list[str]:
    n, error = len(capture.frames), capture.reprojection_error_px
    checks = {
        "few_registered": n >= gates.min_registered,
        "few_registered_share": n >= gates.min_registered_share * capture.files_total,
        "reprojection_error": error is None or error <= gates.max_reprojection_px,  # NaN fails too
        "few_points": capture.points is None or len(capture.points) >= gates.min_points,
        "up_few_cameras": n >= gates.min_up_cameras,
    }
    return [name for name, ok in checks.items() if not ok]


def _up_faults(up: g.UpEstimate, view: g.ViewGeometry, gates: GateConfig) -> tuple[list[str], bool]:
    """Rejecting faults, and whether degrees may be trusted: moderate roll alone costs the degrees, not the sides.

    A camera that rolls steadily on a level orbit is, but for its larger rms roll, a level camera whose elevation drifts about a tilted up:
    sides stay right, degrees do not.
    """
    drifts = float(np.std(view.elevation)) > gates.drift_elevation_std
    trusted_roll = min(gates.max_up_roll, gates.max_drift_roll) if drifts else gates.max_up_roll
    checks = {
        "sideways": not up.sideways,
        "up_short_arc": up.sv2 >= gates.min_up_sv2,
        "up_rolled": up.rms_roll
        <= gates.max_roll,  # beyond it most photos fail the roll gate, and up itself is in doubt
        "up_disagreement": up.axis_angle <= gates.max_up_axis_angle
        or (drifts and up.rms_roll <= trusted_roll),
    }
    return [name for name, ok in checks.items() if not ok], up.rms_roll <= trusted_roll


def _arc_faults(around: np.ndarray, gates: GateConfig, *, ordered: bool) -> list[str]:
    steps = g.azimuth_steps(around)
    checks = {
        "arc": g.azimuth_span(around) >= gates.min_arc,
        "continuity_step": not ordered or np.median(steps) <= gates.max_median_step,
        "continuity_jump": not ordered or steps.max() <= gates.max_step,
    }
    return [name for name, ok in checks.items() if not ok]


# ---------------------------------------------------------------- the object's centre


def _find_center(
    capture: Capture,
    frames: list[Frame],
    masks: dict[int, np.ndarray],
    R: np.ndarray,
    C: np.ndarray,
    gates: GateConfig,
) -> tuple[g.Focus, str]:
    """First method of the chain masks(+points), axes, points, prior whose quality holds."""
    for method, focus in _center_candidates(capture, frames, masks, R, C, gates):
        good = (
            focus.condition < gates.max_center_condition
            and focus.residual < gates.max_center_residual
        )
        if good and focus.in_front >= gates.min_center_in_front:
            return focus, method
    raise Rejected("centre")


def _center_candidates(
    capture: Capture,
    frames: list[Frame],
    masks: dict[int, np.ndarray],
    R: np.ndarray,
    C: np.ndarray,
    gates: GateConfig,
) -> Iterator[tuple[str, g.Focus]]:
    rays = {
        i: ray
        for i, mask in masks.items()
        if np.isfinite(ray := pixel_ray(frames[i], _centroid(mask))).all()
    }
    if len(rays) >= max(3, len(frames) / 2):
        focus = g.focus_of_rays(C[list(rays)], np.stack(list(rays.values())))
        by_points = _masked_points_center(capture, frames, masks)
        if by_points is None:
            yield "masks", focus
        elif np.linalg.norm(by_points - focus.point) < gates.max_mask_center_gap * np.median(
            np.linalg.norm(C - focus.point, axis=1)
        ):
            yield "masks+points", focus
    axes = g.focus_of_rays(C, R[:, 2])
    yield "axes", axes
    if capture.points is not None and len(capture.points) and capture.point_tracks is not None:
        near = g.points_near_focus(capture.points, capture.point_tracks, C, axes.point)
        if near is not None:
            yield "points", _focus_at(near, R, C)
    if capture.center_prior is not None:
        yield "prior", _focus_at(capture.center_prior, R, C)


def _focus_at(point: np.ndarray, R: np.ndarray, C: np.ndarray) -> g.Focus:
    """A point known otherwise than by rays: only its place before the cameras is to be checked."""
    return g.Focus(
        point=point,
        condition=1.0,
        residual=0.0,
        in_front=float(np.mean(g.dot(R[:, 2], point - C) > 0)),
    )


def _read_masks(frames: list[Frame], gates: GateConfig) -> dict[int, np.ndarray]:
    """Return the usable masks by the index of their frame."""
    masks = {i: _read_mask(frame, gates) for i, frame in enumerate(frames)}
    return {i: mask for i, mask in masks.items() if mask is not None}


def _read_mask(frame: Frame, gates: GateConfig) -> np.ndarray | None:
    """bool (H, W) at the photo's size, or None where there is no usable mask."""
    if frame.mask_path is None:
        return None
    size = (frame.width, frame.height)
    mask = read_mask(frame.mask_path, size, frame.mask_quarter_turns)
    if mask is None:
        return None  # as good as no mask; the chain goes on without it
    b = MASK_BORDER
    rim = np.concatenate(
        [mask[:b].ravel(), mask[-b:].ravel(), mask[:, :b].ravel(), mask[:, -b:].ravel()]
    )
    usable = (
        gates.min_mask_area <= mask.mean() <= gates.max_mask_area
        and rim.mean() <= gates.max_mask_border
    )
    return mask if usable else None


def _centroid(mask: np.ndarray) -> np.ndarray:
    """(x, y) in pixels, pixel centres at +0.5."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


def _masked_points_center(
    capture: Capture, frames: list[Frame], masks: dict[int, np.ndarray]
) -> np.ndarray | None:
    if capture.points is None or len(capture.points) == 0:
        return None
    hits = np.zeros(len(capture.points), dtype=int)
    for i, mask in masks.items():
        pixels = np.nan_to_num(project(frames[i], capture.points), nan=-1.0)
        on_photo = ((pixels >= 0) & (pixels < [mask.shape[1], mask.shape[0]])).all(axis=1)
        x, y = pixels[on_photo].astype(int).T
        hits[on_photo] += mask[y, x]
    kept = hits >= max(POINT_MASK_FRAMES, POINT_MASK_SHARE * len(masks))
    return np.median(capture.points[kept], axis=0) if kept.any() else None


def _in_the_middle(frames: list[Frame], point: np.ndarray, share: float) -> np.ndarray:
    pixels = np.stack([project(frame, point[None])[0] for frame in frames])
    sizes = np.array([[frame.width, frame.height] for frame in frames])
    return np.nan_to_num(np.abs(pixels / sizes - 0.5), nan=1.0).max(axis=1) <= share / 2


# ---------------------------------------------------------------- pairs


@dataclass(slots=True, kw_only=True)
class JudgedPairs:
    """Ordered pairs (m,) of frame indices and what each shows; a pair belongs to one motion at most."""

    first: np.ndarray
    second: np.ndarray
    motion: g.PairMotion
    horizontal: np.ndarray  # (m,) bool: the accepted ones
    vertical: np.ndarray
    depth: np.ndarray
    failed: Counter[str]  # how many fail each gate of a horizontal pair


def usable_views(capture: CaptureGeometry, gates: GateConfig) -> dict[str, np.ndarray]:
    """Gate -> (n,) bool over the frames: from where, and how held, a photo shows the object well enough to ask about it."""
    view = capture.view
    return {
        "off_axis": view.off_axis
        <= np.minimum(gates.max_off_axis, gates.max_off_axis_fov * capture.half_fov),
        "elevation": (gates.min_elevation <= view.elevation)
        & (view.elevation <= gates.max_elevation),
        "heading": view.heading_level >= gates.min_heading_level,
        "roll": np.abs(view.roll) <= gates.max_roll,
        "centre_out_of_photo": capture.central,
    }


def judge_pairs(
    capture: CaptureGeometry, first: np.ndarray, second: np.ndarray, gates: GateConfig
) -> JudgedPairs:
    """Which ordered pairs (m,) show an honest horizontal, vertical or forward motion."""
    R, C, view = capture.R, capture.C, capture.view
    p = g.pair_motion(R[first], C[first], R[second], C[second], capture.center.point, capture.up.up)
    low, high = (
        gates.min_angle + gates.angle_margin - TOLERANCE_DEG,
        gates.max_angle - gates.angle_margin + TOLERANCE_DEG,
    )
    alpha, yaw = np.abs(p.alpha), np.abs(p.yaw)
    ratio = view.rho[second] / view.rho[first]
    rise = np.abs(view.elevation[first] - view.elevation[second])
    frame_ok = {name: ok[first] & ok[second] for name, ok in usable_views(capture, gates).items()}
    checks = {
        "angle": (low <= alpha) & (alpha <= high),
        "yaw": (low <= yaw) & (yaw <= high),
        "sign": (np.sign(p.alpha) == np.sign(p.s)) & (np.sign(p.alpha) == -np.sign(p.yaw)),
        "angle_yaw_gap": np.abs(alpha - yaw) <= gates.max_angle_gap,
        "up_free": np.abs(p.rotation_full - alpha) <= gates.max_up_free_gap,
        "elevation_change": rise <= gates.max_elevation_change,
        "vertical": np.abs(p.vertical) <= p.horizontal,
        "distance": (1 / gates.max_distance_ratio <= ratio) & (ratio <= gates.max_distance_ratio),
        "small_motion": np.abs(p.s) >= gates.min_s,
        **frame_ok,
    }
    straight = np.logical_and.reduce(list(frame_ok.values())) & (
        np.maximum(alpha, yaw) <= gates.max_side_angle
    )
    return JudgedPairs(
        first=first,
        second=second,
        motion=p,
        horizontal=np.logical_and.reduce(list(checks.values())),
        vertical=straight
        & (rise >= gates.min_rise)
        & (np.abs(p.vertical) >= np.maximum(gates.min_s, p.horizontal)),
        depth=straight & (rise < gates.min_rise) & _approaches(capture, p, first, second, gates),
        failed=Counter({name: int((~ok).sum()) for name, ok in checks.items() if not ok.all()}),
    )


def _approaches(
    capture: CaptureGeometry,
    p: g.PairMotion,
    first: np.ndarray,
    second: np.ndarray,
    gates: GateConfig,
) -> np.ndarray:
    """Clearly nearer or farther, along the first camera's own axis more than across it."""
    far = np.linalg.norm(capture.C - capture.center.point, axis=1)
    change = np.abs(np.log(far[second] / far[first]))
    ahead = p.t[:, 2]
    return (
        (change >= np.log(gates.min_approach))
        & (np.sign(ahead) == np.sign(far[first] - far[second]))
        & (np.abs(ahead) >= np.linalg.norm(p.t[:, :2], axis=1))
    )
