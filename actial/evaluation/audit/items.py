"""Open what an audit compares: built sets, published benchmarks and folders of images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actial.config import BenchmarkConfig
from actial.core.errors import UserError
from actial.core.records import AnswerMode
from actial.core.set_records import QuestionRecord, StoredRecord
from actial.core.text_files import read_utf8
from actial.data.photos import is_system_name
from actial.data.shards import ShardSet
from actial.evaluation.benchmark_results import open_benchmark
from actial.evaluation.benchmarks.base import Item, Picture
from actial.viewpoint.questions import question_types, viewpoint_question

IMAGE_NAMES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FORMS = "give benchmark:NAME:FOLDER, FOLDER:SPLIT of a built set, or a folder of images"

# Identifiers of scenes as the large captures write them.
SCENE_FORMS = {
    "ScanNet": re.compile(r"scene\d{4}(?:_\d{2})?"),
    "ScanNet++": re.compile(
        r"(?<![0-9a-f])(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{10}(?![0-9a-f])"
    ),
    "ARKitScenes": re.compile(r"(?<!\d)4[0-9]{7}(?!\d)"),
    "MVImgNet": re.compile(r"(?<![0-9a-f])\d{1,3}/[0-9a-f]{6,8}(?=/|$)"),
    "CO3D": re.compile(r"(?<!\d)\d{2,3}_\d{4,6}_\d{4,6}(?!\d)"),
}


@dataclass(slots=True, kw_only=True, frozen=True)
class AuditItem:
    """One question with what an audit looks at; a bare image has no question."""

    uid: str
    question: str = ""
    options: tuple[str, ...] = ()
    answer_index: int = -1
    group: str = ""  # items of one scene or object share it
    kind: str = ""  # question type
    names: tuple[str, ...] = ()  # texts that may hold identifiers of scenes


@dataclass(slots=True, frozen=True)
class AuditSet:
    """A set to audit; images are loaded when they are needed."""

    name: str
    items: tuple[AuditItem, ...]
    images: Callable[
        [int], list[Picture]
    ]  # position of an item -> its encoded images or files

    def scene_ids(self, given: frozenset[str] = frozenset()) -> dict[str, set[str]]:
        """Return identifier -> uids of the items that name it.

        Args:
            given: further identifiers, beside those of the known forms.
        """
        uids: dict[str, set[str]] = {}
        for item in self.items:
            for name in (item.uid, *item.names):
                for scene in _scenes_in(name, given):
                    uids.setdefault(scene, set()).add(item.uid)
        return uids


def _scenes_in(name: str, given: frozenset[str]) -> Iterator[str]:
    for form in SCENE_FORMS.values():
        yield from form.findall(name)
    if given:
        yield from given.intersection(re.split(r"[/\\#:.]", name))


def read_identifiers(path: str) -> frozenset[str]:
    """Return the identifiers of a file, one a line; raises UserError for a missing file."""
    if not path:
        return frozenset()
    if not Path(path).is_file():
        raise UserError(
            f"identifiers={path} is no file: give a list with one identifier a line."
        )
    lines = read_utf8(Path(path), f"identifiers={path}").splitlines()
    return frozenset(line.strip() for line in lines if line.strip())


def open_audit_sets(words: Sequence[str]) -> list[AuditSet]:
    """Open the sets that command-line words name; those of one name are called by their words.

    Raises:
        UserError: a word names no set, or is given twice.
    """
    if repeated := [word for word, count in Counter(words).items() if count > 1]:
        raise UserError(f"{repeated[0]} is given twice: name every set once.")
    sets = [open_audit_set(word) for word in words]
    names = Counter(audited.name for audited in sets)
    return [
        replace(audited, name=word) if names[audited.name] > 1 else audited
        for audited, word in zip(sets, words, strict=True)
    ]


def open_audit_set(word: str) -> AuditSet:
    """Open a set that a command-line word names.

    Args:
        word: "benchmark:NAME:FOLDER", "FOLDER:SPLIT" of a set that actial.build wrote, or a folder
            of images.

    Raises:
        UserError: it is none of them.
    """
    folder, _, split = word.partition(":")
    if not folder:  # Path("") would be the current folder
        raise UserError(f"the set '{word}' names no folder: {FORMS}.")
    if folder == "benchmark":
        _, name, root = [*word.split(":", 2), ""][:3]
        return _open_published(name, root)
    if (Path(folder) / "manifest.json").is_file():
        return _open_built(Path(folder), split or "train")
    if Path(folder).is_dir():
        return _open_images(Path(folder))
    raise UserError(f"{word} is no set: {FORMS}.")


def _open_published(name: str, root: str) -> AuditSet:
    _, _, items = open_benchmark(BenchmarkConfig(name=name, root=root or None))
    return AuditSet(name, tuple(map(_published_item, items)), lambda i: items[i].images)


def _published_item(item: Item) -> AuditItem:
    files = [str(image) for image in item.images if isinstance(image, Path)]
    return AuditItem(
        uid=item.uid,
        question=item.question,
        options=item.options,
        answer_index=item.answer_index,
        group=item.categories.get("scene", item.uid),
        kind=item.type,
        names=(*files, *item.categories.values(), str(item.source_index)),
    )


def _open_built(folder: Path, split: str) -> AuditSet:
    data = ShardSet(folder, split)
    records: Sequence[StoredRecord] = data.records
    items = tuple(map(_built_item, records))
    return AuditSet(f"{folder.name}:{split}", items, lambda i: list(data.encoded(records[i])))


def _built_item(record: StoredRecord) -> AuditItem:
    if isinstance(record, QuestionRecord):
        names: tuple[str, ...] = (record.group,)
        question, options, position = record.question, record.options, record.answer_index
        kind = record.type
    else:
        posed = viewpoint_question(record, question_types(record, 1)[0], AnswerMode.DIRECT)
        names = (record.object_id, record.group, *record.frame_names)
        question, options, position = (
            posed.text.splitlines()[0],
            posed.options,
            posed.answer_index,
        )
        kind = posed.type
    return AuditItem(
        uid=record.uid,
        question=question,
        options=options,
        answer_index=position,
        group=record.group or record.uid,
        kind=kind,
        names=names,
    )


def _open_images(folder: Path) -> AuditSet:
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_NAMES]
    paths = [path for path in paths if not _is_system_path(path.relative_to(folder))]
    paths.sort()
    if not paths:
        raise UserError(
            f"{folder} holds no image: give a folder with {', '.join(IMAGE_NAMES)}."
        )
    names = [str(path.relative_to(folder)) for path in paths]
    items = tuple(AuditItem(uid=name, names=(name,)) for name in names)
    return AuditSet(folder.name, items, lambda i: [paths[i]])


def _is_system_path(path: Path) -> bool:
    return any(map(is_system_name, path.parts))
