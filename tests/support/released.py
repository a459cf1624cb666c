"""A release of Viewpoint-100K in miniature: chat rows with letters, chains of thought, a test file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

LETTERS_ONLY = "Please output only the letter of the right option."
STEMS = {
    "ego_translation": "The object stands still. From the camera's perspective, where did it go?",
    "object_translation": "The object stands still. From the object's perspective, where did it go?",
    "ego_rotation": "The object stands still. From the camera's perspective, how did it turn?",
}
VERBS = {"ego_rotation": ("Rotate", "rotation")}


def kind_of(number: int) -> str:
    return list(STEMS)[number % 3]


def side_of(number: int) -> str:
    return ("left", "right")[number % 2]


def answer_of(number: int) -> str:
    verb, _ = VERBS.get(kind_of(number), ("Move", "movement"))
    return f"{verb} to the {side_of(number)}"


def chain_of(side: str) -> str:
    return (
        "Both photos show one mug that stands still. Other parts of it come into view at the "
        f"{side} edge in the second photo, which tells where the camera went."
    )


def row(number: int, *, chain: bool = False) -> dict[str, Any]:
    """Return one chat row about the photos of pair `number`."""
    verb, noun = VERBS.get(kind_of(number), ("Move", "movement"))
    options = [f"{verb} to the left", f"No {noun}", f"{verb} to the right"]
    rotated_options = options[number % 3 :] + options[: number % 3]
    listed = " ".join(
        f"{letter}: {text}" for letter, text in zip("ABC", rotated_options, strict=True)
    )
    letter = "ABC"[rotated_options.index(answer_of(number))]
    reply = letter
    if chain:
        reply = f"<think>{chain_of(side_of(number))}</think> <answer>{letter}</answer>"
    question_text = f"<image><image>{STEMS[kind_of(number)]} {listed} {LETTERS_ONLY}"
    turns = [("user", question_text), ("assistant", reply)]
    return {
        "id": number,
        "messages": [{"role": who, "content": text} for who, text in turns],
        "images": [f"images/{number}_{k}.png" for k in range(2)],
    }


def photo(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_release(root: Path, form: str, *, letters: int, chains: int, tests: int) -> None:
    """Write train and test files (parquet with the photos inside, or json, jsonl beside them).

    The first `chains` questions stand there a second time, answered by a chain of thought.
    """
    (root / "images").mkdir(parents=True)
    train = [row(number) for number in range(letters)]
    train += [row(number, chain=True) for number in range(chains)]
    held_out = [row(number) for number in range(letters, letters + tests)]
    for number in range(letters + tests):
        for k in range(2):
            (root / "images" / f"{number}_{k}.png").write_bytes(photo(2 * number + k))
    for name, rows in (("train", train), ("viewpoint_test", held_out)):
        if rows:
            _write(root, name, form, rows)


def _write(root: Path, name: str, form: str, rows: list[dict[str, Any]]) -> None:
    path = root / f"{name}.{form}"
    if form == "json":
        path.write_text(json.dumps(rows))
    elif form == "jsonl":
        path.write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    else:
        cells = [
            [
                {"bytes": (root / image).read_bytes(), "path": image}
                for image in entry["images"]
            ]
            for entry in rows
        ]
        with_bytes = [
            entry | {"images": images} for entry, images in zip(rows, cells, strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(with_bytes), path)


def write_texts(root: Path) -> None:
    """What a user has of the release: a clone with the system prompt, rows with the wording."""
    (root / "clone").mkdir()
    prompt = "Actial thinks: <think> it </think><answer> it </answer>"
    (root / "clone" / "train.sh").write_text(f'run data.system_prompt="{prompt}"')
    stems = {
        "Where did the camera go?": ("Move to the", "No movement"),
        "From the object, where did the camera go?": ("Move to the", "No movement"),
        "How did it turn?": ("Rotate to the", "No rotation"),
    }
    texts = [
        f"<image><image>{stem} A: {verb} left B: {none} C: {verb} right\nThe letter alone."
        for stem, (verb, none) in stems.items()
    ]
    rows = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    (root / "rows.json").write_text(json.dumps(rows))
