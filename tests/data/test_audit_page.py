"""Audit pages: whatever stands in a data set is text in the page."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.posed_captures import arc, write_capture

from actial.build import build
from actial.config import BuildConfig, PairConfig, SourceConfig, SourceKind

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
