"""Where the object of a capture is: from masks, optical axes, points or what the source knows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from actial.config import GateConfig
from actial.core.errors import Rejected
from actial.core.records import Capture, Frame
from actial.viewpoint import geometry as g
from actial.viewpoint.checks import Faults, failed_checks
from actial.viewpoint.lens import pixel_ray, project
from actial.viewpoint.masks import read_mask

MASK_BORDER = 2  # pixels
# A point belongs to the object when it falls on the mask in this share of the masked photos, and in
# at least so many.
POINT_MASK_SHARE = 0.6
POINT_MASK_FRAMES = 3


def find_center(
    capture: Capture,
    frames: list[Frame],
    masks: dict[int, np.ndarray],
    R: np.ndarray,
    C: np.ndarray,
    gates: GateConfig,
) -> tuple[g.Focus, str]:
    """Return the first of the methods masks(+points), axes, points, prior whose quality holds.

    Raises Rejected("centre") with what fails in each method.
    """
    failed = []
    for method, focus in _center_candidates(capture, frames, masks, R, C, gates):
        faults = _center_faults(focus, gates)
        if not faults:
            return focus, method
        failed.append(f"{method}: {', '.join(faults.values())}")
    raise Rejected("centre", detail="; ".join(failed))


def _center_faults(focus: g.Focus, gates: GateConfig) -> Faults:
    return failed_checks(
        {
            "condition": (
                focus.condition < gates.max_center_condition,
                f"rays are nearly parallel (condition {focus.condition:.0f}, "
                f"gates.max_center_condition={gates.max_center_condition:g})",
            ),
            "residual": (
                focus.residual < gates.max_center_residual,
                f"rays miss each other (by {focus.residual:.2f} of the distance, "
                f"gates.max_center_residual={gates.max_center_residual:g})",
            ),
            "in_front": (
                focus.in_front >= gates.min_center_in_front,
                f"the object is in front of {focus.in_front:.0%} of the cameras, "
                f"gates.min_center_in_front={gates.min_center_in_front:g}",
            ),
        }
    )


def _center_candidates(
    capture: Capture,
    frames: list[Frame],
    masks: dict[int, np.ndarray],
    R: np.ndarray,
    C: np.ndarray,
    gates: GateConfig,
) -> Iterator[tuple[str, g.Focus]]:
    """Yield (method, center) of every method that the capture has data for, best first."""
    rays = {i: pixel_ray(frames[i], _centroid(mask)) for i, mask in masks.items()}
    rays = {i: ray for i, ray in rays.items() if np.isfinite(ray).all()}
    if len(rays) >= max(3, len(frames) / 2):
        focus = g.focus_of_rays(C[list(rays)], np.stack(list(rays.values())))
        by_points = _masked_points_center(capture, frames, masks)
        distance = np.median(np.linalg.norm(C - focus.point, axis=1))
        if by_points is None:
            yield "masks", focus
        elif np.linalg.norm(by_points - focus.point) < gates.max_mask_center_gap * distance:
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
    """Return a center not found by rays: only its place before the cameras is to be checked."""
    return g.Focus(
        point=point,
        condition=1.0,
        residual=0.0,
        in_front=float(np.mean(g.dot(R[:, 2], point - C) > 0)),
    )


def read_masks(frames: list[Frame], gates: GateConfig) -> dict[int, np.ndarray]:
    """Return the usable masks by the index of their frame."""
    masks = {i: _read_mask(frame, gates) for i, frame in enumerate(frames)}
    return {i: mask for i, mask in masks.items() if mask is not None}


def _read_mask(frame: Frame, gates: GateConfig) -> np.ndarray | None:
    """Return bool (H, W) at the photo's size, or None where there is no usable mask."""
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
    """Return (x, y) in pixels, pixel centers at +0.5."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


def _masked_points_center(
    capture: Capture, frames: list[Frame], masks: dict[int, np.ndarray]
) -> np.ndarray | None:
    """Return the median (3,) of the points that fall on the masks, None without such points."""
    if capture.points is None or len(capture.points) == 0:
        return None
    hits = np.zeros(len(capture.points), dtype=int)
    for i, mask in masks.items():
        pixels = np.nan_to_num(project(frames[i], capture.points), nan=-1.0)
        on_photo = ((pixels >= 0) & (pixels < [mask.shape[1], mask.shape[0]])).all(axis=1)
        x, y = pixels[on_photo].astype(int).T
        hits[on_photo] += mask[y, x]
    on_object = hits >= max(POINT_MASK_FRAMES, POINT_MASK_SHARE * len(masks))
    if not on_object.any():
        return None
    center: np.ndarray = np.median(capture.points[on_object], axis=0)
    return center


def in_the_middle(frames: list[Frame], point: np.ndarray, share: float) -> np.ndarray:
    """Tell per frame (n,) whether the point projects into the central share of the photo."""
    pixels = np.stack([project(frame, point[None])[0] for frame in frames])  # (n, 2)
    sizes = np.array([[frame.width, frame.height] for frame in frames])
    off_center = np.nan_to_num(np.abs(pixels / sizes - 0.5), nan=1.0).max(axis=1)
    central: np.ndarray = off_center <= share / 2
    return central
