"""COLMAP camera models: pixels to rays and points to pixels."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import PIL.Image  # noqa: F401  before pycolmap: loaded after it, Pillow's PNG encoder crashes
import pycolmap

from actial.core.records import Frame, Lens

# Without distortion these project like a pinhole; fisheye models do not.
PERSPECTIVE = {"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"}


@cache
def camera_models() -> dict[int, tuple[str, int]]:
    """Return COLMAP's model id -> name and number of parameters, of all models pycolmap knows."""
    models = {}
    for name, model in pycolmap.CameraModelId.__members__.items():
        if name != "INVALID":
            camera = pycolmap.Camera.create_from_model_id(1, model, 1.0, 2, 2)
            models[int(model.value)] = (name, len(camera.params))
    return models


@cache
def _parameter_places(model: str) -> tuple[list[int], list[int]]:
    """Return where a model's parameters hold its focal lengths and its principal point."""
    camera = pycolmap.Camera.create_from_model_name(1, model, 1.0, 2, 2)
    return list(camera.focal_length_idxs()), list(camera.principal_point_idxs())


def is_photo_lens(lens: Lens) -> bool:
    """Return whether the lens has focal lengths and a principal point: a panorama has neither."""
    focal, principal = _parameter_places(lens[0])
    return bool(focal) and len(principal) == 2


def calibration(lens: Lens) -> np.ndarray:
    """Return K (3, 3) of a COLMAP camera model with its parameters."""
    model, params = lens
    focal, principal = _parameter_places(model)
    fx, fy = params[focal[0]], params[focal[-1]]
    cx, cy = (params[i] for i in principal)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def rescaled(lens: Lens, size: tuple[int, int], new_size: tuple[int, int]) -> Lens:
    """Return the lens of photos of `new_size` (width, height) that were `size` when calibrated."""
    model, params = lens
    camera = pycolmap.Camera(model=model, width=size[0], height=size[1], params=list(params))
    camera.rescale(*new_size)
    return model, tuple(float(value) for value in camera.params)


def turned(lens: Lens, size: tuple[int, int], quarter_turns: int) -> Lens:
    """Return the lens of a photo of `size` after counter-clockwise quarter turns.

    Distortion is left out: it bends the rays of mask centroids by a few pixels at most.
    """
    K = calibration(lens)
    fx, fy, cx, cy = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
    width, height = size
    for _ in range(quarter_turns % 4):
        fx, fy, cx, cy = fy, fx, cy, width - cx
        width, height = height, width
    return "PINHOLE", (fx, fy, cx, cy)


@lru_cache(maxsize=64)
def _lens(model: str, params: tuple[float, ...], width: int, height: int) -> pycolmap.Camera:
    return pycolmap.Camera(model=model, width=width, height=height, params=list(params))


def _camera(frame: Frame) -> pycolmap.Camera:
    return _lens(*frame.distortion, frame.width, frame.height)


def _first_distortion(model: str) -> int:
    """Return where the parameters behind focal lengths and principal point begin."""
    focal, principal = _parameter_places(model)
    return len(focal) + len(principal)


def pixel_ray(frame: Frame, pixel: np.ndarray) -> np.ndarray:
    """Return the unit direction (3,) in the world of one pixel (x, y), lens distortion undone.

    NaN where the lens model has no answer.
    """
    on_plane: np.ndarray = _camera(frame).cam_from_img(
        np.asarray(pixel, dtype=np.float64).reshape(1, 2)
    )  # type: ignore[assignment]
    ray = frame.R.T @ np.array([*on_plane[0], 1.0])
    direction: np.ndarray = ray / np.linalg.norm(ray)
    return direction


def project(frame: Frame, points: np.ndarray) -> np.ndarray:
    """Return the pixels (N, 2) of world points (N, 3); NaN behind the camera."""
    local = points @ frame.R.T + frame.t
    model, params = frame.distortion
    if model not in PERSPECTIVE or any(params[_first_distortion(model) :]):
        distorted: np.ndarray = _camera(frame).img_from_cam(local)
        return distorted
    pixels = local @ calibration(frame.distortion).T
    projected: np.ndarray = pixels[:, :2] / np.where(pixels[:, 2:] > 0, pixels[:, 2:], np.nan)
    return projected
