"""The audit page: a person sees in a minute whether the answers of a built set are right.

Contact sheets show both images of a pair, the true motion as arrows on the
first image, and a map from above; beside them stand the distribution of angles,
the balance of labels and what each gate rejected. One file, no links.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from actial.core.atomic_io import write_json, write_text
from actial.core.html_page import Figure, Section, image_url, render_sections
from actial.core.seeding import hash_int
from actial.core.set_records import Motion, MotionLabels, PairGeometry, ViewPair
from actial.data.build.leak_checks import Checks, Pairs, check_set, letter_table
from actial.data.shards import ShardFiles

PHOTO = 200  # height of an image on a sheet, pixels
GAP = 8
CARDS_PER_LINE = 2
Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
ELLIPSIS = "..."
Points = list[tuple[float, float]]
INK, MOVE, TURN, OBJECT = (30, 30, 30), (214, 60, 40), (30, 90, 200), (60, 140, 60)
PALE = (110, 110, 110)


# ---------------------------------------------------------------- drawing


def pair_panels(pair: ViewPair, images: list[np.ndarray]) -> Image.Image:
    """Return the images of a pair with the answer drawn on the first, and the map from above."""
    resized = [_to_height(pixels) for pixels in images]
    if pair.motion is Motion.HORIZONTAL:
        _draw_answer(resized[0], pair.labels)
    panels = [*resized, _map(pair.geometry)]
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    joined = Image.new("RGB", (width, PHOTO), "white")
    x = 0
    for panel in panels:
        joined.paste(panel, (x, 0))
        x += panel.width + GAP
    return joined


def pair_card(pair: ViewPair, images: list[np.ndarray]) -> Image.Image:
    """Return the panels of a pair below its answer and its names, shortened to their width."""
    panels = pair_panels(pair, images)
    card = Image.new("RGB", (panels.width + 2 * GAP, PHOTO + 46), "white")
    card.paste(panels, (GAP, 40))
    draw = ImageDraw.Draw(card)
    lines = ((2, _answer_line(pair), INK, 14), (20, _names_line(pair), PALE, 12))
    for y, text, color, size in lines:
        fitted = fitting(text, panels.width, _font(size))
        draw.text((GAP, y), fitted, fill=color, font=_font(size))
    return card


def fitting(text: str, width: int, font: Font) -> str:
    """Return a text that is at most `width` pixels wide, its middle left out where it is longer."""
    if font.getlength(text) <= width:
        return text
    for length in range(len(text) - 1, 0, -1):
        tail = length // 2
        shortened = f"{text[: length - tail]}{ELLIPSIS}{text[len(text) - tail :]}"
        if font.getlength(shortened) <= width:
            return shortened
    return ELLIPSIS


def _names_line(pair: ViewPair) -> str:
    return f"{pair.class_name} {pair.object_id}: {' -> '.join(pair.frame_names)}"


def _answer_line(pair: ViewPair) -> str:
    labels = pair.labels
    if pair.motion is not Motion.HORIZONTAL:
        return f"camera moved {labels.first_side()}"
    degrees = "" if labels.ego_rotation_deg is None else f" {labels.ego_rotation_deg:.0f} deg"
    moved = f"camera moved {labels.ego_translation}, turned {labels.ego_rotation}{degrees}"
    return f"{moved}; from the object: {labels.object_translation}"


def _to_height(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    width = round(image.width * PHOTO / image.height)
    return image.resize((width, PHOTO), Image.Resampling.BICUBIC)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _draw_answer(photo: Image.Image, labels: MotionLabels) -> None:
    """Draw a straight arrow for where the camera moved, and a curved one for how it turned."""
    draw = ImageDraw.Draw(photo)
    w, h = photo.size
    sign = 1 if labels.ego_translation == "right" else -1
    _arrow(draw, [(w / 2 - sign * w / 5, h - 14), (w / 2 + sign * w / 5, h - 14)], MOVE)
    sign = 1 if labels.ego_rotation == "right" else -1
    angles = np.radians(np.linspace(-45, 45, 13)) * sign
    _arrow(draw, [(w / 2 + 40 * math.sin(a), 52 - 40 * math.cos(a)) for a in angles], TURN)


def _arrow(draw: ImageDraw.ImageDraw, points: Points, color: Color) -> None:
    draw.line(points, fill="white", width=7, joint="curve")
    draw.line(points, fill=color, width=4, joint="curve")
    (x0, y0), (x1, y1) = points[-2:]
    a = math.atan2(y1 - y0, x1 - x0)
    corners = ((11, 0), (9, 2.3), (9, -2.3))  # (distance, angle) about the tip
    head = [(x1 + r * math.cos(a + b), y1 + r * math.sin(a + b)) for r, b in corners]
    draw.polygon(head, fill=color, outline="white")


def _map(geometry: PairGeometry) -> Image.Image:
    """Return the scene from above: the object in the middle, camera 1 below it, camera 2 at alpha.

    A line from each camera shows where it looks.
    """
    image = Image.new("RGB", (PHOTO, PHOTO), (245, 245, 245))
    draw = ImageDraw.Draw(image)
    ratio, middle = geometry.rho_ratio, PHOTO / 2
    reach = (middle - 24) / max(1.0, ratio)
    draw.ellipse([middle - 7, middle - 7, middle + 7, middle + 7], fill=OBJECT)
    cameras = [(0.0, 1.0), (geometry.alpha_deg, ratio)]  # bearing, distance to the object
    for number, (bearing, rho) in enumerate(cameras):
        a = math.radians(bearing)
        x, y = middle + reach * rho * math.sin(a), middle + reach * rho * math.cos(a)
        heading = a + math.radians(geometry.heading_off_deg[number])
        _arrow(draw, [(x, y), (x - 26 * math.sin(heading), y - 26 * math.cos(heading))], INK)
        label = (x - 4 + 14 * math.sin(a), y - 8 + 14 * math.cos(a))
        draw.text(label, str(number + 1), fill=MOVE, font=_font(15))
    return image


def sheet(pairs: list[ViewPair], shards: ShardFiles) -> Image.Image:
    """Return the cards of several pairs on one image."""
    cards = [pair_card(pair, shards.images(pair)) for pair in pairs]
    width, height = max(c.width for c in cards), max(c.height for c in cards)
    lines = -(-len(cards) // CARDS_PER_LINE)
    page = Image.new("RGB", (width * min(CARDS_PER_LINE, len(cards)), height * lines), "white")
    for i, card in enumerate(cards):
        page.paste(card, (i % CARDS_PER_LINE * width, i // CARDS_PER_LINE * height))
    return page


# ---------------------------------------------------------------- the page


def sampled_pairs(
    pairs: Iterable[ViewPair], per_class: int, classes: int
) -> dict[str, list[ViewPair]]:
    """Return up to `per_class` pairs of up to `classes` classes, drawn by hash.

    Half of them are labeled left where there are enough.
    """
    by_class: dict[str, list[ViewPair]] = {}
    for pair in pairs:
        candidates = by_class.setdefault(pair.class_name, [])
        candidates.append(pair)
        if len(candidates) > 4 * per_class:
            candidates.sort(key=_draw)
            del candidates[2 * per_class :]
    drawn = sorted(by_class, key=lambda name: hash_int("audit class", name))[:classes]
    return {
        name: _balanced(sorted(by_class[name], key=_draw), per_class) for name in sorted(drawn)
    }


def _draw(pair: ViewPair) -> int:
    return hash_int("audit", pair.uid)


def _balanced(pairs: list[ViewPair], count: int) -> list[ViewPair]:
    """Return `count` pairs, alternately labeled left and otherwise as long as there are both."""
    left = [pair for pair in pairs if pair.labels.first_side() == "left"]
    other = [pair for pair in pairs if pair.labels.first_side() != "left"]
    alternating: list[ViewPair] = []
    for both in zip(left, other, strict=False):
        alternating += both
    return [*alternating, *left[len(other) :], *other[len(left) :]][:count]


def write_audit(
    out: Path, pairs: Pairs, rejects: Mapping[str, Any], *, per_class: int, classes: int
) -> None:
    """Write out/audit.html and out/audit.json from the finished shards in `out`.

    `pairs()` is the whole index, read anew each time.
    """
    angles: Counter[int] = Counter()
    labels: Counter[tuple[str, str, str]] = Counter()

    def counted() -> Iterator[ViewPair]:
        for pair in pairs():
            if pair.motion is Motion.HORIZONTAL:
                angles[int(abs(pair.geometry.alpha_deg) // 10)] += 1
            labels.update(
                (pair.split, kind, side) for kind, side in pair.labels.sides().items()
            )
            yield pair

    drawn = sampled_pairs(counted(), per_class, classes)
    shards = ShardFiles(out)
    checks = check_set(pairs, shards)
    write_json(out / "audit.json", checks.as_dict())
    by_angle = {
        f"{ten * 10} to {ten * 10 + 10} degrees": n for ten, n in sorted(angles.items())
    }
    sections = [
        Section(
            text="Red: where the camera moved, seen from the camera. Blue: how it turned. "
            "Map from above: camera 1 below the object."
        ),
        Section(heading="Checks", lines=_check_lines(checks), warnings=checks.warnings()),
        Section(heading="Angle between the images", counts=by_angle),
        Section(
            heading="Labels", head=("split", "question", "answers"), rows=_label_rows(labels)
        ),
        Section(heading="Position of the correct answer"),
        *(Section(text=kind, counts=counts) for kind, counts in letter_table(checks.letters)),
        *_reject_sections(rejects),
        *(
            Section(heading=name, figures=[_figure(pair, shards) for pair in sampled])
            for name, sampled in drawn.items()
        ),
    ]
    write_text(out / "audit.html", render_sections("Audit of the built pairs", sections))
    for warning in checks.warnings():
        print(f"warning: {warning}.")


def _figure(pair: ViewPair, shards: ShardFiles) -> Figure:
    panels = pair_panels(pair, shards.images(pair))
    caption = (_answer_line(pair), _names_line(pair))
    return Figure(image=image_url(panels), width=panels.width, caption=caption)


def _check_lines(checks: Checks) -> list[str]:
    prior, centroids = checks.prior, checks.centroids
    return [
        f"objects in more than one split: {checks.shared_groups}",
        f"images in more than one split: {checks.shared_pictures}",
        "nearly equal images in training and held-out records (of a sample): "
        f"{len(checks.near_duplicates)}",
        f"always the most frequent answer: {float(prior.value):.3f} of {prior.n} questions",
        "only from where the object stands in the images: "
        f"{float(centroids.value):.3f} of {centroids.n} questions",
    ]


def _label_rows(labels: Mapping[tuple[str, str, str], int]) -> list[tuple[str, str, str]]:
    """Return (split, question type, answers with their counts and shares)."""
    rows = []
    for split, kind in sorted({(split, kind) for split, kind, _ in labels}):
        sides = {
            side: n for (s, k, side), n in sorted(labels.items()) if (s, k) == (split, kind)
        }
        total = sum(sides.values())
        shares = [f"{side} {n} ({n / total:.3f})" for side, n in sides.items()]
        rows.append((split, kind, ", ".join(shares)))
    return rows


def _reject_sections(rejects: Mapping[str, Any]) -> list[Section]:
    """Return the counts of rejects.json, and its example of every reason."""
    sections = []
    for kind in ("captures", "frames", "pairs"):
        if rejects[kind]:
            by_count = dict(sorted(rejects[kind].items(), key=lambda item: -item[1]))
            sections.append(Section(heading=kind.capitalize(), counts=by_count))
    if rejects["causes"]:
        causes = list(rejects["causes"].items())
        head = ("reason", "capture, file and cause")
        sections.append(Section(heading="An example of each reason", head=head, rows=causes))
    return sections
