"""Records handed from module to module; numpy only, no torch.

Capture -> ViewPair (set_records) -> Example -> Prompt -> Completion -> Grade.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np

from actial.core.multiple_choice_format import LETTERS
from actial.core.set_records import Record

Lens = tuple[str, tuple[float, ...]]  # COLMAP model name and parameters
ObjectPosition = tuple[
    float, float, float
]  # x, y in [-1, 1] about the middle; area as a share


# ---------------------------------------------------------------- captures


@dataclass(slots=True, kw_only=True)
class Frame:
    """One registered photo.

    Camera axes are OpenCV's: x right, y down, z forward; x_cam = R x_world + t.
    """

    name: str
    path: Path | None  # None: the pixels come from Capture.source's opener (video)
    width: int
    height: int
    K: np.ndarray  # (3, 3) pixels
    distortion: tuple[str, tuple[float, ...]]  # COLMAP model name and its parameters
    R: np.ndarray  # (3, 3) world -> camera; rows = right, down, forward
    t: np.ndarray  # (3,)
    time_index: int
    mask_path: Path | None = None
    # counter-clockwise turns that make the stored pixels (of the mask) those of this record
    quarter_turns: int = 0
    mask_quarter_turns: int = 0

    @property
    def center(self) -> np.ndarray:
        """Return the camera's position in the world, (3,)."""
        position: np.ndarray = -self.R.T @ self.t
        return position


@dataclass(slots=True, kw_only=True)
class Capture:
    """One object photographed from many sides.

    The world frame has arbitrary rotation, scale and origin.
    """

    source: str
    class_id: str
    class_name: str
    object_id: str
    group_id: str  # captures of one physical object share it; splits are disjoint over it
    frames: list[Frame]
    files_total: int  # photos on disk, registered or not
    points: np.ndarray | None = None  # (N, 3)
    point_tracks: np.ndarray | None = None  # (N,) number of frames that see each point
    reprojection_error_px: float | None = None  # mean
    up_prior: np.ndarray | None = None  # (3,) unit, world
    # (3,) unit, world: where the object's semantic front points (procedural only)
    front_prior: np.ndarray | None = None
    center_prior: np.ndarray | None = None  # (3,)
    attributes: dict[str, str] = field(default_factory=dict)  # e.g. colors; procedural only
    license: str = ""


# ---------------------------------------------------------------- questions


class AnswerMode(str, Enum):
    DIRECT = "direct"  # the option letter alone
    THINK = "think"  # <think> .. </think> <answer> .. </answer>


@dataclass(slots=True, kw_only=True)
class Question:
    """One multiple-choice question about an Example's images."""

    uid: str  # "<record uid>/<type>"
    type: str  # a QuestionType value or a SAT type
    text: str
    options: tuple[str, ...]  # in displayed order; option i has letter LETTERS[i]
    answer_index: int
    mode: AnswerMode
    target: str | None = None  # supervised assistant text (SFT)
    number: float | None = None  # the truth of a question without options

    @property
    def answer_letter(self) -> str:
        return LETTERS[self.answer_index]

    @property
    def answer(self) -> str:
        """Return what stands in the answer tags: the letter, or the number without options."""
        return (
            self.answer_letter if self.options or self.number is None else f"{self.number:.0f}"
        )


@dataclass(slots=True, kw_only=True)
class Example:
    """Images, and one or more questions about them: what one shared prefix holds."""

    uid: str
    images: list[np.ndarray]  # uint8 (H, W, 3), already at the size the model sees
    questions: list[Question]
    task: str  # "viewpoint", "qa", ...
    record: Record | None = None  # the entry of a data set that the example was made from
    text_first: bool = False  # the question before the images
    # (x, y, area) of the object in the first and the last image, where the pixels are not kept
    object_positions: tuple[ObjectPosition, ObjectPosition] | None = None


# ---------------------------------------------------------------- rollouts


@dataclass(slots=True, kw_only=True)
class Prompt:
    """A rendered question in two forms: vLLM expands image placeholders itself, we do not.

    engine_ids: one placeholder per image. input_ids: one placeholder per visual token.
    """

    uid: str
    engine_ids: list[int]
    input_ids: list[int]
    images: list[np.ndarray]  # uint8 (H, W, 3)


class FinishReason(str, Enum):
    STOP = "stop"  # the end-of-turn token was sampled
    LENGTH = "length"  # cut at max_tokens


@dataclass(slots=True, kw_only=True)
class Completion:
    """Sampled tokens, with the end-of-turn token where it was sampled."""

    token_ids: list[int]
    logprobs: list[float]  # one per token, under the sampling temperature
    finish: FinishReason


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    temperature: float = 1.0  # 0 = greedy
    max_tokens: int = 128
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    seed: int = 0


# ---------------------------------------------------------------- grading


class Outcome(str, Enum):
    PARSED = "parsed"
    NO_ANSWER = "no_answer"  # nothing that names an option
    TRUNCATED = "truncated"  # the chain was cut before the answer


@dataclass(slots=True, kw_only=True)
class Grade:
    letter: str | None
    rule: str  # the rung of the extraction ladder that fired, or "none"
    outcome: Outcome
    value: float  # 1 for the right option, else 0; of an open answer, what its metric gives
    format_ok: bool  # whole output is one think block and one answer block

    @property
    def correct(self) -> bool:
        return self.value == 1
