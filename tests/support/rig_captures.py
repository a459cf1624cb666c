"""Captures of a camera rig without photos."""

from __future__ import annotations

import numpy as np

from actial.core.records import Capture, Frame
from support.posed_captures import FOCAL, SIZE, Rig

K = np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])


def capture_of(rig: Rig, **facts) -> Capture:
    R, t = rig.poses()
    frames = [
        Frame(
            name=f"{i:03d}.jpg",
            path=None,
            width=SIZE[0],
            height=SIZE[1],
            K=K,
            distortion=("PINHOLE", (FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2)),
            R=R[i],
            t=t[i],
            time_index=i,
        )
        for i in range(len(R))
    ]
    defaults = {"reprojection_error_px": 0.5, "files_total": len(frames), "group_id": "a/b"}
    return Capture(
        source="test",
        class_id="a",
        class_name="a",
        object_id="b",
        frames=frames,
        **{**defaults, **facts},
    )
