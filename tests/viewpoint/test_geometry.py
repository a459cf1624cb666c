"""Closed-form checks of the geometry: every expected number is worked out by hand or by an
independent formula.
"""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support.posed_captures import to_camera_to_world, to_pytorch3d

from actial.viewpoint import geometry as g

UP = np.array([0.0, 0.0, 1.0])
ORIGIN = np.zeros(3)


def camera(position, target=ORIGIN, *, roll=0.0, turn=0.0, up=UP):
    """OpenCV (R, C) of a camera that looks at `target`; `turn` adds degrees of heading to the
    right, `roll` turns the picture.
    """
    forward = g.unit(np.asarray(target, float) - position)
    forward = Rotation.from_rotvec(-np.radians(turn) * up).apply(forward)
    right = g.unit(np.cross(forward, up))
    R = np.stack([right, np.cross(forward, right), forward])
    return Rotation.from_euler("z", roll, degrees=True).as_matrix() @ R, np.asarray(
        position, float
    )


def on_orbit(angle, *, elevation=0.0, rho=1.0, **held):
    """Camera at `angle` degrees to the right of (0, -rho, 0) around the origin, counter-clockwise
    from above.
    """
    a, e = np.radians(angle), np.radians(elevation)
    return camera(rho * np.array([np.sin(a), -np.cos(a), np.tan(e)]), **held)


def pair(first, second, target=ORIGIN, up=UP):
    return g.pair_motion(first[0], first[1], second[0], second[1], target, up)


def orbit(arc, n=30, **held):
    cameras = [on_orbit(a, **held) for a in np.linspace(0, arc, n)]
    return np.stack([R for R, _ in cameras]), np.stack([C for _, C in cameras])


def test_t1_level_orbit_by_30_and_swapped():
    p = pair(on_orbit(0), on_orbit(30))
    assert [p.alpha, p.s, p.yaw, p.s_object] == pytest.approx([30, 0.5, -30, -0.5])
    assert [g.side(v) for v in (p.s, p.s_object, p.yaw)] == ["right", "left", "left"]
    q = pair(on_orbit(30), on_orbit(0))
    assert [q.alpha, q.s, q.yaw, q.s_object] == pytest.approx([-30, -0.5, 30, 0.5])


CAMERA_AXIS_YAW = {
    0: (20.0, 60.0, 100.0),
    15: (19.3, 57.5, 95.7),
    30: (17.2, 50.2, 82.0),
    45: (14.0, 39.2, 59.3),
    60: (9.9, 26.3, 34.9),
}


@pytest.mark.parametrize("elevation", sorted(CAMERA_AXIS_YAW))
def test_t2_elevation_leaves_gravity_yaw_and_shrinks_the_yaw_about_the_camera_axis(elevation):
    for theta, shrunk in zip((20, 60, 100), CAMERA_AXIS_YAW[elevation], strict=True):
        p = pair(on_orbit(0, elevation=elevation), on_orbit(theta, elevation=elevation))
        assert [p.alpha, p.yaw, p.s] == pytest.approx(
            [theta, -theta, np.sin(np.radians(theta))]
        )
        assert p.yaw_camera_axis == pytest.approx(-shrunk, abs=0.06)
        assert p.rotation_full <= theta + 1e-9


def test_t3_pure_right_turn():
    p = pair(on_orbit(0), on_orbit(0, turn=40))
    assert [p.s, p.yaw, p.alpha] == pytest.approx([0, 40, 0], abs=1e-12)


def test_t4_strafe():
    first = on_orbit(0)
    p = pair(first, (first[0], first[1] + [0.5, 0, 0]))
    assert [p.alpha, p.yaw, p.s] == pytest.approx([np.degrees(np.arctan(0.5)), 0, 0.5])


def test_t5_orbit_that_moves_away():
    p = pair(on_orbit(0), on_orbit(40, rho=2))
    assert [p.s, p.s_object] == pytest.approx(
        [2 * np.sin(np.radians(40)), -2 * np.sin(np.radians(40))]
    )


@pytest.mark.parametrize("delta", [0, 30, 39, 41, 60])
def test_t6_heading_offset_flips_the_sign_of_s_beyond_40_degrees(delta):
    p = pair(on_orbit(0, turn=delta), on_orbit(100, turn=delta))
    assert p.s == pytest.approx(2 * np.sin(np.radians(50)) * np.cos(np.radians(50 + delta)))
    assert (p.s > 0) == (delta < 40)
    assert p.alpha == pytest.approx(100)


def test_t7_any_similarity_leaves_the_labels():
    rng = np.random.default_rng(7)
    for _ in range(50):
        angles = np.sort(rng.uniform(0, 150, 30))
        cams = [
            on_orbit(
                a, elevation=rng.uniform(5, 35), roll=rng.normal(0, 2), turn=rng.normal(0, 4)
            )
            for a in angles
        ]
        rotation, scale, shift = (
            Rotation.random(rng=rng).as_matrix(),
            rng.uniform(0.1, 9),
            rng.normal(size=3),
        )
        R = np.stack([R @ rotation.T for R, _ in cams])
        C = np.stack([scale * rotation @ C + shift for _, C in cams])
        i, j = 3, 22
        true = pair(cams[i], cams[j])
        moved = g.pair_motion(R[i], C[i], R[j], C[j], shift, rotation @ UP)
        for name in (
            "alpha",
            "yaw",
            "yaw_camera_axis",
            "rotation_full",
            "s",
            "s_object",
            "vertical",
        ):
            assert getattr(moved, name) == pytest.approx(getattr(true, name), abs=1e-6)
        up = g.estimate_up(R)
        center = g.focus_of_rays(C, R[:, 2, :])
        estimated = g.pair_motion(R[i], C[i], R[j], C[j], center.point, up.up)
        assert np.sign([estimated.alpha, estimated.s, estimated.yaw]) == pytest.approx(
            np.sign([true.alpha, true.s, true.yaw])
        )


@pytest.mark.parametrize("pitch", [20, 30, 45])
def test_t8_mean_up_is_biased_by_the_arc_and_svd_right_is_not(pitch):
    for arc in (40, 60, 90, 180, 360):
        R, _ = orbit(arc, n=721, elevation=pitch)
        half = np.radians(arc) / 2
        expected = np.degrees(np.arctan(np.tan(np.radians(pitch)) * np.sin(half) / half))
        assert g.angle_between(-R[:, 1, :].mean(axis=0), UP) == pytest.approx(
            expected, abs=0.15
        )
        assert g.angle_between(g.up_svd_right(R)[0], UP) < 1e-3


def test_sv2_of_an_arc_has_a_closed_form():
    R, _ = orbit(40, n=2001)
    arc = np.radians(40)
    assert g.up_svd_right(R)[1] == pytest.approx(
        np.sqrt((1 - np.sin(arc) / arc) / 2), abs=1e-3
    )  # 0.199: accepted, limit 0.17
    assert g.up_svd_right(orbit(30)[0])[1] < 0.17


def test_irls_ignores_a_few_rolled_cameras():
    R, _ = orbit(120, elevation=20)
    R[:4] = [on_orbit(a, elevation=20, roll=70)[0] for a in range(4)]
    robust = g.angle_between(g.up_svd_right(R)[0], UP)
    plain = np.linalg.svd(R[:, 0, :])[2][-1]
    assert robust < 4 < min(g.angle_between(plain, UP), g.angle_between(-plain, UP))


@pytest.mark.parametrize(
    ("roll", "levels"), [(0, (0, -0.94)), (180, (0, -0.94)), (90, (0.94, 0)), (-90, (0.94, 0))]
)
def test_t11_t19_sideways_and_upside_down_pictures(roll, levels):
    R, _ = orbit(100, elevation=20, roll=roll)
    up = g.estimate_up(R)
    right, down = R[:, 0, :].mean(axis=0) @ up.axis, R[:, 1, :].mean(axis=0) @ up.axis
    assert (abs(right), down) == pytest.approx(levels, abs=0.01)
    assert up.sideways == (abs(roll) == 90)
    if (
        roll == 180
    ):  # indistinguishable from upright: the sides seen in the pictures stay right
        assert up.up == pytest.approx(-UP)


def test_t12_an_object_beside_the_aim_is_found_by_rays_at_it_not_by_the_axes():
    """Camera axes meet at the origin; the object stands 0.25 rho to the side of camera 1."""
    R, C = orbit(80, n=2)
    target = np.array([0.25, 0.0, 0.0])
    by_axes = g.focus_of_rays(C, R[:, 2, :])
    assert by_axes.point == pytest.approx(ORIGIN, abs=1e-9)
    by_masks = g.focus_of_rays(C, g.unit(target - C))
    assert by_masks.point == pytest.approx(target, abs=1e-9)
    assert g.pair_motion(R[0], C[0], R[1], C[1], by_axes.point, UP).alpha == pytest.approx(80)
    side_vectors = C - target
    true = np.degrees(np.arctan2(side_vectors[:, 0], -side_vectors[:, 1]))
    assert g.pair_motion(R[0], C[0], R[1], C[1], by_masks.point, UP).alpha == pytest.approx(
        true[1] - true[0]
    )


def test_t12_axes_instead_of_masks_turn_80_into_76():
    """Aim beside the object: cameras at +-40 degrees about the object aim 0.25 rho beyond it on the
    bisector.
    """
    target, aim = ORIGIN, np.array([0.0, 0.25, 0.0])
    cams = [
        camera(np.array([np.sin(np.radians(a)), -np.cos(np.radians(a)), 0]), aim)
        for a in (-40, 40)
    ]
    assert pair(*cams, target=target).alpha == pytest.approx(80)
    axes = g.focus_of_rays(np.stack([c[1] for c in cams]), np.stack([c[0][2] for c in cams]))
    expected = 2 * np.degrees(
        np.arctan(np.sin(np.radians(40)) / (np.cos(np.radians(40)) + 0.25))
    )
    assert pair(*cams, target=axes.point).alpha == pytest.approx(expected)


def test_t13_conventions_round_trip():
    R, C = on_orbit(33, elevation=21, roll=4)
    t = -R @ C
    R3, T3 = to_pytorch3d(R, t)
    X = np.array([0.3, -0.2, 0.7])
    x, y, z = R @ X + t
    seen = X @ R3 + T3
    assert seen == pytest.approx([-x, -y, z])  # x left, y up
    assert np.array_equal(g.from_pytorch3d(R3, T3)[0], R)
    assert np.array_equal(g.from_pytorch3d(R3, T3)[1], t)
    pose = to_camera_to_world(R, t, g.OPENGL_AXES)
    assert np.linalg.inv(pose) @ [*X, 1] == pytest.approx([x, -y, -z, 1])  # y up, z back
    back = g.from_camera_to_world(pose, g.OPENGL_AXES)
    assert np.array_equal(back[0], R)
    assert back[1] == pytest.approx(t)


def test_t15_near_nadir_the_heading_fades():
    for elevation in (0, 30, 75, 85):
        R, C = on_orbit(10, elevation=elevation)
        view = g.view_geometry(R, C, ORIGIN, UP)
        assert view.heading_level == pytest.approx(np.cos(np.radians(elevation)))
        assert view.elevation == pytest.approx(elevation)


@pytest.mark.parametrize("roll", [0, 33, 90, 180])
def test_t16_rotation_axis_is_blind_to_roll(roll):
    R, _ = orbit(100, elevation=25, roll=roll)
    axis = g.up_rotation_axis(R)
    assert abs(axis @ UP) == pytest.approx(1, abs=1e-12)
    assert g.rotation_angle(R[-1] @ R[0].T) == pytest.approx(100)


def test_t18_elevation_drift_bends_the_rotation_axis_but_not_svd_right():
    for arc, bias in ((60, 34), (90, 25), (180, 12)):
        cams = [
            on_orbit(a, elevation=e)[0]
            for a, e in zip(np.linspace(0, arc, 30), np.linspace(10, 50, 30), strict=True)
        ]
        up = g.estimate_up(np.stack(cams))
        assert g.angle_between(up.up, UP) < 1e-6
        assert up.axis_angle == pytest.approx(bias, abs=1)


def test_view_geometry_signs():
    R, C = on_orbit(0, turn=12, roll=0)
    view = g.view_geometry(R, C, ORIGIN, UP)
    assert [view.off_axis, view.heading_off, view.rho, view.roll] == pytest.approx(
        [12, -12, 1, 0], abs=1e-9
    )
    raised = Rotation.from_euler("y", -9, degrees=True).apply(
        [1.0, 0, 0]
    )  # right axis 9 degrees above the horizon
    R = np.stack([raised, np.cross([0, 1.0, 0], raised), [0, 1.0, 0]])
    assert g.view_geometry(R, C, ORIGIN, UP).roll == pytest.approx(9)


def test_azimuth_about_the_front_is_counter_clockwise_from_above():
    front = np.array([0.0, -1.0, 0.3])  # the object faces (0, -1, 0); its own left is +x
    positions = np.array([[0, -2, 1], [3, 0, 0], [0, 1, 0], [-1, 0, 5.0]])
    assert np.mod(g.azimuth(positions, ORIGIN, UP, front), 360) == pytest.approx(
        [0, 90, 180, 270]
    )


def test_focus_shrugs_off_one_stray_ray():
    _, C = orbit(160, n=20)
    rays = g.unit(-C)
    rays[4] = g.unit(np.array([0.5, 0.5, 0.5]) - C[4])
    focus = g.focus_of_rays(C, rays)
    assert np.linalg.norm(focus.point) < 0.02
    assert focus.condition < 50
    assert focus.in_front == 1


def test_parallel_rays_are_badly_conditioned():
    C = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0.0]])
    assert g.focus_of_rays(C, np.tile([0, 1.0, 0], (3, 1))).condition > 1e6


def test_weighted_median_and_the_points_near_the_focus():
    values = np.array([[0.0, 5], [1, 6], [10, 7]])
    assert g.weighted_median(values, np.array([1.0, 1, 5])) == pytest.approx([10, 7])
    _, C = orbit(160, n=9)
    points = np.array([[0.01, 0, 0], [0, 0.02, 0], [0, 0, 0.01], [4, 4, 4.0]])
    center = g.points_near_focus(points, np.array([2, 2, 2, 99]), C, ORIGIN)
    assert np.linalg.norm(center) < 0.03
    assert g.points_near_focus(np.array([[9.0, 9, 9]]), np.array([3]), C, ORIGIN) is None


def test_azimuth_span_wraps():
    assert g.azimuth_span(np.array([170.0, -170, 160])) == pytest.approx(30)
    assert g.azimuth_steps(np.array([170.0, -170, 160])) == pytest.approx([20, 30])


def test_a_mirrored_or_scaled_matrix_is_no_rotation():
    assert g.are_rotations(np.eye(3))
    assert not g.are_rotations(np.diag([1.0, 1, -1]))
    assert not g.are_rotations(2 * np.eye(3))
    assert not g.are_rotations(np.full((3, 3), np.nan))


def test_a_rounded_rotation_becomes_the_nearest_and_an_exact_one_stays():
    R = Rotation.random(200, random_state=0).as_matrix()
    rounded = g.without_rounding(R.round(3))
    assert g.rotation_error(rounded).max() < g.EXACT
    assert np.abs(rounded - R).max() < 2e-3
    assert np.array_equal(g.without_rounding(R), R)
    sheared = R @ [[1, 0.01, 0], [0, 1, 0], [0, 0, 1]]
    assert not g.are_rotations(sheared).any()
    assert np.array_equal(g.without_rounding(sheared), sheared)


def test_property_swapping_a_pair_flips_every_label():
    rng = np.random.default_rng(3)
    for _ in range(200):
        a, b = (
            on_orbit(rng.uniform(0, 45), elevation=rng.uniform(0, 40), turn=rng.normal(0, 5))
            for _ in range(2)
        )
        p, q = pair(a, b), pair(b, a)
        assert p.alpha == pytest.approx(-q.alpha)
        assert p.yaw == pytest.approx(-q.yaw)
        if abs(p.alpha) > 20:
            assert g.side(p.s_object) != g.side(q.s_object)
            assert g.side(p.s) != g.side(q.s)
