"""A small data set of the procedural world in shards, and an untrained tiny model that knows its
words.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from actial.config import ImageConfig, ImageFormat
from actial.core.seeding import Draw
from actial.core.set_records import ViewDirection
from actial.data.images import encode
from actial.data.shards import Sample, ShardSet, write_set
from actial.synthetic.objects import make_object
from actial.synthetic.render import orbit_cameras, render_views
from actial.synthetic.tiny_model import corpus, save_untrained, train_tokenizer
from actial.viewpoint.vocabulary import SEEN
from support.records import view_pair

SIZE = 32
IMAGES = ImageConfig(max_pixels=SIZE * SIZE, multiple=16, format=ImageFormat.png)


def write_pairs(out: Path, objects: int = 6) -> ShardSet:
    """Pairs seen 60 degrees apart, three per object, all in "train"."""
    samples = []
    for number in range(objects):
        name = SEEN[number % len(SEEN)]
        spec = make_object(number, name)
        azimuths = np.arange(4) * 60.0 + 7 * number
        images, _ = render_views(
            spec, orbit_cameras(azimuths, SIZE, Draw("test", str(number))), SIZE, number
        )
        rows = [
            pair_row(f"pair{number}{first}", name, dict(spec.attributes), azimuths, first)
            for first in range(3)
        ]
        pictures = {f"f{i:03d}.png": encode(image, IMAGES) for i, image in enumerate(images)}
        samples.append(Sample(key=f"object{number}", images=pictures, rows=rows))
    write_set(out, {"train": samples}, 4, {})
    return ShardSet(out, "train")


def pair_row(uid: str, name: str, attributes: dict, azimuths: np.ndarray, first: int) -> dict:
    """The camera goes 60 degrees counter-clockwise about the object: to its right."""
    views = tuple(
        ViewDirection(azimuth_deg=float(a), elevation_deg=15.0)
        for a in azimuths[first : first + 2]
    )
    pair = view_pair(uid=uid, class_name=name, attributes=attributes, views=views)
    return pair.to_json() | {"images": [f"f{first:03d}.png", f"f{first + 1:03d}.png"]}


def write_questions(out: Path, count: int = 8) -> ShardSet:
    """Multiple-choice rows of one grey picture each."""
    samples = []
    for number in range(count):
        picture = encode(np.full((SIZE, SIZE, 3), 16 * number, np.uint8), IMAGES)
        kind = ("static", "goal_aim")[number % 2]
        row = {
            "uid": f"sat:{number}",
            "kind": "qa",
            "split": "train",
            "type": kind,
            "question": "how many objects are in the photo?",
        }
        row |= {
            "options": ["2", "3", "4"],
            "answer_index": number % 3,
            "group": str(number),
            "images": ["f000.png"],
        }
        samples.append(Sample(key=f"scene{number}", images={"f000.png": picture}, rows=[row]))
    write_set(out, {"train": samples}, 4, {})
    return ShardSet(out, "train")


def write_model(out: Path, pairs: ShardSet, questions: ShardSet) -> Path:
    save_untrained(
        out,
        train_tokenizer(corpus(pairs, questions), 500),
        0,
        width=64,
        layers=2,
        vision_width=32,
        vision_layers=2,
    )
    return out
