"""COLMAP camera models: pixels to rays and points to pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pycolmap

from actial.core.records import Frame, Lens

ONE_FOCAL = {"SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}


PINHOLES = {"SIMPLE_PINHOLE", "PINHOLE"}


def calibration(lens: Lens) -> np.ndarray:
    """K (3, 3) of a COLMAP camera model with its parameters."""
    model, params = lens
    fx, fy, cx, cy = (params[0], *params[:3]) if model in ONE_FOCAL else params[:4]
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


@lru_cache(maxsize=64)
def _lens(model: str, params: tuple[float, ...], width: int, height: int) -> pycolmap.Camera:
    return pycolmap.Camera(model=model, width=width, height=height, params=list(params))


def _camera(frame: Frame) -> pycolmap.Camera:
    return _lens(*frame.distortion, frame.width, frame.height)


def pixel_ray(frame: Frame, pixel: np.ndarray) -> np.ndarray:
    """Unit direction in the world of one pixel (x, y), lens distortion undone; NaN where the lens model has no answer."""
    on_plane: np.ndarray = _camera(frame).cam_from_img(
        np.asarray(pixel, dtype=np.float64).reshape(1, 2)
    )  # type: ignore[assignment]
    ray = frame.R.T @ np.array([*on_plane[0], 1.0])
    return ray / np.linalg.norm(ray)


def project(frame: Frame, points: np.ndarray) -> np.ndarray:
    """World points (N, 3) -> pixels (N, 2); NaN behind the camera."""
    local = points @ frame.R.T + frame.t
    model, params = frame.distortion
    if model not in PINHOLES and any(params[3 if model in ONE_FOCAL else 4 :]):
        return _camera(frame).img_from_cam(local)
    pixels = local @ calibration(frame.distortion).T
    return pixels[:, :2] / np.where(pixels[:, 2:] > 0, pixels[:, 2:], np.nan)
