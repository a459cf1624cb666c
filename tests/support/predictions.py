"""A prediction with every field filled."""

from __future__ import annotations

from actial.grading.metrics import Prediction


def prediction(uid, hit, kind="", **fields):
    base = {
        "text": "",
        "letter": "A",
        "choice": "x",
        "answer": "A",
        "rule": "whole",
        "outcome": "parsed",
        "format_ok": True,
        "finish": None,
    }
    return Prediction(uid=uid, hit=float(hit), type=kind, **base, **fields)
