"""Audit pages: whatever stands in a data set is text in the page."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFont
from support.posed_captures import arc, write_capture
from support.records import view_pair

from actial.build import build
from actial.config import BuildConfig, PairConfig, SourceConfig, SourceKind
from actial.core.html_page import Figure, Section, render_sections
from actial.core.set_records import PairGeometry
from actial.data.build.audit_page import fitting, pair_card, pair_panels

MARKUP = "<script>document.title='x'</script><img src=x onerror=alert(1)>"


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("field", ["question", "answers", "question_type"])
def test_markup_in_a_question_set_is_escaped_in_its_page(tmp_path, field):
    rows = []
    for number in range(4):
        row = {
            "image_bytes": [png(number)],
            "question": "which way?",
            "answers": ["a", "b"],
            "question_type": "other",
            "correct_answer": "b",
        }
        row[field] = [MARKUP, "b"] if field == "answers" else MARKUP
        rows.append(row)
    (tmp_path / "sat").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "sat" / "SAT_train.parquet")
    source = SourceConfig(kind=SourceKind.sat, root=str(tmp_path / "sat"))
    build(BuildConfig(source=source, out=str(tmp_path / "out"), workers=1))
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img src=x" not in page


def test_markup_in_the_names_of_captures_is_escaped_in_their_page(tmp_path):
    name = "<b>mug<script>alert(1)<script>"  # a folder's name holds no slash
    root = tmp_path / "captures"
    write_capture(root / name / "0000000a", arc(14))
    write_capture(root / name / "<i>short", replace(arc(14, span=30)))
    source = SourceConfig(kind=SourceKind.mvimgnet, root=str(root))
    pairs = PairConfig(val_fraction=0.0, test_fraction=0.0)
    build(BuildConfig(source=source, out=str(tmp_path / "out"), workers=1, pairs=pairs))
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "&lt;b&gt;mug&lt;script&gt;" in page
    assert "up_short_arc" in page
    for tag in ("<script", "<b>mug", "<i>"):
        assert tag not in page


LONG = "drone_2025-11-27T14-05-09_lens-24mm_corrected_" * 5
SEEN = PairGeometry(alpha_deg=30, heading_off_deg=(0.0, 0.0), rho_ratio=1.0)
FONT = ImageFont.load_default(12)


def test_long_names_stand_whole_below_their_images_and_wrap():
    figure = Figure(image="data:,", width=400, caption=("camera moved left", LONG))
    page = render_sections("title", [Section(heading="mug", figures=[figure])])
    assert f"<div>{LONG}</div>" in page
    assert '<figure style="width:400px">' in page
    assert re.search(r"\.figures figcaption \{ overflow-wrap: anywhere", page)
    assert re.search(r"\.figures figure \{[^}]* max-width: 100%", page)


@pytest.mark.parametrize("width", [3, 60, 200, 300])
def test_a_drawn_text_is_shortened_in_its_middle_to_the_width(width):
    shortened = fitting(LONG, width, FONT)
    assert FONT.getlength(shortened) <= max(width, FONT.getlength("..."))
    head, _, tail = shortened.partition("...")
    assert LONG.startswith(head)
    assert LONG.endswith(tail)
    assert FONT.getlength(fitting(LONG, width + 40, FONT)) > FONT.getlength(shortened)


def test_short_texts_are_drawn_whole():
    assert fitting("mug 1: a.jpg -> b.jpg", 400, FONT) == "mug 1: a.jpg -> b.jpg"


def test_a_card_is_as_wide_as_its_panels_whatever_the_names_are():
    images = [np.full((100, 150, 3), level, np.uint8) for level in (90, 160)]
    pair = view_pair(30, geometry=SEEN)
    cards = [
        pair_card(replace(pair, frame_names=(name, name)), images) for name in ("a.jpg", LONG)
    ]
    assert cards[0].size == cards[1].size
    panels = pair_panels(pair, images)
    assert cards[1].width == panels.width + 16
    margin = np.asarray(cards[1])[:40, -8:]
    assert margin.min() == 255  # nothing is cut at the edge
