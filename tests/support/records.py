"""View pairs and questions as a set holds them, with only what a test cares about spelled out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from actial.core.set_records import (
    MotionLabels,
    PairGeometry,
    QuestionRecord,
    ViewDirection,
    ViewPair,
)

RIGHT = MotionLabels(ego_translation="right", object_translation="left", ego_rotation="left")
LEFT = MotionLabels(ego_translation="left", object_translation="right", ego_rotation="right")


def view_pair(
    alpha: float = 60.0,
    azimuths: tuple[float, float] | None = (0.0, 60.0),
    uid: str = "pair0",
    **fields: Any,
) -> ViewPair:
    """A red mug seen from two sides; a camera with positive `alpha` went to its right."""
    views = (ViewDirection(azimuth_deg=None, elevation_deg=10.0),) * 2
    if azimuths is not None:
        views = tuple(ViewDirection(azimuth_deg=a, elevation_deg=10.0) for a in azimuths)
    pair = ViewPair(
        uid=uid,
        class_name="Mug",
        object_id=uid,
        frame_names=("a.jpg", "b.jpg"),
        geometry=PairGeometry(alpha_deg=alpha),
        labels=RIGHT if alpha > 0 else LEFT,
        views=views,
        attributes={"body_colour": "red"},
    )
    return replace(pair, **fields)


def question_record(**fields: Any) -> QuestionRecord:
    """A question of a question set with four options, the third of which is right."""
    record = QuestionRecord(
        uid="sat:1",
        type="static",
        question="How many?",
        options=("1", "2", "3", "4"),
        answer_index=2,
    )
    return replace(record, **fields)
