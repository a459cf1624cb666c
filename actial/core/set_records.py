"""Entries of a data set's index as typed records: view pairs, questions, and where images lie.

`from_json` and `to_json` are the index's own form: what was written reads back to the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

PAIR_SCHEMA = 2


class QuestionType(str, Enum):
    EGO_TRANSLATION = "ego_translation"  # the camera's own translation
    OBJECT_TRANSLATION = "object_translation"  # the same, seen from the object
    EGO_ROTATION = "ego_rotation"  # the camera's own rotation
    ROTATION_DEGREES = "rotation_degrees"  # by how many degrees it turned: a choice
    ROTATION_NUMBER = "rotation_number"  # the same as a number, without options
    EGO_VERTICAL = "ego_vertical"  # up or down
    EGO_DEPTH = "ego_depth"  # forward or backward


PAPER_QUESTIONS = (
    QuestionType.EGO_TRANSLATION,
    QuestionType.OBJECT_TRANSLATION,
    QuestionType.EGO_ROTATION,
)


class Motion(str, Enum):
    """How the camera moves from the first image of a pair to the last."""

    HORIZONTAL = "horizontal"  # around the object: the paper's pairs
    VERTICAL = "vertical"
    DEPTH = "depth"  # nearer or farther
    STILL = "still"  # the same photo twice, the second one cropped a little


@dataclass(slots=True, frozen=True, kw_only=True)
class StoredImage:
    """One encoded image as a member of a tar shard."""

    name: str  # "f003.png"
    offset: int = 0  # bytes from the start of the shard to the first byte of the image
    size: int = 0  # bytes
    sha256: str = ""
    width: int = 0
    height: int = 0

    @classmethod
    def from_json(cls, fields: Mapping[str, Any] | str) -> StoredImage:
        """Return the image of an index entry, or of a tar's own records, which hold names only."""
        return cls(name=fields) if isinstance(fields, str) else cls(**fields)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True, frozen=True, kw_only=True)
class PairGeometry:
    """The measured motion of a pair; entries of two are (first, last) image.

    Only `alpha_deg` is in every data set that this package has written: the rest
    may be missing from old ones and is NaN there. Signs are explained in
    viewpoint.geometry.
    """

    alpha_deg: float  # around the object, positive to the camera's right
    yaw_right_deg: float = math.nan  # about gravity, positive to the right
    yaw_cam_axis_deg: float = math.nan  # the same about the first camera's own vertical axis
    rot_full_deg: float = math.nan  # the whole rotation, unsigned
    # translation to the camera's right over the distance to the object
    s_rel: float = math.nan
    t_rel: tuple[float, ...] = (math.nan,) * 3  # (right, down, forward) over the same distance
    elev_deg: tuple[float, ...] = (math.nan,) * 2  # of the camera above the object's horizon
    roll_deg: tuple[float, ...] = (math.nan,) * 2
    offaxis_deg: tuple[float, ...] = (math.nan,) * 2  # optical axis to the object's center
    heading_off_deg: tuple[float, ...] = (math.nan,) * 2  # the same seen from above, signed
    rho_ratio: float = math.nan  # horizontal distance to the object, last over first
    up_method: str = ""
    up_rms_deg: float = math.nan  # roll that is left about the estimated gravity
    up_sv2: float = math.nan
    centre_method: str = ""
    angle_ok: bool = True  # False: sides are sure, degrees are not

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> PairGeometry:
        return cls(**{name: _tuples(value) for name, value in fields.items()})

    def to_json(self) -> dict[str, Any]:
        return {name: _lists(getattr(self, name)) for name in self.__slots__}


@dataclass(slots=True, frozen=True, kw_only=True)
class MotionLabels:
    """The right answers about a pair; None for what the pair cannot answer."""

    ego_translation: str | None = None  # left | right | none
    object_translation: str | None = None
    ego_rotation: str | None = None
    ego_vertical: str | None = None  # up | down | none
    ego_depth: str | None = None  # forward | backward | none
    ego_rotation_deg: float | None = None  # unsigned; None where degrees are not sure

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> MotionLabels:
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Return the sides that are labeled, and the degrees behind a labeled rotation."""
        fields: dict[str, Any] = dict(self.sides())
        if self.ego_rotation is not None:
            fields["ego_rotation_deg"] = self.ego_rotation_deg
        return fields

    def sides(self) -> dict[str, str]:
        """Return question type -> side word of every labeled side, in the order of storage."""
        named = {
            name: getattr(self, name) for name in self.__slots__ if name != "ego_rotation_deg"
        }
        return {name: side for name, side in named.items() if side is not None}

    def side(self, kind: QuestionType) -> str | None:
        """Return the side word that answers a question, or None where it has no side."""
        return self.sides().get(kind.value)

    def first_side(self) -> str:
        """Return the side that says which way the pair goes."""
        return next(iter(self.sides().values()))


@dataclass(slots=True, frozen=True, kw_only=True)
class ViewDirection:
    """From where one image of a pair sees the object."""

    azimuth_deg: (
        float | None
    )  # counter-clockwise from the object's front; None: front not known
    elevation_deg: float = math.nan

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ViewDirection:
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        return {"azimuth_deg": self.azimuth_deg, "elevation_deg": self.elevation_deg}


@dataclass(slots=True, frozen=True, kw_only=True)
class ViewPair:
    """Two or more images of one object and how the camera moved between the first and the last.

    `images`, `shard` and `key` say where the pixels lie; they are empty until a shard is written.
    """

    uid: str
    split: str = "train"
    source: str = ""
    class_id: str = ""
    class_name: str
    object_id: str
    group: str = ""  # pairs of one physical object share it; splits are disjoint over it
    motion: Motion = Motion.HORIZONTAL
    frame_names: tuple[str, ...]  # of the capture's photos, in the order shown
    geometry: PairGeometry
    labels: MotionLabels
    questions: tuple[QuestionType, ...] = PAPER_QUESTIONS  # that the labels can answer
    question_type: QuestionType | None = None  # the one asked where a pair has one question
    views: tuple[ViewDirection, ...] = ()  # one per image
    attributes: dict[str, str] = field(default_factory=dict)  # e.g. colors; procedural only
    images: tuple[StoredImage, ...] = ()
    shard: str = ""
    key: str = ""
    schema: int = PAIR_SCHEMA

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ViewPair:
        """Return the pair of one index entry; raises KeyError or TypeError for others.

        Fields that older versions did not write get their defaults, unknown ones are ignored.
        """
        fields = dict(fields)
        images = fields.get("images", ())
        question_type = fields.get("question_type")
        return cls(
            **{name: fields[name] for name in _PAIR_TEXTS if name in fields},
            uid=str(fields["uid"]),
            class_name=fields["class_name"],
            object_id=fields.get("object_id", str(fields["uid"])),
            motion=Motion(fields.get("motion", "horizontal")),
            frame_names=tuple(fields.get("frame_names", ("",) * max(2, len(images)))),
            geometry=PairGeometry.from_json(fields["geom"]),
            labels=MotionLabels.from_json(fields["labels"]),
            questions=tuple(
                QuestionType(kind) for kind in fields.get("questions", PAPER_QUESTIONS)
            ),
            question_type=None if question_type is None else QuestionType(question_type),
            views=tuple(ViewDirection.from_json(view) for view in fields.get("views", ())),
            images=tuple(StoredImage.from_json(image) for image in images),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the index entry, keys in the order of storage; without a place until stored."""
        question_type = self.question_type
        fields = {
            "schema": self.schema,
            "uid": self.uid,
            "kind": "pair",
            "split": self.split,
            "source": self.source,
            "class_id": self.class_id,
            "class_name": self.class_name,
            "object_id": self.object_id,
            "group": self.group,
            "motion": self.motion.value,
            "frame_names": list(self.frame_names),
            "geom": self.geometry.to_json(),
            "labels": self.labels.to_json(),
            "questions": [kind.value for kind in self.questions],
            "question_type": None if question_type is None else question_type.value,
            "views": [view.to_json() for view in self.views],
            "attributes": self.attributes,
        }
        return fields | _place(self)

    def with_questions(self, kinds: tuple[QuestionType, ...]) -> ViewPair:
        """Return the pair with fewer questions; the one it was built for stays if it is in them."""
        single = self.question_type if self.question_type in kinds else None
        return replace(self, questions=kinds, question_type=single)


@dataclass(slots=True, frozen=True, kw_only=True)
class QuestionRecord:
    """One question of a question set (SAT, a published set) about its images.

    A question without options is answered by a number.
    """

    uid: str
    split: str = "train"
    source: str = ""
    type: str  # the set's own type under the name that this package gives it
    subtype: str = ""
    raw_type: str = ""  # as the set spells it
    types: tuple[
        str, ...
    ] = ()  # all of them, of a question that has several; `type` is the first
    question: str
    options: tuple[str, ...]
    answer_index: int  # -1 without options
    number: float | None = None  # the answer without options
    chain: str = ""  # chain of thought that the set has for this question
    group: str = ""  # questions about the same images share it; splits are disjoint over it
    images: tuple[StoredImage, ...] = ()
    shard: str = ""
    key: str = ""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> QuestionRecord:
        """Return the question of one index entry; raises KeyError or TypeError for others."""
        return cls(
            **{name: fields[name] for name in _QUESTION_TEXTS if name in fields},
            uid=str(fields["uid"]),
            type=fields["type"],
            types=tuple(fields.get("types", ())),
            question=fields["question"],
            options=tuple(fields["options"]),
            answer_index=fields["answer_index"],
            number=fields.get("number"),
            chain=fields.get("chain", ""),
            images=tuple(StoredImage.from_json(image) for image in fields.get("images", ())),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the index entry, keys in the order of storage; without a place until stored."""
        fields = {
            "uid": self.uid,
            "kind": "qa",
            "source": self.source,
            "split": self.split,
            "type": self.type,
            "subtype": self.subtype,
            "raw_type": self.raw_type,
            **({"types": list(self.types)} if self.types else {}),
            "question": self.question,
            "options": list(self.options),
            "answer_index": self.answer_index,
            **({} if self.number is None else {"number": self.number}),
            **({"chain": self.chain} if self.chain else {}),
            "group": self.group,
        }
        return fields | _place(self)


@dataclass(slots=True, frozen=True, kw_only=True)
class BenchmarkRecord:
    """What scoring needs to know of one benchmark question beside its text."""

    categories: dict[str, str] = field(default_factory=dict)  # that a figure may be split by
    circular: dict[str, Any] = field(default_factory=dict)  # the group of its rotated options
    open: dict[str, str] = field(default_factory=dict)  # metric and answer, without options


StoredRecord = ViewPair | QuestionRecord  # what the index of a data set holds
Record = ViewPair | QuestionRecord | BenchmarkRecord

_PAIR_TEXTS = ("split", "source", "class_id", "group", "attributes", "shard", "key", "schema")
_QUESTION_TEXTS = ("split", "source", "subtype", "raw_type", "group", "shard", "key")


def stored_record(fields: Mapping[str, Any]) -> StoredRecord:
    """Return the typed record of an index entry; raises KeyError or TypeError for others."""
    reader = QuestionRecord if fields.get("kind") == "qa" else ViewPair
    return reader.from_json(fields)


def _place(record: StoredRecord) -> dict[str, Any]:
    if not record.shard:
        return {}
    images = [image.to_json() for image in record.images]
    return {"images": images, "shard": record.shard, "key": record.key}


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _lists(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
