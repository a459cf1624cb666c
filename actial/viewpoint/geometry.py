"""Camera motion about an object, in closed form: signs, angles, gravity, the object's center.

Pure numpy. Every camera is OpenCV's: `x_cam = R x_world + t`, the rows of R are
the camera's right, down and forward directions in the world. The world frame
has any rotation, origin and scale. Angles are degrees, and signed angles are
counter-clockwise seen from above (along -up). Arrays broadcast over leading
dimensions, the last axis of a vector has length 3.

Signs (one module holds them all):
  alpha   > 0  the camera went to its right around the object
  s       > 0  the camera moved to its own level right
  s_obj   > 0  the same, to the right of an upright observer at the object's center who faces the
               first camera
  yaw     > 0  the camera turned to its right
For a camera that keeps aiming at the object: alpha > 0 <=> s > 0 <=> s_obj < 0 <=> yaw < 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Camera axes of other conventions in OpenCV camera axes; each matrix is its own inverse.
OPENGL_AXES = np.diag([1.0, -1.0, -1.0])  # x right, y up, z back
PYTORCH3D_AXES = np.diag([-1.0, -1.0, 1.0])  # x left, y up, z forward

IRLS_ROUNDS = 3
ROLL_SCALE = 0.1  # |r . u| beyond which a camera's vote for up is weakened
HUBER_MADS = 1.5
SIDEWAYS_LEVEL = 0.7  # |mean r . u| is 0.94 for images stored turned by 90 degrees, else 0
EXACT = 1e-5  # of R R^T from I, in a rotation that is used as it is
ROUNDED = 2e-3  # the same of a rotation that was written with 3 decimals or in 16 bits
MAX_AXIS_CAMERAS = 200  # rotation-axis votes are quadratic in cameras

Array = np.ndarray


# ---------------------------------------------------------------- small vector helpers


def unit(v: Array) -> Array:
    """Return v at length 1."""
    scaled: Array = v / np.linalg.norm(v, axis=-1, keepdims=True)
    return scaled


def dot(a: Array, b: Array) -> Array:
    """Return the inner products over the last axis."""
    products: Array = np.sum(a * b, axis=-1)
    return products


def cross(a: Array, b: Array) -> Array:
    """Return np.cross of 3-vectors, without its cost of setting up."""
    x = a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1]
    y = a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2]
    return np.stack([x, y, a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]], axis=-1)


def median(v: Array) -> float:
    """Return np.median of a flat array, without its cost of setting up."""
    ordered = np.sort(v)
    return float(ordered[(len(v) - 1) // 2] + ordered[len(v) // 2]) / 2


def level(v: Array, up: Array) -> Array:
    """Return the horizontal part of v: (I - u u^T) v."""
    horizontal: Array = v - dot(v, up)[..., None] * up
    return horizontal


def signed_angle(a: Array, b: Array, up: Array) -> Array:
    """Return degrees from a to b seen from above, counter-clockwise positive.

    a and b are orthogonal to up.
    """
    degrees: Array = np.degrees(np.arctan2(dot(cross(a, b), up), dot(a, b)))
    return degrees


def angle_between(a: Array, b: Array) -> Array:
    """Return unsigned degrees between vectors of any length; exact near 0 and 180."""
    degrees: Array = np.degrees(np.arctan2(np.linalg.norm(cross(a, b), axis=-1), dot(a, b)))
    return degrees


def rotation_angle(R: Array) -> Array:
    """Return degrees of the full angle of rotation matrices (..., 3, 3)."""
    sine = np.linalg.norm(_axis_vector(R), axis=-1)
    cosine = (np.trace(R, axis1=-2, axis2=-1) - 1) / 2
    degrees: Array = np.degrees(np.arctan2(sine, cosine))
    return degrees


def _axis_vector(R: Array) -> Array:
    """Return sin(angle) times the axis, from the skew part of (..., 3, 3)."""
    x = R[..., 2, 1] - R[..., 1, 2]
    y = R[..., 0, 2] - R[..., 2, 0]
    z = R[..., 1, 0] - R[..., 0, 1]
    return np.stack([x, y, z], axis=-1) / 2


def rotation_error(R: Array) -> Array:
    """Return the largest entry of |R R^T - I| of matrices (..., 3, 3)."""
    with np.errstate(invalid="ignore", over="ignore"):
        error: Array = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).max(axis=(-2, -1))
        return error


def are_rotations(R: Array) -> Array:
    """Tell per matrix (..., 3, 3) whether it is finite and, but for rounding, a rotation.

    A mirrored frame (det R = -1) would swap left and right.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        rotations: Array = (rotation_error(R) < ROUNDED) & (np.linalg.det(R) > 0)
        return rotations


def without_rounding(R: Array) -> Array:
    """Return (..., 3, 3) with the nearest rotation for each one that was written rounded."""
    rounded = are_rotations(R) & (rotation_error(R) >= EXACT)
    u, _, vt = np.linalg.svd(np.where(rounded[..., None, None], R, np.eye(3)))
    exact: Array = np.where(rounded[..., None, None], u @ vt, R)
    return exact


# ---------------------------------------------------------------- conventions


def from_pytorch3d(R: Array, T: Array) -> tuple[Array, Array]:
    """Return OpenCV (R, t) of PyTorch3D's row-vector form `X_cam = X_world @ R + T`."""
    return PYTORCH3D_AXES @ np.swapaxes(R, -1, -2), T @ PYTORCH3D_AXES


def from_camera_to_world(pose: Array, axes: Array | None = None) -> tuple[Array, Array]:
    """Return OpenCV (R, t) of a camera-to-world matrix (4, 4) or (3, 4).

    `axes` are the camera axes of the matrix, one of the constants above; None is OpenCV's own.
    """
    R = (without_rounding(pose[:3, :3]) @ (np.eye(3) if axes is None else axes)).T
    return R, -R @ pose[:3, 3]


# ---------------------------------------------------------------- one camera about the object


@dataclass(slots=True, kw_only=True)
class ViewGeometry:
    """Per camera (n,): where it stands about the object and how it is held."""

    rho: Array  # horizontal distance to the center, world units
    elevation: Array  # of the camera above the center's horizon
    off_axis: Array  # between the optical axis and the direction to the center
    # signed, from above: from the direction to the center to the optical axis
    heading_off: Array
    # |level(f)|: 1 = to the horizon, 0 = straight down, where yaw is void
    heading_level: Array
    roll: Array  # > 0: the right side of the image is raised


def view_geometry(R: Array, centers: Array, target: Array, up: Array) -> ViewGeometry:
    """Return the view of every camera.

    Args:
        R: (n, 3, 3) world to camera.
        centers: (n, 3) of the cameras.
        target: (3,) object center.
        up: (3,) unit.
    """
    right, down, forward = R[..., 0, :], R[..., 1, :], R[..., 2, :]
    to_target = target - centers
    return ViewGeometry(
        rho=np.linalg.norm(level(to_target, up), axis=-1),
        elevation=np.degrees(np.arcsin(np.clip(dot(unit(-to_target), up), -1, 1))),
        off_axis=angle_between(forward, to_target),
        heading_off=signed_angle(level(to_target, up), level(forward, up), up),
        heading_level=np.linalg.norm(level(forward, up), axis=-1),
        roll=np.degrees(np.arctan2(dot(right, up), -dot(down, up))),
    )


def azimuth(centers: Array, target: Array, up: Array, front: Array) -> Array:
    """Return from which side cameras see the object, in (-180, 180].

    0 is in front of it, counter-clockwise from above.
    """
    return signed_angle(level(front, up), level(centers - target, up), up)


# ---------------------------------------------------------------- two cameras


@dataclass(slots=True, kw_only=True)
class PairMotion:
    """Per ordered pair (m,): motion from camera 1 to camera 2."""

    alpha: Array
    yaw: Array  # psi, about gravity
    yaw_camera_axis: Array  # about camera 1's own down axis; the paper's wording
    rotation_full: Array  # of R2 R1^T; |alpha| on an orbit of constant elevation and roll
    s: Array  # relative to rho1
    s_object: Array  # relative to rho1
    t: Array  # (m, 3) displacement on camera 1's right, down, forward, relative to rho1
    vertical: Array  # displacement along up, relative to rho1
    horizontal: Array  # its horizontal length, relative to rho1


def pair_motion(
    R1: Array, C1: Array, R2: Array, C2: Array, target: Array, up: Array
) -> PairMotion:
    """Return the motion of ordered pairs.

    Args:
        R1, R2: (m, 3, 3) world to camera.
        C1, C2: (m, 3) camera centers.
        target: (3,) object center.
        up: (3,) unit.
    """
    # f1, f2 (m, 3) are the optical axes, radius1, radius2 (m, 3) the level arms from the object;
    # every length is divided by rho1, the first camera's horizontal distance, so scale cancels.
    f1, f2 = R1[..., 2, :], R2[..., 2, :]
    radius1, radius2 = level(C1 - target, up), level(C2 - target, up)
    rho1 = np.linalg.norm(radius1, axis=-1)
    move = C2 - C1
    f2_in_1 = np.einsum("...ij,...j->...i", R1, f2)
    return PairMotion(
        alpha=signed_angle(radius1, radius2, up),
        yaw=-signed_angle(level(f1, up), level(f2, up), up),
        yaw_camera_axis=np.degrees(np.arctan2(f2_in_1[..., 0], f2_in_1[..., 2])),
        rotation_full=rotation_angle(R2 @ np.swapaxes(R1, -1, -2)),
        s=dot(move, cross(unit(level(f1, up)), up)) / rho1,
        s_object=dot(move, cross(unit(radius1), up)) / rho1,
        t=np.einsum("...ij,...j->...i", R1, move) / rho1[..., None],
        vertical=dot(move, up) / rho1,
        horizontal=np.linalg.norm(level(move, up), axis=-1) / rho1,
    )


def side(value: float) -> str:
    """Return "right" for a positive quantity of this module, "left" for a negative one."""
    return "right" if value > 0 else "left"


# ---------------------------------------------------------------- gravity


@dataclass(slots=True, kw_only=True)
class UpEstimate:
    """Gravity's opposite from all cameras of one capture, with what is needed to trust it."""

    up: Array  # (3,) unit, svd_right
    rms_roll: float  # degrees
    sv2: float  # second singular value of the right axes / sqrt(n); small = the arc is too short
    axis: Array  # (3,) unit, rot_axis
    axis_angle: float  # degrees between the two
    sideways: bool  # the images are stored turned by 90 degrees
    cameras: int


def up_svd_right(R: Array) -> tuple[Array, float]:
    """Return the direction orthogonal to the right axes of cameras (n, 3, 3), and sv2 / sqrt(n).

    Roll-free cameras have level right axes: up is the right-singular vector of the smallest
    singular value of the stacked axes, reweighted so that rolled cameras count less.
    """
    right = R[:, 0, :]
    sv2 = float(np.linalg.svd(right, compute_uv=False)[1] / np.sqrt(len(right)))
    weight = np.ones(len(right))
    up = right[0]
    for _ in range(IRLS_ROUNDS + 1):
        up = np.linalg.svd(right * np.sqrt(weight)[:, None], full_matrices=True)[2][-1]
        weight = 1 / np.maximum(1, np.abs(right @ up) / ROLL_SCALE)
    return _raise_up(up, R), sv2


def up_rotation_axis(R: Array) -> Array:
    """Return the common axis of the turns between all cameras.

    It is blind to image roll, and biased when the elevation drifts.
    """
    R = R[:: -(-len(R) // MAX_AXIS_CAMERAS)]
    first, second = np.triu_indices(len(R), k=1)
    votes = _axis_vector(np.swapaxes(R[second], -1, -2) @ R[first])
    return _raise_up(np.linalg.eigh(votes.T @ votes)[1][:, -1], R)


def _raise_up(up: Array, R: Array) -> Array:
    """Return up or -up, whichever points the tops of most images upwards."""
    return up if up @ R[:, 1, :].mean(axis=0) <= 0 else -up


def estimate_up(R: Array) -> UpEstimate:
    """Return up from the orientations of all cameras of a capture, R (n >= 3, 3, 3)."""
    up, sv2 = up_svd_right(R)
    axis = up_rotation_axis(R)
    roll = np.degrees(np.arcsin(np.clip(R[:, 0, :] @ up, -1, 1)))
    return UpEstimate(
        up=up,
        rms_roll=float(np.sqrt(np.mean(roll**2))),
        sv2=sv2,
        axis=axis,
        axis_angle=float(min(angle_between(up, axis), angle_between(up, -axis))),
        sideways=bool(abs(np.mean(R[:, 0, :] @ axis)) > SIDEWAYS_LEVEL),
        cameras=len(R),
    )


# ---------------------------------------------------------------- the object's center


@dataclass(slots=True, kw_only=True)
class Focus:
    """The point nearest to a bundle of rays."""

    point: Array  # (3,)
    condition: float  # of the normal matrix; large = nearly parallel rays
    residual: float  # median distance to the rays / median distance to the cameras
    in_front: float  # share of cameras that have it ahead


def focus_of_rays(origins: Array, directions: Array) -> Focus:
    """Return the point nearest to rays, robust by Huber weights at 1.5 MAD.

    Args:
        origins: (n, 3).
        directions: (n, 3) unit.
    """
    # The distance of x to a ray is |(I - g g^T)(x - origin)|: `across` (n, 3, 3) holds these
    # projections, and their weighted sum is the normal matrix of the least-squares problem.
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    weight = np.ones(len(origins))
    point, normal = origins.mean(axis=0), np.eye(3)
    distance = np.zeros(len(origins))
    for _ in range(IRLS_ROUNDS + 1):
        normal = np.einsum("n,nij->ij", weight, across)
        point = np.linalg.lstsq(
            normal, np.einsum("n,nij,nj->i", weight, across, origins), rcond=None
        )[0]
        distance = np.linalg.norm(np.einsum("nij,nj->ni", across, point - origins), axis=1)
        limit = HUBER_MADS * median(np.abs(distance - median(distance))) + median(distance)
        weight = np.minimum(1, limit / np.maximum(distance, 1e-12))
    away = np.linalg.norm(point - origins, axis=1)
    return Focus(
        point=point,
        condition=float(np.linalg.cond(normal)),
        residual=float(median(distance) / max(median(away), 1e-12)),
        in_front=float(np.mean(dot(directions, point - origins) > 0)),
    )


def weighted_median(values: Array, weights: Array) -> Array:
    """Return the coordinate-wise median (k,) of (n, k) values with (n,) weights."""
    order = np.argsort(values, axis=0, kind="stable")
    mass = np.cumsum(weights[order], axis=0)
    index = np.argmax(mass >= mass[-1] / 2, axis=0)
    ordered = np.take_along_axis(values, order, axis=0)
    medians: Array = np.take_along_axis(ordered, index[None], axis=0)[0]
    return medians


def points_near_focus(
    points: Array, tracks: Array, origins: Array, focus: Array, cone_deg: float = 15.0
) -> Array | None:
    """Return the median of the points that most cameras see within a cone about the focus.

    Args:
        points: (n, 3).
        tracks: (n,) photos that see each point; a point counts as often.
        origins: (m, 3) camera centers.
        focus: (3,).

    Returns:
        (3,), or None without such points.
    """
    near = np.zeros(len(points))
    for origin in origins:
        near += angle_between(points - origin, focus - origin) <= cone_deg
    central = near > len(origins) / 2
    if not central.any():
        return None
    return weighted_median(points[central], tracks[central].astype(float))


# ---------------------------------------------------------------- the arc


def azimuth_span(angles: Array) -> float:
    """Return degrees of the shortest arc that holds all the angles."""
    ordered = np.sort(np.mod(angles, 360))
    gaps = np.diff(np.append(ordered, ordered[0] + 360))
    return float(360 - gaps.max())


def azimuth_steps(angles: Array) -> Array:
    """Return unsigned degrees between neighbors in time, (n - 1,)."""
    steps: Array = np.abs((np.diff(angles) + 180) % 360 - 180)
    return steps
